"""Folders that survive a power cut, and small files that are always complete."""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path


def make(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and the folders above it, if they are missing.

    Raises:
        OSError: The folder cannot be made.
    """
    if folder.is_dir():
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in made:
        with suppress(OSError):  # a folder may be writable without being readable
            flush(each.parent)


def flush(folder: Path) -> None:
    """Write the names in a folder to the disk, so that they survive a power cut. On Windows nothing is needed.

    Raises:
        OSError: The folder cannot be opened.
    """
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file for this user only, in place of an older one. Nobody sees a part of it, unless the power is cut.

    Raises:
        OSError: It cannot be written. The older file stays.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
