"""The statements about servers, slots, money and secrets, in PostgreSQL's SQL.

:me is the id of this server, :time the seconds of the clock that all servers share, :moment the time of day.
"""

from mcp_vega.storage.ledger.sql.job_queries import IS_SHOWN

ENTERED = "SELECT calls_a_minute FROM servers WHERE id = :me"
ENTER = """
    INSERT INTO servers (id, process, calls_a_minute) VALUES (:me, :process, :calls_a_minute)
    ON CONFLICT (id) DO UPDATE SET calls_a_minute = excluded.calls_a_minute
    WHERE servers.calls_a_minute IS NULL AND excluded.calls_a_minute IS NOT NULL
"""

KEY_NAMED = "SELECT value FROM secrets WHERE name = :name"
DRAW_KEY = "INSERT INTO secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"

# ---- money ----

ADD_SPENT = """
    INSERT INTO spending (day, owner, spent) VALUES (:day, :owner, :amount)
    ON CONFLICT (day, owner) DO UPDATE SET spent = spending.spent + excluded.spent
"""
# The condition on the sum is checked for every call. The limit of each caller has two conditions: one for the caller's
# first call of a day, one for the later ones. The latter is checked while the caller's row is locked. So the calls of a
# caller need no other lock, however many come at the same time.
RESERVE = """
    INSERT INTO spending (day, owner, spent)
    SELECT :day, :owner, :amount
    WHERE :amount + (SELECT coalesce(sum(spent), 0) FROM spending WHERE day = :day) <= :limit AND :amount <= :limit_each
    ON CONFLICT (day, owner) DO UPDATE SET spent = spending.spent + excluded.spent
    WHERE spending.spent + excluded.spent <= :limit_each
    RETURNING spent
"""
# In PostgreSQL, a sum has another type than the values that are added.
SPENT = """
    SELECT CAST(coalesce(sum(spent), 0) AS bigint) AS spent,
        CAST(coalesce(sum(CASE WHEN owner = :owner THEN spent END), 0) AS bigint) AS by_owner
    FROM spending WHERE day = :day
"""
SPENT_SINCE = f"""
    SELECT CAST(coalesce(sum(spent), 0) AS bigint) AS spent FROM spending WHERE day >= :day AND {IS_SHOWN}
"""  # noqa: S608
SPENT_BY_DAY = """
    SELECT day, {column}, count(*) AS calls, CAST(sum(spent) AS bigint) AS spent,
        CAST(sum(CASE WHEN cost IS NULL THEN spent ELSE 0 END) AS bigint) AS estimated
    FROM jobs WHERE charged != 'no' AND created >= :since GROUP BY day, {column} ORDER BY day DESC, {column}
"""
COUNTED = "SELECT spent FROM jobs WHERE local_id = :local_id FOR UPDATE"
COUNT_AS = "UPDATE jobs SET spent = :spent WHERE local_id = :local_id"
# The jobs that a server has begun and never sent, and that have money reserved.
UNSENT_OF = """
    SELECT local_id, day, owner, spent FROM jobs WHERE holder = :server AND open AND sent IS NULL AND spent > 0
    ORDER BY day, owner, number FOR UPDATE
"""
# Of several servers that remove a dead one, only one deletes the row. It gives the money back.
REMOVE_SERVER = "DELETE FROM servers WHERE id = :server RETURNING id"

# ---- slots ----

# A call leaves only if this changes a row: the job is this server's, is open, has a slot, and was not sent before.
# After an answer to a commit was lost, the same server asks again with the same time: the call has not left in between.
MARK_SENT = """
    UPDATE jobs SET sent = :sent, sent_time = :time, state = :state, notes = '[]', error = NULL, next_try = NULL
    WHERE local_id = :local_id AND holder = :me AND open AND (sent IS NULL OR sent = :sent)
        AND (:begun_here OR wanted_until >= :sent) AND EXISTS (SELECT 1 FROM slots WHERE job = :local_id)
    RETURNING spent
"""
WHETHER_TO_SEND = "SELECT holder, open, sent, wanted_until FROM jobs WHERE local_id = :local_id FOR UPDATE"
SLOTS = "SELECT number FROM slots"
# A call reaches the API some time after it was noted. If the first of many took longer than a later one, the API would
# count both to the same minute, so a minute has a second more here. Times that are much later than now were written
# before the machine was restarted.
CALLS_IN_MINUTE = "SELECT count(*) AS calls FROM calls WHERE time BETWEEN :time - 61 AND :time + 5"
FORGET_CALLS = "DELETE FROM calls WHERE time < :time - 61 OR time > :time + 5"
# The jobs that wait for a slot, in a fair order: first the caller with the fewest calls under way, then the caller
# whose last call is the longest ago. If a server has used up its calls of this minute, its jobs are left out.
WAITING = """
    SELECT local_id, holder FROM (
        SELECT local_id, holder, created, jobs.number AS number,
            CASE WHEN owner = '' THEN holder ELSE owner END AS caller,
            row_number() OVER (
                PARTITION BY CASE WHEN owner = '' THEN holder ELSE owner END ORDER BY created, jobs.number
            ) AS place
        FROM jobs JOIN servers ON servers.id = jobs.holder
        WHERE open AND sent IS NULL AND (next_try IS NULL OR next_try <= :moment)
            AND NOT EXISTS (SELECT 1 FROM slots WHERE job = local_id)
            AND (calls_a_minute IS NULL OR calls_a_minute > :in_minute)
    ) AS waiting
    WHERE place <= :free
    ORDER BY
        place + (SELECT count(*) FROM slots WHERE slots.caller = waiting.caller),
        (SELECT coalesce(max(time), 0) FROM calls WHERE calls.caller = waiting.caller),
        created, number
    LIMIT :free
"""
ANY_WAITING = """
    SELECT local_id FROM jobs
    WHERE open AND sent IS NULL AND holder IS NOT NULL AND local_id != :local_id
        AND NOT EXISTS (SELECT 1 FROM slots WHERE job = local_id)
    LIMIT 1
"""
TAKE_SLOT = """
    INSERT INTO slots (number, job, server, caller) VALUES (:number, :local_id, :me, :caller)
    ON CONFLICT (number) DO NOTHING RETURNING number
"""
NOTE_CALL = "INSERT INTO calls (caller, time) VALUES (:caller, :time)"
RELEASE_SLOT = "DELETE FROM slots WHERE job = :local_id AND server = :me"
RELEASE_SLOT_OF_OTHERS = "DELETE FROM slots WHERE job = :local_id AND server != :me"
RELEASE_SLOTS = "DELETE FROM slots WHERE server = :server"
