"""The SQL statements, in a form that PostgreSQL understands too.

:me is the id of this server, :time the seconds of the clock that all servers share, :moment the time of day.
An ORDER BY has the columns of an index, so that LIMIT ends the search for rows.
"""

ENTER = """
    INSERT INTO servers (id, process, calls_a_minute) VALUES (:me, :process, :calls_a_minute)
    ON CONFLICT (id) DO UPDATE SET calls_a_minute = excluded.calls_a_minute
    WHERE servers.calls_a_minute IS NULL AND excluded.calls_a_minute IS NOT NULL
"""

# ---- jobs ----

COLUMNS = (
    *("local_id", "remote_id", "base_url", "account", "owner", "model", "route", "arguments", "call", "prompt", "seed"),
    *("parameters", "state", "open", "charged", "created", "sent", "ended", "next_try", "cost", "spent"),
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
# A call leaves only if this changes a row: the job is this server's, is still open, and was not sent before.
MARK_SENT = """
    UPDATE jobs SET sent = :sent, sent_time = :time, state = :state, notes = '[]', error = NULL, next_try = NULL
    WHERE local_id = :local_id AND holder = :me AND open AND sent IS NULL AND (:begun_here OR wanted_until >= :sent)
    RETURNING local_id
"""
WHETHER_TO_SEND = "SELECT holder, open, sent, wanted_until FROM jobs WHERE local_id = :local_id"
IS_UNSENT = "SELECT local_id FROM jobs WHERE local_id = :local_id AND open AND sent IS NULL"
# For a job whose money was given back when its server died.
COUNT_AGAIN = "UPDATE jobs SET spent = :spent WHERE local_id = :local_id"
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
# A picture that is in the first store stays there, even if another server has kept it in another store as well.
SAVE_IMAGE = """
    INSERT INTO images (
        id, job, store, key, fallback, mime_type, width, height, bytes, sha256, created, owner
    )
    VALUES (
        :id, (SELECT number FROM jobs WHERE local_id = :job), :store, :key, :fallback, :mime_type, :width, :height,
        :bytes, :sha256, :created, :owner
    )
    ON CONFLICT (id) DO UPDATE SET
        store = excluded.store, key = excluded.key, fallback = excluded.fallback, mime_type = excluded.mime_type,
        width = excluded.width, height = excluded.height, bytes = excluded.bytes, sha256 = excluded.sha256
    WHERE images.fallback AND NOT excluded.fallback
"""
ADD_TO_GALLERY = """
    INSERT INTO gallery (created, image, owner, starred, words)
    SELECT created, number, owner, starred, :words FROM images WHERE id = :id AND deleted IS NULL
    ON CONFLICT (created, image) DO NOTHING
"""
BY_ID = "WHERE local_id = :id OR remote_id = :id ORDER BY created LIMIT 1"
# Whether :owner may see a job. '' is the operator, who sees all.
IS_SHOWN = "(:owner = '' OR owner = :owner)"
LATEST = f"WHERE {IS_SHOWN} AND created >= :since ORDER BY created DESC, number DESC LIMIT :limit"
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
KEY_NAMED = "SELECT value FROM secrets WHERE name = :name"
DRAW_KEY = "INSERT INTO secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"
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
SENT_TIME = "SELECT sent_time FROM jobs WHERE local_id = :local_id"

# ---- the same call again ----

# The first row is the job that no call has joined for the longest time. If a time of the clock that all servers share
# is later than now, it was written before the machine was restarted.
TO_JOIN = """
    SELECT local_id, awaited_by,
        arrived <= :silent_since_time OR (arrived > :arrived AND created <= :silent_since) AS may_be_silent
    FROM jobs
    WHERE NOT delivered AND call = :call AND base_url = :base_url AND account = :account AND owner = :owner
        AND last_call >= :lately
        AND CASE WHEN last_call_time > :arrived
            THEN last_call >= CASE WHEN awaited_by IS NULL THEN :since ELSE :awaited_since END
            ELSE last_call_time >= CASE WHEN awaited_by IS NULL THEN :since_time ELSE :awaited_since_time END
        END
        AND NOT (state = 'FAILED' AND NOT open)
    ORDER BY last_call, number
"""
JOIN = """
    UPDATE jobs SET awaited_by = :me, last_call = :moment, last_call_time = :time,
        wanted_until = CASE WHEN wanted_until < :until THEN :until ELSE wanted_until END
    WHERE local_id = :local_id
"""
END_WAIT = """
    UPDATE jobs SET awaited_by = NULL, last_call = :moment, last_call_time = :time,
        delivered = delivered OR :delivered, wanted_until = CASE WHEN :cancelled THEN :moment ELSE wanted_until END
    WHERE local_id = :local_id
"""
MARK_DELIVERED = """
    UPDATE jobs SET delivered = TRUE, last_call = :moment, last_call_time = :time
    WHERE local_id = :local_id AND NOT delivered
"""
TAKE_BACK = """
    UPDATE jobs SET delivered = FALSE, awaited_by = NULL, last_call = :moment, last_call_time = :time
    WHERE local_id = :local_id AND (NOT delivered OR last_call_time BETWEEN :since_time AND :time)
"""

# ---- money ----

MICROSECONDS_A_DAY = 24 * 60 * 60 * 1_000_000

# The condition is checked for the first call of a day and for all later ones.
RESERVE = """
    INSERT INTO spending (day, owner, spent)
    SELECT :day, :owner, :amount
    WHERE :amount + (SELECT coalesce(sum(spent), 0) FROM spending WHERE day = :day) <= :limit
        OR :limit IS NULL
    ON CONFLICT (day, owner) DO UPDATE SET spent = spending.spent + excluded.spent
    RETURNING spent
"""
ADD_SPENT = f"""
    INSERT INTO spending (day, owner, spent)
    SELECT created / {MICROSECONDS_A_DAY}, owner, :amount FROM jobs WHERE local_id = :local_id
    ON CONFLICT (day, owner) DO UPDATE SET spent = spending.spent + excluded.spent
"""  # noqa: S608
SPENT = "SELECT coalesce(sum(spent), 0) AS spent FROM spending WHERE day = :day"
SPENT_SINCE = f"SELECT coalesce(sum(spent), 0) AS spent FROM spending WHERE day >= :day AND {IS_SHOWN}"  # noqa: S608
SPENT_BY_DAY = """
    SELECT created / {day} AS day, {column}, count(*) AS calls, sum(spent) AS spent,
        sum(CASE WHEN cost IS NULL THEN spent ELSE 0 END) AS estimated
    FROM jobs WHERE charged != 'no' AND created >= :since * {day} GROUP BY day, {column} ORDER BY day DESC, {column}
"""
# The jobs that a server has begun and never sent, and that have money reserved.
UNSENT_OF = "SELECT local_id FROM jobs WHERE holder = :server AND open AND sent IS NULL AND spent > 0"

# ---- slots ----

# A call reaches the API some time after it was noted. If the first of many took longer than a later one, the API would
# count both to the same minute, so a minute has a second more here.
FORGET_CALLS = "DELETE FROM calls WHERE time < :time - 61 OR time > :time"
CALLS_IN_MINUTE = "SELECT count(*) AS calls FROM calls WHERE time BETWEEN :time - 61 AND :time"
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

# ---- where pictures are ----

FALLBACKS = "SELECT * FROM images WHERE fallback AND deleted IS NULL ORDER BY created"
# If several servers move a picture, only one of them changes the row. If it was deleted meanwhile, none does.
MOVE = """
    UPDATE images SET store = :store, key = :key, fallback = FALSE
    WHERE id = :id AND store = :old_store AND key = :old_key AND deleted IS NULL
    RETURNING id
"""
NOTE_COPY = """
    INSERT INTO moved_images (store, key, image, moved) VALUES (:old_store, :old_key, :id, :moment)
    ON CONFLICT (store, key) DO UPDATE SET image = excluded.image, moved = excluded.moved
"""
# The copies of deleted pictures are found immediately, because they must not stay.
OLD_COPIES = """
    SELECT images.*, moved_images.store AS old_store, moved_images.key AS old_key
    FROM moved_images JOIN images ON images.id = moved_images.image
    WHERE moved_images.moved < :moment OR images.deleted IS NOT NULL ORDER BY moved_images.moved
"""
FORGET_COPY = "DELETE FROM moved_images WHERE store = :store AND key = :key"

# ---- search ----

IMAGE = "SELECT id, job FROM images WHERE id = :id"
SHOWN_IMAGE = f"SELECT 1 FROM images WHERE id = :after AND {IS_SHOWN}"  # noqa: S608
PAGE = """
    SELECT id, job, number FROM images WHERE number IN (
        SELECT image FROM gallery {where} ORDER BY created DESC, image DESC LIMIT :limit OFFSET :skip
    )
    ORDER BY created DESC, number DESC
"""
COUNT = "SELECT count(*) AS pictures FROM gallery {where}"
# Compared with the place of a picture, which may be deleted.
IS_OLDER = "(created, image) < (SELECT created, number FROM images WHERE id = :{name})"
IS_NOT_OLDER = "(created, image) >= (SELECT created, number FROM images WHERE id = :{name})"
IS_STARRED = "starred"
NONE = "FALSE"
IS_OF = "owner = :owner"  # left out for the operator: it would be checked for each of many rows
MATCH = "words LIKE :{name} ESCAPE '\\'"  # three times as fast as instr
BEFORE = """
    SELECT images.id, images.job FROM images JOIN jobs ON jobs.number = images.job
    WHERE images.deleted IS NULL AND NOT starred AND images.created < :moment AND NOT open AND delivered
    ORDER BY images.created, images.number
"""
STARRED_BEFORE = """
    SELECT count(*) AS pictures FROM gallery WHERE starred AND created < :moment
"""
MARK_STARRED = "UPDATE images SET starred = :starred WHERE id = :id RETURNING number, created"
SHOW_STAR = "UPDATE gallery SET starred = :starred WHERE created = :created AND image = :number"
# If several delete a picture, only one of them changes the row. If the picture was moved meanwhile, none does, because
# its file is elsewhere then.
MARK_DELETED = """
    UPDATE images SET deleted = :moment
    WHERE id = :id AND store = :store AND key = :key AND deleted IS NULL AND NOT (starred AND :spare_starred)
    RETURNING number, created
"""
LEAVE_GALLERY = "DELETE FROM gallery WHERE created = :created AND image = :number"
UNMARK_DELETED = "UPDATE images SET deleted = NULL WHERE id = :id"
IMAGE_IDS = f"""
    SELECT id FROM images WHERE deleted IS NULL AND {IS_SHOWN} {{matches}} ORDER BY number DESC LIMIT :limit
"""  # noqa: S608
NAMES = """
    SELECT id, key FROM images WHERE number IN (
        SELECT image FROM gallery {where} ORDER BY created DESC, image DESC LIMIT :limit
    )
    ORDER BY created DESC, number DESC
"""
NAMES_THAT_BEGIN = f"""
    SELECT id, key FROM images WHERE deleted IS NULL AND {IS_SHOWN} AND key LIKE :name ESCAPE '\\'
    ORDER BY number DESC LIMIT :limit
"""  # noqa: S608
IMAGE_ID_BEGINS = "AND id BETWEEN :beginning AND :end"
REQUEST_IDS = f"""
    SELECT coalesce(remote_id, local_id) AS id FROM jobs WHERE {IS_SHOWN} {{matches}}
    ORDER BY created DESC LIMIT :limit
"""  # noqa: S608
REQUEST_ID_BEGINS = """
    AND (remote_id BETWEEN :beginning AND :end OR (remote_id IS NULL AND local_id BETWEEN :beginning AND :end))
"""
# Pictures and jobs whose id begins like this, deleted pictures too. A job has two ids; "local-" may be left out.
NAMED = f"""
    SELECT images.id, jobs.local_id AS job FROM images JOIN jobs ON jobs.number = images.job
    WHERE (:owner = '' OR images.owner = :owner) AND images.id BETWEEN :small AND :small_end
    UNION ALL
    SELECT coalesce(remote_id, local_id) AS id, local_id AS job FROM jobs WHERE {IS_SHOWN} AND (
        remote_id BETWEEN :name AND :name_end OR remote_id BETWEEN :small AND :small_end
        OR local_id BETWEEN :small AND :small_end OR local_id BETWEEN :local AND :local_end
    )
    ORDER BY id LIMIT :limit
"""  # noqa: S608
