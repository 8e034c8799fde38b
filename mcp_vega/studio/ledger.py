"""The ledger: every job and every cent, in one SQLite file that all servers of a user share.

A job is written before its call leaves and after each change. Of the servers that run at once one works on a job:
the one that stands in `jobs.holder` while its row in `servers` says that it is alive.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mcp_vega.studio import records
from mcp_vega.studio.database import Database
from mcp_vega.studio.jobs import Image, Job, new_id

# How long a server that died counts as alive; one that lives says so three times as often.
LEASE_SECONDS = 15.0
RENEWAL_SECONDS = LEASE_SECONDS / 3
# The same arguments within this time join a job whose result nobody received.
JOINING = timedelta(minutes=2)

# A time further ahead than any lease was written before the machine started anew.
ALIVE = "(SELECT id FROM servers WHERE alive_until BETWEEN :now AND :now + :lease)"
SELECT = f"SELECT *, holder IN {ALIVE} AS held FROM jobs"  # noqa: S608  nothing in these statements comes from outside
I_AM_ALIVE = """
    INSERT INTO servers VALUES (:me, :now + :lease) ON CONFLICT (id) DO UPDATE SET alive_until = excluded.alive_until
"""
COLUMNS = (
    *("local_id", "remote_id", "base_url", "model", "route", "arguments", "parameters", "state", "open", "charged"),
    *("created", "sent", "ended", "cost", "credits_left", "seconds", "reported_id", "reported_seed", "notes", "error"),
)
ADD = f"""
    INSERT INTO jobs ({", ".join(COLUMNS)}, holder, awaited_by, delivered, answered)
    SELECT {", ".join(f":{name}" for name in COLUMNS)}, :me, :awaited_by, :delivered, :created
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE remote_id = :remote_id)
"""  # noqa: S608
SAVE = f"UPDATE jobs SET {', '.join(f'{name} = :{name}' for name in COLUMNS)} WHERE local_id = :local_id"  # noqa: S608
SAVE_IMAGE = """
    INSERT INTO images VALUES (:id, :job, :path, :mime_type, :width, :height, :bytes, :sha256)
    ON CONFLICT (id) DO NOTHING
"""
CLAIM = f"""
    UPDATE jobs SET holder = :me
    WHERE local_id = :local_id AND open AND (holder IS NULL OR holder = :me OR holder NOT IN {ALIVE})
    RETURNING local_id
"""  # noqa: S608
ORPHANS = f"""
    SELECT local_id FROM jobs
    WHERE open AND base_url = :base_url AND created > :since AND (holder IS NULL OR holder NOT IN {ALIVE})
    ORDER BY created
"""  # noqa: S608
JOIN = f"""
    UPDATE jobs SET awaited_by = :me, answered = :moment WHERE local_id = (
        SELECT local_id FROM jobs
        WHERE NOT delivered AND model = :model AND arguments = :arguments AND base_url = :base_url
            AND answered BETWEEN :since AND :until AND NOT (state = 'FAILED' AND charged = 'no')
            AND (awaited_by IS NULL OR awaited_by NOT IN {ALIVE})
        ORDER BY created LIMIT 1
    )
    RETURNING local_id
"""  # noqa: S608


class Ledger:
    """The ledger's file, opened at the first use.

    Args:
        file: It and its folder are made when they are not there.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
    """

    def __init__(self, file: Path, *, uptime: Callable[[], float] = time.monotonic) -> None:
        self._database = Database(file)
        self._uptime = uptime
        self._me = new_id()
        self._said_alive = False

    # ---- jobs ----

    async def add(self, job: Job, *, awaited: bool = True) -> bool:
        """Write a new job down, as one that this server works on.

        Args:
            job: The job.
            awaited: Whether a caller waits for it.

        Returns:
            False when the ledger has a job with its remote id already; nothing is written then.
        """
        values = {**records.as_row(job), "awaited_by": self._me if awaited else None, "delivered": not awaited}

        def add(database: sqlite3.Connection) -> bool:
            self._say_alive(database)
            return database.execute(ADD, {**values, "me": self._me}).rowcount == 1

        return await self._database.write(add)

    async def save(self, job: Job) -> None:
        """Write a job down as it stands now."""
        row, images = records.as_row(job), records.as_image_rows(job)

        def save(database: sqlite3.Connection) -> None:
            database.execute(SAVE, row)
            database.executemany(SAVE_IMAGE, images)

        await self._database.write(save)

    async def find(self, request_id: str) -> Job | None:
        """The job with this id, the API's or the local one."""
        where = "WHERE local_id = :id OR remote_id = :id ORDER BY created LIMIT 1"
        return next(iter(await self._jobs(where, id=request_id)), None)

    async def latest(self, limit: int) -> list[Job]:
        """The jobs begun last, newest first."""
        return await self._jobs("ORDER BY created DESC, rowid DESC LIMIT :limit", limit=limit)

    async def find_image(self, image_id: str) -> Image | None:
        """The picture with this id."""

        def find(database: sqlite3.Connection) -> Image | None:
            row = database.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
            return row and records.image_from_row(row)

        return await self._database.read(find)

    async def taken(self, remote_ids: Iterable[str], by_others_than: Job) -> set[str]:
        """Those of the API's ids that other jobs have."""
        asked = tuple(remote_ids)
        marks = ", ".join("?" * len(asked))
        query = f"SELECT remote_id FROM jobs WHERE remote_id IN ({marks}) AND local_id != ?"  # noqa: S608  only marks
        return await self._database.read(
            lambda database: {row[0] for row in database.execute(query, (*asked, by_others_than.local_id))}
        )

    async def _jobs(self, where: str, **values: Any) -> list[Job]:
        def read(database: sqlite3.Connection) -> list[Job]:
            rows = database.execute(f"{SELECT} {where}", {**values, **self._time}).fetchall()
            pictures = "SELECT * FROM images WHERE job = ? ORDER BY rowid"
            return [records.from_row(row, database.execute(pictures, (row["local_id"],))) for row in rows]

        return await self._database.read(read)

    # ---- who works on what ----

    async def claim(self, local_id: str) -> Job | None:
        """Take up an open job that no other living server works on; None when there is nothing to take up."""

        def claim(database: sqlite3.Connection) -> bool:
            self._say_alive(database)
            values = {"local_id": local_id, "me": self._me, **self._time}
            return database.execute(CLAIM, values).fetchall() != []

        return await self.find(local_id) if await self._database.write(claim) else None

    async def orphans(self, base_url: str, since: datetime) -> list[str]:
        """The local ids of an API's open jobs that no living server works on, oldest first."""
        values = {"base_url": base_url, "since": records.moment(since), **self._time}
        return await self._database.read(lambda database: [row[0] for row in database.execute(ORPHANS, values)])

    async def renew(self) -> set[str]:
        """Say that this server is alive; returns the local ids of the jobs that are still its own."""

        def renew(database: sqlite3.Connection) -> set[str]:
            self._say_alive(database)
            database.execute(f"DELETE FROM servers WHERE id NOT IN {ALIVE}", self._time)  # noqa: S608
            return {row[0] for row in database.execute("SELECT local_id FROM jobs WHERE holder = ?", (self._me,))}

        return await self._database.write(renew)

    async def release(self, local_id: str) -> None:
        """Work on a job no more."""
        statement = "UPDATE jobs SET holder = NULL WHERE local_id = ? AND holder = ?"
        await self._database.write(lambda database: database.execute(statement, (local_id, self._me)))

    async def leave(self) -> None:
        """Work on nothing more and wait for nothing more, so that other servers may."""
        if self._said_alive:
            await self._database.write(
                lambda database: database.execute("DELETE FROM servers WHERE id = ?", (self._me,))
            )

    # ---- who waits for what ----

    async def join(self, job: Job) -> Job | None:
        """The job that a call with the same arguments began and whose result nobody received, if there is one."""
        values = {
            "model": job.model,
            "arguments": records.as_text(job.arguments),
            "base_url": job.base_url,
            "moment": records.moment(job.created),
            "since": records.moment(job.created - JOINING),
            "until": records.moment(job.created + JOINING),
        }

        def join(database: sqlite3.Connection) -> str | None:
            self._say_alive(database)
            rows = database.execute(JOIN, {**values, "me": self._me, **self._time}).fetchall()
            return rows[0][0] if rows else None

        local_id = await self._database.write(join)
        return await self.find(local_id) if local_id else None

    async def answer(self, job: Job, moment: datetime, *, delivered: bool) -> None:
        """Note that a call that waited for a job has ended, and whether its result was delivered."""
        statement = """
            UPDATE jobs SET awaited_by = NULL, answered = :moment, delivered = delivered OR :delivered
            WHERE local_id = :local_id
        """
        values = {"local_id": job.local_id, "moment": records.moment(moment), "delivered": delivered}
        await self._database.write(lambda database: database.execute(statement, values))

    async def deliver(self, job: Job) -> None:
        """Note that a job's result was delivered."""
        statement = "UPDATE jobs SET delivered = 1 WHERE local_id = ? AND NOT delivered"
        await self._database.write(lambda database: database.execute(statement, (job.local_id,)))

    # ---- the file ----

    @property
    def _time(self) -> dict[str, float]:
        return {"now": self._uptime(), "lease": LEASE_SECONDS}

    def _say_alive(self, database: sqlite3.Connection) -> None:
        database.execute(I_AM_ALIVE, {"me": self._me, **self._time})
        self._said_alive = True

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()
