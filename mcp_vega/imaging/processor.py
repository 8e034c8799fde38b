"""Works on picture bytes off the event loop, one picture at a time.

Decoding takes more memory and time than anything else in this server. Two decodings at the same time would double both.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from mcp_vega.errors import GalleryError, UnreadableAnswer
from mcp_vega.imaging import preview, sheet
from mcp_vega.imaging.preview import InvalidImageError, Measured, Mode, Preview
from mcp_vega.imaging.sheet import Sheet

T = TypeVar("T")


class ImageProcessor:
    """Measures pictures, and makes previews and sheets of them."""

    def __init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(1)
        # A cancelled call leaves its thread running, and the limiter already admits the next call.
        self._one = threading.Lock()

    async def measure(self, data: bytes) -> Measured:
        """Return the format and size of a picture that the API sent.

        Raises:
            UnreadableAnswer: It cannot be decoded completely, or claims to be larger than any picture of the models.
        """
        try:
            return await anyio.to_thread.run_sync(self._alone, preview.measure, data, limiter=self.limiter)
        except InvalidImageError as error:
            raise UnreadableAnswer(f"The picture in the API's answer {error}", received=data) from error

    async def previews(self, data: list[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
        """As `preview.previews`. A caller that is cancelled leaves immediately."""
        return await anyio.to_thread.run_sync(
            self._alone, preview.previews, data, mode, taken, limiter=self.limiter, abandon_on_cancel=True
        )

    async def sheet(self, data: list[bytes], mode: Mode, taken: int = 0) -> Sheet | None:
        """As `sheet.sheet`. A caller that is cancelled leaves immediately."""
        return await anyio.to_thread.run_sync(
            self._alone, sheet.sheet, data, mode, taken, limiter=self.limiter, abandon_on_cancel=True
        )

    def _alone(self, work: Callable[..., T], *arguments: Any) -> T:
        with self._one:
            return work(*arguments)

    async def preview(self, data: bytes, mode: Mode) -> Preview:
        """Return the preview of one picture, in a mode that is not `off`.

        Raises:
            GalleryError: The file is no longer a complete picture.
        """
        for made in await self.previews([data], mode):
            if made:
                return made
        said = "The file is no longer a complete picture"
        raise GalleryError(said, next_step="Put the file back, or draw it again")
