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

import pytest

from mcp_vega.job import Job, Route
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.database.liveness import Liveness
from mcp_vega.storage.database.notices import Notices
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS, SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

S = TypeVar("S", bound=JobStore)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
API = "https://api.example"
NO_LIMITS = Limits()


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
    def server(self) -> Server:
        """Another server on this ledger."""

    @abstractmethod
    def store(self, kind: type[S], uptime: Callable[[], float] = time.monotonic) -> S:
        """The store of another server on this ledger."""

    @abstractmethod
    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on the ledger without a server, and return its rows."""

    @asynccontextmanager
    async def servers(self, count: int = 2) -> AsyncGenerator[list[Server]]:
        """Several servers that share this ledger."""
        several = [self.server() for _ in range(count)]
        yield several
        for each in several:
            await each.store.close()
            each.die()


class SqliteLedger(Ledger):
    """An SQLite file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "ledger.sqlite3"

    def server(self, busy_seconds: float = BUSY_SECONDS, deferred_seconds: float = 3600) -> Server:
        database = SqliteDatabase(SqliteFile(self.file, SCHEMA), busy_seconds, deferred_seconds)
        return Server(database, ServerLock(self.file.with_name("servers")))

    def store(self, kind: type[S], uptime: Callable[[], float] = time.monotonic) -> S:
        return kind.in_file(self.file, uptime=uptime)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file)) as database, database:
            return database.execute(statement).fetchall()


class PostgresLedger(Ledger):
    """A database of a PostgreSQL server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def server(self) -> Server:
        from mcp_vega.storage.database.postgres import PostgresDatabase, Session

        session = Session(self.url)
        return Server(PostgresDatabase(self.url, SCHEMA), session, session)

    def store(self, kind: type[S], uptime: Callable[[], float] = time.monotonic) -> S:
        return kind.in_postgres(self.url, uptime=uptime)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        from psycopg import connect

        with connect(self.url) as connection:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A new ledger of each kind."""
    if request.param == "postgres":
        return PostgresLedger(request.getfixturevalue("postgres"))
    return SqliteLedger(tmp_path / "home")
