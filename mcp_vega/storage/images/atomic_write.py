"""Files of pictures: whole on the disk or not there at all, never one over another, none outside its folder."""

import errno
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# A file that was being written this long ago is being written no more.
STALE_SECONDS = 600


def room(root: Path, *names: str) -> Path:
    """A folder below another, made where it is not there.

    Raises:
        OSError: It cannot be made, or a link leads out of the other folder.
    """
    root = root.resolve()
    folder = root.joinpath(*names)
    if not folder.resolve().is_relative_to(root):
        raise OSError(errno.ELOOP, f"a link at {folder} leads out of it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def probe(folder: Path) -> bool:
    """Whether a folder is there; nothing is left behind in it, and none is made.

    Raises:
        OSError: It, or the nearest folder above it that is there, cannot be written.
    """
    there = nearest(folder)
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"-")
    return there == folder.absolute()


def nearest(folder: Path) -> Path:
    """A folder, or the nearest above it that is there, as far as names go: it may be a file or lead nowhere."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def own(folder: Path) -> Path:
    """A folder for this user alone, made where it is not there.

    Raises:
        OSError: It cannot be made, or another user has made it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(folder)
    return folder


def require_own(folder: Path) -> None:
    """Check that a folder is this user's, and no link.

    Raises:
        OSError: It is not, or it is not there.
    """
    found = folder.lstat()
    if sys.platform != "win32" and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise PermissionError(errno.EPERM, f"{folder} is another user's")


def read(path: Path, roots: Iterable[Path]) -> bytes:
    """The bytes of a file.

    Args:
        path: Where it was written, without links at that time.
        roots: Folders in which it may be as well, wherever links to them lead now.

    Raises:
        OSError: It cannot be read, or has become a link to somewhere else.
    """
    real = path.resolve(strict=True)
    if real != path and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise OSError(errno.ELOOP, "it has become a link to a file elsewhere")
    return real.read_bytes()


def write(data: bytes, room: Path, name: str, image_id: str) -> Path:
    """Write a picture under the short name or, where that is another picture's, under the long one."""
    beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
    short, long = (room / f"{beginning}-{digits}{suffix}" for digits in (image_id[:8], image_id))
    if _was_free(short, data) or short.read_bytes() == data:
        return short
    _was_free(long, data)
    return long


def _was_free(target: Path, data: bytes) -> bool:
    """Write a file, unless its name is taken."""
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _place(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync(target.parent)
    return True


def clear(folder: Path) -> None:
    """Remove what servers left behind that died while they wrote a picture."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _place(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless the name is taken.

    A link refuses a name that is taken; file systems without links get the name reserved by an empty file.
    """
    try:
        os.link(temporary, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        target.touch(exist_ok=False)
        try:
            temporary.replace(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut as well; Windows does so by itself."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
