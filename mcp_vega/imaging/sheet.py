"""Makes a contact sheet: several pictures in one, each with its number.

A pure function, but slow: `ImageProcessor` calls it off the event loop. Pillow is imported at the first use, because
the handshake does not need it.
"""

import math
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from mcp_vega.imaging.integrity import InvalidImageError
from mcp_vega.imaging.preview import PREVIEW_LIMITS, Mode, Preview, as_rgb, fitted, opened, reduced

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 6  # pixels between two pictures
BACKGROUND, LABEL, DIGITS = (24, 24, 27), (0, 0, 0), (255, 255, 255)
# The height of the digits: a share of a cell's side, with limits, so that they are legible but do not hide the picture.
DIGITS_SHARE, LEAST_DIGITS, MOST_DIGITS = 1 / 6, 18, 44


class Sheet(NamedTuple):
    """A contact sheet, and the number of each given picture on it; None for data that is not a complete picture."""

    preview: Preview
    numbers: list[int | None]


def sheet(pictures: Sequence[bytes], mode: Mode, taken: int = 0) -> Sheet | None:
    """Return pictures in rows on one JPEG, numbered from 1 in their order; None if no picture is complete.

    The sheet stays within the mode's limit for one preview, of which `taken` characters are used already. The mode must
    not be `off`.
    """
    limit = PREVIEW_LIMITS[mode]
    side = _cell_side(limit.side, len(pictures))
    thumbnails = [_thumbnail(data, side) for data in pictures]
    complete = [each for each in thumbnails if each]
    if not complete:
        return None
    numbers = count(1)
    made = fitted(_laid_out(complete, side), limit.side, limit.characters - taken, limit.qualities)
    return Sheet(made, [next(numbers) if each else None for each in thumbnails])


def _columns(pictures: int) -> int:
    """Return the number of columns: as many as rows, or one more."""
    return math.ceil(math.sqrt(pictures))


def _cell_side(side: int, pictures: int) -> int:
    """Return the width and height of a cell on a sheet of `side` pixels."""
    columns = max(_columns(pictures), 1)
    return (side - GAP * (columns - 1)) // columns


def _thumbnail(data: bytes, side: int) -> "Image | None":
    """Return a picture of at most `side` pixels; None if the data is not a complete picture."""
    try:
        with opened(data) as (_, picture):
            picture.draft("RGB", (side, side))  # libjpeg decodes at a half or a quarter of the size, if that is enough
            picture.load()
            return reduced(as_rgb(picture), side)
    except InvalidImageError:
        return None


def _laid_out(pictures: Sequence["Image"], side: int) -> "Image":
    """Return the sheet: each picture in the middle of its cell, with its number in the upper left corner."""
    from PIL import Image, ImageDraw, ImageFont

    columns, step = _columns(len(pictures)), side + GAP
    rows = math.ceil(len(pictures) / columns)
    canvas = Image.new("RGB", (columns * step - GAP, rows * step - GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    size = round(min(max(side * DIGITS_SHARE, LEAST_DIGITS), MOST_DIGITS))
    font = ImageFont.load_default(size)
    for index, picture in enumerate(pictures):
        x, y = index % columns * step, index // columns * step
        canvas.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        number = str(index + 1)
        # White on black with a white edge, so that the number is visible on dark and on light pictures.
        width = max(font.getlength(number) + size * 0.6, size * 1.25)
        box = (x + 5, y + 5, x + 5 + width, y + 5 + size * 1.25)
        draw.rounded_rectangle(box, size // 4, fill=LABEL, outline=DIGITS, width=2)
        draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), number, font=font, anchor="mm", fill=DIGITS)
    return canvas
