"""Writes files of pictures: each one completely or not at all, and never over another file."""

import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from mcp_vega.storage import folders

# A temporary file that did not change for so many seconds is no longer being written.
STALE_SECONDS = 600


def write(data: bytes, folder: Path, short: str, long: str) -> Path:
    """Write a picture under the short name or, if another file has that name, under the long one."""
    path = folder / short
    if write_new(path, data) or path.read_bytes() == data:
        return path
    path = folder / long
    if not write_new(path, data) and path.read_bytes() != data:
        raise FileExistsError(errno.EEXIST, "both names that the picture may have are taken by other files")
    return path


def write_new(target: Path, data: bytes) -> bool:
    """Write a file; returns False, and writes nothing, if its name is taken."""
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
    """Remove the temporary files of servers that died while they wrote a picture."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _place(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless the name is taken.

    To link a file fails if the name is taken. On file systems without links, an empty file reserves the name.
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
