"""The ledger: every job and every cent, in one SQLite file that all servers of a user share.

A job is written before its call leaves and after each change. Of the servers that run at once one works on a job:
the one that stands in `jobs.holder` while its row in `servers` says that it is alive.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mcp_vega.errors import SpendingLimitReached
from mcp_vega.job import OPERATOR, Job, Limits, dollars
from mcp_vega.storage.database import queries, rows
from mcp_vega.storage.database.search import ImageSearch, read_jobs
from mcp_vega.storage.database.server_lease import Activity, ServerLeases
from mcp_vega.storage.database.spending import Spending, spent_on
from mcp_vega.storage.database.sqlite import Database

# The same arguments within this time join a job whose result nobody received.
JOINING = timedelta(minutes=2)


class JobStore:
    """The ledger's file, opened at the first use.

    Args:
        file: It and its folder are made when they are not there.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
    """

    def __init__(self, file: Path, *, uptime: Callable[[], float] = time.monotonic) -> None:
        self._database = Database(file)
        self.search = ImageSearch(self._database)
        self.spending = Spending(self._database)
        self._leases = ServerLeases(uptime)
        self._me = self._leases.me

    # ---- jobs ----

    async def add(self, job: Job, *, awaited: bool = True, limits: Limits | None = None) -> bool:
        """Write a new job down, as one that this server works on; what it is likely to cost counts as spent from now.

        Args:
            job: The job.
            awaited: Whether a caller waits for it.
            limits: What it must not pass.

        Returns:
            False when the ledger has a job with its remote id already; nothing is written then.

        Raises:
            SpendingLimitReached: It would pass the day's limit; nothing is written then.
            LedgerError: It cannot be written.
        """
        values = {**rows.as_row(job), "awaited_by": self._me if awaited else None, "delivered": not awaited}

        def add(database: sqlite3.Connection) -> bool:
            self._leases.say_alive(database)
            if limits:
                _require_budget(database, job, limits)
            return database.execute(queries.ADD, {**values, "me": self._me}).rowcount == 1

        return await self._database.write(add)

    async def save(self, job: Job) -> None:
        """Write a job down as it stands now."""
        row, images = {**rows.as_row(job), "me": self._me}, rows.as_image_rows(job)

        def save(database: sqlite3.Connection) -> None:
            database.execute(queries.SAVE, row)
            database.executemany(queries.SAVE_IMAGE, images)

        await self._database.write(save)

    async def find(self, request_id: str) -> Job | None:
        """The job with this id, the API's or the local one."""
        where = "WHERE local_id = :id OR remote_id = :id ORDER BY created LIMIT 1"
        return next(iter(await self._jobs(where, id=request_id)), None)

    async def latest(self, limit: int, owner: str = OPERATOR) -> list[Job]:
        """The jobs begun last that `owner` may see, newest first."""
        where = f"WHERE {queries.IS_SHOWN} ORDER BY created DESC, rowid DESC LIMIT :limit"
        return await self._jobs(where, readable=True, limit=limit, owner=owner)

    async def assign(self, job: Job, remote_id: str) -> bool:
        """Give a job an id of the API's, unless another job has it; returns whether it has it now."""
        values = {"local_id": job.local_id, "remote_id": remote_id}
        return await self._database.write(lambda database: database.execute(queries.ASSIGN, values).fetchall() != [])

    async def twins(self, job: Job) -> list[Job]:
        """The other open jobs with a job's model, seed and prompt whose id at the API is not known."""
        values: dict[str, Any] = {"local_id": job.local_id, "base_url": job.base_url, "model": job.model}
        values |= {"seed": job.parameters.seed, "prompt": job.parameters.prompt}
        return await self._jobs(f"WHERE local_id IN ({queries.TWINS})", **values)

    async def _jobs(self, where: str, *, readable: bool = False, **values: str | float) -> list[Job]:
        """Jobs; with `readable`, without those that an accident made unreadable."""
        return await self._database.read(lambda database: self._read(database, where, readable=readable, **values))

    def _read(
        self, database: sqlite3.Connection, where: str, *, readable: bool = False, **values: str | float
    ) -> list[Job]:
        rows = database.execute(f"{queries.SELECT} {where}", {**values, **self._leases.time}).fetchall()
        return read_jobs(database, rows, readable=readable)

    # ---- who works on what ----

    async def claim(self, local_id: str) -> Job | None:
        """Take up an open job that no other living server works on; None when there is nothing to take up."""

        def claim(database: sqlite3.Connection) -> list[Job]:
            self._leases.say_alive(database)
            values = {"local_id": local_id, "me": self._me, **self._leases.time}
            rows = database.execute(queries.CLAIM, values).fetchall()
            return self._read(database, "WHERE local_id = :id", id=local_id) if rows else []

        return next(iter(await self._database.write(claim)), None)

    async def orphans(self, base_url: str) -> list[str]:
        """The local ids of an API's open jobs that no living server works on, oldest first."""

        def look(database: sqlite3.Connection) -> list[str] | None:
            if self._leases.dead(database):
                return None
            rows = database.execute(queries.ORPHANS, {"base_url": base_url, **self._leases.time})
            return [row[0] for row in rows]

        found = await self._database.read(look)
        if found is None:
            await self._database.write(self._leases.bury)
            found = await self._database.read(look)
        return found or []

    async def renew(self) -> set[str]:
        """Say that this server is alive; returns the local ids of the jobs that are still its own."""

        def renew(database: sqlite3.Connection) -> set[str]:
            self._leases.say_alive(database)
            return {row[0] for row in database.execute("SELECT local_id FROM jobs WHERE holder = ?", (self._me,))}

        return await self._database.write(renew)

    async def activity(self) -> Activity:
        """What the other servers do, and what is still to be done. The servers that are gone are forgotten.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        return await self._database.write(self._leases.activity)

    async def release(self, local_id: str) -> None:
        """Work on a job no more."""
        statement = "UPDATE jobs SET holder = NULL WHERE local_id = ? AND holder = ?"
        await self._database.write(lambda database: database.execute(statement, (local_id, self._me)))

    async def leave(self) -> None:
        """Work on nothing more and wait for nothing more, so that other servers may."""
        if self._leases.said_alive:
            await self._database.write(
                lambda database: database.execute("DELETE FROM servers WHERE id = ?", (self._me,))
            )

    # ---- who waits for what ----

    async def join(self, job: Job) -> Job | None:
        """The job that a call with the same arguments began and whose result nobody received, if there is one."""
        values = {
            "model": job.model,
            "arguments": rows.as_text(job.arguments),
            "base_url": job.base_url,
            "owner": job.owner,
            "moment": rows.moment(job.created),
            "since": rows.moment(job.created - JOINING),
            "until": rows.moment(job.created + JOINING),
        }

        def join(database: sqlite3.Connection) -> list[Job]:
            self._leases.say_alive(database)
            rows = database.execute(queries.JOIN, {**values, "me": self._me, **self._leases.time}).fetchall()
            return self._read(database, "WHERE local_id = :id", id=rows[0][0]) if rows else []

        return next(iter(await self._database.write(join)), None)

    async def answer(self, job: Job, moment: datetime, *, delivered: bool) -> None:
        """Note that a call that waited for a job has ended, and whether its result was delivered."""
        statement = """
            UPDATE jobs SET awaited_by = NULL, answered = :moment, delivered = delivered OR :delivered
            WHERE local_id = :local_id
        """
        values = {"local_id": job.local_id, "moment": rows.moment(moment), "delivered": delivered}
        await self._database.write(lambda database: database.execute(statement, values))

    async def deliver(self, job: Job) -> None:
        """Note that a job's result was delivered."""
        statement = "UPDATE jobs SET delivered = 1 WHERE local_id = ? AND NOT delivered"
        await self._database.write(lambda database: database.execute(statement, (job.local_id,)))

    # ---- whose turn it is ----

    async def take_turns(self, waiting: Mapping[str, str], over: Sequence[str], limits: Limits) -> set[str]:
        """Have as many calls sent as the limits and the other servers allow, in a fair order.

        Args:
            waiting: The turns that this server's calls wait for, the first one first, each with the owner of its job.
            over: The turns whose calls have ended, or wait no more.
            limits: The limits.

        Returns:
            The turns that have come.
        """
        values = {"me": self._me, "calls_a_minute": limits.calls_a_minute}
        asking = [{**values, "id": turn, "caller": owner or self._me} for turn, owner in waiting.items()]

        def take(database: sqlite3.Connection) -> set[str]:
            self._leases.say_alive(database)
            time = self._leases.time
            for statement in (queries.END_TURN, queries.STOP_WAITING):
                database.executemany(statement, [{"id": turn} for turn in over])
            database.execute(queries.FORGET_TURNS, time)
            database.executemany(queries.ASK_FOR_TURN, [{**each, **time} for each in asking])
            return self._taken(database, limits, time)

        return await self._database.write(take)

    def _taken(self, database: sqlite3.Connection, limits: Limits, time: dict[str, float]) -> set[str]:
        came = set[str]()
        while True:
            under_way, taken = (
                database.execute(statement, time).fetchone()[0]
                for statement in (queries.TURNS_UNDER_WAY, queries.TURNS_TAKEN)
            )
            following = database.execute(queries.NEXT_TURN, {**time, "taken": taken}).fetchone()
            if under_way >= limits.calls_at_once or following is None or following["server"] != self._me:
                return came
            database.execute(queries.TAKE_TURN, {**time, "id": following["id"]})
            came.add(following["id"])

    # ---- the file ----

    def hurry(self) -> None:
        """Wait for no other program from now on, because the process is about to end."""
        self._database.hurry()

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()


def _require_budget(database: sqlite3.Connection, job: Job, limits: Limits) -> None:
    """Refuse a job that the day's limit has no room for.

    Raises:
        SpendingLimitReached: It has none.
    """
    if limits.usd_a_day is None:
        return
    spent, estimate = spent_on(database, job.created.date()), job.parameters.expected_cost
    if spent + estimate > limits.usd_a_day:
        raise SpendingLimitReached(
            f"The call is likely to cost {dollars(estimate)}, and {dollars(spent)} of today's "
            f"{dollars(limits.usd_a_day)} are spent"
        )
