"""The ledger: every job and every cent spent. All servers of a user or a team share it. Nothing else uses its tables.

job_store        jobs: begun, marked as sent, saved, found, claimed; what the other packages use
transactions     the changes of jobs, and the order in which they take locks
joining          joins the same call to its job, while nobody has received the result
accounts         the accounts at the API, and their jobs
slots            which job may be sent next
spending         limits, what was spent, and what is reserved for calls under way
search           finds kept pictures by words, and ids by their beginnings
image_locations  where the pictures are, and which must be moved
servers          the servers that have jobs; removes the servers that died
transfer         reads all jobs, and writes jobs that come from another ledger
secrets          random keys that all servers on a ledger share
sql              the tables, the statements, and how jobs become rows
"""
