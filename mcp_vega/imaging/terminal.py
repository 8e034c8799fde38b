"""Pictures as text that a terminal shows as pictures.

Every terminal with colours shows half blocks: the character ▀ has one colour for its upper half and one for its lower
half, so that a cell holds two pixels. Some terminals show PNG data in escape sequences: those of kitty
(https://sw.kovidgoyal.net/kitty/graphics-protocol/) or of iTerm2 (https://iterm2.com/documentation-images.html).
"""

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from mcp_vega.imaging.preview import as_rgb, opened

if TYPE_CHECKING:
    from PIL.Image import Image

# How many columns one picture takes at most; with fewer than the second figure nothing can be seen in it.
WIDEST, NARROWEST = 60, 8
# Columns between two pictures. As a cell is twice as high as wide, that is one row.
GAP = 2
# Pixels that a terminal with graphics gets for a column. More look sharper, and take longer over a slow connection.
PIXELS = 10
# Characters of base64 in one escape sequence of kitty.
CHUNK = 4096
# The 256 colours without the first 16, which each terminal defines for itself: a cube, then grey.
CUBE = (0, 95, 135, 175, 215, 255)
COLOURS = [
    *((red, green, blue) for red, green, blue in product(CUBE, repeat=3)),
    *((level, level, level) for level in range(8, 248, 10)),
]
FIRST_COLOUR = 16
RESET = "\x1b[0m"


class Form(Enum):
    """How a terminal is shown a picture."""

    BLOCKS = auto()  # half blocks, any colour
    BLOCKS_256 = auto()  # half blocks, the 256 colours of older terminals
    KITTY = auto()
    ITERM2 = auto()


class Layout(NamedTuple):
    """How many pictures are next to each other, and the width of each in columns."""

    across: int
    width: int


def as_text(pictures: Sequence[bytes], form: Form, columns: int, rows: int) -> str:
    """Pictures next to or below each other, as lines of text that take at most so many columns and rows.

    Empty if there are no pictures, or if there is too little room.

    Raises:
        InvalidImageError: One is not a complete picture.
    """
    images = [_decoded(data) for data in pictures]
    if not images:
        return ""
    ratio = images[0].width / images[0].height  # the pictures of a call have the same size
    layout = _layout(len(images), ratio, columns, rows)
    if layout.width < NARROWEST:
        return ""
    if form in (Form.BLOCKS, Form.BLOCKS_256):
        return _half_blocks(_arranged(images, layout, ratio, 1), form)
    canvas = _arranged(images, layout, ratio, PIXELS)
    size = canvas.width // PIXELS, ceil(canvas.height / PIXELS / 2)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return _kitty(buffer.getvalue(), *size) if form is Form.KITTY else _iterm2(buffer.getvalue(), *size)


def _decoded(data: bytes) -> "Image":
    with opened(data) as (_, picture):
        picture.draft("RGB", (WIDEST * PIXELS, WIDEST * PIXELS))  # JPEG is decoded faster to a smaller size
        picture.load()
        return as_rgb(picture)


# ---- the arrangement ----


def _layout(count: int, ratio: float, columns: int, rows: int) -> Layout:
    """The arrangement with the largest pictures; `ratio` is their width divided by their height."""
    layouts: list[Layout] = []
    for across in range(1, count + 1):
        below = ceil(count / across)
        height = (rows - (below - 1)) // below
        width = min(WIDEST, (columns - GAP * (across - 1)) // across, int(2 * height * ratio))
        layouts.append(Layout(across, width))
    return max(layouts, key=lambda layout: (layout.width, layout.across))


def _arranged(images: Sequence["Image"], layout: Layout, ratio: float, scale: int) -> "Image":
    """One picture of all, with `scale` pixels for a column and twice as many for a row; nothing is between them."""
    from PIL import Image

    width, height = layout.width * scale, max(round(layout.width * scale / ratio), 1)
    gap, below = GAP * scale, ceil(len(images) / layout.across)
    size = layout.across * (width + gap) - gap, below * (height + gap) - gap
    canvas = Image.new("RGBA", size)
    for number, image in enumerate(images):
        row, column = divmod(number, layout.across)
        canvas.paste(
            image.resize((width, height), Image.Resampling.LANCZOS), (column * (width + gap), row * (height + gap))
        )
    return canvas


# ---- half blocks ----


def _half_blocks(canvas: "Image", form: Form) -> str:
    colours = _any_colours(canvas) if form is Form.BLOCKS else _256_colours(canvas)
    lines = [colours[at : at + canvas.width] for at in range(0, len(colours), canvas.width)]
    if len(lines) % 2:
        lines.append([""] * canvas.width)
    return "".join(_line(zip(upper, lower, strict=True)) for upper, lower in zip(lines[::2], lines[1::2], strict=True))


def _any_colours(canvas: "Image") -> list[str]:
    """The colour of each pixel, as escape sequences spell it; empty where there is no picture."""
    data = canvas.tobytes()
    return [f"2;{data[at]};{data[at + 1]};{data[at + 2]}" if data[at + 3] else "" for at in range(0, len(data), 4)]


def _256_colours(canvas: "Image") -> list[str]:
    """The same with the 256 colours, dithered: the nearest colour alone would turn a dark violet into grey."""
    from PIL import Image

    palette = Image.new("P", (1, 1))
    levels = [level for colour in COLOURS for level in colour]
    palette.putpalette(levels + levels[-3:] * FIRST_COLOUR)  # a palette has 256 places
    dithered = canvas.convert("RGB").quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).tobytes()
    drawn = canvas.getchannel("A").tobytes()
    last = len(COLOURS) - 1
    return [f"5;{FIRST_COLOUR + min(at, last)}" if alpha else "" for at, alpha in zip(dithered, drawn, strict=True)]


def _line(cells: Iterable[tuple[str, str]]) -> str:
    parts: list[str] = []
    before = ("", "")
    for upper, lower in cells:
        if (upper, lower) != before:
            parts.append(_colours(upper, lower))
            before = (upper, lower)
        parts.append("▀" if upper else "▄" if lower else " ")
    return f"{''.join(parts)}{RESET}\n"


def _colours(upper: str, lower: str) -> str:
    """What sets the colours of a cell."""
    if upper and lower:
        return f"\x1b[38;{upper};48;{lower}m"
    return f"{RESET}\x1b[38;{upper or lower}m" if upper or lower else RESET


# ---- graphics ----


def _kitty(png: bytes, columns: int, rows: int) -> str:
    """Shows a PNG in so many cells; without `q=2` the terminal would answer on stdin."""
    text = b64encode(png).decode()
    chunks = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    keys = [f"a=T,f=100,q=2,c={columns},r={rows},", *[""] * (len(chunks) - 1)]
    more = [*[1] * (len(chunks) - 1), 0]
    sequences = (
        f"\x1b_G{key}m={goes_on};{chunk}\x1b\\" for key, goes_on, chunk in zip(keys, more, chunks, strict=True)
    )
    return f"{''.join(sequences)}\n"


def _iterm2(png: bytes, columns: int, rows: int) -> str:
    arguments = f"inline=1;size={len(png)};width={columns};height={rows};preserveAspectRatio=1"
    return f"\x1b]1337;File={arguments}:{b64encode(png).decode()}\a\n"
