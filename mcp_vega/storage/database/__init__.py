"""A database that several processes share.

connection      the interface of a database
database        transactions: reads and writes at the same time, in threads
reader          reads, in threads
sqlite          an SQLite file
network_volume  finds network file systems, where such a file must not be
server_lock     the locks that show which processes are alive
"""
