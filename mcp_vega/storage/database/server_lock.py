"""Which servers are alive, told by a lock that ends with the process that holds it.

Each server has a file of its own, named after its id, on which it holds SQLite's exclusive lock for its life. The
operating system gives that lock up when the process ends, however it ends. So a server is dead when its lock can be
had, and alive in any other case. Neither clocks nor numbers of processes matter: servers in several containers may
share the folder.

POSIX drops all locks of a process on a file as soon as the process closes any descriptor of it. SQLite keeps its own
descriptors open for that reason. So nothing here, and nothing else in the process, may open a lock file by other means.
"""

import os
import re
import sqlite3
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.job import new_id

# How long a look may wait for a lock: another's look is over by then, a server's life hardly ever.
LOOK_SECONDS = 0.05
# How often a file may be deleted or made between two steps before a lock is given up.
TRIES = 20
_ID = re.compile("[0-9a-f]{32}")


class ServerLock:
    """This server's lock among those of the others in a folder. Used from several threads.

    A child made by fork has no part in the lock, although its copy of SQLite takes it for held: it must not use this
    object, it is not seen to live when its parent is dead, and what it closes costs the parent nothing.
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
        """Take the lock, unless it is taken; only then may others hear of this server.

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
            # The home above may be made here, too; it is for this user alone as well.
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _new_lock(self) -> "_LockedFile":
        """Make a file and lock it; where another took it for a dead server's in between, begin with a new id."""
        problem: sqlite3.Error = sqlite3.OperationalError("the lock file was deleted again and again")
        for _ in range(TRIES):
            path = self.path
            try:
                _connection(path, LOOK_SECONDS).close()  # makes it
                if locked := _locked(path, LOOK_SECONDS):
                    with suppress(OSError):  # it is empty, and not every file system knows permissions
                        path.chmod(0o600)
                    return locked
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                problem = error
            self._me = new_id()
        raise problem

    def is_intact(self) -> bool:
        """Whether the file that is locked is still the one at its path. If not, others take this server for dead."""
        own = self._own
        return own is not None and own.is_intact()

    def is_alive(self, server: str, *, wait: float = 0) -> bool:
        """Whether a server lives, or another process looks at its lock for longer than `wait` seconds.

        Its file stays where it is.
        """
        path = self._path(server)
        there = os.path.lexists(path)
        locked = self._locked_if_dead(server, wait)
        if locked is None:
            return True
        if there:
            locked.unlock()
        else:
            locked.delete()  # this look made it
        return False

    @contextmanager
    def locked_if_dead(self, server: str) -> Generator[bool]:
        """Whether a server is dead. Then its lock is held within the block, so that no other process finds it dead.

        At the end its file is deleted, unless the block raised.
        """
        locked = self._locked_if_dead(server, LOOK_SECONDS)
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
        # A server that is wrongly taken for dead is paid for twice: whatever else goes wrong, it is alive.
        with suppress(sqlite3.Error, OSError):
            self._make_folder()  # where it is gone, as after a power cut, nobody holds a lock in it
            for _ in range(TRIES):
                if locked := _locked(self._path(server), wait):
                    return locked
        return None

    def servers(self) -> list[str]:
        """The ids of all lock files in the folder, this server's included; none where there is no folder.

        Raises:
            OSError: The folder cannot be read.
        """
        try:
            return sorted(each.name for each in self._folder.iterdir() if _ID.fullmatch(each.name))
        except FileNotFoundError:
            return []

    def release(self) -> None:
        """Delete this server's file and give its lock up."""
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
    file: tuple[int, int]  # which it is, whatever its name: no other has these numbers while it is open
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
        """Delete the file, and give its lock up. A file that cannot be deleted stays, as that of a dead server."""
        if sys.platform == "win32":
            # What is open cannot be deleted there. If another has opened it in between, it is the other's to delete.
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
    """Lock a file; None where it was made, deleted or replaced meanwhile, so that another may be at its path.

    Which file SQLite has opened cannot be asked. So it must be the same one before it is opened and after it is locked.
    """
    with ExitStack() as stack:
        before = _seen(path)
        connection = _connection(path, wait)
        stack.callback(connection.close)
        # An exclusive transaction on an empty file would make a journal beside it, which outlives a process that is
        # killed.
        connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
        # On a file that can only be read, SQLite begins a transaction that excludes no one; this then fails. It is
        # never committed.
        connection.execute("PRAGMA user_version = 1")
        if before is None or before != _seen(path):
            return None
        stack.pop_all()
        return _LockedFile(path, before[:2], connection)


def _seen(path: Path) -> tuple[int, int, int] | None:
    """Which file is at a path. Nobody writes to it, so its time tells it from a later one that got the same number."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _connection(path: Path, wait: float) -> sqlite3.Connection:
    """A connection to a lock file, which is made where it is missing."""
    return sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
