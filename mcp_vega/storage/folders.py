"""Folders whose names survive a power cut."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def make(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where they are not there.

    Raises:
        OSError: It cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in made:
        with suppress(OSError):  # one may write into a folder that one may not list
            flush(each.parent)


def flush(folder: Path) -> None:
    """Have the names in a folder survive a power cut; Windows does so by itself.

    Raises:
        OSError: The folder cannot be opened.
    """
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
