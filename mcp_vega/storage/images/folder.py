"""The pictures in a folder of the user's. Nothing else writes into it.

<folder>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg

What came from the API in the place of a picture lies in <folder>/unreadable, under the like names.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.imaging.formats import MAX_BYTES, SUFFIXES, recognise
from mcp_vega.storage.images import atomic_write, confinement
from mcp_vega.storage.images.store import ascii_name, names_of

UNREADABLE = "unreadable"
# How much is kept of what does not even begin like a picture.
UNREADABLE_BYTES = 1_000_000
# What must fit on the disk before a picture is paid for: four large JPEGs. Written in pieces, to save memory.
WANTED_BYTES = 4_000_000
_PIECE = b"-" * 250_000


class ImageFolder:
    """An `ImageStore` that keeps pictures below one folder and never overwrites one.

    Args:
        folder: It is made when the first picture is asked for.
        private: Whether it is made for this user alone, and refused where another user has made it.
    """

    def __init__(self, folder: Path, *, private: bool = False) -> None:
        self.folder = folder
        self._private = private
        self._cleared: dict[Path, float] = {}

    @property
    def address(self) -> str:
        """The folder's absolute path, without the links that are in it now: they may lead elsewhere later."""
        if self._private:  # it is no link itself, or it is refused
            return str(Path(os.path.realpath(self.folder.parent), self.folder.name))
        return os.path.realpath(self.folder)

    @property
    def unreadable(self) -> Path:
        """The folder of what came in the place of pictures."""
        return self.folder / UNREADABLE

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept, before one is paid for."""
        await anyio.to_thread.run_sync(self._prepare, day)

    def _prepare(self, day: date) -> None:
        try:
            with tempfile.TemporaryFile(dir=confinement.subfolder(self._root(), day.isoformat())) as file:
                for _ in range(WANTED_BYTES // len(_PIECE)):
                    file.write(_PIECE)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    def _root(self) -> Path:
        """The folder, ready to be written into; a private one is made."""
        return confinement.own_folder(self.folder) if self._private else self.folder

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> str:
        """Write a picture so that it is whole on the disk or not there at all; see `ImageStore`."""
        return await anyio.to_thread.run_sync(self._save, data, name, image_id, day.isoformat())

    def _save(self, data: bytes, name: str, image_id: str, *folders: str) -> str:
        """Write a file into the folder of these names below this one; returns its key."""
        try:
            subfolder = confinement.subfolder(self._root(), *folders)
            path = _write(data, subfolder, name, image_id)
        except OSError as error:
            said = f"The folder {self.folder} could not be written: {error.strerror}"
            raise GalleryError(said, charged=Charged.YES) from error
        self._clear(subfolder)
        return "/".join((*folders, path.name))

    def _clear(self, subfolder: Path) -> None:
        """Remove what servers left behind that died while they wrote; now and then, as it takes time."""
        now = time.monotonic()
        if now - self._cleared.get(subfolder, -atomic_write.STALE_SECONDS) >= atomic_write.STALE_SECONDS:
            self._cleared[subfolder] = now
            atomic_write.clear(subfolder)

    async def set_aside(self, data: bytes, name: str, day: date) -> str:
        """Keep what came in the place of a picture that was paid for; returns its key.

        Of what does not even begin like a picture, the first million bytes are kept.
        """
        data = data[: MAX_BYTES if recognise(data) else UNREADABLE_BYTES]
        names = (UNREADABLE, day.isoformat())
        return await anyio.to_thread.run_sync(self._save, data, name, sha256(data).hexdigest(), *names)

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that was saved, though its server died before it could note that; None where there is none."""
        possible = dict.fromkeys((*names_of(ascii_name(name), image_id), *names_of(name, image_id)))
        for each in reversed(possible):
            with suppress(OSError, UnicodeEncodeError):
                return await anyio.to_thread.run_sync(self._read, f"{day.isoformat()}/{each}")
        return None

    async def read(self, key: str) -> bytes:
        """The bytes of a kept picture."""
        try:
            # Whoever gives up does not wait for a disk that hangs.
            return await anyio.to_thread.run_sync(self._read, key, abandon_on_cancel=True)
        except OSError as error:
            said = f"The picture {Path(self.address, key)} cannot be read: {error.strerror}"
            raise GalleryError(said, next_step="Put the file back, or draw it again") from error

    def _read(self, key: str) -> bytes:
        self._require_own()
        return confinement.below(self.folder, key).read_bytes()

    def _require_own(self) -> None:
        if self._private:  # one of them is in a folder that is everybody's
            confinement.require_own(self.folder)

    async def delete(self, key: str) -> None:
        """Delete a picture's file, if it is there, and its day's folder once that is empty."""
        try:
            await anyio.to_thread.run_sync(self._delete, key)
        except FileNotFoundError:
            pass
        except OSError as error:
            said = f"The picture {Path(self.address, key)} cannot be deleted: {error.strerror}"
            raise GalleryError(said, next_step="Delete it yourself, or leave it") from error

    def _delete(self, key: str) -> None:
        self._require_own()
        day, _, name = key.rpartition("/")
        folder = confinement.below(self.folder, day)
        (folder / name).unlink()
        with suppress(OSError):
            folder.rmdir()

    # ---- the folder as a whole ----

    def probe(self) -> bool:
        """Whether the folder is there already; none is made."""
        try:
            return confinement.probe(self.folder)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    def sizes(self) -> list[int]:
        """The bytes of each picture in the folder, those of other programs among them."""
        if self.folder.exists() and not self.folder.is_dir():
            raise GalleryError(f"{self.folder} is no folder")
        return [
            size for file, size in _sizes(self.folder) if file.suffix in SUFFIXES and file.parent != self.unreadable
        ]

    def sizes_aside(self) -> list[int]:
        """The bytes of each file that came in the place of a picture."""
        return [size for _, size in _sizes(self.unreadable)]


def _write(data: bytes, folder: Path, name: str, image_id: str) -> Path:
    """Write a picture, under another name where the file system does not take that one."""
    try:
        return atomic_write.write(data, folder, *names_of(name, image_id))
    except (OSError, UnicodeEncodeError):  # the latter comes of a locale that has no such letters
        if name.isascii():
            raise
        return atomic_write.write(data, folder, *names_of(ascii_name(name), image_id))


def _sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files below the folders in a folder, with their bytes; one that goes meanwhile is none."""
    for file in folder.glob("*/*"):
        with suppress(OSError):
            yield file, file.stat().st_size
