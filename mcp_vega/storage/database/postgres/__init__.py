"""A database on a PostgreSQL server, for any number of servers on any machines.

It needs the package psycopg, which is imported only when a URL asks for PostgreSQL.

address       the URL: parsed, and named in messages without its password
statements    converts the SQL of this package to that of psycopg
connection    one connection: opened, and what works within its transactions
pool          the connections that wait for their next use
creation      makes the tables
transactions  runs work in transactions, and repeats it if a transaction failed
deferred      does work in the background
database      the `Database`: threads for reads and writes
session       the `Liveness` and the `Notices`
pinned        the one connection that holds this server's lock, and sends and receives notices
inspection    what an administrator wants to know about the server
errors        says what is wrong, and what to do about it
"""

from mcp_vega.storage.database.postgres.database import PostgresDatabase
from mcp_vega.storage.database.postgres.session import Session

__all__ = ["PostgresDatabase", "Session"]
