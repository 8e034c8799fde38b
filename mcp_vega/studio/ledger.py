"""The ledger: every job and every cent, in one SQLite file that all servers of a user share.

A job is written before its call leaves and after each change. Of the servers that run at once one works on a job:
the one that stands in `jobs.holder` while its row in `servers` says that it is alive.
"""

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mcp_vega.studio import records, statements
from mcp_vega.studio.catalogue import Catalogue, read_jobs
from mcp_vega.studio.database import Database
from mcp_vega.studio.jobs import Job, new_id

# How long a server counts as alive after it last said so, unless its process is seen to be gone; it says so three times
# as often.
LEASE_SECONDS = 15.0
RENEWAL_SECONDS = LEASE_SECONDS / 3
# The same arguments within this time join a job whose result nobody received.
JOINING = timedelta(minutes=2)


class Ledger:
    """The ledger's file, opened at the first use.

    Args:
        file: It and its folder are made when they are not there.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
    """

    def __init__(self, file: Path, *, uptime: Callable[[], float] = time.monotonic) -> None:
        self._database = Database(file)
        self.catalogue = Catalogue(self._database)
        self._uptime = uptime
        self._me = new_id()
        self._machine = _machine()
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
            return database.execute(statements.ADD, {**values, "me": self._me}).rowcount == 1

        return await self._database.write(add)

    async def save(self, job: Job) -> None:
        """Write a job down as it stands now."""
        row, images = {**records.as_row(job), "me": self._me}, records.as_image_rows(job)

        def save(database: sqlite3.Connection) -> None:
            database.execute(statements.SAVE, row)
            database.executemany(statements.SAVE_IMAGE, images)

        await self._database.write(save)

    async def find(self, request_id: str) -> Job | None:
        """The job with this id, the API's or the local one."""
        where = "WHERE local_id = :id OR remote_id = :id ORDER BY created LIMIT 1"
        return next(iter(await self._jobs(where, id=request_id)), None)

    async def latest(self, limit: int) -> list[Job]:
        """The jobs begun last, newest first."""
        return await self._jobs("ORDER BY created DESC, rowid DESC LIMIT :limit", readable=True, limit=limit)

    async def assign(self, job: Job, remote_id: str) -> bool:
        """Give a job an id of the API's, unless another job has it; returns whether it has it now."""
        values = {"local_id": job.local_id, "remote_id": remote_id}
        return await self._database.write(lambda database: database.execute(statements.ASSIGN, values).fetchall() != [])

    async def twins(self, job: Job) -> list[Job]:
        """The other open jobs with a job's model, seed and prompt whose id at the API is not known."""
        values: dict[str, Any] = {"local_id": job.local_id, "base_url": job.base_url, "model": job.model}
        values |= {"seed": job.parameters.seed, "prompt": job.parameters.prompt}
        return await self._jobs(f"WHERE local_id IN ({statements.TWINS})", **values)

    async def _jobs(self, where: str, *, readable: bool = False, **values: str | float) -> list[Job]:
        """Jobs; with `readable`, without those that an accident made unreadable."""
        return await self._database.read(lambda database: self._read(database, where, readable=readable, **values))

    def _read(
        self, database: sqlite3.Connection, where: str, *, readable: bool = False, **values: str | float
    ) -> list[Job]:
        rows = database.execute(f"{statements.SELECT} {where}", {**values, **self._time}).fetchall()
        return read_jobs(database, rows, readable=readable)

    # ---- who works on what ----

    async def claim(self, local_id: str) -> Job | None:
        """Take up an open job that no other living server works on; None when there is nothing to take up."""

        def claim(database: sqlite3.Connection) -> list[Job]:
            self._say_alive(database)
            values = {"local_id": local_id, "me": self._me, **self._time}
            rows = database.execute(statements.CLAIM, values).fetchall()
            return self._read(database, "WHERE local_id = :id", id=local_id) if rows else []

        return next(iter(await self._database.write(claim)), None)

    async def orphans(self, base_url: str) -> list[str]:
        """The local ids of an API's open jobs that no living server works on, oldest first."""

        def look(database: sqlite3.Connection) -> list[str] | None:
            if self._dead(database):
                return None
            rows = database.execute(statements.ORPHANS, {"base_url": base_url, **self._time})
            return [row[0] for row in rows]

        found = await self._database.read(look)
        if found is None:
            await self._database.write(self._bury)
            found = await self._database.read(look)
        return found or []

    async def renew(self) -> set[str]:
        """Say that this server is alive; returns the local ids of the jobs that are still its own."""

        def renew(database: sqlite3.Connection) -> set[str]:
            self._say_alive(database)
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

        def join(database: sqlite3.Connection) -> list[Job]:
            self._say_alive(database)
            rows = database.execute(statements.JOIN, {**values, "me": self._me, **self._time}).fetchall()
            return self._read(database, "WHERE local_id = :id", id=rows[0][0]) if rows else []

        return next(iter(await self._database.write(join)), None)

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
        values = {"me": self._me, "machine": self._machine, "process": os.getpid(), **self._time}
        database.execute(statements.I_AM_ALIVE, values)
        self._bury(database)
        self._said_alive = True

    def _bury(self, database: sqlite3.Connection) -> None:
        database.execute(f"DELETE FROM servers WHERE id NOT IN {statements.ALIVE}", self._time)  # noqa: S608
        database.executemany("DELETE FROM servers WHERE id = ?", [(each,) for each in self._dead(database)])

    def _dead(self, database: sqlite3.Connection) -> list[str]:
        """The servers of this machine whose process is gone although their time is not over."""
        rows = database.execute("SELECT id, process FROM servers WHERE machine = ?", (self._machine,)).fetchall()
        return [row["id"] for row in rows if not _runs(row["process"])]

    def hurry(self) -> None:
        """Wait for no other program from now on, because the process is about to end."""
        self._database.hurry()

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()


def _machine() -> str:
    """Where a process number means the same process: this machine, or this container of it."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; on Windows, where asking might end it, it is taken to run."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
