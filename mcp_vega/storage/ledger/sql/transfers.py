"""The statements with which jobs are moved between ledgers, in PostgreSQL's SQL."""

from mcp_vega.storage.ledger.sql.job_queries import IS_SHOWN

COUNT = f"SELECT count(*) AS jobs FROM jobs WHERE {IS_SHOWN}"  # noqa: S608  nothing in these statements comes from outside
PAGE = f"WHERE number > :after AND {IS_SHOWN} ORDER BY number LIMIT :limit"
KNOWN = "SELECT * FROM jobs WHERE local_id = :local_id FOR UPDATE"
# Before `SAVE`, which accepts an outcome only from the job's holder.
TAKE = "UPDATE jobs SET holder = :me WHERE local_id = :local_id"
CHANGE_ACCOUNT = "UPDATE jobs SET account = :account WHERE local_id = :local_id"
MARK = "UPDATE images SET starred = :starred, deleted = :deleted WHERE id = :id"
