"""The pictures, in a folder of the user's: the only module that writes into it.

<folder>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg
"""

import os
import re
import tempfile
import unicodedata
from datetime import date
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError

SLUG_LENGTH = 40


class Gallery:
    """Keeps pictures below one folder and never overwrites one.

    Args:
        folder: It is made when the first picture is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept, before one is paid for.

        Raises:
            GalleryError: The folder cannot be made or written.
        """
        await anyio.to_thread.run_sync(self._prepare, day)

    def _prepare(self, day: date) -> None:
        try:
            with tempfile.TemporaryFile(dir=self._room(day)):
                pass
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    async def keep(self, data: bytes, name: str, day: date) -> Path:
        """Write a picture so that it is whole on the disk or not there at all.

        Args:
            data: The picture.
            name: Its file name, from `file_name`.
            day: The folder below the gallery's.

        Returns:
            Its absolute path.

        Raises:
            GalleryError: It could not be written. It was paid for.
        """
        try:
            return await anyio.to_thread.run_sync(self._keep, data, name, day)
        except OSError as error:
            raise GalleryError(
                f"The picture was drawn but could not be written to {self.folder}: {error.strerror}",
                charged=Charged.YES,
                next_step="Make the folder writable, and look for the picture in your request history at "
                "https://cloud.segmind.com before you draw it again",
            ) from error

    def _keep(self, data: bytes, name: str, day: date) -> Path:
        target = self._room(day) / name
        temporary = target.with_name(f".{target.name}.part")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _place(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _room(self, day: date) -> Path:
        room = self.folder.resolve() / day.isoformat()
        room.mkdir(parents=True, exist_ok=True)
        return room

    async def read(self, path: Path) -> bytes:
        """The bytes of a kept picture.

        Raises:
            GalleryError: The file is gone or cannot be read.
        """
        try:
            return await anyio.Path(path).read_bytes()
        except OSError as error:
            raise GalleryError(
                f"The picture {path} cannot be read: {error.strerror}", next_step="Put the file back, or draw it again"
            ) from error


def _place(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless the name is taken.

    A link refuses a name that is taken; file systems without links get the name reserved by an empty file.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        target.touch(exist_ok=False)
        temporary.replace(target)


def file_name(prompt: str, seed: int, image_id: str, suffix: str) -> str:
    """A file name that any system takes: words of the prompt, the seed, the beginning of the picture's id."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_LENGTH].strip("-") or "picture"
    return f"{slug}-{seed}-{image_id[:8]}{suffix}"
