"""Small previews of the kept pictures, made once: files in a folder that may be deleted at any time."""

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_vega.imaging.formats import recognise
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import Image
from mcp_vega.storage import folders

logger = logging.getLogger(__name__)

# How many are made at once. The whole picture of each is in memory meanwhile, and a page asks for many.
MADE_AT_ONCE = 4


class PreviewCache:
    """The previews of pictures, below a folder for this user alone that is made when the first is kept.

    <folder>/0f/0f1c…2d.jpg, by the picture's id, whose bytes never change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # One of its own: results do not wait for a gallery that is looked at for the first time.
        self._processor = ImageProcessor()
        self._makers = anyio.CapacityLimiter(MADE_AT_ONCE)

    async def get(self, image: Image, read: Callable[[Image], Awaitable[bytes]]) -> bytes:
        """A preview of a picture as a JPEG, or the picture itself where that is a small JPEG or PNG.

        `read` gives the whole picture; it is asked where no preview is kept yet, or where that file is damaged.

        Raises:
            VegaError: The picture cannot be read, or is none any more.
        """
        kept = await self._kept(image.id)
        if kept is not None:
            return kept
        async with self._makers:
            kept = await self._kept(image.id)  # others may have waited for it as well
            if kept is None:
                kept = (await self._processor.preview(await read(image), "thumbnail")).bytes
                await anyio.to_thread.run_sync(self._write, image.id, kept)
        return kept

    async def _kept(self, image_id: str) -> bytes | None:
        # Whoever gives up does not wait for a disk that hangs.
        return await anyio.to_thread.run_sync(self._read, image_id, abandon_on_cancel=True)

    async def remove(self, image_id: str) -> None:
        """Remove the preview of a picture, if it is there."""
        await anyio.to_thread.run_sync(self._remove, image_id)

    def _path(self, image_id: str) -> Path:
        return self._folder / image_id[:2] / f"{image_id}.jpg"

    def _read(self, image_id: str) -> bytes | None:
        try:
            data = self._path(image_id).read_bytes()
        except OSError:
            return None
        # A power cut may leave a file without its end.
        found = recognise(data)
        return data if found and found.is_whole(data) else None

    def _write(self, image_id: str, data: bytes) -> None:
        """Keep a preview. Where that cannot be done it is made again the next time."""
        path = self._path(image_id)
        part = path.with_name(f".{image_id}.{secrets.token_hex(4)}.part")
        try:
            folders.make(path.parent, 0o700)
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            logger.info("A preview cannot be kept in %s: %s", self._folder, error.strerror or error)

    def _remove(self, image_id: str) -> None:
        with suppress(OSError):
            self._path(image_id).unlink()
