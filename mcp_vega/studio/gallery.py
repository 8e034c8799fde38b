"""The pictures, in a folder of the user's: the only module that writes into it.

<folder>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg
"""

import os
import re
import secrets
import sys
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError

SLUG_LENGTH = 40
# What must fit on the disk before a picture is paid for: four large JPEGs.
ROOM = 4_000_000
# A file that was being written this long ago is being written no more.
STALE_SECONDS = 600


class Gallery:
    """Keeps pictures below one folder and never overwrites one.

    Args:
        folder: It is made when the first picture is asked for.
        spares: Folders for pictures that were paid for when the first will not take them, in this order.
    """

    def __init__(self, folder: Path, spares: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._spares = spares

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept, before one is paid for.

        Raises:
            GalleryError: The folder cannot be made or written.
        """
        await anyio.to_thread.run_sync(self._prepare, day)

    def _prepare(self, day: date) -> None:
        try:
            with tempfile.TemporaryFile(dir=_room(self.folder, day)) as file:
                file.write(b"-" * ROOM)
        except OSError as error:
            raise GalleryError(f"The folder {self.folder} cannot be written: {error.strerror}") from error

    async def keep(self, data: bytes, name: str, image_id: str, day: date) -> tuple[Path, str]:
        """Write a picture so that it is whole on the disk or not there at all.

        A picture that is there already, because a server died before it could note that, stays the one.

        Args:
            data: The picture.
            name: The beginning of its file name, from `name_of`, and its suffix.
            image_id: Its id.
            day: The folder below the gallery's.

        Returns:
            Its absolute path; and, where that is not in the gallery's folder, why.

        Raises:
            GalleryError: No folder would take it. It was paid for.
        """
        return await anyio.to_thread.run_sync(self._keep, data, name, image_id, day)

    def _keep(self, data: bytes, name: str, image_id: str, day: date) -> tuple[Path, str]:
        problem = ""
        for folder in (self.folder, *self._spares):
            try:
                if folder in self._spares:
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return _written(data, _room(folder, day), name, image_id), problem
            except OSError as error:
                problem = problem or f"The folder {self.folder} could not be written: {error.strerror}"
        raise GalleryError(f"{problem}; nor could any other", charged=Charged.YES)

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that was kept by these words, though nobody noted it; None where there is none.

        Args:
            name: The beginning of its file name, from `name_of`, and its suffix.
            image_id: Its id.
            day: The folder below the gallery's.
        """
        return await anyio.to_thread.run_sync(self._find, name, image_id, day)

    def _find(self, name: str, image_id: str, day: date) -> bytes | None:
        beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
        for folder in (self.folder, *self._spares):
            for digits in (image_id, image_id[:8]):
                with suppress(OSError):
                    return (folder / day.isoformat() / f"{beginning}-{digits}{suffix}").read_bytes()
        return None

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


def _room(folder: Path, day: date) -> Path:
    room = folder.resolve() / day.isoformat()
    room.mkdir(parents=True, exist_ok=True)
    return room


def _written(data: bytes, room: Path, name: str, image_id: str) -> Path:
    """Write a picture under the short name or, where that is another picture's, under the long one."""
    beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
    short, long = (room / f"{beginning}-{digits}{suffix}" for digits in (image_id[:8], image_id))
    if _was_free(short, data) or short.read_bytes() == data:
        return short
    _was_free(long, data)
    return long


def _was_free(target: Path, data: bytes) -> bool:
    """Write a file, unless its name is taken."""
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _place(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
        _clear(target)
    _sync(target.parent)
    return True


def _clear(target: Path) -> None:
    """Remove what a server left behind that died while it wrote this picture."""
    for part in target.parent.glob(f".{target.stem}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _place(temporary: Path, target: Path) -> None:
    """Give a finished file its name, unless the name is taken.

    A link refuses a name that is taken; file systems without links get the name reserved by an empty file.
    """
    try:
        os.link(temporary, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:
        target.touch(exist_ok=False)
        try:
            temporary.replace(target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut as well; Windows does so by itself."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def name_of(prompt: str, seed: int, suffix: str) -> str:
    """What a picture's file is called, but for its id, in words that any system takes."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_LENGTH].strip("-") or "picture"
    return f"{slug}-{seed}{suffix}"
