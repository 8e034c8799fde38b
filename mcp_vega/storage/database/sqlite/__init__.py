"""A database in an SQLite file, for servers on one machine.

file            the file: opened, its errors
creation        makes the tables, or changes those of an earlier version
dialect         translates PostgreSQL's SQL and the values
database        transactions: reads and writes at the same time, in threads
reader          reads, in threads
network_volume  finds network file systems, where such a file must not be
server_lock     the locks that show which processes are alive
"""
