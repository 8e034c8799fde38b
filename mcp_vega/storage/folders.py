"""Folders that survive a power cut."""

import os
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
