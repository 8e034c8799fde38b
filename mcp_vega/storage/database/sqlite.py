"""The ledger's SQLite file: made with this version's schema, read and written in a thread.

Several servers have it open at once (WAL). Each write is on the disk before it counts as done.
"""

import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import anyio
import anyio.to_thread

from mcp_vega.errors import LedgerError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

# How long another program may keep the file to itself before an operation is given up.
BUSY_SECONDS = 2.0
CLOSING_SECONDS = 0.1
CREATION_SECONDS = 30.0

# Tells a ledger from other files of SQLite ("vega" in ASCII).
APPLICATION_ID = 0x76656761
SCHEMA = """
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
        owner TEXT NOT NULL,      -- '' is who works at the machine itself
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
        estimate TEXT NOT NULL,   -- USD, the exact decimal: what it is likely to cost
        cost TEXT,                -- USD, too (NULL: unknown, as in the next columns)
        credits_left TEXT,
        seconds TEXT,
        reported_id TEXT,
        reported_seed INTEGER,
        notes TEXT NOT NULL,
        error TEXT,
        holder TEXT,              -- the server that works on it
        awaited_by TEXT,          -- the server whose caller waits for it
        delivered INTEGER NOT NULL,
        last_call TEXT NOT NULL   -- when a call for it last began or ended
    );
    CREATE INDEX jobs_by_remote_id ON jobs (remote_id);
    CREATE INDEX jobs_by_time ON jobs (created);
    CREATE INDEX jobs_open ON jobs (base_url) WHERE open;
    CREATE INDEX jobs_by_cost ON jobs (created, model, charged, cost, estimate);
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        job TEXT NOT NULL REFERENCES jobs,
        store TEXT NOT NULL,      -- the address of the store that it is in
        key TEXT NOT NULL,        -- what it is called there
        fallback BOOLEAN NOT NULL, -- whether it is not in the store that was the first when it was saved
        mime_type TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        created TEXT NOT NULL,    -- as of its job
        owner TEXT NOT NULL,      -- as of its job
        words TEXT NOT NULL,      -- what it is found by
        deleted TEXT              -- when its file was deleted, if it was
    );
    CREATE INDEX images_by_job ON images (job);
    CREATE INDEX images_by_time ON images (created) WHERE deleted IS NULL;
    CREATE INDEX images_by_words ON images (created, words, owner) WHERE deleted IS NULL;
    CREATE INDEX images_by_owner ON images (owner, created) WHERE deleted IS NULL;
    CREATE INDEX images_fallback ON images (created) WHERE fallback AND deleted IS NULL;
    CREATE TABLE moved_images (
        store TEXT NOT NULL,      -- where a picture still lies that is in another store now
        key TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES images,
        moved TEXT NOT NULL,
        PRIMARY KEY (store, key)
    );
    CREATE INDEX moved_images_by_time ON moved_images (moved);
    CREATE TABLE slots (
        id TEXT PRIMARY KEY,
        caller TEXT NOT NULL,
        server TEXT NOT NULL,
        calls_a_minute INTEGER,   -- its server's limit, if it has one
        requested REAL NOT NULL,  -- when it began to wait, in the machine's monotonic time
        taken REAL,               -- when its call was sent
        released INTEGER NOT NULL -- whether its call has ended
    );
    CREATE INDEX slots_by_caller ON slots (caller, taken, released)
"""
# Kept in the file, so that one of another schema is not taken for one of this; comments and space do not count.
FINGERPRINT = crc32(" ".join(re.sub("--.*", "", SCHEMA).split()).encode()) & 0x7FFFFFFF


class Database:
    """One connection, used by one thread at a time and opened at the first use.

    The file and its folder are made when they are not there, for this user alone. What cannot be read or written is a
    `LedgerError`.
    """

    def __init__(self, file: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        self.file = file
        self._connection: sqlite3.Connection | None = None
        # Those who wait do so in the loop, not in threads of their own.
        self._one_at_a_time = anyio.CapacityLimiter(1)
        # Before anyio 4.14 a limiter lets one too many in now and then: two would be in one transaction.
        self._in_use = threading.Lock()
        self._busy_seconds = busy_seconds

    def shorten_waits(self) -> None:
        """Wait for nobody from now on, because the process is about to end."""
        self._busy_seconds = CLOSING_SECONDS

    async def read(self, work: Work[T]) -> T:
        """Ask something, of one moment's state."""
        return await self._do("BEGIN", work)

    async def write(self, work: Work[T]) -> T:
        """Change something, as a whole or not at all."""
        return await self._do("BEGIN IMMEDIATE", work)

    async def _do(self, begin: str, work: Work[T]) -> T:
        def do() -> T:
            with self._in_use:
                try:
                    if self._connection is None:
                        self._connection = _opened(self.file, self._busy_seconds)
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


def _opened(file: Path, busy_seconds: float) -> sqlite3.Connection:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_private(file)
    connection = sqlite3.connect(file, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        if _fingerprint(connection) != FINGERPRINT:
            _create(connection)
        _share(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
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


def _share(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Let others read while one writes. This one statement does not wait for a lock by itself."""
    give_up = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file; every other server that opens it now waits."""
    connection.execute(f"PRAGMA busy_timeout = {CREATION_SECONDS * 1000:.0f}")
    with _transaction(connection, "BEGIN IMMEDIATE"):
        if _fingerprint(connection) == FINGERPRINT:
            return  # another server was quicker
        if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise _OtherSchemaError
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FINGERPRINT}")


def _fingerprint(connection: sqlite3.Connection) -> int:
    """The fingerprint of the schema that a ledger has; 0 where the file is no ledger."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return connection.execute("PRAGMA user_version").fetchone()[0] if application_id == APPLICATION_ID else 0


class _OtherSchemaError(ValueError):
    """The file holds other tables."""


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
        case _OtherSchemaError():
            return LedgerError(
                f"The ledger {file} was not written by this version of mcp-vega",
                next_step=f"End all servers, then update mcp-vega, or move {file} aside and start again: a new one is "
                "made, and the pictures stay where they are",
            )
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
