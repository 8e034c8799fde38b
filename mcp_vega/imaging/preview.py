"""Makes pictures small enough for a conversation, and converts them to other formats.

These are pure functions, but slow: `ImageProcessor` calls them off the event loop. Pillow is imported at the first use,
because the handshake does not need it.
"""

import io
from base64 import b64encode
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Literal

from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import JPEG, PNG, WEBP, Format, recognise
from mcp_vega.imaging.integrity import InvalidImageError, check_size
from mcp_vega.imaging.memory import limit_arenas
from mcp_vega.imaging.parts import without_ancillary_parts

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Several clients close the connection after a message of more than 1 MiB. These bytes are 933,332 characters of base64.
MESSAGE_BYTES = 700_000
SCALES = (1, 0.75, 0.5, 0.33)

# A JPEG with more scans is not decoded: each scan takes as long as a picture. Programs write about ten.
MOST_SCANS = 200
_SCAN = b"\xff\xda"

# The size of the previews in a result. "thumbnail" is for a page that shows many pictures.
Mode = Literal["auto", "small", "full", "off", "thumbnail"]


@dataclass(frozen=True)
class PreviewLimit:
    """The limits of the previews of one result.

    `side` and `side_of_several` are the longest side of a preview in pixels. `characters` is the length of all previews
    as base64. `qualities` are the JPEG qualities that are tried before the size is reduced.
    """

    side: int
    side_of_several: int
    characters: int
    qualities: tuple[int, ...] = (80, 65, 50, 35)


PREVIEW_LIMITS: dict[Mode, PreviewLimit] = {
    "auto": PreviewLimit(768, 512, 137_000),
    "small": PreviewLimit(512, 320, 60_000),
    "thumbnail": PreviewLimit(384, 384, 60_000),
    "full": PreviewLimit(1024, 1024, MESSAGE_BYTES // 3 * 4, (95, 88, 80, 65, 50, 35)),
}


@dataclass(frozen=True)
class Preview:
    """A picture for a conversation. `unchanged`: its bytes are those of the file. Width and height are in pixels."""

    bytes: bytes
    base64: str
    mime_type: str
    width: int
    height: int
    unchanged: bool = False


def previews(pictures: Sequence[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
    """Return the previews of one result; None for data that is not a complete picture. The mode `off` makes none.

    All previews together stay within the mode's limit, of which `taken` characters are used already. Each preview gets
    an equal share of the characters that are left.
    """
    if mode == "off":
        return []
    limit = PREVIEW_LIMITS[mode]
    side = limit.side if len(pictures) == 1 else limit.side_of_several
    made: list[Preview | None] = []
    characters = limit.characters - taken
    for left, data in zip(range(len(pictures), 0, -1), pictures, strict=True):
        try:
            preview = _preview(data, side, characters // left, limit.qualities)
        except InvalidImageError:
            made.append(None)
        else:
            made.append(preview)
            characters -= len(preview.base64)
    return made


def converted(data: bytes, form: Format) -> bytes:
    """Return a picture in another format, with its recipe; unchanged if it has that format already.

    PNG and WebP are lossless. JPEG is nearly lossless.

    Raises:
        InvalidImageError: The data is not a complete picture.
    """
    with opened(data) as (found, picture):
        if found is form:
            return data
        picture.load()
        # The modes that PNG and WebP have as well. Others are print colours or 16-bit grey.
        is_plain = form is not JPEG and picture.mode in ("L", "P", "RGB", "RGBA")
        image, profile = (_upright(picture) if is_plain else as_rgb(picture)), picture.info.get("icc_profile")
    buffer, name = io.BytesIO(), form.mime_type.removeprefix("image/")
    profile = profile if image.mode == picture.mode else None
    options = {JPEG: {"quality": 95, "subsampling": 0}, WEBP: {"lossless": True, "exact": True}}.get(form, {})
    image.save(buffer, name, icc_profile=profile, **options)
    recipe = metadata.read(data)
    return metadata.embed(buffer.getvalue(), recipe) if recipe else buffer.getvalue()


def encoded_length(data: bytes) -> int:
    """Return the length of the bytes as base64, in characters."""
    return (len(data) + 2) // 3 * 4


def _preview(data: bytes, side: int, characters: int, qualities: tuple[int, ...]) -> Preview:
    """Return the picture unchanged if it fits; else the best JPEG of at most `side` pixels that fits."""
    with opened(data) as (found, picture):
        if found in (JPEG, PNG) and max(picture.size) <= side and encoded_length(data) <= characters:
            picture.load()
            return _of(data, found, picture, unchanged=True)
        return fitted(picture, side, characters, qualities)


def _of(data: bytes, form: Format, picture: "Image", *, unchanged: bool = False) -> Preview:
    return Preview(data, b64encode(data).decode(), form.mime_type, *picture.size, unchanged=unchanged)


def fitted(picture: "Image", side: int, characters: int, qualities: tuple[int, ...]) -> Preview:
    """Return the best JPEG of a picture that fits: at most `side` pixels, and `characters` of base64.

    Size is more important than quality. If no JPEG fits, the smallest is returned. A picture is decoded once at most.
    """
    picture.draft("RGB", (side, side))  # libjpeg decodes at a half or a quarter of the size, if that is enough
    picture.load()
    rgb, data = as_rgb(picture), b""
    for share, quality in product(SCALES, qualities):
        if quality == qualities[0]:
            picture = reduced(rgb, round(side * share))
        buffer = io.BytesIO()
        # To optimize takes longer than the rest. It makes a picture that hardly fits a few percent smaller.
        picture.save(buffer, "JPEG", quality=quality, optimize=quality != qualities[0])
        data = buffer.getvalue()
        if encoded_length(data) <= characters:
            break
    return _of(data, JPEG, picture)


def reduced(picture: "Image", side: int) -> "Image":
    """Return a copy of at most `side` pixels, without texts: Pillow would write a recipe into every preview."""
    from PIL import Image

    scale = min(side / max(picture.size), 1)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    # Compared with Pillow's default, BICUBIC, this takes 60 % of the time, and can hardly be told from it.
    smaller = picture.resize(size, Image.Resampling.HAMMING)
    smaller.info.clear()
    return smaller


def _upright(picture: "Image") -> "Image":
    """Return a picture, turned as its Exif says. It is not copied if it is upright already."""
    from PIL import ExifTags, ImageOps

    with suppress(Exception):  # a broken Exif may raise anything in Pillow, but the picture itself is fine
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(picture)
    return picture


def as_rgb(picture: "Image") -> "Image":
    """Return a picture in the form that JPEG needs: eight bits per colour, on white, turned as its Exif says.

    It is not copied if it has that form already.
    """
    from PIL import Image

    upright = _upright(picture)
    if upright.mode.startswith("I"):  # 16 bits of grey
        upright = upright.convert("I").point(lambda value: value / 256).convert("L")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    return upright if upright.mode == "RGB" else upright.convert("RGB")


@cache
def load_decoders() -> "dict[Format, type[ImageFile]]":
    """Import Pillow, which takes about 30 ms, and return its decoders."""
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    limit_arenas()
    # Keep two freed blocks of memory for the next pictures. Else each picture gets new pages from the system.
    Image.core.set_blocks_max(2)
    return {JPEG: JpegImageFile, PNG: PngImageFile, WEBP: WebPImageFile}


@contextmanager
def opened(data: bytes) -> "Generator[tuple[Format, ImageFile]]":
    """Yield a picture's format, and the picture, which is not decoded yet. Its size was checked.

    Raises:
        InvalidImageError: It is not a picture, is damaged, takes too long to decode, or claims to be larger than any
            picture of the models.
    """
    from PIL import Image

    # Only the format of the first bytes is tried. Pillow's own search tries more, and only warns of some bombs.
    found, decoders = recognise(data), load_decoders()
    if found is None:
        raise InvalidImageError("is not a picture")
    if found is JPEG and data.count(_SCAN) > MOST_SCANS:
        raise InvalidImageError("has too many scans")
    try:
        with decoders[found](io.BytesIO(without_ancillary_parts(data))) as picture:
            check_size(*picture.size)
            yield found, picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError("claims an impossibly large size") from error
    except InvalidImageError:
        raise
    except Exception as error:  # of any kind: bytes from outside may raise anything in a decoder
        raise InvalidImageError("is damaged") from error
