"""The ledger's SQLite file: made with this version's schema, opened, read and written.

Several servers have it open at once (WAL). POSIX drops all locks of a process on a file when it closes any descriptor
of it, so after the file is made nothing but SQLite opens it; whether it is still there is asked with `os.stat`.
"""

import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from mcp_vega.errors import LedgerError
from mcp_vega.storage import folders
from mcp_vega.storage.database.connection import Row
from mcp_vega.storage.database.network_volume import MOUNTS, network_volume

CREATION_SECONDS = 30.0

# Tells a ledger from other files of SQLite ("vega" in ASCII).
APPLICATION_ID = 0x76656761


class SqliteFile:
    """Opens connections to a ledger's file.

    The file and its folder are made when they are not there, for this user alone.

    Args:
        file: Its path.
        schema: The tables, as statements of SQL.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
        mounts: Where Linux tells what is mounted.
    """

    def __init__(
        self, file: Path, schema: str, uptime: Callable[[], float] = time.monotonic, mounts: Path = MOUNTS
    ) -> None:
        self.file = file
        self._schema = schema
        self._uptime = uptime
        self._mounts = mounts

    def connect(self, *, write: bool, wait: float) -> "SqliteConnection":
        """Open the file, made where it is not there; what only reads changes nothing in it afterwards."""
        if kind := network_volume(self.file, self._mounts):
            raise _UnfitVolumeError(f"on a network volume ({kind})")
        folders.make(self.file.parent, 0o700)
        _make_private(self.file)
        connection = sqlite3.connect(self.file, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            if _fingerprint(connection) != fingerprint_of(self._schema):
                _create(connection, self._schema)
            _share(connection, wait)
            _fingerprint(connection)  # the first look after that makes the log's file
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA query_only = {'OFF' if write else 'ON'}")
        except BaseException:
            connection.close()
            raise
        return SqliteConnection(connection, self.file, self._uptime)

    def is_busy(self, error: Exception) -> bool:
        """Whether an error only says that another program has locked the file."""
        return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def explained(self, error: Exception) -> Exception:
        """What keeps the ledger from its work, and what to do about it; an error of another kind as it is."""
        known = isinstance(error, sqlite3.Error | OSError | ValueError | OverflowError)
        return _explained(self.file, error) if known else error


class SqliteConnection:
    """A connection to the ledger's file, as long as that is the one at its path."""

    def __init__(self, connection: sqlite3.Connection, file: Path, uptime: Callable[[], float]) -> None:
        self._connection = connection
        self._uptime = uptime
        # The log is a part of it.
        self._files = {each: _identity(each) for each in (file, file.with_name(f"{file.name}-wal"))}

    @property
    def time(self) -> float:
        """The machine's monotonic time: it starts anew when the machine does."""
        return self._uptime()

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a statement with named values, and return the rows that it gives."""
        return self._connection.execute(statement, values or {}).fetchall()

    @contextmanager
    def transaction(self, *, write: bool, durable: bool, wait: float) -> Generator[None]:
        """Run the block in a transaction. The log is one file in order: a durable one makes all before it durable."""
        self._require_same_file()
        execute = self._connection.execute
        execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")
        # SQLite refuses to change it within a transaction.
        execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def _require_same_file(self) -> None:
        for file, known in self._files.items():
            if _identity(file) != known:
                raise _ReplacedError


def _identity(file: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make_private(file: Path) -> None:
    """Make the file where it is not there, readable by this user alone; SQLite's files beside it follow it."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # It may be open here already, so it is not opened again.
        found = file.stat()
        if sys.platform != "win32" and found.st_uid == os.getuid() and found.st_mode & 0o077:
            file.chmod(0o600)


def _share(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Let others read while one writes. This one statement does not wait for a lock by itself."""
    give_up = time.monotonic() + busy_seconds
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise _UnfitVolumeError("on a volume without shared memory")
            return


def _create(connection: sqlite3.Connection, schema: str) -> None:
    """Make the tables in an empty file; every other server that opens it now waits."""
    connection.execute(f"PRAGMA busy_timeout = {CREATION_SECONDS * 1000:.0f}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _fingerprint(connection) != fingerprint_of(schema):  # no other server was quicker
            _require_empty(connection)
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {fingerprint_of(schema)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _require_empty(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise _OtherSchemaError


def fingerprint_of(schema: str) -> int:
    """What stands in a file for its schema, so that one of another is not taken for it; comments do not count."""
    return crc32(" ".join(re.sub("--.*", "", schema).split()).encode()) & 0x7FFFFFFF


def _fingerprint(connection: sqlite3.Connection) -> int:
    """The fingerprint of the schema that a ledger has; 0 where the file is no ledger."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return connection.execute("PRAGMA user_version").fetchone()[0] if application_id == APPLICATION_ID else 0


class _OtherSchemaError(ValueError):
    """The file holds other tables."""


class _UnfitVolumeError(OSError):
    """The file is where servers cannot share it."""


class _ReplacedError(OSError):
    """The file at the path is not the one that was opened."""


def _code(error: Exception) -> int:
    """The kind of an error of SQLite: the lowest byte of its code; the rest is its details."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explained(file: Path, error: Exception) -> LedgerError:  # noqa: PLR0911  a table
    """What keeps the ledger from its work, and what to do about it."""
    code = _code(error)
    match error:
        case _UnfitVolumeError():
            return LedgerError(
                f"The ledger {file} is {error}, where several servers would damage it",
                next_step="Set MCP_VEGA_HOME to a folder on a disk of this machine",
            )
        case _ReplacedError():
            return LedgerError(
                f"The ledger {file} was deleted or replaced while this server runs",
                next_step="Put the file back with its -wal and -shm beside it, or restart all servers: a new ledger is "
                "made then, and the pictures stay where they are",
            )
        case _OtherSchemaError():
            return LedgerError(
                f"The ledger {file} was not written by this version of mcp-vega",
                next_step=f"End all servers, then update mcp-vega, or move {file} aside and start again: a new one is "
                "made, and the pictures stay where they are",
            )
        case ValueError() | OverflowError():
            return LedgerError(f"In the ledger {file}, {error}", next_step="Update mcp-vega, or do without this job")
        case OSError():
            said = error.strerror or type(error).__name__
            named = Path(error.filename or file)  # such as the locks beside it
            where = "" if named in (file, *file.parents) else f" ({named})"
            return LedgerError(f"The ledger {file} cannot be opened: {said}{where}")
        case sqlite3.Error() if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerError(
                f"The ledger {file} is locked by another program",
                next_step="Close the program that has it open, then call again",
            )
        case sqlite3.Error() if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return LedgerError(
                f"The ledger {file} cannot be written: {error}", next_step="Make room on the disk, then call again"
            )
        case sqlite3.Error() if code == sqlite3.SQLITE_CANTOPEN:
            return LedgerError(f"The ledger {file} cannot be opened: {error}")
        case sqlite3.OperationalError():
            return LedgerError(f"The ledger {file} cannot be used: {error}")
        case _:
            return LedgerError(
                f"The ledger {file} is damaged: {error}",
                next_step=f"End all servers, move {file} aside and start again: a new one is made, and the pictures "
                "stay where they are",
            )
