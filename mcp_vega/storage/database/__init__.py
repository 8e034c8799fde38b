"""A database that several servers share.

connection  what the code within a transaction uses
database    transactions
traced      measures the transactions
liveness    which servers are alive
notices     short messages between the servers
schema      the tables, and how those of an earlier version become these
sqlite      all of it in an SQLite file, for the servers of one user on one machine
postgres    all of it on a PostgreSQL server, for any number of servers
"""
