"""The statements about jobs, in PostgreSQL's SQL.

:me is the id of this server, :time the seconds of the clock that all servers share, :moment the time of day.
An ORDER BY has the columns of an index, so that LIMIT ends the search for rows.
"""

from mcp_vega.job import OPERATOR

COLUMNS = (
    *("local_id", "remote_id", "base_url", "account", "owner", "model", "route", "arguments", "call", "prompt", "seed"),
    *("parameters", "state", "open", "charged", "created", "day", "sent", "ended", "next_try", "cost", "spent"),
    *("credits_left", "seconds", "reported_id", "reported_seed", "notes", "error", "search"),
)
ADD = f"""
    INSERT INTO jobs (
        {", ".join(COLUMNS)}, holder, awaited_by, delivered, arrived, last_call, last_call_time, wanted_until
    )
    SELECT {", ".join(f":{name}" for name in COLUMNS)},
        :me, :awaited_by, :delivered, :arrived, :created, :arrived, :wanted_until
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :remote_id)
    RETURNING local_id
"""  # noqa: S608  nothing in these statements comes from outside
# Only the server that deletes the job gives its money back. If another server's caller waits for it, it stays.
DISCARD = """
    DELETE FROM jobs
    WHERE local_id = :local_id AND open AND sent IS NULL AND holder = :me AND (awaited_by IS NULL OR awaited_by = :me)
    RETURNING day, owner, spent
"""
IS_KNOWN = "SELECT number FROM jobs WHERE local_id = :local_id"
HOLDER = "SELECT holder FROM jobs WHERE local_id = :local_id AND open"
# If several servers claim a job, only one of them changes the row.
CLAIM = """
    UPDATE jobs SET holder = :me WHERE local_id = :local_id AND open AND coalesce(holder, '') = :holder RETURNING *
"""
# A server that has lost a job may still write it, but only if it has the pictures. A job that has its pictures is never
# changed back to another state.
SAVE = f"""
    UPDATE jobs SET {", ".join(f"{name} = :{name}" for name in COLUMNS if name != "remote_id")},
        remote_id = coalesce(
            :remote_id, remote_id,
            (SELECT :reported_id WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :reported_id))
        ),
        holder = CASE WHEN :release THEN NULL ELSE holder END
    WHERE local_id = :local_id AND (:state = 'COMPLETED' OR (holder = :me AND state != 'COMPLETED'))
    RETURNING remote_id
"""  # noqa: S608
BY_ID = "WHERE local_id = :id OR remote_id = :id ORDER BY created LIMIT 1"
# Whether :owner may see a job. '' is the operator, who sees all.
IS_SHOWN = "(:owner = '' OR owner = :owner)"


def shown_to(owner: str) -> str:
    """Return the condition for what `owner` may see. Unlike `IS_SHOWN`, it lets the database use an index by owner."""
    return "TRUE" if owner == OPERATOR else "owner = :owner"


LATEST = "WHERE {shown} AND created >= :since ORDER BY created DESC, number DESC LIMIT :limit"
OPEN_JOBS = """
    SELECT holder, error IS NOT NULL AND charged = 'unknown' AS lost, count(*) AS jobs
    FROM jobs WHERE open GROUP BY holder, lost
"""
UNFINISHED = """
    SELECT local_id, holder FROM jobs
    WHERE open AND base_url = :base_url AND account = :account
        AND (holder IS NOT NULL OR next_try IS NULL OR next_try NOT BETWEEN :moment AND :latest OR :moment IS NULL)
    ORDER BY created
"""
OF_OTHER_ACCOUNTS = """
    SELECT count(*) AS jobs FROM jobs WHERE open AND base_url = :base_url AND account != :account
"""
ASSIGN = """
    UPDATE jobs SET remote_id = :remote_id WHERE local_id = :local_id
        AND NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :remote_id AND local_id != :local_id)
    RETURNING local_id
"""

# ---- the jobs of an account ----

OF_ACCOUNT = "local_id != :local_id AND base_url = :base_url AND account = :account"
WITH_SEED = f"WHERE seed = :seed AND model = :model AND {OF_ACCOUNT}"
WITHOUT_ID = "WHERE open AND remote_id IS NULL AND base_url = :base_url AND account = :account ORDER BY created DESC"
# The jobs that ran and were begun just before a job, or just after it, in the order in which they were written.
# Imported jobs are left out: they ran at another time.
RAN = f"WHERE state = 'COMPLETED' AND remote_id IS NOT NULL AND arguments != '{{}}' AND {OF_ACCOUNT}"
NUMBER = "(SELECT number FROM jobs WHERE local_id = :local_id)"
RAN_BEFORE = f"{RAN} AND number < {NUMBER} ORDER BY number DESC LIMIT :limit"
RAN_AFTER = f"{RAN} AND number > {NUMBER} ORDER BY number LIMIT :limit"
# The jobs that ran and whose API said how long they took, among the latest of all.
LAST_DRAWN = """
    WHERE number IN (SELECT number FROM jobs ORDER BY created DESC, number DESC LIMIT 200)
        AND base_url = :base_url AND state = 'COMPLETED' AND seconds > 0
    ORDER BY created DESC, number DESC LIMIT 50
"""
SENT_TIME = "SELECT sent_time FROM jobs WHERE local_id = :local_id"

# ---- the same call again ----

# The first row is the job that no call has joined for the longest time. If a time of the clock that all servers share
# is later than :now, it was written before the machine was restarted. Only then the times of day are compared: the
# clocks of two machines may differ.
# A caller with a name belongs to a team, whose servers do not get a new key at the same moment. So a call that was sent
# with another key is joined, too. One that was not sent would perhaps never be sent.
TO_JOIN = """
    SELECT local_id, awaited_by, last_call_time,
        arrived <= :silent_since_time OR (arrived > :now AND created <= :silent_since) AS may_be_silent
    FROM jobs
    WHERE NOT delivered AND call = :call AND base_url = :base_url AND owner = :owner
        AND (account = :account OR (sent IS NOT NULL AND owner != ''))
        AND last_call >= :lately
        AND CASE WHEN last_call_time > :now
            THEN last_call >= CASE WHEN awaited_by IS NULL THEN :since ELSE :awaited_since END
            ELSE last_call_time >= CASE WHEN awaited_by IS NULL THEN :since_time ELSE :awaited_since_time END
        END
        AND NOT (state = 'FAILED' AND NOT open)
    ORDER BY last_call, number
"""
# Only if no call for the job has begun or ended since that was read, and the job has not failed.
JOIN = """
    UPDATE jobs SET awaited_by = :me, last_call = :moment, last_call_time = :time,
        wanted_until = CASE WHEN wanted_until < :until THEN :until ELSE wanted_until END
    WHERE local_id = :local_id AND last_call_time = :seen AND NOT delivered AND NOT (state = 'FAILED' AND NOT open)
    RETURNING local_id
"""
END_WAIT = """
    UPDATE jobs SET awaited_by = NULL, last_call = :moment, last_call_time = :time,
        delivered = delivered OR :delivered, wanted_until = CASE WHEN :cancelled THEN :never ELSE wanted_until END
    WHERE local_id = :local_id
"""
MARK_DELIVERED = """
    UPDATE jobs SET delivered = TRUE, last_call = :moment, last_call_time = :time
    WHERE local_id = :local_id AND NOT delivered
"""
TAKE_BACK = """
    UPDATE jobs SET delivered = FALSE, awaited_by = NULL, last_call = :moment, last_call_time = :time
    WHERE local_id = :local_id AND (NOT delivered OR last_call_time BETWEEN :since_time AND :until_time)
"""
