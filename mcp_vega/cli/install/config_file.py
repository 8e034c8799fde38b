"""A host's file of servers: read, backed up, and written whole or not at all."""

import os
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


class HostConfigError(VegaError):
    """A host's file of servers cannot be read or changed; it was left as it is."""

    next_step = "Mend the file or its permissions and run the command again, or add by hand what install --print shows"


@dataclass(frozen=True)
class ConfigFile:
    """A file as it was when it was read.

    Attributes:
        path: Where it is, or would be.
        raw: What is in it; None where there is no file.
        text: The same as text, without a byte order mark.
    """

    path: Path
    raw: bytes | None
    text: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file at a path, which need not be there.

        Raises:
            HostConfigError: It cannot be read, or is no UTF-8.
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
        """Whether it begins with what PowerShell and some editors put there."""
        return (self.raw or b"").startswith(BOM_UTF8)

    def back_up(self) -> Path | None:
        """Keep what was read in a file beside it; returns that, or None where there was no file.

        Raises:
            HostConfigError: It cannot be written.
        """
        if self.raw is None:
            return None
        backup = self.path.with_name(f"{self.path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.bak")
        try:
            _put_in_place(backup, self.raw, self.path.stat())
        except OSError as error:
            raise HostConfigError(f"No backup of {self.path} can be kept beside it: {error.strerror}") from error
        return backup

    def write(self, text: str) -> None:
        """Put another text in its place, at once and whole. A link stays a link, and who may read it may still.

        A byte order mark does not stay: no host needs one, and some refuse the file for it.

        Raises:
            HostConfigError: It cannot be written, or somebody else changed it since it was read.
        """
        target = self.path.resolve()
        if _content(self.path) != self.raw:
            raise HostConfigError(f"{self.path} was changed by another program meanwhile", next_step="Try again")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _put_in_place(target, text.encode(), None if self.raw is None else target.stat())
        except OSError as error:
            raise HostConfigError(f"{self.path} cannot be written: {error.strerror}") from error


def _put_in_place(path: Path, data: bytes, like: os.stat_result | None) -> None:
    """Write a file whole, onto the disk, or not at all, with the owner and permissions of another."""
    # Only its owner may read a new one: it may hold a key.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if like:
            # As far as this user may: under sudo it would be root's.
            if sys.platform != "win32" and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                with suppress(PermissionError):
                    os.chown(temporary, like.st_uid, like.st_gid)
            temporary.chmod(like.st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _content(path: Path) -> bytes | None:
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # nobody may ever write into it
            raise HostConfigError(f"{path} is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostConfigError(f"{path} cannot be read: {error.strerror}") from error
