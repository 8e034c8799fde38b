"""The ledger: every job and every cent, which all servers of a user share. The only SQL.

job_store        jobs: begun, marked as sent, saved, found, taken up
joining          the same call again, while nobody has received its result
accounts         whose account at the API a job belongs to
slots            whose turn it is to send a call
spending         what may be spent, what was spent, and what is set aside for calls under way
search           kept pictures by words, ids by their beginnings
image_locations  where the pictures lie, and which are to be moved
servers          the servers that have jobs, and what is left of those that died
rows             jobs as rows, and back
secrets          random keys that all servers on a ledger share
schema           the tables
queries          the statements
"""
