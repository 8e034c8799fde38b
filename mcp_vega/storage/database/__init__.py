"""The ledger: every job and every cent, in one SQLite file that all servers of a user share. The only SQL.

job_store        jobs: begun, marked as sent, saved, found, taken up
slots            whose turn it is to send a call
spending         what was spent, and what is set aside for calls under way
search           kept pictures by words, ids by their beginnings
image_locations  where the pictures lie, and which are to be moved
servers          the servers that have jobs, and what is left of those that died
server_lock      the locks by which they are seen to be alive
rows             jobs as rows, and back
queries          the tables and the statements
database         transactions: reads beside writes, in threads
connection       what the job store needs of a database
sqlite           the file of SQLite
"""
