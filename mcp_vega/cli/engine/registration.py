"""Which engine this user runs: its address and key are in a private file of the home folder while it runs.

A lock that ends with the process, however it ends, shows that the engine runs. So a file that a killed engine left
behind misleads nobody, and a user has one engine at a time: a second one would need the memory of the GPU again.
"""

import json
import os
import stat
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mcp_vega.cli.engine.file_lock import open_lock, try_lock
from mcp_vega.errors import InvalidSettings
from mcp_vega.storage import folders

LOCK, FILE = "engine.lock", "engine.json"
# A look whether an engine runs may hold the lock for a moment. A running engine never releases it.
WAIT_SECONDS, PAUSE_SECONDS = 1.0, 0.01
STARTED_ELSEWHERE = "Use that engine, as --local does by itself, or end it first"


@dataclass(frozen=True)
class RunningEngine:
    """An engine of this user.

    Attributes:
        url: Where it serves, without a slash at the end. On loopback, unless the user chose another address.
        key: A key that it accepts.
        pid: Its process.
        version: The version of this package that it runs.
    """

    url: str
    key: str = field(repr=False)
    pid: int
    version: str


def running_engine(home: Path) -> RunningEngine | None:
    """The engine that this user runs, or None. An engine that only starts counts from when it accepts calls.

    Raises:
        InvalidSettings: The file of an engine cannot be read, or it could come from another user.
    """
    return _read(home / FILE) if has_engine(home) else None


def has_engine(home: Path) -> bool:
    """Whether a process is this user's engine, even if it accepts no calls yet, or no more.

    Raises:
        InvalidSettings: The file of the lock cannot be used.
    """
    path = home / LOCK
    with _usable(path):
        try:
            descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(descriptor, shared=True)  # shared: two looks at the same time do not see each other
        finally:
            os.close(descriptor)


# Tells the servers of this user where their engine is; see `registered`.
Publish = Callable[[RunningEngine | None], bool]


@contextmanager
def registered(home: Path) -> Generator[Publish]:
    """Be the engine of this user until the block ends.

    What is yielded tells the others once the engine accepts calls and, with None, that it accepts no more. Called
    again, it repairs the file if somebody has deleted or changed it. It returns whether this is still the user's
    engine: once the file of the lock is deleted, nobody finds this engine any more, and another one may run.

    Raises:
        InvalidSettings: This user runs an engine already, or the files of the home folder cannot be used. What is
            yielded raises it as well.
    """
    file = home / FILE
    with _lock(home) as lock:
        _require_private(file)
        with _usable(file):
            file.unlink(missing_ok=True)  # of an engine that was killed

        def publish(engine: RunningEngine | None) -> bool:
            if not _is_at(lock, home / LOCK):
                return False
            if engine is None:
                with suppress(OSError):  # a file that stays is not believed once the lock is free
                    file.unlink(missing_ok=True)
            elif not _holds(file, data := json.dumps(asdict(engine)).encode()):
                with _usable(file):
                    folders.replace_file(file, data)
            return True

        try:
            yield publish
        finally:
            publish(None)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file. If the system does not say, it counts as unchanged."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _holds(file: Path, data: bytes) -> bool:
    """Whether a file of this user alone has this content."""
    try:
        _require_private(file)
        return file.read_bytes() == data
    except (OSError, InvalidSettings):
        return False


def _read(file: Path) -> RunningEngine | None:
    with _usable(file):
        try:
            _require_private(file)
            return _engine_of(json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None  # the engine does not accept calls yet, or ends
        except (ValueError, TypeError) as error:
            raise InvalidSettings(
                f"The file {file} is not one that this version writes", next_step="End the engine, and start it again"
            ) from error


def _engine_of(values: dict[str, Any]) -> RunningEngine:
    """The engine that a file describes.

    Raises:
        ValueError, TypeError: The file is damaged, or another version wrote it.
    """
    engine = RunningEngine(**values)
    if any(type(value) is not kind for value, kind in zip(astuple(engine), (str, str, int, str), strict=True)):
        raise TypeError
    url = urlsplit(engine.url)
    if (
        url.scheme != "http"
        or not url.hostname
        or not url.port
        or not (engine.key.isascii() and engine.key.isprintable())
    ):
        raise ValueError
    return engine


def _require_private(file: Path) -> None:
    """Check that only this user can have written and can read a file: calls and prompts go to the address in it.

    Raises:
        InvalidSettings: The file belongs to another user, others can use it, or it is a link.
    """
    try:
        found = file.lstat()
    except OSError:
        return  # what is done with the file next says why
    if sys.platform == "win32":
        return  # the user's profile folder is private there
    reason = ""
    if not stat.S_ISREG(found.st_mode):
        reason = "is not a regular file"
    elif found.st_uid != os.geteuid():
        reason = "belongs to another user"
    elif found.st_mode & 0o077:
        reason = "can be read or written by other users"
    if reason:
        raise InvalidSettings(
            f"The file {file} {reason}, and the address of an engine must come from this user alone",
            next_step="End the engine if it is yours, delete the file, and start the engine again",
        )


@contextmanager
def _usable(file: Path) -> Generator[None]:
    """Turn errors of the system about a file into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise InvalidSettings(
            f"The file {file} cannot be used: {(error.strerror or type(error).__name__).lower()}",
            next_step="Set MCP_VEGA_HOME to a folder on this machine that this user may write to",
        ) from error


@contextmanager
def _lock(home: Path) -> Generator[int]:
    """Hold the lock of the user's engine; its descriptor is yielded. Raises as `registered` does."""
    path = home / LOCK
    with _usable(path):
        descriptor = open_lock(path)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        with _usable(path):
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise _second(home)
                time.sleep(PAUSE_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)  # this releases the lock


def _second(home: Path) -> InvalidSettings:
    engine = running_engine(home)
    which = f"at {engine.url} (process {engine.pid})" if engine else "that starts just now"
    return InvalidSettings(f"This user already has an engine {which}", next_step=STARTED_ELSEWHERE)
