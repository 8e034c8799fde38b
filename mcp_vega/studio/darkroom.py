"""The darkroom: works on picture bytes off the event loop, one picture at a time.

Decoding takes the most memory and time of all that this server does; two at once would take twice of both.
"""

import anyio
import anyio.to_thread

from mcp_vega.studio import pictures
from mcp_vega.studio.pictures import Mode, Preview


class Darkroom:
    """Measures pictures and makes previews."""

    def __init__(self) -> None:
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def measure(self, data: bytes) -> tuple[int, int]:
        """Width and height in pixels of a picture that can be decoded to its end.

        Raises:
            UnreadableAnswer: It cannot, or it claims to be larger than any picture of the models.
        """
        return await anyio.to_thread.run_sync(pictures.measure, data, limiter=self._one_at_a_time)

    async def previews(self, data: list[bytes], mode: Mode) -> list[Preview]:
        """The pictures of one result, together within the mode's budget; none when it is `off`.

        Raises:
            UnreadableAnswer: One of them is no whole picture any more.
        """
        return await anyio.to_thread.run_sync(pictures.previews, data, mode, limiter=self._one_at_a_time)
