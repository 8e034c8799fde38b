"""The statements with which jobs are moved between ledgers."""

from mcp_vega.storage.ledger.sql.queries import IS_SHOWN

COUNT = f"SELECT count(*) AS jobs FROM jobs WHERE {IS_SHOWN}"  # noqa: S608  nothing in these statements comes from outside
PAGE = f"WHERE number > :after AND {IS_SHOWN} ORDER BY number LIMIT :limit"
# In the same order as `number`: imported jobs keep their order.
KNOWN = "SELECT * FROM jobs WHERE local_id = :local_id"
# So that `SAVE` accepts the outcome. No server has this id.
TAKE = "UPDATE jobs SET holder = :me WHERE local_id = :local_id"
CHANGE_ACCOUNT = "UPDATE jobs SET account = :account WHERE local_id = :local_id"
MARK = "UPDATE images SET starred = :starred, deleted = :deleted WHERE id = :id"
