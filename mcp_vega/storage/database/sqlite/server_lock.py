"""Shows which servers are alive, by a lock that ends with the process that holds it.

Each server has a file of its own, named after its id. It holds SQLite's exclusive lock on that file while it runs. The
operating system releases the lock when the process ends, however it ends. So a server is dead if its lock can be taken,
and alive in any other case. Clocks and process ids do not matter, so servers in several containers may share the
folder.

When a process closes any descriptor of a file, POSIX drops all locks of the process on that file. SQLite keeps its own
descriptors open for that reason. So nothing else in the process may open a lock file.
"""

import os
import re
import sqlite3
import sys
import threading
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.errors import LedgerError
from mcp_vega.job import new_id
from mcp_vega.storage.database.connection import Connection

# How long a check may wait for a lock. A check by another server is over by then; a living server keeps its lock.
CHECK_SECONDS = 0.05
# How often others may delete or make the file between two steps before this server stops trying.
TRIES = 20
_ID = re.compile("[0-9a-f]{32}")


class ServerLock:
    """This server's lock, in a folder with the locks of the other servers: the `Liveness` of an SQLite file.

    A child process made by fork does not hold the lock, although its copy of SQLite believes so. The child must not use
    this object. When its parent is dead, the child does not count as alive. If the child closes its copy of the file,
    the parent keeps its lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._me = new_id()
        self._own: _LockedFile | None = None
        self._changing = threading.Lock()

    @property
    def me(self) -> str:
        """This server's id: 32 hex digits. It may change while the lock is being taken."""
        return self._me

    @property
    def path(self) -> Path:
        """The file that is locked for this server."""
        return self._path(self._me)

    @property
    def taken(self) -> bool:
        """Whether the lock was taken, and not released since."""
        return self._own is not None

    def take(self) -> None:
        """Take the lock, unless it is taken already. It must be taken before others can learn this server's id.

        Raises:
            OSError: The folder cannot be made or read.
            sqlite3.Error: The file cannot be made or locked.
        """
        with self._changing:
            if self._own is None:
                self._make_folder()
                self._own = self._new_lock()

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            # This may make the home folder above as well, which is also for this user only.
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _new_lock(self) -> "_LockedFile":
        """Make a file and lock it. If another server deletes the file in between, as a dead server's, take a new id."""
        problem: sqlite3.Error = sqlite3.OperationalError("the lock file was deleted again and again")
        for _ in range(TRIES):
            path = self.path
            try:
                _connection(path, CHECK_SECONDS).close()  # makes the file
                if locked := _locked(path, CHECK_SECONDS):
                    with suppress(OSError):  # the file is empty, and not every file system has permissions
                        path.chmod(0o600)
                    return locked
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                problem = error
            self._me = new_id()
        raise problem

    def is_intact(self) -> bool:
        """Whether the locked file is still the one at its path. If not, others believe that this server is dead."""
        own = self._own
        return own is not None and own.is_intact()

    def require_intact(self) -> None:
        """Check that the lock file was not deleted; see `Liveness`."""
        if not self.is_intact():
            raise LedgerError(
                f"The lock file {self.path} was deleted. Other servers now believe that this server has ended",
                next_step="Restart this server, because other servers may have continued its jobs",
            )

    def alive(self, _: Connection, /, servers: Collection[str], *, certain: bool = False) -> set[str]:
        """Return those of `servers` that are alive; see `Liveness`. The files of dead servers are not deleted."""
        return {each for each in servers if self.is_alive(each, wait=CHECK_SECONDS if certain else 0)}

    def is_alive(self, server: str, *, wait: float = 0) -> bool:
        """Whether a server is alive. Also True while another process checks its lock for longer than `wait` seconds."""
        path = self._path(server)
        there = os.path.lexists(path)
        locked = self._locked_if_dead(server, wait)
        if locked is None:
            return True
        if there:
            locked.unlock()
        else:
            locked.delete()  # this check made the file
        return False

    @contextmanager
    def locked_if_dead(self, server: str, _: Connection | None = None) -> Generator[bool]:
        """Yield whether a server is dead. If so, this process holds its lock within the block.

        So no other process finds the server dead at the same time. At the end the server's file is deleted, unless the
        block raises.
        """
        locked = self._locked_if_dead(server, CHECK_SECONDS)
        if locked is None:
            yield False
            return
        with ExitStack() as stack:
            stack.callback(locked.unlock)
            yield True
            stack.pop_all()
        locked.delete()

    def _locked_if_dead(self, server: str, wait: float) -> "_LockedFile | None":
        if server == self._me and self._own is not None:
            return None
        # If a living server counts as dead, its calls may be paid for twice. So after any error it counts as alive.
        with suppress(sqlite3.Error, OSError):
            self._make_folder()  # if the folder is missing, as after a power cut, nobody holds a lock in it
            for _ in range(TRIES):
                if locked := _locked(self._path(server), wait):
                    return locked
        return None

    def servers(self) -> list[str]:
        """Return the ids of all lock files in the folder, this server's included; none if there is no folder.

        Raises:
            OSError: The folder cannot be read.
        """
        try:
            return sorted(each.name for each in self._folder.iterdir() if _ID.fullmatch(each.name))
        except FileNotFoundError:
            return []

    def release(self) -> None:
        """Delete this server's file and release its lock."""
        with self._changing:
            own, self._own = self._own, None
            if own:
                own.delete()

    def _path(self, server: str) -> Path:
        return self._folder / server


@dataclass(frozen=True)
class _LockedFile:
    """A file whose lock this process holds."""

    path: Path
    file: tuple[int, int]  # device and inode: no other file has these numbers while this one is open
    connection: sqlite3.Connection

    def is_intact(self) -> bool:
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.file

    def unlock(self) -> None:
        self.connection.close()

    def delete(self) -> None:
        """Delete the file, and release its lock. A file that cannot be deleted stays, as that of a dead server."""
        if sys.platform == "win32":
            # Windows does not delete an open file. If another process opens it in between, that process deletes it.
            self.unlock()
            with suppress(OSError):
                self.path.unlink()
            return
        try:
            if self.is_intact():
                with suppress(OSError):
                    self.path.unlink()
        finally:
            self.unlock()


def _locked(path: Path, wait: float) -> _LockedFile | None:
    """Lock a file. None if it was made, deleted or replaced meanwhile, so that another file may be at its path.

    SQLite does not say which file it has opened. So the file at the path must be the same before SQLite opens it and
    after it is locked.
    """
    with ExitStack() as stack:
        before = _identity(path)
        connection = _connection(path, wait)
        stack.callback(connection.close)
        # An exclusive transaction on an empty file would make a journal file next to it, and if the process is killed,
        # the journal stays.
        connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
        # On a read-only file, SQLite begins a transaction that excludes no one. This write fails then. It is never
        # committed.
        connection.execute("PRAGMA user_version = 1")
        if before is None or before != _identity(path):
            return None
        stack.pop_all()
        return _LockedFile(path, before[:2], connection)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return the device, inode and modification time of the file at a path; None if there is none.

    Nobody writes to the file. So the time distinguishes it from a later file that got the same inode.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _connection(path: Path, wait: float) -> sqlite3.Connection:
    """Open a connection to a lock file, which is made if it is missing."""
    return sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
