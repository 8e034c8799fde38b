"""Picture bytes: measured, and made small enough for a conversation.

Pure functions; they take a while, so they are called in a worker thread. Pillow is imported on first use, because
the handshake does without it.
"""

import io
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mcp_vega.errors import UnreadableAnswer
from mcp_vega.segmind.media import JPEG, PNG, recognise

if TYPE_CHECKING:
    from PIL.Image import Image

# Four times the pixels that either model draws: anything larger is no picture of theirs.
MAX_PIXELS = 4 * 1024 * 1024
QUALITIES = (80, 65, 50, 35)
SHRINK = (1, 0.75, 0.5, 0.33)

Mode = Literal["auto", "small", "full", "off"]


@dataclass(frozen=True)
class Budget:
    """The room for all previews of one result: their longest sides in pixels, their base64 in characters."""

    side: int
    side_of_several: int
    characters: int


BUDGETS: dict[Mode, Budget] = {
    "auto": Budget(768, 512, 137_000),
    "small": Budget(512, 320, 60_000),
    # 700,000 raw bytes: a message of more than 1 MiB ends the connection of several clients.
    "full": Budget(1024, 1024, 700_000 // 3 * 4),
}


@dataclass(frozen=True)
class Preview:
    """A picture as it goes into a result: its bytes as base64."""

    data: str
    mime_type: str


def measure(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of a picture that can be decoded to its end.

    Raises:
        UnreadableAnswer: It cannot, or it claims to be larger than any picture of the models.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise UnreadableAnswer(f"The picture claims to be {width} × {height} pixels, too large to be true")
            picture.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnreadableAnswer("The picture in the API's answer is damaged") from error
    return width, height


def previews(pictures: list[bytes], mode: Mode) -> list[Preview]:
    """The pictures of one result, together within the mode's budget; none when it is `off`."""
    if mode == "off" or not pictures:
        return []
    budget = BUDGETS[mode]
    side = budget.side if len(pictures) == 1 else budget.side_of_several
    return [_preview(data, side, budget.characters // len(pictures)) for data in pictures]


def _preview(data: bytes, side: int, characters: int) -> Preview:
    """The largest, then finest form of a picture that fits: itself, else a JPEG of at most `side` pixels."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        found = recognise(data)
        if found in (JPEG, PNG) and max(picture.size) <= side and _encoded_length(data) <= characters:
            return Preview(b64encode(data).decode(), found.mime_type)
        small = b""
        for small in _ladder(picture, side):
            if _encoded_length(small) <= characters:
                break
    return Preview(b64encode(small).decode(), JPEG.mime_type)


def _ladder(picture: "Image", side: int) -> Iterator[bytes]:
    """Ever smaller JPEGs of a picture: the quality goes down first, then the size."""
    for share in SHRINK:
        size = round(side * share)
        picture.draft("RGB", (size, size))  # libjpeg decodes at a half or a quarter where that is enough
        smaller = picture.convert("RGB")
        smaller.thumbnail((size, size))
        for quality in QUALITIES:
            buffer = io.BytesIO()
            smaller.save(buffer, "JPEG", quality=quality, optimize=True)
            yield buffer.getvalue()


def _encoded_length(data: bytes) -> int:
    return (len(data) + 2) // 3 * 4
