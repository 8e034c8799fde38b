"""Jobs in the ledger.

A paid call is three transactions: `begin` before anything else, `mark_sent` before the call leaves, and the last
`save`, when it has ended. Of the servers that run at once one works on a job: the one that stands in `jobs.holder`,
while it is alive.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from mcp_vega.errors import VegaError
from mcp_vega.job import OPERATOR, Job
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import BUSY_SECONDS, Database
from mcp_vega.storage.database.server_lock import ServerLock
from mcp_vega.storage.database.sqlite import SqliteFile
from mcp_vega.storage.ledger import joining, queries, rows, spending
from mcp_vega.storage.ledger.accounts import Accounts
from mcp_vega.storage.ledger.image_locations import ImageLocations
from mcp_vega.storage.ledger.schema import SCHEMA
from mcp_vega.storage.ledger.search import ImageSearch, read_jobs
from mcp_vega.storage.ledger.secrets import Secrets
from mcp_vega.storage.ledger.servers import Activity, Servers
from mcp_vega.storage.ledger.slots import Sending, Slots, Turns
from mcp_vega.storage.ledger.spending import Limits, Spending

# For how long another server may send a call; one that was submitted is expected for longer.
WANTED, SUBMITTED = timedelta(minutes=2), timedelta(hours=1)


class Begun(NamedTuple):
    """What `begin` came to."""

    job: Job
    joined: bool  # whether an earlier call began it
    may_send: bool  # whether it has a slot


class JobStore:
    """The jobs in the ledger, which is opened at the first use.

    Every method raises a `LedgerError` where the ledger cannot be read or written; nothing of a change is written then.
    """

    def __init__(self, database: Database, lock: ServerLock, uptime: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self.uptime = uptime
        self._servers = Servers(lock)
        self.search = ImageSearch(database)
        self.locations = ImageLocations(database)
        self.spending = Spending(database)
        self.secrets = Secrets(database)
        self.accounts = Accounts(database, self._servers, self.secrets)

    @classmethod
    def in_file(
        cls, file: Path, *, uptime: Callable[[], float] = time.monotonic, busy_seconds: float = BUSY_SECONDS
    ) -> Self:
        """The jobs in a file of SQLite, which is made when it is not there; the locks of its servers lie beside it.

        For `uptime` see `SqliteFile`, for `busy_seconds` `Database`.
        """
        database = Database(SqliteFile(file, SCHEMA, uptime), busy_seconds)
        return cls(database, ServerLock(file.with_name("servers")), uptime)

    # ---- the transactions of a paid call ----

    async def begin(
        self,
        job: Job,
        limits: Limits,
        *,
        wanted: timedelta = WANTED,
        refusal: VegaError | None = None,
        arrived: float | None = None,
    ) -> Begun:
        """Write a new job down, as one that this server works on, and take a slot for it if it is its turn.

        One that the same call began and whose result nobody received is joined instead: it is paid for already. What a
        new one is likely to cost counts as spent from now on.

        Args:
            job: The job.
            limits: What may be spent.
            wanted: For how long another server may send it, should this one die before.
            refusal: Why no new job may be begun, if there is a reason: one may be joined all the same.
            arrived: When its call came, in seconds of `uptime`; now, where it is not given.

        Raises:
            VegaError: The refusal; or a `SpendingLimitReached`, as it would pass the day's limit.
        """
        came = self.uptime() if arrived is None else arrived

        def begin(connection: Connection) -> Begun:
            me = self._servers.enter(connection, limits.calls_a_minute)
            arrival = self._shared_time(connection, came)
            if joined := joining.join(connection, job, arrival, self._servers, me):
                return Begun(self._read(connection, queries.BY_ID, id=joined)[0], joined=True, may_send=False)
            if refusal:
                raise refusal
            self._servers.reserve(connection, job, limits)
            until = rows.moment(job.created + wanted)
            values = {"me": me, "awaited_by": me, "delivered": False, "arrived": arrival, "wanted_until": until}
            connection.execute(queries.ADD, {**rows.as_row(job), **values})
            slots = Slots(connection, me, limits)
            may_send = job.local_id in slots.turns(rows.moment(job.created)).jobs
            if may_send:
                slots.take(job)
            return Begun(job, joined=False, may_send=may_send)

        return await self._database.write(begin)

    async def turns(self, limits: Limits, moment: datetime) -> Turns:
        """Which of this server's jobs may be sent now (UTC). What a server that has died keeps is freed."""

        def look(connection: Connection) -> tuple[Turns, bool]:
            servers = {row["id"] for row in connection.execute("SELECT id FROM servers")}
            all_alive = servers == self._servers.alive(connection, servers)
            return Slots(connection, self._servers.me, limits).turns(rows.moment(moment)), all_alive

        found, all_alive = await self._database.read(look)
        if not all_alive:
            await self._database.write(self._servers.remove_dead)
            found, _ = await self._database.read(look)
        return found

    async def mark_sent(
        self, job: Job, limits: Limits, *, begun_here: bool = True, out_of_turn: bool = False
    ) -> Sending:
        """Write down that a job's call leaves now, with a slot for it; on the disk before this returns `SENT`.

        Args:
            job: As it stands once it is sent: `sent` and `state`.
            limits: What may be spent.
            begun_here: Whether this server began it; one that was begun elsewhere may be unwanted by now.
            out_of_turn: Whether those that come before it have not come, although there is a slot for them.

        Raises:
            SpendingLimitReached: What it is likely to cost was given back when its server died, and is there no more.
        """

        def mark(connection: Connection) -> Sending:
            slots = Slots(connection, self._servers.enter(connection, limits.calls_a_minute), limits)
            sending = slots.mark_sent(job, begun_here=begun_here, out_of_turn=out_of_turn)
            if sending is Sending.SENT and not spending.counted(
                connection, job.local_id
            ):  # given back by a dead server
                self._servers.reserve(connection, job, limits)
                counts = {"local_id": job.local_id, "spent": spending.billionths(job)}
                connection.execute(queries.COUNT_AGAIN, counts)
            return sending

        return await self._database.write(mark, durable=True, despite_cancel=True)

    def discard(self, job: Job) -> None:
        """Forget a job whose caller left before it was sent; nobody waits until that is written."""

        def discard(connection: Connection) -> None:
            values = {"local_id": job.local_id, "me": self._servers.me}
            if connection.execute(queries.IS_UNSENT, values):
                spending.give_back(connection, job.local_id)
                connection.execute(queries.RELEASE_SLOT, values)
                connection.execute("DELETE FROM jobs WHERE local_id = :local_id", values)

        self._database.defer(discard, at_once=True)

    async def save(self, job: Job, *, release: bool = False) -> bool:
        """Write a job down as it stands now: state, receipt and pictures; its call is not under way any more.

        Whoever has its pictures may write them. With `release`, nobody works on it from then on. Returns False, and
        writes nothing, where it is another server's.
        """
        row: dict[str, Any] = {**rows.as_row(job), "me": self._servers.me, "release": release}
        images = rows.as_image_rows(job)

        def save(connection: Connection) -> bool:
            counted = spending.counted(connection, job.local_id)
            counts = bool(connection.execute(queries.SAVE, row))
            if counts:
                spending.add(connection, job.local_id, row["spent"] - counted)
            for image in images:
                connection.execute(queries.SAVE_IMAGE, image)
            connection.execute(queries.RELEASE_SLOT, row)
            return counts

        return await self._database.write(save, despite_cancel=True)

    # ---- who has the result ----

    def end_wait(self, job: Job, moment: datetime, *, delivered: bool, cancelled: bool) -> None:
        """Note that a call that waited for a job has ended (UTC), with its result or without, or was cancelled.

        Nobody waits until that is written. Without the result it is written at once: the same call may come next.
        """
        ended, how = self._happened(moment), {"delivered": delivered, "cancelled": cancelled}
        work: Work[None] = lambda connection: joining.end_wait(connection, job, ended(connection), **how)  # noqa: E731
        self._database.defer(work, at_once=not delivered)

    def mark_delivered(self, job: Job, moment: datetime) -> None:
        """Note that a job's result was delivered (UTC); nobody waits until that is written."""
        delivered = self._happened(moment)
        self._database.defer(lambda connection: joining.mark_delivered(connection, job, delivered(connection)))

    async def take_back(self, job: Job, moment: datetime) -> None:
        """Note that a job's result was not received after all, as its call was cancelled at that moment (UTC).

        It is written, with all that was noted before, when this returns; and later, where nobody waits so long.
        """
        cancelled = self._happened(moment)
        work: Work[None] = lambda connection: joining.take_back(connection, job, cancelled(connection))  # noqa: E731
        self._database.defer(work, at_once=True)
        await self._database.write(lambda _: None)

    def _happened(self, day: datetime) -> Callable[[Connection], joining.Moment]:
        """This moment (UTC), for when it is written: what counts is when something happened."""
        came = self.uptime()
        return lambda connection: joining.Moment(day, self._shared_time(connection, came))

    def _shared_time(self, connection: Connection, uptime: float) -> float:
        """A moment of `uptime` by the clock that all servers share."""
        return connection.time - (self.uptime() - uptime)

    # ---- looking ----

    async def get(self, request_id: str) -> Job | None:
        """The job with this id, the API's or the local one."""
        return next(iter(await self._jobs(queries.BY_ID, id=request_id)), None)

    async def latest(self, limit: int, owner: str = OPERATOR, since: datetime | None = None) -> list[Job]:
        """The jobs begun last, or since a moment, that `owner` may see, newest first."""
        return await self._jobs(queries.LATEST, readable=True, limit=limit, owner=owner, since=rows.moment(since) or "")

    async def _jobs(self, where: str, *, readable: bool = False, **values: Any) -> list[Job]:
        """Jobs; with `readable`, without those that an accident made unreadable."""
        return await self._database.read(lambda connection: self._read(connection, where, readable=readable, **values))

    def _read(self, connection: Connection, where: str, *, readable: bool = False, **values: Any) -> list[Job]:
        found = connection.execute(f"SELECT * FROM jobs {where}", values)  # noqa: S608  one of `queries`
        alive = self._servers.alive(connection, {row["holder"] for row in found})
        return read_jobs(connection, found, alive, readable=readable)

    # ---- who works on what ----

    async def add_known(self, job: Job) -> bool:
        """Write down a job that the API knows, as one that this server works on and for which nobody waits.

        Returns False, and writes nothing, when the ledger has a job with its remote id already.
        """
        values = {**rows.as_row(job), "awaited_by": None, "delivered": True, "wanted_until": rows.moment(job.created)}

        def add(connection: Connection) -> bool:
            me = self._servers.enter(connection)
            if not connection.execute(queries.ADD, {**values, "me": me, "arrived": connection.time}):
                return False
            return spending.reserve(connection, job, None)

        return await self._database.write(add)

    async def assign(self, job: Job, remote_id: str) -> bool:
        """Give a job an id of the API's, unless another job has it; returns whether it has it now."""
        values = {"local_id": job.local_id, "remote_id": remote_id}
        return bool(await self._database.write(lambda connection: connection.execute(queries.ASSIGN, values)))

    async def claim(self, local_id: str) -> Job | None:
        """Take up an open job that no other living server works on; None when there is nothing to take up."""

        def claim(connection: Connection) -> Job | None:
            found = self._read(connection, "WHERE local_id = :id AND open", id=local_id)
            holder = connection.execute("SELECT holder FROM jobs WHERE local_id = :id", {"id": local_id})
            me = self._servers.enter(connection)
            if not found or (found[0].held and holder[0]["holder"] != me):
                return None
            connection.execute("UPDATE jobs SET holder = :me WHERE local_id = :id", {"me": me, "id": local_id})
            return self._read(connection, queries.BY_ID, id=local_id)[0]

        return await self._database.write(claim)

    async def activity(self) -> Activity:
        """What the other servers do, and what is still to be done."""
        return await self._database.write(self._servers.activity)

    async def leave(self) -> None:
        """Leave all work to other servers."""
        if self._servers.entered:
            try:
                await self._database.write(self._servers.leave, despite_cancel=True)
            finally:
                self._servers.release_lock()  # others then see that it is gone

    def shorten_waits(self) -> None:
        """Wait for no other program from now on, because the process is about to end."""
        self._database.shorten_waits()

    async def close(self) -> None:
        """Close the ledger."""
        await self._database.close()
