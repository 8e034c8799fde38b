"""Keeps folders and files below their root, even if somebody puts links into it."""

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path

from mcp_vega.storage import folders


def subfolder(root: Path, *names: str) -> Path:
    """Return a folder below another, and make it if it is missing.

    Raises:
        OSError: The folder cannot be made, or a link leads out of the root.
    """
    root = root.resolve()
    folder = root.joinpath(*names)
    if not folder.resolve().is_relative_to(root):
        raise OSError(errno.ELOOP, f"a link at {folder} leads out of it")
    folders.make(folder)
    return folder


def probe(folder: Path) -> bool:
    """Whether a folder exists. Leaves no file behind, and makes no folder.

    Raises:
        OSError: The folder, or the nearest existing folder above it, cannot be written.
    """
    there = nearest(folder)
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"-")
    return there == folder.absolute()


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest existing name above it. The name may be a file's, or a broken link's."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if os.path.lexists(each))


def own_folder(folder: Path) -> Path:
    """Return a folder for this user only, and make it if it is missing.

    Raises:
        OSError: The folder cannot be made, or another user made it.
    """
    folders.make(folder, 0o700)
    require_own(folder)
    return folder


def require_own(folder: Path) -> None:
    """Check that a folder belongs to this user, and that it is not a link.

    Raises:
        OSError: It is another user's, a link, or missing.
    """
    found = folder.lstat()
    if sys.platform != "win32" and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise PermissionError(errno.EPERM, f"{folder} is another user's")


def below(root: Path, key: str) -> Path:
    """Return the real path of the file that a key names below a folder. The folder itself may be a link.

    Raises:
        OSError: The file is missing, or the key leads out of the folder.
    """
    real_root = Path(os.path.realpath(root, strict=True))
    path = real_root / key
    real = Path(os.path.realpath(path, strict=True))
    if not real.is_relative_to(real_root):
        is_link = Path(os.path.normpath(path)).is_relative_to(real_root)
        said = "it is now a link to a file elsewhere" if is_link else f"the key {key!r} leads out of {root}"
        raise OSError(errno.ELOOP, said)
    return real
