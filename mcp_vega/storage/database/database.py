"""Runs pieces of work in transactions: reads beside writes, and as many writes as wait in one."""

import logging
import threading
from contextlib import suppress
from enum import Enum, auto
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from mcp_vega.storage.database.connection import Connection, Connector, Work

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_SECONDS, DEFERRED_SECONDS = 2.0, 0.5
# How long an operation waits once the process is about to end.
CLOSING_SECONDS = 0.1


class _State(Enum):
    WAITING = auto()
    STARTED = auto()
    WITHDRAWN = auto()


class _Write(Generic[T]):
    """A piece of work that waits for its transaction, or is in it."""

    def __init__(self, work: Work[T], busy_seconds: float, *, durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.give_up = monotonic() + busy_seconds
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = None
        self.token = anyio.lowlevel.current_token()
        self._state = _State.WAITING
        self._lock = threading.Lock()

    def start(self) -> bool:
        """Whether it is still wanted; from now on it cannot be withdrawn."""
        return self._leave_waiting(_State.STARTED)

    def withdraw(self) -> bool:
        """Whether it had not started, and now never will."""
        return self._leave_waiting(_State.WITHDRAWN)

    @property
    def withdrawn(self) -> bool:
        return self._state is _State.WITHDRAWN

    def _leave_waiting(self, state: _State) -> bool:
        with self._lock:
            waiting = self._state is _State.WAITING
            if waiting:
                self._state = state
        return waiting


class Database:
    """A database with one connection for reads and one for writes, each opened at its first use.

    Every method raises a `LedgerError` where the database cannot be opened, read or written.

    Args:
        connector: Opens the connections.
        busy_seconds: How long another program may keep the database to itself before an operation is given up.
        deferred_seconds: For how long deferred work waits for a transaction that it can go with.
    """

    def __init__(
        self,
        connector: Connector,
        busy_seconds: float = BUSY_SECONDS,
        deferred_seconds: float = DEFERRED_SECONDS,
    ) -> None:
        self._connector = connector
        self._writer = _Writer(connector, busy_seconds, deferred_seconds)
        self._reading: Connection | None = None
        # Those who wait do so in the loop, not in threads of their own.
        self._one_reader = anyio.CapacityLimiter(1)
        # A reader that has given up leaves its thread behind, and before anyio 4.14 a limiter lets one too many in
        # now and then: two would be in one transaction.
        self._in_use = threading.Lock()

    def shorten_waits(self) -> None:
        """Wait for nobody from now on, because the process is about to end."""
        self._writer.busy_seconds = CLOSING_SECONDS

    async def read(self, work: Work[T]) -> T:
        """Ask something, of one moment's state. It does not wait for those who write."""

        def do() -> T:
            with self._in_use:
                try:
                    wait = self._writer.busy_seconds
                    self._reading = self._reading or self._connector.connect(write=False, wait=wait)
                    with self._reading.transaction(write=False, durable=False, wait=wait):
                        return work(self._reading)
                except Exception as error:
                    raise self._connector.explained(error) from error

        return await anyio.to_thread.run_sync(do, limiter=self._one_reader, abandon_on_cancel=True)

    async def write(self, work: Work[T], *, durable: bool = False, despite_cancel: bool = False) -> T:
        """Change something, as a whole or not at all.

        Who is cancelled before the work has started leaves at once, and it is never done; once it has started, its
        end is waited for.

        Args:
            work: Gets the connection, within the transaction.
            durable: Whether it must survive a power cut from now on, and with it all that was written before.
            despite_cancel: Have it done even if the caller is cancelled, who then waits for its end.
        """
        write = _Write(work, self._writer.busy_seconds, durable=durable)
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

    def defer(self, work: Work[Any]) -> None:
        """Change something soon, with the next transaction if one comes; nobody waits for it."""
        self._writer.defer(work)

    async def close(self) -> None:
        """Do what is deferred, and close the connections that were opened."""

        def do() -> None:
            self._writer.stop()
            with self._in_use:
                connection, self._reading = self._reading, None
                if connection:
                    connection.close()

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(do)


class _Signal(Enum):
    DEFERRED = auto()  # there is deferred work
    END = auto()


class _Writer:
    """Does writes in a thread of its own, as many as wait in one transaction.

    So eight that wait for a locked database wait at the same time, and eight that wait for a slow disk wait for one
    flush.
    """

    def __init__(self, connector: Connector, busy_seconds: float, deferred_seconds: float) -> None:
        self.busy_seconds = busy_seconds
        self._deferred_seconds = deferred_seconds
        self._connector = connector
        self._connection: Connection | None = None
        self._queue = SimpleQueue[_Write[Any] | _Signal]()
        self._waiting: list[_Write[Any]] = []
        self._deferred: list[Work[Any]] = []
        self._thread: threading.Thread | None = None

    def put(self, write: _Write[Any]) -> None:
        """Have a piece of work done."""
        self._start()
        self._queue.put(write)

    def defer(self, work: Work[Any]) -> None:
        """Have a piece of work done with the next one, or a little later."""
        self._start()
        self._deferred.append(work)
        self._queue.put(_Signal.DEFERRED)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, after all that waits."""
        thread, self._thread = self._thread, None
        if thread:
            self._queue.put(_Signal.END)
            thread.join()

    # ---- in the thread ----

    def _run(self) -> None:
        more = True
        while more:
            more = self._collect()
            self._write_all()
        if self._deferred:
            logger.warning("%s notes could not be written to the ledger to the end", len(self._deferred))
            self._deferred.clear()
        connection, self._connection = self._connection, None
        if connection:
            connection.close()

    def _collect(self) -> bool:
        """Wait for work, and take all that is there; returns False once the thread is to end."""
        timeout = self._deferred_seconds if self._deferred else None
        while True:
            try:
                found = self._queue.get(timeout=timeout)
            except Empty:
                return True
            if isinstance(found, _Write):
                self._waiting.append(found)
                timeout = 0
            elif found is _Signal.END:
                return False
            elif timeout is None:
                timeout = self._deferred_seconds

    def _write_all(self) -> None:
        """Do what waits and what is deferred. Where no transaction can be had, what has waited long enough fails."""
        while self._still_wanted() or self._deferred:
            deferred, started = self._deferred[:], list[_Write[Any]]()
            try:
                self._commit(deferred, started)
            except Exception as error:  # noqa: BLE001  it is told to those who wait
                busy = self._connector.is_busy(error)
                started += [each for each in self._waiting if self._gives_up(each, busy=busy) and each.start()]
                for each in started:
                    each.error = self._connector.explained(error)
                if not busy:
                    self._deferred.clear()
            else:
                del self._deferred[: len(deferred)]
            _tell(started)
            self._waiting = [each for each in self._waiting if each not in started]
            if not self._waiting:
                return  # what could not be deferred to this transaction is tried again later

    def _still_wanted(self) -> bool:
        self._waiting = [each for each in self._waiting if not each.withdrawn]
        return bool(self._waiting)

    @staticmethod
    def _gives_up(write: _Write[Any], *, busy: bool) -> bool:
        return not busy or write.give_up <= monotonic()

    def _commit(self, deferred: list[Work[Any]], started: list[_Write[Any]]) -> None:
        """Do all in one transaction; adds to `started` what was started in it."""
        now = monotonic()
        give_up = min((each.give_up for each in self._waiting), default=now + self.busy_seconds)
        wait = min(max(give_up - now, 0), self.busy_seconds)
        connection = self._connection = self._connection or self._connector.connect(write=True, wait=wait)
        durable = any(each.durable for each in self._waiting)
        with connection.transaction(write=True, durable=durable, wait=wait):
            for work in deferred:
                _, error = self._piece(connection, work)
                if error:
                    logger.warning("A note could not be written to the ledger: %s", error)
            for each in self._waiting:
                if each.start():
                    started.append(each)
                    each.result, each.error = self._piece(connection, each.work)

    def _piece(self, connection: Connection, work: Work[T]) -> tuple[T | None, Exception | None]:
        """Do one piece of work; where it fails, it alone is undone."""
        connection.execute("SAVEPOINT piece")
        try:
            return work(connection), None
        except Exception as error:  # noqa: BLE001  it is told to whoever waits for this piece
            try:
                connection.execute("ROLLBACK TO piece")
            except Exception:  # noqa: BLE001  the whole transaction is undone already, as on a full disk
                raise error from None
            return None, self._connector.explained(error)
        finally:
            with suppress(Exception):
                connection.execute("RELEASE piece")


def _tell(writes: list[_Write[Any]]) -> None:
    """Wake those who wait for writes; all are in one event loop."""

    def wake() -> None:
        for each in writes:
            each.done.set()

    if writes:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            anyio.from_thread.run_sync(wake, token=writes[0].token)
