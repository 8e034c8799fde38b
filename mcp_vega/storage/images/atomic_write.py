"""Files of pictures: whole on the disk or not there at all, and never one over another."""

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from mcp_vega.storage import folders

# A file that was being written this long ago, in seconds, is being written no more.
STALE_SECONDS = 600


def write(data: bytes, folder: Path, short: str, long: str) -> Path:
    """Write a picture under the short name or, where that is another picture's, under the long one."""
    path = folder / short
    if _was_free(path, data) or path.read_bytes() == data:
        return path
    path = folder / long
    if not _was_free(path, data) and path.read_bytes() != data:
        raise FileExistsError(errno.EEXIST, "both names that the picture may have are taken by other files")
    return path


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
    folders.flush(target.parent)
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
