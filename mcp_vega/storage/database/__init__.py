"""The ledger: every job and every cent, in one SQLite file that all servers of a user share. The only SQL.

job_store        jobs: begun, sent, saved, found, taken up, joined
slots            whose turn it is, and which calls are under way
spending         what was spent, by day and model
search           kept pictures by words, ids by their beginnings
image_locations  where the pictures lie, and which are to be moved
servers          the servers on the ledger, and what those that have died leave behind
server_lock      which servers are alive
rows             jobs as rows, and back
queries          the schema and the statements
connection       what is needed of a database
database         runs pieces of work in transactions: reads beside writes, writes in a thread
sqlite           the file: made, opened, read and written
"""
