"""The changes of the tables, in PostgreSQL's SQL.

CONTRIBUTING.md says how to write one. An entry is never changed or removed once somebody may have used it.
"""

from mcp_vega.storage.database.schema import Migration

MIGRATIONS = (
    Migration(before=572925157, statements="CREATE INDEX jobs_by_owner ON jobs (owner, created)", additive=True),
)
