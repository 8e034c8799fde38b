"""Runs work in transactions. Reads and writes run at the same time; all writes that wait share one transaction."""

import asyncio
import logging
import threading
from contextlib import suppress
from enum import Enum, auto
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from mcp_vega.storage.database.connection import Work
from mcp_vega.storage.database.database import Durability
from mcp_vega.storage.database.sqlite.file import SqliteConnection, SqliteFile
from mcp_vega.storage.database.sqlite.reader import Reader

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_SECONDS, DEFERRED_SECONDS = 2.0, 0.5
# How long an operation waits for a lock once the process is about to end.
CLOSING_SECONDS = 0.1
# How long one try waits for a locked database, after which cancelled writes are dropped; and the pause between tries.
TRY_SECONDS, RETRY_SECONDS = 0.25, 0.05


class _State(Enum):
    WAITING = auto()
    STARTED = auto()
    WITHDRAWN = auto()


class _Write(Generic[T]):
    """A write that waits for its transaction, or is in it."""

    def __init__(self, work: Work[T], *, durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.asked = monotonic()
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = None
        self.loop = asyncio.get_running_loop()
        self.state = _State.WAITING
        self._lock = threading.Lock()

    def start(self) -> bool:
        """Start the write, so that it cannot be withdrawn; returns False if it was withdrawn before."""
        return self._leave_waiting(_State.STARTED)

    def withdraw(self) -> bool:
        """Withdraw the write; returns False if it has started already."""
        return self._leave_waiting(_State.WITHDRAWN)

    def _leave_waiting(self, state: _State) -> bool:
        with self._lock:
            waiting = self.state is _State.WAITING
            if waiting:
                self.state = state
        return waiting


class SqliteDatabase:
    """A `Database` with connections for reads, slow reads and writes, each opened at its first use.

    Args:
        file: Opens the connections.
        busy_seconds: How long another program may lock the database before an operation fails.
        deferred_seconds: How long deferred work waits for another write whose transaction it can share.
    """

    def __init__(
        self, file: SqliteFile, busy_seconds: float = BUSY_SECONDS, deferred_seconds: float = DEFERRED_SECONDS
    ) -> None:
        self._writer = _Writer(file, busy_seconds, deferred_seconds)
        self._reader, self._slow_reader = Reader(file), Reader(file)

    def shorten_waits(self) -> None:
        """Wait only `CLOSING_SECONDS` for locks from now on, because the process is about to end."""
        self._writer.busy_seconds = CLOSING_SECONDS

    async def read(self, work: Work[T], *, slow: bool = False) -> T:
        """Read from a snapshot of the database. Reads wait for no writes, and only `slow` reads wait for slow reads."""
        reader = self._slow_reader if slow else self._reader
        return await reader.read(work, monotonic() + self._writer.busy_seconds)

    async def write(
        self,
        work: Work[T],
        *,
        durability: Durability = Durability.CRASH,
        despite_cancel: bool = False,
        undo: Work[Any] | None = None,  # noqa: ARG002  here it is always known whether the work was done
    ) -> T:
        """Change something; see `Database`."""
        # SQLite has no server that crashes: only a power cut takes what it has committed.
        write = _Write(work, durable=durability is Durability.POWER)
        self._writer.put(write)
        try:
            with anyio.CancelScope(shield=despite_cancel):
                await write.done.wait()
        except BaseException:
            if write.withdraw():
                raise
            with anyio.CancelScope(shield=True):
                await write.done.wait()
        if write.error:
            raise write.error
        return write.result  # pyright: ignore[reportReturnType]  set, or there is an error

    def defer(self, work: Work[Any], *, immediately: bool = False) -> None:
        """Change something with the next write or a little later, or immediately; see `Database`."""
        self._writer.defer(work, immediately=immediately)

    async def close(self) -> None:
        """Do the deferred work, and close the connections for good."""

        def do() -> None:
            self._writer.stop()
            self._reader.close()
            self._slow_reader.close()

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(do)


class _Signal(Enum):
    DEFERRED = auto()  # there is deferred work
    IMMEDIATE = auto()  # some of it must not wait
    END = auto()


class _Writer:
    """Does writes in a thread of its own. All writes that wait share one transaction, and one wait for the lock."""

    def __init__(self, file: SqliteFile, busy_seconds: float, deferred_seconds: float) -> None:
        self.busy_seconds = busy_seconds
        self._deferred_seconds = deferred_seconds
        self._file = file
        self._connection: SqliteConnection | None = None
        self._queue = SimpleQueue[_Write[Any] | _Signal]()
        self._waiting: list[_Write[Any]] = []
        self._deferred: list[Work[Any]] = []
        self._urgent = False  # whether some of it must not wait
        self._thread: threading.Thread | None = None

    def put(self, write: _Write[Any]) -> None:
        """Queue a write."""
        self._start()
        self._queue.put(write)

    def defer(self, work: Work[Any], *, immediately: bool) -> None:
        """Queue work for the next transaction; see `Database.defer`."""
        self._start()
        self._deferred.append(work)
        self._queue.put(_Signal.IMMEDIATE if immediately else _Signal.DEFERRED)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, after all work that waits is done."""
        if self._thread:
            self._queue.put(_Signal.END)
            self._thread.join()
            self._thread = None

    # ---- in the thread ----

    def _run(self) -> None:
        more = True
        while more:
            more = self._collect()
            self._write_all()
        if self._deferred:
            logger.warning("%s changes were not written to the ledger before the server ended", len(self._deferred))
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _collect(self) -> bool:
        """Wait for work, and take everything in the queue; returns False once the thread must end."""
        pause = RETRY_SECONDS if self._urgent else self._deferred_seconds
        until = monotonic() + pause if self._deferred else None
        while True:
            try:
                found = self._queue.get(timeout=None if until is None else max(until - monotonic(), 0))
            except Empty:
                return True
            if found is _Signal.END:
                return False
            if found is _Signal.DEFERRED:
                until = until or monotonic() + self._deferred_seconds
                continue
            until = monotonic()
            if isinstance(found, _Write):
                self._waiting.append(found)
            else:
                self._urgent = True

    def _write_all(self) -> None:
        """Do the waiting and the deferred work. A write that has waited for `busy_seconds` fails."""
        while self._still_wanted() or self._deferred:
            done, started = list[Work[Any]](), list[_Write[Any]]()
            try:
                self._commit(done, started)
            except Exception as error:  # noqa: BLE001  the callers that wait get it
                busy = self._file.is_busy(error)
                started += [each for each in self._waiting if self._must_fail(each, busy=busy) and each.start()]
                for each in started:
                    each.error = self._file.explained(error)
            else:
                for each in done:
                    self._deferred.remove(each)
                self._urgent = self._urgent and bool(self._deferred)
            _wake(started)
            self._waiting = [each for each in self._waiting if each not in started]
            if not self._waiting:
                return  # deferred work that failed is tried again later

    def _still_wanted(self) -> bool:
        self._waiting = [each for each in self._waiting if each.state is not _State.WITHDRAWN]
        return bool(self._waiting)

    def _must_fail(self, write: _Write[Any], *, busy: bool) -> bool:
        return not busy or write.asked + self.busy_seconds <= monotonic()

    def _commit(self, done: list[Work[Any]], started: list[_Write[Any]]) -> None:
        """Do all work in one transaction; adds the deferred work to `done`, and the waiting writes to `started`."""
        wait = min(TRY_SECONDS, self.busy_seconds)
        connection = self._connection = self._connection or self._file.connect(write=True, wait=wait)
        durable = any(each.durable for each in self._waiting)
        with connection.transaction(write=True, durable=durable, wait=wait):
            for work in self._deferred[:]:
                _, error = self._in_savepoint(connection, work)
                if error:
                    logger.warning("A change could not be written to the ledger yet: %s", error)
                else:
                    done.append(work)
            for each in self._waiting:
                if each.start():
                    started.append(each)
                    each.result, each.error = self._in_savepoint(connection, each.work)

    def _in_savepoint(self, connection: SqliteConnection, work: Work[T]) -> tuple[T | None, Exception | None]:
        """Do one piece of work. If it fails, only that piece is rolled back."""
        connection.execute("SAVEPOINT piece")
        try:
            return work(connection), None
        except Exception as error:  # noqa: BLE001  the caller that waits for this piece gets it
            try:
                connection.execute("ROLLBACK TO piece")
            except Exception:  # noqa: BLE001  the transaction is rolled back already, as on a full disk
                raise error from None
            return None, self._file.explained(error)
        finally:
            with suppress(Exception):
                connection.execute("RELEASE piece")


def _wake(writes: list[_Write[Any]]) -> None:
    """Wake the callers that wait for these writes; all of them are in one event loop."""

    def wake() -> None:
        for each in writes:
            each.done.set()

    if writes:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            writes[0].loop.call_soon_threadsafe(wake)  # unlike anyio's function, this does not wait for the loop
