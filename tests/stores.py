"""The two kinds of ledger that the tests of the job store run on, and servers that share a ledger."""

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from mcp_vega.job import Job, Route
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.database.liveness import Liveness
from mcp_vega.storage.database.notices import Notices
from mcp_vega.storage.database.schema import Schema
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS, SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

S = TypeVar("S", bound=JobStore)
T = TypeVar("T")

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
API = "https://api.example"
NO_LIMITS = Limits()
MONOTONIC = time.monotonic


def a_job(prompt: str = "a fox", **fields: Any) -> Job:
    fields = {"created": NOW, **fields}
    parameters = VegaRTParameters(prompt=prompt, seed=7)
    return Job(parameters=parameters, arguments={"prompt": prompt}, route=Route.V2, base_url=API, **fields)


class Server:
    """The store of a server, and the lock that shows other servers that it is alive."""

    def __init__(self, database: Database, liveness: Liveness, notices: Notices | None = None) -> None:
        self._liveness = liveness
        self.database = database
        self.store = JobStore(database, liveness, notices)

    def die(self) -> None:
        """Release the lock, as the system does when a process is killed. The ledger does not change."""
        self._liveness.release()

    async def begin(self, limits: Limits = NO_LIMITS, **fields: Any) -> Job:
        """Begin a job."""
        job = a_job(**fields)
        assert not (await self.store.begin(job, limits)).joined
        return job

    async def sends(self, job: Job, limits: Limits = NO_LIMITS, **given: Any) -> Sending:
        """The outcome of marking a job as sent, two seconds after it was begun."""
        job = replace(job, sent=NOW + timedelta(seconds=2))
        return await self.store.mark_sent(job, limits, **given)


async def the_only(server: Server) -> Job:
    (job,) = await server.store.latest(5)
    return job


async def complete(service: JobService, job: Job) -> bool:
    return (await service.get(job.local_id)).complete


class Ledger(ABC):
    """A ledger for servers of this process."""

    @abstractmethod
    def server(self, *, schema: Schema = SCHEMA) -> Server:
        """Another server on this ledger. With another schema, it is one of another version."""

    @abstractmethod
    def store(self, kind: type[S], uptime: Callable[[], float] = MONOTONIC, busy_seconds: float = BUSY_SECONDS) -> S:
        """The store of another server on this ledger.

        Args:
            kind: Its class.
            uptime: The clock that all servers on the ledger share.
            busy_seconds: How long a locked SQLite file is waited for.
        """

    @abstractmethod
    def execute(self, statement: str) -> list[dict[str, Any]]:
        """Run a statement on the ledger as another program would do, and return its rows."""

    @asynccontextmanager
    async def servers(self, count: int = 2) -> AsyncGenerator[list[Server]]:
        """Several servers that share this ledger."""
        several = [self.server() for _ in range(count)]
        try:
            yield several
        finally:
            for each in several:
                await each.store.close()
                each.die()


class SqliteLedger(Ledger):
    """An SQLite file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ledger.sqlite3"

    def server(
        self, busy_seconds: float = BUSY_SECONDS, deferred_seconds: float = 3600, *, schema: Schema = SCHEMA
    ) -> Server:
        database = SqliteDatabase(SqliteFile(self.file, schema), busy_seconds, deferred_seconds)
        return Server(database, ServerLock(self.file.with_name("servers")))

    def store(self, kind: type[S], uptime: Callable[[], float] = MONOTONIC, busy_seconds: float = BUSY_SECONDS) -> S:
        return kind.in_file(self.file, uptime=uptime, busy_seconds=busy_seconds)

    def execute(self, statement: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.file)) as database, database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(statement)]


class OtherClock:
    """A PostgreSQL database that seems to have another clock."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.shorten_waits = database.shorten_waits
        self.close = database.close

    async def read(self, work: Work[T], *, slow: bool = False) -> T:
        return await self._database.read(self._timed(work), slow=slow)

    async def write(self, work: Work[T], *, undo: Work[Any] | None = None, **options: Any) -> T:
        return await self._database.write(self._timed(work), undo=undo and self._timed(undo), **options)

    def defer(self, work: Work[Any], *, immediately: bool = False) -> None:
        self._database.defer(self._timed(work), immediately=immediately)

    def _timed(self, work: Work[T]) -> Work[T]:
        return lambda connection: work(TimedConnection(connection, self._clock()))


class TimedConnection:
    """A connection at a time by another clock."""

    def __init__(self, connection: Connection, time: float) -> None:
        self.time = time
        self.execute = connection.execute
        self.lock = connection.lock


class Replica(Server):
    """A server on PostgreSQL."""

    def __init__(self, ledger: "PostgresLedger", database: Database, liveness: Liveness, notices: Notices) -> None:
        super().__init__(database, liveness, notices)
        self._ledger = ledger

    def die(self) -> None:
        """Close the session of the lock, and wait until PostgreSQL has noticed that."""
        number = self._liveness.me
        super().die()
        held = f"""
            SELECT 1 FROM pg_locks
            JOIN pg_database ON oid = database AND datname = current_database()
            WHERE locktype = 'advisory' AND classid = 'server_numbers'::regclass AND objid = {number or 0}
        """  # noqa: S608  a number
        deadline = time.monotonic() + 60
        while number and self._ledger.execute(held):
            assert time.monotonic() < deadline
            time.sleep(0.005)


class PostgresLedger(Ledger):
    """A namespace in a database of a PostgreSQL server."""

    def __init__(self, url: str, namespace: str = "") -> None:
        self.url = url
        self.namespace = namespace

    def server(self, *, schema: Schema = SCHEMA) -> Server:
        return Replica(self, *self._parts(schema))

    def store(self, kind: type[S], uptime: Callable[[], float] = MONOTONIC, busy_seconds: float = BUSY_SECONDS) -> S:  # noqa: ARG002
        if uptime is MONOTONIC:
            return kind.in_postgres(self.url, namespace=self.namespace)
        database, session, notices = self._parts()
        return kind(OtherClock(database, uptime), session, notices, uptime)

    def _parts(self, schema: Schema = SCHEMA) -> tuple[Database, Liveness, Notices]:
        from mcp_vega.storage.database.postgres import PostgresDatabase, Session

        session = Session(self.url, self.namespace)
        return PostgresDatabase(self.url, schema, self.namespace), session, session

    def execute(self, statement: str) -> list[dict[str, Any]]:
        from psycopg import Connection
        from psycopg.rows import DictRow, dict_row

        with Connection[DictRow].connect(self.url, row_factory=dict_row) as connection:
            if self.namespace:
                connection.execute("SELECT set_config('search_path', %s, false)", [self.namespace])
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []


# The ledger of a server with this home: `each_ledger` replaces it.
open_ledger: Callable[[Path], Ledger] = SqliteLedger


def ledger_at(home: Path) -> Ledger:
    """The ledger of the servers with this home."""
    return open_ledger(home)
