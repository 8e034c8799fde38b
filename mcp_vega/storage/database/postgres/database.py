"""The `Database` on a PostgreSQL server: each transaction has a connection of its own, in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from mcp_vega.storage.database.connection import Work
from mcp_vega.storage.database.database import Durability
from mcp_vega.storage.database.postgres.address import CONNECTIONS, Address
from mcp_vega.storage.database.postgres.connection import CommitUnknownError
from mcp_vega.storage.database.postgres.deferred import Deferred
from mcp_vega.storage.database.postgres.errors import explained
from mcp_vega.storage.database.postgres.pool import Pool
from mcp_vega.storage.database.postgres.transactions import Task, Transactions, once_ended
from mcp_vega.storage.database.schema import Schema

T = TypeVar("T")

# How long a write waits for the work that was deferred before. On a busy machine that may take long; if the database is
# away, the work fails sooner.
DEFERRED_SECONDS = 5.0


class PostgresDatabase:
    """A `Database` on a PostgreSQL server. Connections are opened when they are needed.

    Args:
        url: The URL of the database; see `Address`.
        schema: The tables, which are made if they are missing.
        namespace: The PostgreSQL schema for the tables, which is made if it is missing; "" for the server's default.
    """

    def __init__(self, url: str, schema: Schema, namespace: str = "") -> None:
        self._address = Address(url, namespace)
        self._pool = Pool(self._address)
        self._transactions = Transactions(self._pool, schema)
        self._deferred = Deferred(self._transactions, self._explained)
        kinds = ("writes", "reads", "slow-reads")
        self._threads = {kind: ThreadPoolExecutor(CONNECTIONS[kind], f"ledger-{kind}") for kind in kinds}

    def shorten_waits(self) -> None:
        """Wait only shortly for other transactions from now on, because the process is about to end."""
        self._transactions.shorten_waits()

    async def read(self, work: Work[T], *, slow: bool = False) -> T:
        """Read from a snapshot of the database. Reads wait for no writes, and only `slow` reads wait for slow reads."""
        task = Task(work)
        future = self._submit("slow-reads" if slow else "reads", lambda: self._transactions.read(task))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task.withdraw()  # a read that has started goes on, and nobody waits for it
            raise

    async def write(
        self,
        work: Work[T],
        *,
        durability: Durability = Durability.CRASH,
        despite_cancel: bool = False,
        undo: Work[Any] | None = None,
    ) -> T:
        """Change something; see `Database`."""
        task = Task(work)

        def do() -> T:
            self._deferred.wait_until_tried(DEFERRED_SECONDS)
            try:
                identified = undo is not None or durability is Durability.POWER
                return self._transactions.write(task, durability, identified=identified)
            except CommitUnknownError as error:
                if undo:
                    self._deferred.add(once_ended(error, undo), immediately=True)
                raise

        future = self._submit("writes", do)
        try:
            return await _shielded(future) if despite_cancel else await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if task.withdraw():
                raise
            return await _shielded(future)

    def defer(self, work: Work[Any], *, immediately: bool = False) -> None:
        """Change something a little later, or immediately; see `Database`."""
        self._deferred.add(work, immediately=immediately)

    async def close(self) -> None:
        """Do the deferred work, and close the connections for good."""

        def do() -> None:
            for each in self._threads.values():
                each.shutdown()
            self._deferred.stop()
            self._pool.close()

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(do)

    def _submit(self, kind: str, do: Callable[[], T]) -> "Future[T]":
        def explaining() -> T:
            try:
                return do()
            except Exception as error:
                raise self._explained(error) from error

        return self._threads[kind].submit(explaining)

    def _explained(self, error: Exception) -> Exception:
        return explained(self._address, error)


async def _shielded(future: "Future[T]") -> T:
    """Wait for a result, even if the caller is cancelled."""
    with anyio.CancelScope(shield=True):
        return await asyncio.wrap_future(future)
    raise AssertionError  # for type checkers: this scope is never left early
