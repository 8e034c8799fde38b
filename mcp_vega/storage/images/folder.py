"""The pictures, in a folder of the user's. Nothing else writes into it.

<folder>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg

What came from the API in the place of a picture lies in <folder>/unreadable, under the like names.
"""

import os
import re
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.imaging.formats import MAX_BYTES, SUFFIXES, recognise
from mcp_vega.job import Image
from mcp_vega.storage.images import atomic_write, confinement

SLUG_LENGTH = 40
UNREADABLE = "unreadable"
# How much is kept of what does not even begin like a picture.
UNREADABLE_BYTES = 1_000_000
# What must fit on the disk before a picture is paid for: four large JPEGs. Written in pieces, to save memory.
WANTED_BYTES = 4_000_000
_PIECE = b"-" * 250_000


class ImageFolder:
    """Keeps pictures below one folder and never overwrites one.

    A picture's `name` is that of `file_name`, without the digits of its id; its `day` is the folder that it lies in.
    What cannot be written or read is a `GalleryError`.

    Args:
        folder: It is made when the first picture is asked for.
        spares: Folders for pictures that were paid for when the first will not take them, in this order.
    """

    def __init__(self, folder: Path, spares: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._spares = spares
        self._cleared: dict[Path, float] = {}

    @property
    def unreadable(self) -> Path:
        """The folder of what came in the place of pictures."""
        return self.folder / UNREADABLE

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept, before one is paid for."""
        await anyio.to_thread.run_sync(self._prepare, day)

    def _prepare(self, day: date) -> None:
        try:
            with tempfile.TemporaryFile(dir=confinement.subfolder(self.folder, day.isoformat())) as file:
                for _ in range(WANTED_BYTES // len(_PIECE)):
                    file.write(_PIECE)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> tuple[Path, str]:
        """Write a picture so that it is whole on the disk or not there at all.

        A picture that is there already, because a server died before it could note that, stays the one.

        Returns:
            Its absolute path; and, where that is not in the gallery's folder, why.
        """
        return await anyio.to_thread.run_sync(self._save, data, name, image_id, day.isoformat())

    def _save(self, data: bytes, name: str, image_id: str, *names: str) -> tuple[Path, str]:
        """Write a file into the folder of these names below the gallery's or, where that will not take it, a spare."""
        problem = ""
        for folder in (self.folder, *self._spares):
            try:
                root = confinement.own_folder(folder) if folder in self._spares else folder
                subfolder = confinement.subfolder(root, *names)
                path = atomic_write.write(data, subfolder, name, image_id)
            except OSError as error:
                problem = problem or f"The folder {self.folder} could not be written: {error.strerror}"
            else:
                self._clear(subfolder)
                return path, problem
        raise GalleryError(f"{problem}; nor could any other", charged=Charged.YES)

    def _clear(self, subfolder: Path) -> None:
        """Remove what servers left behind that died while they wrote; now and then, as it takes time."""
        now = time.monotonic()
        if now - self._cleared.get(subfolder, -atomic_write.STALE_SECONDS) >= atomic_write.STALE_SECONDS:
            self._cleared[subfolder] = now
            atomic_write.clear(subfolder)

    async def set_aside(self, data: bytes, name: str, day: date) -> Path | None:
        """Keep what came in the place of a picture that was paid for; returns its path, None where nothing took it.

        Of what does not even begin like a picture, the first million bytes are kept.
        """
        data = data[: MAX_BYTES if recognise(data) else UNREADABLE_BYTES]
        names = (UNREADABLE, day.isoformat())
        with suppress(GalleryError):
            return (await anyio.to_thread.run_sync(self._save, data, name, sha256(data).hexdigest(), *names))[0]
        return None

    async def read_unrecorded(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that was saved, though its server died before it could note that; None where there is none."""
        return await anyio.to_thread.run_sync(self._read_unrecorded, name, image_id, day)

    def _read_unrecorded(self, name: str, image_id: str, day: date) -> bytes | None:
        beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
        for folder in (self.folder, *self._spares):
            for digits in (image_id, image_id[:8]):
                with suppress(OSError):
                    path = folder.resolve() / day.isoformat() / f"{beginning}-{digits}{suffix}"
                    return self._read(path)
        return None

    async def read(self, path: Path) -> bytes:
        """The bytes of a kept picture."""
        try:
            return await anyio.to_thread.run_sync(self._read, path)
        except OSError as error:
            raise GalleryError(
                f"The picture {path} cannot be read: {error.strerror}", next_step="Put the file back, or draw it again"
            ) from error

    def _read(self, path: Path) -> bytes:
        for spare in self._spares:  # one of them is in a folder that is everybody's
            if path.is_relative_to(spare.resolve()):
                confinement.require_own(spare)
        return confinement.read(path, (self.folder, *self._spares))

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

    def holds(self, image: Image) -> bool:
        """Whether a picture's file is there, in one of its folders, as it was kept: anything else is the user's."""
        if image.path is None:
            return False
        try:
            path = image.path.resolve(strict=True)
            inside = any(path.is_relative_to(folder.resolve()) for folder in (self.folder, *self._spares))
            return inside and sha256(path.read_bytes()).hexdigest() == image.sha256
        except OSError:
            return False

    def delete(self, image: Image) -> None:
        """Delete a picture's file, and its day's folder once that is empty."""
        if image.path is None:
            return
        try:
            image.path.unlink(missing_ok=True)
        except OSError as error:
            said = f"The picture {image.path} cannot be deleted: {error.strerror}"
            raise GalleryError(said, next_step="Delete it yourself, or leave it") from error
        with suppress(OSError):
            image.path.parent.rmdir()


def _sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files below the folders in a folder, with their bytes; one that goes meanwhile is none."""
    for file in folder.glob("*/*"):
        with suppress(OSError):
            yield file, file.stat().st_size


def file_name(prompt: str, seed: int, suffix: str) -> str:
    """What a picture's file is called, but for its id, in words that any system takes."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_LENGTH].strip("-") or "picture"
    return f"{slug}-{seed}{suffix}"
