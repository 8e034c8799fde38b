"""The ledger's SQLite file: opened, brought to this version's schema, read and written in a thread.

Several servers have it open at once (WAL). Each write is on the disk before it counts as done.
"""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from mcp_vega.errors import LedgerError
from mcp_vega.storage.database import rows

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

# How long another program may keep the file to itself before an operation is given up.
BUSY_SECONDS = 2.0
HURRIED_SECONDS = 0.1
MIGRATING_SECONDS = 30.0

# One script a version (a semicolon ends a statement); a file of an earlier version gets those it lacks.
MIGRATIONS = (
    """
    CREATE TABLE servers (
        id TEXT PRIMARY KEY,
        machine TEXT NOT NULL,
        process INTEGER NOT NULL,
        alive_until REAL NOT NULL -- in the machine's monotonic time, which no one can set back
    );
    CREATE TABLE jobs (
        local_id TEXT PRIMARY KEY,
        remote_id TEXT,
        base_url TEXT NOT NULL,
        model TEXT NOT NULL,
        route TEXT NOT NULL,
        arguments TEXT NOT NULL,  -- JSON, as the caller gave them
        parameters TEXT NOT NULL, -- JSON, the whole recipe with the seed that was sent
        state TEXT NOT NULL,
        open INTEGER NOT NULL,    -- whether more can be learnt or fetched
        charged TEXT NOT NULL,
        created TEXT NOT NULL,    -- ISO 8601, UTC, as all times of day
        sent TEXT,
        ended TEXT,
        cost TEXT,                -- USD, the exact decimal (NULL: unknown, as in the next columns)
        credits_left TEXT,
        seconds TEXT,
        reported_id TEXT,
        reported_seed INTEGER,
        notes TEXT NOT NULL,
        error TEXT,
        holder TEXT,              -- the server that works on it
        awaited_by TEXT,          -- the server whose caller waits for it
        delivered INTEGER NOT NULL,
        answered TEXT NOT NULL    -- when a call for it last began or ended
    );
    CREATE INDEX jobs_by_remote_id ON jobs (remote_id);
    CREATE INDEX jobs_by_time ON jobs (created);
    CREATE INDEX jobs_open ON jobs (base_url) WHERE open;
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        job TEXT NOT NULL REFERENCES jobs,
        path TEXT NOT NULL,
        mime_type TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL
    );
    CREATE INDEX images_by_job ON images (job);
    """,
    """
    ALTER TABLE images ADD COLUMN created TEXT NOT NULL DEFAULT ''; -- as of its job
    ALTER TABLE images ADD COLUMN words TEXT NOT NULL DEFAULT '';   -- what it is found by
    ALTER TABLE images ADD COLUMN deleted TEXT;                     -- when its file was deleted, if it was
    UPDATE images SET (created, words) = (
        SELECT created, words(parameters, reported_seed, model, created, images.id)
        FROM jobs WHERE local_id = images.job
    ) WHERE job IN (SELECT local_id FROM jobs);
    CREATE INDEX images_by_time ON images (created) WHERE deleted IS NULL;
    CREATE INDEX images_by_words ON images (created, words) WHERE deleted IS NULL
    """,
    """
    ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';   -- '' is who works at the machine itself
    ALTER TABLE jobs ADD COLUMN estimate TEXT;                    -- USD, what it is likely to cost
    UPDATE jobs SET estimate = estimate(parameters, model);
    CREATE INDEX jobs_by_cost ON jobs (created, model, charged, cost, estimate);
    ALTER TABLE images ADD COLUMN owner TEXT NOT NULL DEFAULT ''; -- as of its job
    DROP INDEX images_by_words;
    CREATE INDEX images_by_words ON images (created, words, owner) WHERE deleted IS NULL;
    CREATE INDEX images_by_owner ON images (owner, created) WHERE deleted IS NULL;
    CREATE TABLE turns (
        id TEXT PRIMARY KEY,
        caller TEXT NOT NULL,
        server TEXT NOT NULL,
        calls_a_minute INTEGER, -- its server's limit, if it has one
        asked REAL NOT NULL,    -- when it began to wait, in the machine's monotonic time
        taken REAL,             -- when its call was sent
        over INTEGER NOT NULL   -- whether its call has ended
    );
    CREATE INDEX turns_by_caller ON turns (caller, taken, over)
    """,
)


class Database:
    """One connection, used by one thread at a time and opened at the first use.

    Args:
        file: It and its folder are made when they are not there, for this user alone.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._connection: sqlite3.Connection | None = None
        # Those who wait do so in the loop, not in threads of their own.
        self._one_at_a_time = anyio.CapacityLimiter(1)
        # Before anyio 4.14 a limiter lets one too many in now and then: two would be in one transaction.
        self._in_use = threading.Lock()
        self._busy_seconds = BUSY_SECONDS

    def hurry(self) -> None:
        """Wait for nobody from now on, because the process is about to end."""
        self._busy_seconds = HURRIED_SECONDS

    async def read(self, work: Work[T]) -> T:
        """Ask something, of one moment's state.

        Raises:
            LedgerError: The file cannot be read.
        """
        return await self._do("BEGIN", work)

    async def write(self, work: Work[T]) -> T:
        """Change something, as a whole or not at all.

        Raises:
            LedgerError: It could not be written; nothing of it was.
        """
        return await self._do("BEGIN IMMEDIATE", work)

    async def _do(self, begin: str, work: Work[T]) -> T:
        def do() -> T:
            with self._in_use:
                try:
                    if self._connection is None:
                        self._connection = _opened(self.file)
                    self._connection.execute(f"PRAGMA busy_timeout = {self._busy_seconds * 1000:.0f}")
                    with _transaction(self._connection, begin):
                        done = work(self._connection)
                except (sqlite3.Error, OSError, ValueError) as error:
                    raise _explained(self.file, error) from error
            return done

        # What is written here is money: once asked for it is done, whoever is cancelled.
        with anyio.CancelScope(shield=True):
            return await anyio.to_thread.run_sync(do, limiter=self._one_at_a_time)
        raise RuntimeError("a shield was cancelled")  # never; for the type checker

    async def close(self) -> None:
        """Close the file, if it was opened."""

        def do() -> None:
            with self._in_use:
                connection, self._connection = self._connection, None
                if connection:
                    connection.close()

        if self._connection:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(do, limiter=self._one_at_a_time)


def _opened(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(file)
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        _share(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.create_function("words", 5, rows.words_of_columns, deterministic=True)
        connection.create_function("estimate", 2, rows.estimate_of_columns, deterministic=True)
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(file: Path) -> None:
    """Make the file where it is not there, readable by this user alone; SQLite's files beside it follow it."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if sys.platform != "win32" and os.fstat(handle).st_uid == os.getuid():
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)


def _share(connection: sqlite3.Connection) -> None:
    """Let others read while one writes. This one statement does not wait for a lock by itself."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _migrate(connection: sqlite3.Connection) -> None:
    def version() -> int:
        return connection.execute("PRAGMA user_version").fetchone()[0]

    if version() < len(MIGRATIONS):
        # Every other server that opens the file now waits for the one that does this.
        connection.execute(f"PRAGMA busy_timeout = {MIGRATING_SECONDS * 1000:.0f}")
        with _transaction(connection, "BEGIN IMMEDIATE"):  # another server may have been quicker
            for script in MIGRATIONS[version() :]:
                for statement in script.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    if version() > len(MIGRATIONS):
        raise _NewerError


class _NewerError(ValueError):
    """The file was written by a later version."""


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Generator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _explained(file: Path, error: Exception) -> LedgerError:  # noqa: PLR0911  a table
    """What keeps the ledger from its work, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the lowest byte is the kind, the rest its details
    match error:
        case _NewerError():
            return LedgerError(f"The ledger {file} was written by a newer mcp-vega", next_step="Update mcp-vega")
        case ValueError():
            return LedgerError(f"In the ledger {file}, {error}", next_step="Update mcp-vega, or do without this job")
        case OSError():
            said = error.strerror or type(error).__name__
            return LedgerError(f"The ledger {file} cannot be opened: {said}")
        case sqlite3.Error() if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerError(
                f"The ledger {file} is locked by another program",
                next_step="Close the program that has it open, then call again",
            )
        case sqlite3.Error() if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return LedgerError(
                f"The ledger {file} cannot be written: {error}", next_step="Make room on the disk, then call again"
            )
        case sqlite3.OperationalError():
            return LedgerError(f"The ledger {file} cannot be used: {error}")
        case _:
            return LedgerError(
                f"The ledger {file} is damaged: {error}",
                next_step=f"End all servers, move {file} aside and start again: a new one is made, and the pictures "
                "stay where they are",
            )
