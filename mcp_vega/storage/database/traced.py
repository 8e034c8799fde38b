"""Measures the transactions of a database."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from mcp_vega.errors import LedgerError, VegaError
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Database
from mcp_vega.telemetry import measurements
from mcp_vega.telemetry.recorder import TransactionKind
from mcp_vega.telemetry.spans import current_context

T = TypeVar("T")


class TracedDatabase:
    """A `Database` that measures each transaction of another one.

    A transaction is measured from the call until its result is there, so the time includes waiting. Deferred work
    shares a transaction with other work: each try of each piece is measured, in the thread that does it.

    Args:
        database: The database.
        system: Its name in OpenTelemetry.
    """

    def __init__(self, database: Database, system: str) -> None:
        self._database = database
        self._system = system
        self.shorten_waits = database.shorten_waits
        self.close = database.close

    async def read(self, work: Work[T], *, slow: bool = False) -> T:
        """Read from a snapshot of the database; see `Database`."""
        with self._transaction(TransactionKind.READ, work):
            return await self._database.read(work, slow=slow)

    async def write(self, work: Work[T], **options: Any) -> T:
        """Change something; see `Database`."""
        with self._transaction(TransactionKind.WRITE, work):
            return await self._database.write(work, **options)

    def defer(self, work: Work[Any], *, immediately: bool = False) -> None:
        """Change something a little later, or immediately; see `Database`."""
        context = current_context()

        def measured(connection: Connection) -> None:
            with measurements.transaction(TransactionKind.DEFERRED, self._system, operation_of(work), context):
                work(connection)

        self._database.defer(measured, immediately=immediately)

    @contextmanager
    def _transaction(self, kind: TransactionKind, work: Work[Any]) -> Generator[None]:
        with measurements.transaction(kind, self._system, operation_of(work)) as measured:
            try:
                yield
            except VegaError as error:
                # The work may refuse, for example because a limit is reached. Then the database did its part.
                measured.failed = isinstance(error, LedgerError)
                raise


def operation_of(work: Work[Any]) -> str:
    """The name of the method that defines the work, such as `mark_sent` for a function inside of that method."""
    name: str = getattr(work, "__qualname__", "transaction")
    return name.partition(".<locals>")[0].rpartition(".")[2].strip("_")
