"""Folders and files that stay below their root, whatever links are put into it."""

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path

from mcp_vega.storage import folders


def subfolder(root: Path, *names: str) -> Path:
    """A folder below another, made where it is not there.

    Raises:
        OSError: It cannot be made, or a link leads out of the other folder.
    """
    root = root.resolve()
    folder = root.joinpath(*names)
    if not folder.resolve().is_relative_to(root):
        raise OSError(errno.ELOOP, f"a link at {folder} leads out of it")
    folders.make(folder)
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


def own_folder(folder: Path) -> Path:
    """A folder for this user alone, made where it is not there.

    Raises:
        OSError: It cannot be made, or another user has made it.
    """
    folders.make(folder, 0o700)
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


def below(root: Path, key: str) -> Path:
    """The real path of what a key names below a folder, which may itself be reached by a link.

    Raises:
        OSError: It is not there, or the key leads out of the folder.
    """
    real_root = Path(os.path.realpath(root, strict=True))
    path = real_root / key
    real = Path(os.path.realpath(path, strict=True))
    if not real.is_relative_to(real_root):
        is_link = Path(os.path.normpath(path)).is_relative_to(real_root)
        said = "it has become a link to a file elsewhere" if is_link else f"the key {key!r} leads out of {root}"
        raise OSError(errno.ELOOP, said)
    return real
