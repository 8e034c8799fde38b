"""The changes of the tables since the first release, in PostgreSQL's SQL.

CONTRIBUTING.md says how to write one. An entry of a released version is never changed or removed.
"""

from mcp_vega.storage.database.schema import Migration

MIGRATIONS: tuple[Migration, ...] = ()
