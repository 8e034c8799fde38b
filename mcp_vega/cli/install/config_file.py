"""A host's file of servers: read, backed up, and written completely or not at all."""

import os
import re
import stat
import sys
import tempfile
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from mcp_vega.errors import VegaError

_BOM = "\ufeff"
# Of each file, the oldest backup is kept (the file as it was before the first change) and so many of the newest. The
# others may hold keys, and few people miss them.
NEWEST_BACKUPS = 2


class HostConfigError(VegaError):
    """A host's file of servers cannot be read or changed. It was left unchanged."""

    next_step = "Correct the file or its permissions and try again, or add the entry that install --print prints"


@dataclass(frozen=True)
class ConfigFile:
    """A file as it was when it was read.

    Attributes:
        path: Its path; the file need not exist.
        raw: Its bytes; None if there is no file.
        text: The same as text, without a byte order mark.
    """

    path: Path
    raw: bytes | None
    text: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file at a path; it need not exist.

        Raises:
            HostConfigError: It cannot be read, or is not UTF-8.
        """
        raw = _content(path)
        try:
            return cls(path, raw, (raw or b"").decode().removeprefix(_BOM))
        except UnicodeDecodeError as error:
            if raw and raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                raise HostConfigError(f"{path} is written in UTF-16", next_step="Save it in UTF-8") from error
            raise HostConfigError(f"{path} is not written in UTF-8: {error}") from error

    @property
    def has_byte_order_mark(self) -> bool:
        """Whether it begins with the mark that PowerShell and some editors write."""
        return (self.raw or b"").startswith(BOM_UTF8)

    @property
    def is_readable_by_others(self) -> bool:
        """Whether its permissions let other users read it. Windows has permissions of another kind."""
        if sys.platform == "win32" or self.raw is None:
            return False
        try:
            return bool(self.path.stat().st_mode & 0o044)
        except OSError:  # it was removed in the meantime
            return False

    def back_up(self) -> Path | None:
        """Copy the file, as it was read, next to itself; returns the copy's path, or None if there was no file.

        Only the file's owner can read the copy, because it may hold keys.

        Raises:
            HostConfigError: It cannot be written.
        """
        if self.raw is None:
            return None
        backup = self.path.with_name(f"{self.path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.bak")
        try:
            like = self.path.stat()
            _put_in_place(backup, self.raw, like, mode=0o600)
        except OSError as error:
            raise HostConfigError(f"No backup of {self.path} can be written next to it: {error.strerror}") from error
        return backup

    def backups(self) -> list[Path]:
        """The copies that `back_up` made of this file, the newest first; empty if their folder cannot be read."""
        form = re.compile(rf"{re.escape(self.path.name)}\.\d{{8}}-\d{{6}}-\d{{6}}\.bak")
        try:
            found = [each for each in self.path.parent.iterdir() if form.fullmatch(each.name)]
            return sorted((each for each in found if stat.S_ISREG(each.lstat().st_mode)), reverse=True)
        except OSError:
            return []

    def delete_old_backups(self, newest: Path) -> None:
        """Keep the oldest copy and the newest ones, this one among them. What cannot be deleted stays."""
        others = [each for each in self.backups() if each != newest]
        for each in others[NEWEST_BACKUPS - 1 : -1]:
            with suppress(OSError):
                each.unlink()

    def write(self, text: str) -> None:
        """Replace the text in one step. A link stays a link, and the permissions stay.

        A byte order mark is removed: no host needs one, and some refuse the file because of it.

        Raises:
            HostConfigError: It cannot be written, or another program changed it since it was read.
        """
        target = self.path.resolve()
        if _content(self.path) != self.raw:
            raise HostConfigError(f"{self.path} was changed by another program in the meantime", next_step="Try again")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            like = None if self.raw is None else target.stat()
            _put_in_place(target, text.encode(), like, mode=like.st_mode & 0o777 if like else 0o600)
        except OSError as error:
            raise HostConfigError(f"{self.path} cannot be written: {error.strerror}") from error


def _put_in_place(path: Path, data: bytes, like: os.stat_result | None, *, mode: int) -> None:
    """Write a file completely, flushed to the disk, or not at all; `like` has the owner that it gets."""
    # Until it has its mode, only this user can read it.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # If this user may do that. Without it, a file written under sudo would belong to root.
        if sys.platform != "win32" and like and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(PermissionError):
                os.chown(temporary, like.st_uid, like.st_gid)
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _content(path: Path) -> bytes | None:
    try:
        # Reading a pipe could wait forever, and a link to /dev/null would have the device replaced by a file.
        if not stat.S_ISREG(path.stat().st_mode):
            raise HostConfigError(f"{path} is not a file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostConfigError(f"{path} cannot be read: {error.strerror}") from error
