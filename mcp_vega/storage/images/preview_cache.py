"""Small previews of the kept pictures, made once: files in a folder that may be deleted at any time."""

import logging
import secrets
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from mcp_vega.imaging.formats import recognise
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.storage import folders

logger = logging.getLogger(__name__)


class PreviewCache:
    """The previews of pictures, in folders for this user alone that are made when something is kept in them.

    <folder>/0f/0f1c…2d.jpg, by the picture's id, whose bytes never change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # One of its own: results do not wait for a gallery that is looked at for the first time.
        self._processor = ImageProcessor()

    async def get(self, image_id: str) -> bytes | None:
        """The preview of a picture; None where none is kept, or its file is damaged."""
        # Whoever gives up does not wait for a disk that hangs.
        return await anyio.to_thread.run_sync(self._read, image_id, abandon_on_cancel=True)

    async def make(self, image_id: str, data: bytes) -> bytes:
        """Make and keep the preview of a picture: a JPEG, or its very bytes where they are a small JPEG or PNG.

        Raises:
            GalleryError: It is no whole picture any more.
        """
        made = await self._processor.preview(data, "thumbnail")
        await anyio.to_thread.run_sync(self._write, image_id, made.bytes)
        return made.bytes

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
