"""A database that several processes share.

connection      what the ledger needs of a database
database        transactions: reads beside writes, in threads
sqlite          a file of SQLite
network_volume  where such a file must not lie
server_lock     the locks by which processes are seen to be alive
"""
