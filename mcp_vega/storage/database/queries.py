"""The statements, by name. Portable but for the names of parameters, `json_extract` and `INDEXED BY`.

:me is this server, :now the machine's uptime and :lease for how long a server counts as alive, both in seconds.
"""

# A time further ahead than any lease was written before the machine started anew.
ALIVE = "(SELECT id FROM servers WHERE alive_until BETWEEN :now AND :now + :lease)"
SELECT = f"SELECT *, holder IN {ALIVE} AS held FROM jobs"  # noqa: S608  nothing in these statements comes from outside
RENEW_LEASE = """
    INSERT INTO servers VALUES (:me, :machine, :process, :now + :lease)
    ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until
"""
COLUMNS = (
    *("local_id", "remote_id", "base_url", "owner", "model", "route", "arguments", "parameters", "state", "open"),
    *("charged", "created", "sent", "ended", "estimate", "cost", "credits_left", "seconds", "reported_id"),
    *("reported_seed", "notes", "error"),
)
ADD = f"""
    INSERT INTO jobs ({", ".join(COLUMNS)}, holder, awaited_by, delivered, last_call)
    SELECT {", ".join(f":{name}" for name in COLUMNS)}, :me, :awaited_by, :delivered, :created
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :remote_id)
"""  # noqa: S608
# What a server that has lost a job still has to say of it counts only if it has the pictures; and pictures that are
# kept are never forgotten again.
SAVE = f"""
    UPDATE jobs SET {", ".join(f"{name} = :{name}" for name in COLUMNS)}
    WHERE local_id = :local_id AND (:state = 'COMPLETED' OR (holder = :me AND state != 'COMPLETED'))
"""  # noqa: S608
# A picture that is in the first store stays there, whoever has kept it elsewhere as well.
SAVE_IMAGE = """
    INSERT INTO images (
        id, job, store, key, fallback, mime_type, width, height, bytes, sha256, created, words, owner
    )
    VALUES (
        :id, :job, :store, :key, :fallback, :mime_type, :width, :height, :bytes, :sha256, :created, :words, :owner
    )
    ON CONFLICT (id) DO UPDATE SET
        store = excluded.store, key = excluded.key, fallback = excluded.fallback, mime_type = excluded.mime_type,
        width = excluded.width, height = excluded.height, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE images.fallback AND NOT excluded.fallback
"""
CLAIM = f"""
    UPDATE jobs SET holder = :me
    WHERE local_id = :local_id AND open AND (holder IS NULL OR holder = :me OR holder NOT IN {ALIVE})
    RETURNING local_id
"""  # noqa: S608
ORPHANS = f"""
    SELECT local_id FROM jobs
    WHERE open AND base_url = :base_url AND (holder IS NULL OR holder NOT IN {ALIVE})
    ORDER BY created
"""  # noqa: S608
OPEN_JOBS = f"""
    SELECT error IS NOT NULL AND charged = 'unknown' AS lost, holder IS NOT NULL AND holder IN {ALIVE} AS held,
        count(*) AS jobs
    FROM jobs WHERE open GROUP BY lost, held
"""  # noqa: S608
JOIN = f"""
    UPDATE jobs SET awaited_by = :me, last_call = :moment WHERE local_id = (
        SELECT local_id FROM jobs
        WHERE NOT delivered AND model = :model AND arguments = :arguments AND base_url = :base_url AND owner = :owner
            AND last_call BETWEEN :since AND :until AND NOT (state = 'FAILED' AND NOT open)
            AND (awaited_by IS NULL OR awaited_by NOT IN {ALIVE})
        ORDER BY created LIMIT 1
    )
    RETURNING local_id
"""  # noqa: S608
ASSIGN = """
    UPDATE jobs SET remote_id = :remote_id WHERE local_id = :local_id
        AND NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :remote_id AND local_id != :local_id)
    RETURNING local_id
"""
OPEN_WITH_RECIPE = """
    SELECT local_id FROM jobs WHERE open AND remote_id IS NULL AND local_id != :local_id AND base_url = :base_url
        AND model = :model AND json_extract(parameters, '$.seed') = :seed
        AND json_extract(parameters, '$.prompt') = :prompt
"""

# What a job is to be seen by; '' sees all.
IS_SHOWN = "(:owner = '' OR owner = :owner)"

# ---- money and slots ----

# What was not charged for certain was spent as far as anyone knows; the cost that was told counts, else the estimate.
SPENT = """
    SELECT coalesce(cost, estimate) AS amount, count(*) AS calls FROM jobs
    WHERE created BETWEEN :since AND :until AND charged != 'no' GROUP BY amount
"""
SPENT_BY_DAY = """
    SELECT substr(created, 1, 10) AS day, model, coalesce(cost, estimate) AS amount, cost IS NULL AS estimated,
        count(*) AS calls
    FROM jobs WHERE charged != 'no' GROUP BY day, model, amount, estimated ORDER BY day DESC, model
"""

# A slot is taken when a paid call is sent; it counts for the calls of a minute, and is then forgotten.
FORGET_SLOTS = f"""
    DELETE FROM slots
    WHERE (released OR server NOT IN {ALIVE}) AND (taken IS NULL OR taken NOT BETWEEN :now - 60 AND :now)
"""  # noqa: S608
REQUEST_SLOT = """
    INSERT INTO slots VALUES (:id, :caller, :me, :calls_a_minute, :now, NULL, 0) ON CONFLICT (id) DO NOTHING
"""
SLOTS_IN_USE = f"SELECT count(*) FROM slots WHERE taken IS NOT NULL AND NOT released AND server IN {ALIVE}"  # noqa: S608
CALLS_IN_MINUTE = "SELECT count(*) FROM slots WHERE taken BETWEEN :now - 60 AND :now"
# The next is for the caller with the fewest calls under way, then for the one whose last slot is the longest ago.
NEXT_SLOT = f"""
    SELECT id, server FROM slots AS waiting
    WHERE taken IS NULL AND server IN {ALIVE} AND (calls_a_minute IS NULL OR calls_a_minute > :in_minute)
    ORDER BY
        (SELECT count(*) FROM slots WHERE caller = waiting.caller AND taken IS NOT NULL AND NOT released),
        (SELECT coalesce(max(taken), 0) FROM slots WHERE caller = waiting.caller),
        requested, rowid
    LIMIT 1
"""  # noqa: S608
TAKE_SLOT = "UPDATE slots SET taken = :now WHERE id = :id"
RELEASE_SLOT = "UPDATE slots SET released = 1 WHERE id = :id AND taken IS NOT NULL"
STOP_WAITING = "DELETE FROM slots WHERE id = :id AND taken IS NULL"

# ---- search ----

# A page and a search each read one index that holds all they need: the table's own rows are many times as long.
PAGE = """
    SELECT id, job FROM images WHERE rowid IN (
        SELECT rowid FROM images INDEXED BY {index} WHERE deleted IS NULL {matches}
        ORDER BY created DESC, rowid DESC LIMIT :limit OFFSET :offset
    )
    ORDER BY created DESC, rowid DESC
"""
IS_OF = "AND owner = :owner"  # left out for those who see all: it would be looked at for each of many rows
MATCH = "AND words LIKE :{name} ESCAPE '\\'"  # three times as fast as instr
BEFORE = """
    SELECT images.id, images.job FROM images JOIN jobs ON jobs.local_id = images.job
    WHERE images.deleted IS NULL AND images.created < :moment AND NOT jobs.open AND jobs.delivered
    ORDER BY images.created, images.rowid
"""
MARK_DELETED = "UPDATE images SET deleted = :moment WHERE id = :id"
IMAGE_IDS = f"""
    SELECT id FROM images WHERE deleted IS NULL AND {IS_SHOWN} {{matches}} ORDER BY created DESC LIMIT :limit
"""  # noqa: S608
IMAGE_ID_BEGINS = "AND id BETWEEN :beginning AND :end"
REQUEST_IDS = f"""
    SELECT coalesce(remote_id, local_id) FROM jobs WHERE {IS_SHOWN} {{matches}} ORDER BY created DESC LIMIT :limit
"""  # noqa: S608
REQUEST_ID_BEGINS = """
    AND (remote_id BETWEEN :beginning AND :end OR (remote_id IS NULL AND local_id BETWEEN :beginning AND :end))
"""
