"""Reads from a ledger's file, in a thread and one at a time."""

import threading
from time import monotonic
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_vega.storage.database.connection import Work
from mcp_vega.storage.database.sqlite.file import SqliteConnection, SqliteFile

T = TypeVar("T")

# How many seconds a read waits for a lock, even if it spent all its time waiting for other reads.
SHORTEST_WAIT = 0.05


class Reader:
    """A connection for reads: one at a time, each in a thread."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._connection: SqliteConnection | None = None
        # Reads wait in the event loop, so they take no threads.
        self._one = anyio.CapacityLimiter(1)
        # A cancelled read leaves its thread running; and before anyio 4.14 a limiter sometimes admits one too many.
        self._in_use = threading.Lock()
        self._closed = False

    async def read(self, work: Work[T], give_up: float) -> T:
        """Do work in a transaction. Locks are waited for until `give_up`, a time of `monotonic`."""

        def do() -> T:
            with self._in_use:
                if self._closed:  # nobody waits for this any more
                    raise RuntimeError("the ledger is closed")
                try:
                    wait = max(give_up - monotonic(), SHORTEST_WAIT)
                    self._connection = self._connection or self._file.connect(write=False, wait=wait)
                    with self._connection.transaction(write=False, durable=False, wait=wait):
                        return work(self._connection)
                except Exception as error:
                    raise self._file.explained(error) from error

        return await anyio.to_thread.run_sync(do, limiter=self._one, abandon_on_cancel=True)

    def close(self) -> None:
        """Close the connection for good, after the read that is using it."""
        with self._in_use:
            self._closed = True
            if self._connection:
                self._connection.close()
