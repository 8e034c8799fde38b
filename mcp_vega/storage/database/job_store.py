"""Jobs in the ledger.

A job is written before its call leaves and after each change. Of the servers that run at once one works on a job:
the one that stands in `jobs.holder` while its lease in `servers` runs.
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
from mcp_vega.storage.database.image_locations import ImageLocations
from mcp_vega.storage.database.search import ImageSearch, read_jobs
from mcp_vega.storage.database.server_lease import Activity, ServerLease
from mcp_vega.storage.database.spending import Spending, spent_on
from mcp_vega.storage.database.sqlite import BUSY_SECONDS, Database

# The same arguments within this time join a job whose result nobody received.
JOINING = timedelta(minutes=2)


class JobStore:
    """The jobs in the ledger's file, which is opened at the first use.

    Every method raises a `LedgerError` where the file cannot be read or written; nothing of a change is written then.

    Args:
        file: It and its folder are made when they are not there.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
        busy_seconds: How long another program may keep the file to itself before an operation is given up.
    """

    def __init__(
        self, file: Path, *, uptime: Callable[[], float] = time.monotonic, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self._database = Database(file, busy_seconds)
        self.search = ImageSearch(self._database)
        self.locations = ImageLocations(self._database)
        self.spending = Spending(self._database)
        self._lease = ServerLease(uptime)
        self._me = self._lease.me

    # ---- jobs ----

    async def add(self, job: Job, *, awaited: bool = True, limits: Limits | None = None) -> bool:
        """Write a new job down, as one that this server works on; what it is likely to cost counts as spent from now.

        `awaited` is whether a caller waits for it. Returns False, and writes nothing, when the ledger has a job with
        its remote id already.

        Raises:
            SpendingLimitReached: It would pass the day's limit; nothing is written then.
        """
        values = {**rows.as_row(job), "awaited_by": self._me if awaited else None, "delivered": not awaited}

        def add(database: sqlite3.Connection) -> bool:
            self._lease.renew(database)
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

    async def get(self, request_id: str) -> Job | None:
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

    async def open_with_recipe_of(self, job: Job) -> list[Job]:
        """The other open jobs with a job's model, seed and prompt whose id at the API is not known."""
        values: dict[str, Any] = {"local_id": job.local_id, "base_url": job.base_url, "model": job.model}
        values |= {"seed": job.parameters.seed, "prompt": job.parameters.prompt}
        return await self._jobs(f"WHERE local_id IN ({queries.OPEN_WITH_RECIPE})", **values)

    async def _jobs(self, where: str, *, readable: bool = False, **values: str | float) -> list[Job]:
        """Jobs; with `readable`, without those that an accident made unreadable."""
        return await self._database.read(lambda database: self._read(database, where, readable=readable, **values))

    def _read(
        self, database: sqlite3.Connection, where: str, *, readable: bool = False, **values: str | float
    ) -> list[Job]:
        found = database.execute(f"{queries.SELECT} {where}", {**values, **self._lease.time}).fetchall()
        return read_jobs(database, found, readable=readable)

    # ---- who works on what ----

    async def claim(self, local_id: str) -> Job | None:
        """Take up an open job that no other living server works on; None when there is nothing to take up."""
        return await self._updated(queries.CLAIM, local_id=local_id)

    async def _updated(self, statement: str, **values: Any) -> Job | None:
        """The job that a statement of this server's has changed; None where it changed none."""

        def update(database: sqlite3.Connection) -> list[Job]:
            self._lease.renew(database)
            changed = database.execute(statement, {**values, "me": self._me, **self._lease.time}).fetchall()
            return self._read(database, "WHERE local_id = :id", id=changed[0][0]) if changed else []

        return next(iter(await self._database.write(update)), None)

    async def orphans(self, base_url: str) -> list[str]:
        """The local ids of an API's open jobs that no living server works on, oldest first."""

        def look(database: sqlite3.Connection) -> list[str] | None:
            if self._lease.gone(database):
                return None
            found = database.execute(queries.ORPHANS, {"base_url": base_url, **self._lease.time})
            return [row[0] for row in found]

        found = await self._database.read(look)
        if found is None:
            await self._database.write(self._lease.remove_expired)
            found = await self._database.read(look)
        return found or []

    async def renew(self) -> set[str]:
        """Say that this server is alive; returns the local ids of the jobs that are still its own."""

        def renew(database: sqlite3.Connection) -> set[str]:
            self._lease.renew(database)
            return {row[0] for row in database.execute("SELECT local_id FROM jobs WHERE holder = ?", (self._me,))}

        return await self._database.write(renew)

    async def activity(self) -> Activity:
        """What the other servers do, and what is still to be done. The servers that are gone are forgotten."""
        return await self._database.write(self._lease.activity)

    async def release(self, local_id: str) -> None:
        """Work on a job no more."""
        statement = "UPDATE jobs SET holder = NULL WHERE local_id = ? AND holder = ?"
        await self._database.write(lambda database: database.execute(statement, (local_id, self._me)))

    async def leave(self) -> None:
        """Work on nothing more and wait for nothing more, so that other servers may."""
        if self._lease.taken:
            await self._database.write(
                lambda database: database.execute("DELETE FROM servers WHERE id = ?", (self._me,))
            )

    # ---- who waits for what ----

    async def join(self, job: Job) -> Job | None:
        """The job that a call with the same arguments began and whose result nobody received, if there is one."""
        return await self._updated(
            queries.JOIN,
            model=job.model,
            arguments=rows.as_text(job.arguments),
            base_url=job.base_url,
            owner=job.owner,
            moment=rows.moment(job.created),
            since=rows.moment(job.created - JOINING),
            until=rows.moment(job.created + JOINING),
        )

    async def end_wait(self, job: Job, moment: datetime, *, delivered: bool) -> None:
        """Note that a call that waited for a job has ended, and whether its result was delivered."""
        statement = """
            UPDATE jobs SET awaited_by = NULL, last_call = :moment, delivered = delivered OR :delivered
            WHERE local_id = :local_id
        """
        values = {"local_id": job.local_id, "moment": rows.moment(moment), "delivered": delivered}
        await self._database.write(lambda database: database.execute(statement, values))

    async def mark_delivered(self, job: Job) -> None:
        """Note that a job's result was delivered."""
        statement = "UPDATE jobs SET delivered = 1 WHERE local_id = ? AND NOT delivered"
        await self._database.write(lambda database: database.execute(statement, (job.local_id,)))

    # ---- slots for calls ----

    async def take_slots(self, waiting: Mapping[str, str], released: Sequence[str], limits: Limits) -> set[str]:
        """Take as many slots for this server's calls as the limits and the other servers allow, in a fair order.

        `waiting` are those that calls wait for, the first one first, each with the owner of its job; `released` are
        those whose calls have ended or wait no more. Returns the slots that were taken.
        """
        values = {"me": self._me, "calls_a_minute": limits.calls_a_minute}
        requests = [{**values, "id": slot, "caller": owner or self._me} for slot, owner in waiting.items()]

        def take(database: sqlite3.Connection) -> set[str]:
            self._lease.renew(database)
            time = self._lease.time
            for statement in (queries.RELEASE_SLOT, queries.STOP_WAITING):
                database.executemany(statement, [{"id": slot} for slot in released])
            database.execute(queries.FORGET_SLOTS, time)
            database.executemany(queries.REQUEST_SLOT, [{**each, **time} for each in requests])
            return self._take(database, limits, time)

        return await self._database.write(take)

    def _take(self, database: sqlite3.Connection, limits: Limits, time: dict[str, float]) -> set[str]:
        taken = set[str]()
        while True:
            in_use, in_minute = (
                database.execute(statement, time).fetchone()[0]
                for statement in (queries.SLOTS_IN_USE, queries.CALLS_IN_MINUTE)
            )
            following = database.execute(queries.NEXT_SLOT, {**time, "in_minute": in_minute}).fetchone()
            if in_use >= limits.calls_at_once or following is None or following["server"] != self._me:
                return taken
            database.execute(queries.TAKE_SLOT, {**time, "id": following["id"]})
            taken.add(following["id"])

    # ---- the file ----

    def shorten_waits(self) -> None:
        """Wait for no other program from now on, because the process is about to end."""
        self._database.shorten_waits()

    async def close(self) -> None:
        """Close the file."""
        await self._database.close()


def _require_budget(database: sqlite3.Connection, job: Job, limits: Limits) -> None:
    """Refuse a job that the day's limit has no room for."""
    if limits.usd_a_day is None:
        return
    spent, estimate = spent_on(database, job.created.date()), job.parameters.expected_cost
    if spent + estimate > limits.usd_a_day:
        raise SpendingLimitReached(
            f"The call is likely to cost {dollars(estimate)}, and {dollars(spent)} of today's "
            f"{dollars(limits.usd_a_day)} are spent"
        )
