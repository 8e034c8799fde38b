"""The pictures in one of the user's folders. Nothing else writes into it.

<folder>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg

If the API's answer is not a readable picture, it is kept in <folder>/unreadable, under a name of the same form.
"""

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from hashlib import sha256
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.imaging.formats import MAX_BYTES, SUFFIXES, recognise
from mcp_vega.job import ImageLocation
from mcp_vega.storage.images import atomic_write, confinement
from mcp_vega.storage.images.disk import FolderAddress
from mcp_vega.storage.images.store import UNREADABLE, UNREADABLE_BYTES, ascii_name, names_of

# How many bytes must fit on the disk before a picture is paid for: four large JPEGs; and for how many seconds a check
# counts.
WANTED_BYTES, CHECK_SECONDS = 4_000_000, 1.0
# How many pictures are written at the same time.
WRITTEN_AT_ONCE = 8


class ImageFolder:
    """An `ImageStore` that keeps pictures below one folder and never overwrites one.

    Args:
        folder: The folder. It is made when the first picture is asked for.
        private: Whether the folder is made for this user only, and not used if another user made it.
        disk: The name of this replica's disk, if other replicas do not find the folder at its path.
    """

    def __init__(self, folder: Path, *, private: bool = False, disk: str = "") -> None:
        self.folder = folder
        self._private = private
        self._disk = disk
        self._cleared: dict[Path, float] = {}
        self._checked: tuple[date, float] | None = None
        self._writers = anyio.CapacityLimiter(WRITTEN_AT_ONCE)

    @property
    def address(self) -> str:
        """The folder's absolute path, and the disk that it is on. Links are resolved: they may lead elsewhere later."""
        return str(FolderAddress(self._path, self._disk))

    @property
    def _path(self) -> Path:
        if self._private:  # the folder itself must not be a link
            return Path(os.path.realpath(self.folder.parent), self.folder.name)
        return Path(os.path.realpath(self.folder))

    @property
    def unreadable(self) -> Path:
        """The folder of answers that are not readable pictures."""
        return self.folder / UNREADABLE

    async def prepare(self, day: date) -> None:
        """Make sure that a picture can be kept, before one is paid for. Does nothing if that was so a second ago."""
        now = time.monotonic()
        if self._checked is None or self._checked[0] != day or now - self._checked[1] > CHECK_SECONDS:
            self._checked = None
            await anyio.to_thread.run_sync(self._prepare, day)
            self._checked = day, now

    def _prepare(self, day: date) -> None:
        try:
            with tempfile.TemporaryFile(dir=confinement.subfolder(self._root(), day.isoformat())) as file:
                _reserve(file.fileno(), WANTED_BYTES)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    def _root(self) -> Path:
        """Return the folder; a private one is made and checked."""
        return confinement.own_folder(self.folder) if self._private else self.folder

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        """Write a picture, completely or not at all; see `ImageStore`."""
        folders = (day.isoformat(),)
        return await anyio.to_thread.run_sync(self._save, data, name, image_id, *folders, limiter=self._writers)

    def _save(self, data: bytes, name: str, image_id: str, *folders: str) -> ImageLocation:
        """Write a file into the subfolder of these names; returns its place."""
        try:
            subfolder = confinement.subfolder(self._root(), *folders)
            path = _write(data, subfolder, name, image_id)
        except OSError as error:
            self._checked = None
            said = f"The folder {self.folder} could not be written: {error.strerror}"
            raise GalleryError(said, charged=Charged.YES) from error
        self._clear(subfolder)
        return ImageLocation(self.address, "/".join((*folders, path.name)))

    def _clear(self, subfolder: Path) -> None:
        """Remove temporary files of servers that died. Done once in `STALE_SECONDS` for a folder: it takes time."""
        now = time.monotonic()
        if now - self._cleared.get(subfolder, -atomic_write.STALE_SECONDS) >= atomic_write.STALE_SECONDS:
            self._cleared[subfolder] = now
            atomic_write.clear(subfolder)

    async def set_aside(self, data: bytes, name: str, day: date) -> ImageLocation:
        """Keep an answer that is not a readable picture but was paid for; returns its place.

        If the answer does not begin like a picture, only its first million bytes are kept.
        """
        data = data[: MAX_BYTES if recognise(data) else UNREADABLE_BYTES]
        names = (UNREADABLE, day.isoformat())
        digest = sha256(data).hexdigest()
        return await anyio.to_thread.run_sync(self._save, data, name, digest, *names, limiter=self._writers)

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture that a server saved, but could not note before it died; None if there is none."""
        possible = dict.fromkeys((*names_of(ascii_name(name), image_id), *names_of(name, image_id)))
        for each in reversed(possible):
            with suppress(OSError, UnicodeEncodeError):
                return await anyio.to_thread.run_sync(self._read, f"{day.isoformat()}/{each}")
        return None

    async def read(self, key: str) -> bytes:
        """Return the bytes of a kept picture."""
        try:
            # A caller that is cancelled does not wait for a disk that hangs.
            return await anyio.to_thread.run_sync(self._read, key, abandon_on_cancel=True)
        except OSError as error:
            said = f"The picture {self._path / key} cannot be read: {error.strerror}"
            raise GalleryError(said, next_step="Put the file back, or draw it again") from error

    def _read(self, key: str) -> bytes:
        self._require_own()
        return confinement.below(self.folder, key).read_bytes()

    def _require_own(self) -> None:
        if self._private:  # it may be in a folder that all users can write to
            confinement.require_own(self.folder)

    async def is_missing(self, key: str) -> bool:
        """Whether the folder can be read and the picture's file is not there."""
        return await anyio.to_thread.run_sync(self._is_missing, key, abandon_on_cancel=True)

    def _is_missing(self, key: str) -> bool:
        try:
            return self.folder.is_dir() and not os.path.lexists(self.folder / key)
        except OSError:
            return False

    async def identity(self, key: str) -> object:
        """Return a value that only the same file has, by whatever path it is reached; None if it is missing."""
        return await anyio.to_thread.run_sync(self._identity, key, abandon_on_cancel=True)

    def _identity(self, key: str) -> object:
        try:
            found = (self.folder / key).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise GalleryError(f"The picture {self._path / key} cannot be read: {error.strerror}") from error
        return found.st_dev, found.st_ino

    async def delete(self, key: str) -> None:
        """Delete a picture's file, if it exists, and the folder of its day if it is empty then."""
        try:
            await anyio.to_thread.run_sync(self._delete, key)
        except FileNotFoundError:
            pass
        except OSError as error:
            said = f"The picture {self._path / key} cannot be deleted: {error.strerror}"
            raise GalleryError(said, next_step="Delete the file yourself, or keep it") from error

    def _delete(self, key: str) -> None:
        self._require_own()
        day, _, name = key.rpartition("/")
        folder = confinement.below(self.folder, day)
        (folder / name).unlink()
        with suppress(OSError):
            folder.rmdir()

    # ---- the folder as a whole ----

    def probe(self) -> bool:
        """Whether the folder exists; does not make it."""
        try:
            return confinement.probe(self.folder)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    def sizes(self) -> list[int]:
        """Return the size of each picture in the folder in bytes, pictures of other programs included."""
        if self.folder.exists() and not self.folder.is_dir():
            raise GalleryError(f"{self.folder} is not a folder")
        return [
            size for file, size in _sizes(self.folder) if file.suffix in SUFFIXES and file.parent != self.unreadable
        ]

    def sizes_aside(self) -> list[int]:
        """Return the size of each kept answer that is not a readable picture, in bytes."""
        return [size for _, size in _sizes(self.unreadable)]


def _reserve(file: int, size: int) -> None:
    """Take so many bytes of the disk for a file. Unlike the free space of the disk, this also shows a quota.

    Raises:
        OSError: They are not there.
    """
    if sys.platform == "linux":
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # the file system cannot do that
                raise
        else:
            return
    piece = bytes(size // 16)
    for _ in range(16):
        os.write(file, piece)


def _write(data: bytes, folder: Path, name: str, image_id: str) -> Path:
    """Write a picture; if the file system does not accept its name, under a name in ASCII."""
    try:
        return atomic_write.write(data, folder, *names_of(name, image_id))
    except (OSError, UnicodeEncodeError):  # UnicodeEncodeError: the locale does not have such letters
        if name.isascii():
            raise
        return atomic_write.write(data, folder, *names_of(ascii_name(name), image_id))


def _sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files in the subfolders of a folder, with their sizes in bytes; without files that vanish meanwhile."""
    for file in folder.glob("*/*"):
        with suppress(OSError):
            yield file, file.stat().st_size
