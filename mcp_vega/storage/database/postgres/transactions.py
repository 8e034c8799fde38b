"""Runs work in transactions, and repeats it if a transaction failed for a reason that may be gone."""

import random
import threading
from time import monotonic, sleep
from typing import Generic, TypeVar, cast

import psycopg

from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Durability
from mcp_vega.storage.database.postgres import creation
from mcp_vega.storage.database.postgres.connection import (
    READ_SECONDS,
    CommitUnknownError,
    PostgresConnection,
    UnfitServerError,
)
from mcp_vega.storage.database.postgres.pool import TRY_PAUSE, Pool
from mcp_vega.storage.database.schema import OtherSchemaError, Schema

T = TypeVar("T")

# How long a transaction is repeated if others prevent its commit, and the longest pause between two tries.
RETRY_SECONDS, LONGEST_PAUSE = 10.0, 0.05
# How long to wait for a lock once the process is about to end.
CLOSING_SECONDS = 0.5
_READ = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    f"SET LOCAL statement_timeout = {READ_SECONDS * 1000:.0f}"  # milliseconds
)
# The function of PostgreSQL that reports that a prepared statement would return other columns than before. The error's
# code has other meanings as well.
_OLD_PLAN = "RevalidateCachedQuery"
_RUNNING = "SELECT 1 FROM pg_snapshot_xip(pg_current_snapshot()) AS running WHERE running = :id::text::xid8"


class StillRunningError(Exception):
    """A transaction whose connection broke is still being committed."""


class _BrokenError(Exception):
    """The connection broke before the transaction was committed, so that nothing was written."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


class _TablesChangedError(Exception):
    """A newer version has added a column, so that PostgreSQL refuses a statement that it had prepared before.

    It does so once: with a rollback, psycopg forgets all prepared statements of the connection.
    """


class Withdrawn(Exception):  # noqa: N818  not an error
    """The caller has left before the work has started."""


class Task(Generic[T]):
    """Work that waits for its transaction. Either its caller withdraws it, or a thread starts it."""

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.asked = monotonic()
        self.result: T | None = None
        self._decided = threading.Lock()
        self._started = False

    def start(self) -> None:
        """Start the work, so that it cannot be withdrawn.

        Raises:
            Withdrawn: It was withdrawn before.
        """
        if not self._started:
            if not self._decided.acquire(blocking=False):
                raise Withdrawn
            self._started = True

    def withdraw(self) -> bool:
        """Withdraw the work; returns False if it has started already."""
        return self._decided.acquire(blocking=False)


class Transactions:
    """Runs work in transactions. The methods wait, and may be called in several threads at the same time."""

    def __init__(self, pool: Pool, schema: Schema) -> None:
        self._pool = pool
        self._schema = schema
        self._made = False
        self._closing = False

    def shorten_waits(self) -> None:
        """Wait only shortly for other transactions from now on, because the process is about to end."""
        self._closing = True
        self._pool.away_seconds = 0

    def read(self, task: Task[T]) -> T:
        """Read from a snapshot."""
        return self._run(task, _READ)

    def write(self, task: Task[T], durability: Durability, *, identified: bool = False) -> T:
        """Change something, completely or not at all.

        Args:
            task: The work.
            durability: What the change must survive.
            identified: Whether to find out what happened if the connection breaks while the change is committed.

        Raises:
            CommitUnknownError: It is not known whether the change was written.
        """
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
        if durability is Durability.RELAXED:
            begin += "; SET LOCAL synchronous_commit = off"
        if self._closing:
            begin += f"; SET LOCAL lock_timeout = {CLOSING_SECONDS * 1000:.0f}"
        return self._run(task, begin, identified=identified)

    def _run(self, task: Task[T], begin: str, *, identified: bool = False) -> T:
        breaks = repeats = 0
        while True:
            try:
                return self._once(task, begin, identified=identified)
            except CommitUnknownError as lost:
                if (committed := self._was_committed(lost)) is None:
                    raise
                if committed:
                    return cast("T", task.result)
            except _BrokenError as broken:
                breaks += 1
                if breaks > 1 and task.asked + self._pool.away_seconds < monotonic():
                    raise broken.error from None
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, _TablesChangedError):
                repeats += 1
                if task.asked + (CLOSING_SECONDS if self._closing else RETRY_SECONDS) < monotonic():
                    raise
                sleep(random.uniform(0, min(0.001 * 2**repeats, LONGEST_PAUSE)))  # noqa: S311  not for a secret

    def _once(self, task: Task[T], begin: str, *, identified: bool) -> T:
        connection = self._pool.take(task.asked)
        try:
            self._make_tables(connection)
            connection.begin(begin, identified=identified, fingerprint=self._schema.fingerprint)
            task.start()
            task.result = task.work(connection)
            connection.commit()
        except psycopg.Error as error:
            if connection.broken:
                raise _BrokenError(error) from error
            if error.diag.source_function == _OLD_PLAN:
                raise _TablesChangedError from error
            raise
        except OtherSchemaError:
            self._made = False  # the next transaction looks whether this version can change the tables
            raise
        else:
            return task.result
        finally:
            connection.rollback()
            self._pool.give_back(connection)

    def _make_tables(self, connection: PostgresConnection) -> None:
        if self._made:
            return
        try:
            creation.make_tables(connection, self._schema)
        except CommitUnknownError as error:  # the next try finds out
            raise cast("psycopg.Error", error.__cause__) from None
        self._made = True

    def _was_committed(self, lost: CommitUnknownError) -> bool | None:
        """Whether a change was written before its connection broke; None if that is not known in time."""
        asked = monotonic()
        while lost.transaction:
            try:
                connection = self._pool.take(asked)
            except (psycopg.Error, UnfitServerError):
                return None
            try:
                # After a crash, PostgreSQL may use the id again for another transaction.
                if connection.started != lost.started:
                    return None
                (found,) = connection.execute(
                    "SELECT pg_xact_status(:id::text::xid8) AS status", {"id": lost.transaction}
                )
            except psycopg.Error:
                found = {"status": None}
            finally:
                self._pool.give_back(connection)
            if found["status"] in ("committed", "aborted"):
                return found["status"] == "committed"
            if asked + self._pool.away_seconds < monotonic():
                return None
            sleep(TRY_PAUSE)
        return None


def once_ended(lost: CommitUnknownError, work: Work[T]) -> Work[T]:
    """Return work that fails, and so is tried again, as long as a lost transaction is still running."""

    def do(connection: Connection) -> T:
        if lost.transaction and connection.execute(_RUNNING, {"id": lost.transaction}):
            raise StillRunningError("an earlier change is still being written")
        return work(connection)

    return do
