"""Does work in the background, in its order, until it has succeeded."""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Durability
from mcp_vega.storage.database.postgres.transactions import Task, Transactions

logger = logging.getLogger(__name__)

# How long work waits for other work whose transaction it can share; the pause after a failure; how long `close` tries.
DEFERRED_SECONDS, RETRY_SECONDS, CLOSE_SECONDS = 0.5, 0.5, 2.0


class _Piece:
    """A piece of work. `tried` is set once it was done or has failed once."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.tried = threading.Event()


class Deferred:
    """Does work in a thread of its own. All work that waits shares one transaction.

    Args:
        transactions: Runs the transactions.
        explained: Makes an error readable.
    """

    def __init__(self, transactions: Transactions, explained: Callable[[Exception], Exception]) -> None:
        self._transactions = transactions
        self._explained = explained
        self._changed = threading.Condition()
        self._pieces: list[_Piece] = []
        self._due = float("inf")  # when the waiting work is done next, by `monotonic`
        self._ends_by: float | None = None
        self._thread: threading.Thread | None = None

    def add(self, work: Work[Any], *, immediately: bool) -> None:
        """Do work a little later, or immediately."""
        with self._changed:
            self._pieces.append(_Piece(work))
            self._due = min(self._due, monotonic() + (0 if immediately else DEFERRED_SECONDS))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ledger-deferred", daemon=True)
                self._thread.start()
            self._changed.notify()

    def wait_until_tried(self, seconds: float) -> None:
        """Wait until the work that was added before has been done, or has failed once."""
        with self._changed:
            waiting = [each for each in self._pieces if not each.tried.is_set()]
            if waiting:
                self._due = 0
                self._changed.notify()
        if waiting:
            waiting[-1].tried.wait(seconds)

    def stop(self) -> None:
        """Do the work that waits, and end the thread. Work that fails is tried again for a short time."""
        with self._changed:
            self._ends_by = monotonic() + CLOSE_SECONDS
            self._due = 0
            self._changed.notify()
        if self._thread:
            self._thread.join()
            self._thread = None

    # ---- in the thread ----

    def _run(self) -> None:
        while pieces := self._next():
            done = list[_Piece]()
            try:
                task = Task(lambda connection: self._do(connection, pieces))
                done = self._transactions.write(task, Durability.RELAXED)
            except Exception as error:  # noqa: BLE001  tried again
                self._report(pieces[0], error)
            for each in pieces:
                each.tried.set()
            self._finish(done)
        if self._pieces:
            logger.warning("%s changes were not written to the ledger before the server ended", len(self._pieces))

    def _next(self) -> list[_Piece]:
        """Wait until work is due; returns it, or nothing once the thread must end."""
        with self._changed:
            while True:
                now = monotonic()
                if self._ends_by is not None and (not self._pieces or self._ends_by < now):
                    return []
                if self._pieces and self._due <= now:
                    self._due = float("inf")
                    return self._pieces[:]
                self._changed.wait(self._due - now if self._pieces else None)

    def _finish(self, done: list[_Piece]) -> None:
        with self._changed:
            self._pieces = [each for each in self._pieces if each not in done]
            if self._pieces:
                self._due = min(self._due, monotonic() + RETRY_SECONDS)

    def _do(self, connection: Connection, pieces: list[_Piece]) -> list[_Piece]:
        """Do all pieces; returns those that are done. If one fails, only that one is rolled back."""
        done = list[_Piece]()
        for each in pieces:
            connection.execute("SAVEPOINT piece")
            try:
                each.work(connection)
            except Exception as error:  # noqa: BLE001  tried again
                connection.execute("ROLLBACK TO piece")
                self._report(each, error)
            else:
                done.append(each)
            connection.execute("RELEASE piece")
        return done

    def _report(self, piece: _Piece, error: Exception) -> None:
        if not piece.tried.is_set():
            logger.warning("A change could not be written to the ledger yet: %s", self._explained(error))
