"""The ledger: every job and every cent, in one SQLite file that all servers of a user share. The only SQL.

job_store        jobs: added, saved, found, taken up, joined; the slots for calls
search           kept pictures by words, ids by their beginnings
image_locations  where the pictures lie, and which are to be moved
spending         what was spent, by day and model
server_lease     which servers are alive
rows             jobs as rows, and back
queries          the statements
sqlite           the file: its schema, and its transactions in a thread
"""
