"""A host's file of servers: read, backed up, and written whole or not at all."""

import os
import stat
import sys
import tempfile
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
            raise HostConfigError(f"{path} is not written in UTF-8: {error}") from error

    def back_up(self) -> Path | None:
        """Keep what was read in a file beside it; returns that, or None where there was no file.

        Raises:
            HostConfigError: It cannot be written.
        """
        if self.raw is None:
            return None
        stem = f"{self.path.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}"
        try:
            status = self.path.stat()
            for number in range(1, 100):
                backup = self.path.with_name(f"{stem}{f'-{number}' if number > 1 else ''}.bak")
                try:
                    descriptor = os.open(
                        backup,
                        os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0),
                        status.st_mode & 0o777,
                    )
                except FileExistsError:
                    continue
                _write_new(backup, descriptor, self.raw)
                _give(backup, status)
                return backup
        except OSError as error:
            raise HostConfigError(f"No backup of {self.path} can be kept beside it: {error.strerror}") from error
        raise HostConfigError(f"{self.path.parent} is full of backups of this second")

    def write(self, text: str) -> None:
        """Put another text in its place, at once and whole. A link stays a link, and who may read it may still.

        Raises:
            HostConfigError: It cannot be written, or somebody else changed it since it was read.
        """
        target = self.path.resolve()
        if _content(self.path) != self.raw:
            raise HostConfigError(f"{self.path} was changed by another program meanwhile", next_step="Try again")
        mark = _BOM if (self.raw or b"").startswith(_BOM.encode()) else ""
        temporary = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Only its owner may read a new one: it may hold a key.
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            temporary = Path(name)
            _write_new(temporary, descriptor, (mark + text).encode())
            if self.raw is not None:
                status = target.stat()
                _give(temporary, status)
                temporary.chmod(status.st_mode & 0o777)
            temporary.replace(target)
        except OSError as error:
            if temporary:
                temporary.unlink(missing_ok=True)
            raise HostConfigError(f"{self.path} cannot be written: {error.strerror}") from error


def _write_new(path: Path, descriptor: int, data: bytes) -> None:
    """Write everything, onto the disk, and close; a file that was written in part is deleted again."""
    try:
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _give(path: Path, status: os.stat_result) -> None:
    """Give a file to the owner and group of another, as far as this user may: under sudo it would be root's."""
    if sys.platform != "win32" and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)


def _content(path: Path) -> bytes | None:
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # nobody may ever write into it
            raise HostConfigError(f"{path} is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostConfigError(f"{path} cannot be read: {error.strerror}") from error
