"""Jobs in the ledger.

A paid call is three transactions: `begin` before anything else, `mark_sent` before the call leaves, and the last
`save` when the call has ended. Only one of the running servers works on a job: the server in `jobs.holder`, as long as
it is alive.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mcp_vega.errors import SpendingLimitReached, VegaError
from mcp_vega.job import OPERATOR, Job
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Database, Durability
from mcp_vega.storage.database.liveness import Liveness
from mcp_vega.storage.database.notices import NoNotices, Notices
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS, SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.database.traced import TracedDatabase
from mcp_vega.storage.ledger import joining
from mcp_vega.storage.ledger.accounts import Accounts
from mcp_vega.storage.ledger.image_locations import ImageLocations
from mcp_vega.storage.ledger.search import ImageSearch
from mcp_vega.storage.ledger.secrets import Secrets
from mcp_vega.storage.ledger.servers import Activity, Servers
from mcp_vega.storage.ledger.slots import Sending, Slots, Turns
from mcp_vega.storage.ledger.spending import Limits, Spending
from mcp_vega.storage.ledger.sql import job_queries, rows
from mcp_vega.storage.ledger.sql.schema import SCHEMA
from mcp_vega.storage.ledger.transactions import Begun, NewCall, Transactions

if TYPE_CHECKING:  # a server does not wait for this import
    from mcp_vega.storage.ledger.transfer import Transfer

T = TypeVar("T")

# How long another server may still send a call; longer for `submit_job`, whose caller expects to wait.
WANTED, SUBMITTED = timedelta(minutes=2), timedelta(hours=1)
EARLIEST = datetime.min.replace(tzinfo=UTC)


class JobStore:
    """The jobs in the ledger, which is opened at the first use.

    Every method raises a `LedgerError` if the ledger cannot be read or written. Then no part of a change is written.
    """

    def __init__(
        self,
        database: Database,
        liveness: Liveness,
        notices: Notices | None = None,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self.notices = notices or NoNotices()
        self.uptime = uptime
        self._servers = Servers(liveness)
        self._transactions = Transactions(self._servers)
        self.search = ImageSearch(database)
        self.locations = ImageLocations(database)
        self.spending = Spending(database)
        self.secrets = Secrets(database)
        self.accounts = Accounts(database, self._servers, self.secrets)

    @classmethod
    def in_file(
        cls, file: Path, *, uptime: Callable[[], float] = time.monotonic, busy_seconds: float = BUSY_SECONDS
    ) -> Self:
        """Return the store of an SQLite file, which is made if it is missing. The servers' locks are next to the file.

        For `uptime` see `SqliteFile`, for `busy_seconds` see `SqliteDatabase`.
        """
        database = TracedDatabase(SqliteDatabase(SqliteFile(file, SCHEMA, uptime), busy_seconds), "sqlite")
        return cls(database, ServerLock(file.with_name("servers")), uptime=uptime)

    @classmethod
    def in_postgres(cls, url: str, *, namespace: str = "", uptime: Callable[[], float] = time.monotonic) -> Self:
        """Return the store of a PostgreSQL database. Its tables are in the schema `namespace`, if that is not empty."""
        # Imported only here: without PostgreSQL, servers start faster, and the driver need not be installed.
        from mcp_vega.storage.database.postgres import PostgresDatabase, Session

        session = Session(url, namespace)
        database = TracedDatabase(PostgresDatabase(url, SCHEMA, namespace), "postgresql")
        return cls(database, session, session, uptime)

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
        """Write a new job, on which this server works, and take a slot for it if one is free and no other job waits.

        If the same call began a job before, and nobody received its result, that job is joined instead: it is paid for
        already. The likely cost of a new job counts as spent from now on.

        Args:
            job: The new job.
            limits: The limits on paid calls.
            wanted: How long another server may still send the job if this server dies.
            refusal: The reason why no new job may be begun, if there is one. A job may be joined nevertheless.
            arrived: When the call came, in seconds of `uptime`; the default is now.

        Raises:
            VegaError: The refusal, or a `SpendingLimitReached` if the job would exceed the day's limit.
        """
        came = self.uptime() if arrived is None else arrived
        joined: Begun | None = None

        def begin(connection: Connection) -> Begun:
            nonlocal joined
            call = NewCall(job, self._shared_time(connection, came), job.created + wanted, refusal)
            begun = self._transactions.begin(connection, call, limits)
            joined = begun if begun.joined else None
            return begun

        def undo(connection: Connection) -> None:
            self._transactions.discard(connection, job)
            if joined:  # nobody waits for that job after all
                moment = joining.Moment(job.created, self._shared_time(connection, came))
                joining.end_wait(connection, joined.job, moment, delivered=False, cancelled=True)

        # What a crash of the database takes, `mark_sent` does not find: then nothing is sent.
        return await self._write_with_room(begin, durability=Durability.RELAXED, undo=undo)

    async def _write_with_room(self, work: Work[T], **how: Any) -> T:
        """Do work that reserves money. If the limit is reached, the money that dead servers had reserved comes back."""
        try:
            return await self._database.write(work, **how)
        except SpendingLimitReached:
            if await self._database.read(self._servers.all_alive):
                raise
        await self._database.write(self._servers.remove_dead)
        return await self._database.write(work, **how)

    async def turns(self, limits: Limits, moment: datetime) -> Turns:
        """Return which of this server's jobs may be sent at a moment (UTC). Slots of dead servers are released."""

        def look(connection: Connection) -> tuple[Turns, bool]:
            turns = Slots(connection, self._servers.me, limits).turns(moment)
            return turns, self._servers.all_alive(connection)

        found, all_alive = await self._database.read(look)
        if not all_alive:
            await self._database.write(self._servers.remove_dead)
            found, _ = await self._database.read(look)
        return found

    async def mark_sent(self, job: Job, limits: Limits, *, begun_here: bool = True) -> Sending:
        """Note that a job's call leaves now, and take a slot for it. `SENT` means that this is safe on the disk.

        A job without a slot must only be sent when it is its turn (`turns`). Here the limits are checked, and not the
        order of the jobs again. After a `LedgerError`, call this again with the same `sent`: if the job was marked
        already, the result is `SENT` nevertheless.

        Args:
            job: The job with its new `sent` and `state`.
            limits: The limits on paid calls.
            begun_here: Whether this server began the job. If another server did, it may be unwanted by now.

        Raises:
            SpendingLimitReached: The money reserved for the job was given back when its server died, and was spent.
        """
        return await self._write_with_room(
            lambda connection: self._transactions.mark_sent(connection, job, limits, begun_here=begun_here),
            durability=Durability.POWER,
            despite_cancel=True,
        )

    def discard(self, job: Job) -> None:
        """Delete a job whose caller left before it was sent. The change is written in the background."""
        self._database.defer(lambda connection: self._transactions.discard(connection, job), immediately=True)

    async def save(self, job: Job, *, release: bool = False) -> Job | None:
        """Write the current state, receipt and pictures of a job, and release its slot: its call has ended.

        A server that has the pictures may always write. With `release`, no server works on the job afterwards. Returns
        the job, or None if it is another server's: then its row is not changed. A job without a remote id gets the one
        in its receipt, unless another job has that id.
        """
        return await self._database.write(
            lambda connection: self._transactions.save(connection, job, release=release), despite_cancel=True
        )

    # ---- who has the result ----

    def end_wait(self, job: Job, moment: datetime, *, delivered: bool, cancelled: bool) -> None:
        """Note when a call that waited for a job ended (UTC): with or without the result, or because it was cancelled.

        This is written in the background; without the result immediately, because the same call may come next.
        """
        ended, how = self._happened(moment), {"delivered": delivered, "cancelled": cancelled}
        work: Work[None] = lambda connection: joining.end_wait(connection, job, ended(connection), **how)  # noqa: E731
        self._database.defer(work, immediately=not delivered)

    def mark_delivered(self, job: Job, moment: datetime) -> None:
        """Note when a job's result was delivered (UTC). This is written in the background."""
        delivered = self._happened(moment)
        self._database.defer(lambda connection: joining.mark_delivered(connection, job, delivered(connection)))

    async def take_back(self, job: Job, moment: datetime) -> None:
        """Note that a job's result was not received after all, because its call was cancelled at that moment (UTC).

        When this returns, it is written, with all earlier notes. If the caller is cancelled, it is written later.
        """
        cancelled = self._happened(moment)
        work: Work[None] = lambda connection: joining.take_back(connection, job, cancelled(connection))  # noqa: E731
        self._database.defer(work, immediately=True)
        await self.written()

    async def written(self) -> None:
        """Wait until all earlier changes in the background are written."""
        await self._database.write(lambda _: None)

    def _happened(self, day: datetime) -> Callable[[Connection], joining.Moment]:
        """Return a function that gives this moment (UTC), for a change that is written later."""
        came = self.uptime()
        return lambda connection: joining.Moment(day, self._shared_time(connection, came))

    def _shared_time(self, connection: Connection, uptime: float) -> float:
        """Convert a time of `uptime` to the clock that all servers share."""
        return connection.time - (self.uptime() - uptime)

    # ---- looking ----

    async def get(self, request_id: str) -> Job | None:
        """Return the job with this id, the API's or the local one; None if there is none."""
        return next(iter(await self._jobs(job_queries.BY_ID, id=rows.storable(request_id))), None)

    async def latest(self, limit: int, owner: str = OPERATOR, since: datetime | None = None) -> list[Job]:
        """The jobs begun last, or since a moment, that `owner` may see, newest first."""
        latest = job_queries.LATEST.format(shown=job_queries.shown_to(owner))
        return await self._jobs(latest, readable=True, limit=limit, owner=owner, since=since or EARLIEST)

    async def _jobs(self, where: str, *, readable: bool = False, **values: Any) -> list[Job]:
        """Return jobs; with `readable`, without those whose row is damaged."""
        return await self._database.read(
            lambda connection: self._transactions.read(connection, where, readable=readable, **values)
        )

    # ---- who works on what ----

    async def add_known(self, job: Job) -> bool:
        """Write a job that the API knows already. This server works on it, and nobody waits for it.

        Returns False, and writes nothing, if the ledger already has a job with the same remote id.
        """
        return await self._database.write(lambda connection: self._transactions.add_known(connection, job))

    async def assign(self, job: Job, remote_id: str) -> bool:
        """Give a job an id of the API, unless another job has that id; returns whether the job has it now."""
        return await self._database.write(lambda connection: self._transactions.assign(connection, job, remote_id))

    async def claim(self, local_id: str) -> Job | None:
        """Claim an open job for this server; None if there is no such job, or another living server works on it."""
        return await self._database.write(lambda connection: self._transactions.claim(connection, local_id))

    @property
    def transfer(self) -> "Transfer":
        """All jobs, to be moved to another ledger or from one."""
        from mcp_vega.storage.ledger.transfer import Transfer

        return Transfer(self._database)

    async def activity(self) -> Activity:
        """Return which other servers have work, and how many jobs are open."""
        return await self._database.write(self._servers.activity)

    async def require_readable(self) -> None:
        """Read a little from the ledger."""
        await self._database.read(lambda connection: connection.execute("SELECT 1 FROM servers LIMIT 1"))

    async def leave(self) -> None:
        """Leave the ledger, so that other servers can continue this server's jobs."""
        if self._servers.entered:
            try:
                await self._database.write(self._servers.leave, despite_cancel=True)
            finally:
                self._servers.release_lock()  # others then see that this server has ended

    def shorten_waits(self) -> None:
        """Wait only shortly for other programs from now on, because the process is about to end."""
        self._database.shorten_waits()

    async def close(self) -> None:
        """Close the ledger."""
        await self._database.close()
