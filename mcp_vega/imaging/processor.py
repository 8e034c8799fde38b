"""Makes previews off the event loop, as many at the same time as there are cores.

A picture of the models takes about 10 MB while its preview is made.
"""

import os
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from mcp_vega.errors import GalleryError
from mcp_vega.imaging import preview, sheet
from mcp_vega.imaging.preview import Mode, Preview
from mcp_vega.imaging.sheet import Sheet
from mcp_vega.telemetry.recorder import recorder

T = TypeVar("T")

# More at the same time would take more memory than they save time.
MOST_AT_ONCE = 8


class ImageProcessor:
    """Makes previews and sheets of pictures, `at_once` at the same time; the default is one for each core."""

    def __init__(self, at_once: int | None = None) -> None:
        at_once = at_once or min(os.cpu_count() or 1, MOST_AT_ONCE)
        self.limiter = anyio.CapacityLimiter(at_once)
        # A cancelled call leaves its thread running, and the limiter already admits the next call.
        self._running = threading.Semaphore(at_once)
        self._preloaded = False

    def preload(self) -> None:
        """Load the decoders in a thread, unless that was done before: they should be there when a picture comes."""
        if not self._preloaded:
            self._preloaded = True
            threading.Thread(target=preview.load_decoders, name="decoders", daemon=True).start()

    async def previews(self, data: list[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
        """As `preview.previews`. A caller that is cancelled leaves immediately."""
        began = perf_counter()
        made = await self._run(preview.previews, data, mode, taken)
        _report(len(made) - made.count(None), began)
        return made

    async def sheet(self, data: list[bytes], mode: Mode, taken: int = 0) -> Sheet | None:
        """As `sheet.sheet`. A caller that is cancelled leaves immediately."""
        began = perf_counter()
        made = await self._run(sheet.sheet, data, mode, taken)
        _report(1 if made else 0, began)
        return made

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        def do() -> T:
            with self._running:
                return work(*arguments)

        return await anyio.to_thread.run_sync(do, limiter=self.limiter, abandon_on_cancel=True)

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


def _report(made: int, began: float) -> None:
    if made:
        recorder().previews_made(made, perf_counter() - began)
