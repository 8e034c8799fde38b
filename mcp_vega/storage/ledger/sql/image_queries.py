"""The statements about pictures, and about ids that are searched by their beginnings, in PostgreSQL's SQL."""

from mcp_vega.storage.ledger.sql.job_queries import IS_SHOWN

# ---- kept pictures ----

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
NEWEST_IMAGE_IDS = """
    SELECT id FROM images WHERE number IN (
        SELECT image FROM gallery WHERE {shown} ORDER BY created DESC, image DESC LIMIT :limit
    )
    ORDER BY created DESC, number DESC
"""
IMAGE_IDS = """
    SELECT id FROM images WHERE deleted IS NULL AND {shown} AND id BETWEEN :beginning AND :end
    ORDER BY number DESC LIMIT :limit
"""
NAMES = """
    SELECT id, key FROM images WHERE number IN (
        SELECT image FROM gallery {where} ORDER BY created DESC, image DESC LIMIT :limit
    )
    ORDER BY created DESC, number DESC
"""
NAMES_THAT_BEGIN = f"""
    SELECT id, key FROM images WHERE deleted IS NULL AND {IS_SHOWN} AND lower(key) LIKE lower(:name) ESCAPE '\\'
    ORDER BY number DESC LIMIT :limit
"""  # noqa: S608
NEWEST_REQUEST_IDS = """
    SELECT coalesce(remote_id, local_id) AS id FROM jobs WHERE {shown} ORDER BY created DESC LIMIT :limit
"""
REQUEST_IDS = """
    SELECT coalesce(remote_id, local_id) AS id FROM jobs
    WHERE {shown}
        AND (remote_id BETWEEN :beginning AND :end OR (remote_id IS NULL AND local_id BETWEEN :beginning AND :end))
    ORDER BY created DESC LIMIT :limit
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
