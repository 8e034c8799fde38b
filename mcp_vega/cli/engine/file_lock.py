"""Locks on files that end with the process that holds them, however it ends."""

import os
import sys
from pathlib import Path

from mcp_vega.storage import folders


def open_lock(path: Path) -> int:
    """A descriptor of a lock's file. The file and its folder are made if they are missing. To close it is to unlock it.

    Raises:
        OSError: The file cannot be made or opened.
    """
    folders.make(path.parent, 0o700)
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:  # noqa: ARG001  Windows has no shared ones here
        """Lock a file, unless somebody else has locked it. Returns whether it is locked now."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int, *, shared: bool = False) -> bool:
        """Lock a file, unless somebody else has locked it. Returns whether it is locked now."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
