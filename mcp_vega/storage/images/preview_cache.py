"""Small previews of the kept pictures. Each is made once and kept as a file. The folder may be deleted at any time."""

import logging
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from mcp_vega.imaging.integrity import is_complete
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.storage import folders
from mcp_vega.telemetry.recorder import recorder

logger = logging.getLogger(__name__)


class PreviewCache:
    """The previews of pictures, in folders for this user only, which are made when they are needed.

    A preview is <folder>/0f/0f1c…2d.jpg, named after the picture's id. The bytes of a picture with an id never change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # An `ImageProcessor` of its own, for one picture at a time: a gallery that is shown for the first time must not
        # delay the results of calls.
        self._processor = ImageProcessor(at_once=1)

    async def get(self, image_id: str) -> bytes | None:
        """Return the preview of a picture; None if none is kept, or if its file is damaged."""
        # A caller that is cancelled does not wait for a disk that hangs.
        found = await anyio.to_thread.run_sync(self._read, image_id, abandon_on_cancel=True)
        if found:
            recorder().preview_reused()
        return found

    async def make(self, image_id: str, data: bytes) -> bytes:
        """Make and keep the preview of a picture: a JPEG, or the same bytes if they are a small JPEG or PNG already.

        Raises:
            GalleryError: The file is no longer a complete picture.
        """
        made = await self._processor.preview(data, "thumbnail")
        await anyio.to_thread.run_sync(self._write, image_id, made.bytes)
        return made.bytes

    async def remove(self, image_id: str) -> None:
        """Remove the preview of a picture, if it exists."""
        await anyio.to_thread.run_sync(self._remove, image_id)

    def _path(self, image_id: str) -> Path:
        return self._folder / image_id[:2] / f"{image_id}.jpg"

    def _read(self, image_id: str) -> bytes | None:
        try:
            data = self._path(image_id).read_bytes()
        except OSError:
            return None
        # A power cut may have cut off the end of the file.
        return data if is_complete(data) else None

    def _write(self, image_id: str, data: bytes) -> None:
        """Keep a preview. If that fails, the preview is made again the next time."""
        path = self._path(image_id)
        try:
            folders.make(path.parent, 0o700)
            folders.replace_file(path, data)
        except OSError as error:
            logger.info("A preview cannot be kept in %s: %s", self._folder, error.strerror or error)

    def _remove(self, image_id: str) -> None:
        with suppress(OSError):
            self._path(image_id).unlink()
