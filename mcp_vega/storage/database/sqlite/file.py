"""The ledger's SQLite file: created with this version's schema or changed to it, opened, read and written.

Several servers have the file open at the same time (WAL). When a process closes any descriptor of a file, POSIX drops
all locks of the process on that file. So once the file exists, only SQLite opens it; other checks use `os.stat`.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp_vega.errors import LedgerError
from mcp_vega.storage import folders
from mcp_vega.storage.database.connection import Row
from mcp_vega.storage.database.schema import MigrationError, OtherSchemaError, Schema
from mcp_vega.storage.database.sqlite import dialect
from mcp_vega.storage.database.sqlite.creation import make_tables, require_usable, version_of
from mcp_vega.storage.database.sqlite.network_volume import MOUNTS, network_volume

# How much of the file a connection keeps in memory, in KiB. Twice SQLite's default: the index with which 100,000
# pictures are counted has 2 MB.
CACHE_KIB = 4000


class SqliteFile:
    """Opens connections to a ledger's file.

    If the file and its folder are missing, they are made, readable by this user only.

    Args:
        file: The path of the file.
        schema: The tables, which are made if they are missing.
        uptime: The machine's monotonic time in seconds, the same for all its processes.
        mounts: The file in which Linux lists the mounts.
    """

    def __init__(
        self, file: Path, schema: Schema, uptime: Callable[[], float] = time.monotonic, mounts: Path = MOUNTS
    ) -> None:
        self.file = file
        self._schema = schema
        self._row_type = dialect.row_type(schema.tables)
        self._uptime = uptime
        self._mounts = mounts

    def connect(self, *, write: bool, wait: float) -> "SqliteConnection":
        """Open the file, and make it if it is missing. Without `write`, the connection can only read."""
        if kind := network_volume(self.file, self._mounts):
            raise _UnfitVolumeError(f"on a network volume ({kind})")
        folders.make(self.file.parent, 0o700)
        _make_private(self.file)
        connection = sqlite3.connect(self.file, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = self._row_type
            make_tables(connection, self._schema)
            _enable_wal(connection, wait)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute(f"PRAGMA query_only = {'OFF' if write else 'ON'}")
            return SqliteConnection(connection, self.file, self._schema, self._uptime)
        except BaseException:
            connection.close()
            raise

    def is_busy(self, error: Exception) -> bool:
        """Whether an error only says that another program has locked the file."""
        return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def explained(self, error: Exception) -> Exception:
        """Return a `LedgerError` with what is wrong and what to do about it; an error of another kind unchanged."""
        known = isinstance(error, sqlite3.Error | OSError | ValueError | OverflowError)
        return _explained(self.file, error) if known else error


class SqliteConnection:
    """A connection to the ledger's file. It fails once another file is at the path."""

    def __init__(self, connection: sqlite3.Connection, file: Path, schema: Schema, uptime: Callable[[], float]) -> None:
        self._connection = connection
        self._schema = schema
        self._version = version_of(connection)  # this read makes the WAL's file, if there is none
        self._uptime = uptime
        # The WAL belongs to the ledger.
        self._files = {each: _identity(each) for each in (file, file.with_name(f"{file.name}-wal"))}

    @property
    def time(self) -> float:
        """The machine's monotonic time in seconds: it begins again when the machine restarts."""
        return self._uptime()

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a statement with named values, and return its rows."""
        return self._connection.execute(dialect.statement_of(statement), dialect.values_of(values or {})).fetchall()

    def lock(self, name: str) -> None:
        """Nothing is needed: only one transaction at a time changes the file."""

    @contextmanager
    def transaction(self, *, write: bool, durable: bool, wait: float) -> Generator[None]:
        """Run the block in a transaction, which is rolled back if the block raises.

        Args:
            write: Whether the transaction changes anything.
            durable: Whether it must survive a power cut. The WAL is written in order, so all earlier ones do as well.
            wait: How many seconds to wait for a lock that others hold.
        """
        self._require_same_file()
        execute = self._connection.execute
        execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")
        # Set here, because SQLite refuses to change it within a transaction.
        execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            self._require_usable()
            yield
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _require_usable(self) -> None:
        """Check that no newer version has changed the tables in a way that this version does not know."""
        version = version_of(self._connection)
        if version != self._version:
            require_usable(self._connection, self._schema)
            self._version = version

    def _require_same_file(self) -> None:
        for file, known in self._files.items():
            if _identity(file) != known:
                raise _ReplacedError


def _identity(file: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if there is no file."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make_private(file: Path) -> None:
    """Make the file if it is missing, readable by this user only. SQLite gives its -wal and -shm the same mode."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # The file may be open in this process already, so it is not opened again.
        found = file.stat()
        if sys.platform != "win32" and found.st_uid == os.getuid() and found.st_mode & 0o077:
            file.chmod(0o600)


def _enable_wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Let others read while one writes. SQLite does not wait for a lock in this statement, so it is repeated here."""
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


class _UnfitVolumeError(OSError):
    """The file is on a volume where servers cannot share it."""


class _ReplacedError(OSError):
    """The file at the path is not the one that was opened."""


def _code(error: Exception) -> int:
    """Return the primary code of an SQLite error: the lowest byte. The other bytes have details."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _explained(file: Path, error: Exception) -> LedgerError:  # noqa: C901, PLR0911  a table
    """Return what is wrong with the ledger, and what to do about it."""
    code = _code(error)
    match error:
        case _UnfitVolumeError():
            return LedgerError(
                f"The ledger {file} is {error}. Several servers would damage it there",
                next_step="Set MCP_VEGA_HOME to a folder on a disk of this machine",
            )
        case _ReplacedError():
            return LedgerError(
                f"The ledger {file} was deleted or replaced while this server runs",
                next_step="Put the file back together with its -wal and -shm files. Or restart all servers: they make "
                "a new ledger, and the pictures stay where they are",
            )
        case MigrationError():
            return LedgerError(
                f"The ledger {file} could not be changed for this version of mcp-vega, and is as it was before: "
                f"{error}",
                next_step="Free some disk space and start again. Or install the version of mcp-vega that you used "
                "before: it still works",
            )
        case OtherSchemaError():
            return LedgerError(
                f"The ledger {file} was not written by this version of mcp-vega",
                next_step=f"Stop all servers. Then update mcp-vega, or move {file} to another folder and start again: "
                "mcp-vega makes a new ledger, and the pictures stay where they are",
            )
        case ValueError() | OverflowError():
            return LedgerError(f"In the ledger {file}, {error}", next_step="Update mcp-vega, or ignore this job")
        case OSError():
            said = error.strerror or type(error).__name__
            named = Path(error.filename or file)  # such as a lock file next to it
            where = "" if named in (file, *file.parents) else f" ({named})"
            return LedgerError(f"The ledger {file} cannot be opened: {said}{where}")
        case sqlite3.Error() if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerError(
                f"The ledger {file} is locked by another program",
                next_step="Close the program that has it open, then call again",
            )
        case sqlite3.Error() if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return LedgerError(
                f"The ledger {file} cannot be written: {error}", next_step="Free some disk space, then call again"
            )
        case sqlite3.Error() if code == sqlite3.SQLITE_CANTOPEN:
            return LedgerError(f"The ledger {file} cannot be opened: {error}")
        case sqlite3.OperationalError():
            return LedgerError(f"The ledger {file} cannot be used: {error}")
        case _:
            return LedgerError(
                f"The ledger {file} is damaged: {error}",
                next_step=f"Stop all servers, move {file} to another folder and start again: mcp-vega makes a new "
                "ledger, and the pictures stay where they are",
            )
