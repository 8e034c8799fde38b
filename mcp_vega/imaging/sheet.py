"""Several pictures as one: a contact sheet, on which each has its number.

A pure function that takes a while: `ImageProcessor` calls it off the event loop. Pillow is imported on first use,
because the handshake does without it.
"""

import math
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from mcp_vega.imaging.preview import PREVIEW_LIMITS, InvalidImageError, Mode, Preview, as_rgb, fitted, opened

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 6  # pixels between two pictures
BACKGROUND, LABEL, DIGITS = (24, 24, 27), (0, 0, 0), (255, 255, 255)
# The height of the digits: a share of a cell's side, but legible on a small sheet and not in the way on a large one.
DIGITS_SHARE, LEAST_DIGITS, MOST_DIGITS = 1 / 6, 18, 44


class Sheet(NamedTuple):
    """A contact sheet, and the number on it of each picture that was given: None for what is no whole picture."""

    preview: Preview
    numbers: list[int | None]


def sheet(pictures: Sequence[bytes], mode: Mode, taken: int = 0) -> Sheet | None:
    """Pictures in rows on one JPEG, numbered from 1 in their order; None where none of them is whole.

    It is within the limit of one preview in a mode that is not `off`, of which `taken` characters are gone.
    """
    limit = PREVIEW_LIMITS[mode]
    side = _cell_side(limit.side, len(pictures))
    thumbnails = [_thumbnail(data, side) for data in pictures]
    whole = [each for each in thumbnails if each]
    if not whole:
        return None
    numbers = count(1)
    made = fitted(_laid_out(whole, side), limit.side, limit.characters - taken, limit.qualities)
    return Sheet(made, [next(numbers) if each else None for each in thumbnails])


def _columns(pictures: int) -> int:
    """As many as rows, or one more."""
    return math.ceil(math.sqrt(pictures))


def _cell_side(side: int, pictures: int) -> int:
    """The pixels that each picture has in both directions on a sheet of `side` pixels."""
    columns = max(_columns(pictures), 1)
    return (side - GAP * (columns - 1)) // columns


def _thumbnail(data: bytes, side: int) -> "Image | None":
    """A picture of at most `side` pixels; None where it is no whole one."""
    try:
        with opened(data) as (_, picture):
            picture.draft("RGB", (side, side))  # libjpeg decodes at a half or a quarter where that is enough
            picture.load()
            small = as_rgb(picture)
            small.thumbnail((side, side))
            return small
    except InvalidImageError:
        return None


def _laid_out(pictures: Sequence["Image"], side: int) -> "Image":
    """The sheet: each picture in the middle of its cell, and its number in the cell's upper left corner."""
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
        # White on black with a white edge, to be seen on dark and on light pictures.
        width = max(font.getlength(number) + size * 0.6, size * 1.25)
        box = (x + 5, y + 5, x + 5 + width, y + 5 + size * 1.25)
        draw.rounded_rectangle(box, size // 4, fill=LABEL, outline=DIGITS, width=2)
        draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), number, font=font, anchor="mm", fill=DIGITS)
    return canvas
