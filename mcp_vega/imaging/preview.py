"""Measures pictures, makes them small enough for a conversation, and converts them to other formats.

These are pure functions, but slow: `ImageProcessor` calls them off the event loop. Pillow is imported at the first use,
because the handshake does not need it.
"""

import io
from base64 import b64encode
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import JPEG, PNG, WEBP, Format, recognise
from mcp_vega.imaging.parts import without_ancillary_parts

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Four times the pixels that either model draws. A larger picture is not from these models.
MAX_PIXELS = 4 * 1024 * 1024
# Several clients close the connection after a message of more than 1 MiB. These bytes are 933,332 characters of base64.
MESSAGE_BYTES = 700_000
SCALES = (1, 0.75, 0.5, 0.33)

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
    mime_type: str
    width: int
    height: int
    unchanged: bool = False

    @property
    def base64(self) -> str:
        """The bytes as base64."""
        return b64encode(self.bytes).decode()


class Measured(NamedTuple):
    """The format of a picture, and its width and height in pixels."""

    format: Format
    width: int
    height: int


class InvalidImageError(ValueError):
    """The data is not a complete picture. The text says why, as the end of a sentence ("is damaged")."""


def measure(data: bytes) -> Measured:
    """Decode a picture completely, and return its format and size.

    Raises:
        InvalidImageError: It cannot be decoded, or it claims to be larger than any picture of the models.
    """
    with opened(data) as (found, picture):
        picture.load()
        return Measured(found, *picture.size)


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
            characters -= encoded_length(preview.bytes)
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
            return Preview(data, found.mime_type, *picture.size, unchanged=True)
        return fitted(picture, side, characters, qualities)


def fitted(picture: "Image", side: int, characters: int, qualities: tuple[int, ...]) -> Preview:
    """Return the best JPEG of a picture that fits: at most `side` pixels, and `characters` of base64.

    Size is more important than quality. If no JPEG fits, the smallest is returned.
    """
    *_, last = _until(characters, _smaller_and_smaller(picture, side, qualities))
    return last


def _until(characters: int, candidates: Iterator[Preview]) -> Iterator[Preview]:
    """Yield the candidates up to and including the first that fits."""
    for each in candidates:
        yield each
        if encoded_length(each.bytes) <= characters:
            return


def _smaller_and_smaller(picture: "Image", side: int, qualities: tuple[int, ...]) -> Iterator[Preview]:
    """Yield smaller and smaller JPEGs of a picture: first with lower quality, then with a smaller size."""
    for share in SCALES:
        size = round(side * share)
        picture.draft("RGB", (size, size))  # libjpeg decodes at a half or a quarter of the size, if that is enough
        picture.load()
        smaller = as_rgb(picture)
        smaller.thumbnail((size, size))
        smaller.info.clear()  # else Pillow writes the recipe into each preview, and it may be long
        for quality in qualities:
            buffer = io.BytesIO()
            smaller.save(buffer, "JPEG", quality=quality, optimize=True)
            yield Preview(buffer.getvalue(), JPEG.mime_type, *smaller.size)


def _upright(picture: "Image") -> "Image":
    """Return a copy of a picture, turned as its Exif says."""
    from PIL import ImageOps

    with suppress(Exception):  # a broken Exif may raise anything in Pillow, but the picture itself is fine
        return ImageOps.exif_transpose(picture)
    return picture.copy()


def as_rgb(picture: "Image") -> "Image":
    """Return a picture in the form that JPEG needs: eight bits per colour, on white, turned as its Exif says."""
    from PIL import Image

    upright = _upright(picture)
    if upright.mode.startswith("I"):  # 16 bits of grey
        upright = upright.convert("I").point(lambda value: value / 256).convert("L")
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        upright = white
    return upright.convert("RGB")


@contextmanager
def opened(data: bytes) -> "Generator[tuple[Format, ImageFile]]":
    """Yield a picture's format, and the picture, which is not decoded yet. Its size was checked.

    Raises:
        InvalidImageError: It is not a picture, is damaged, or claims to be larger than any picture of the models.
    """
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    # Only the format of the first bytes is tried. Pillow's own search tries more, and only warns of some bombs.
    kinds = {JPEG: JpegImageFile, PNG: PngImageFile, WEBP: WebPImageFile}
    found = recognise(data)
    if found is None:
        raise InvalidImageError("is not a picture")
    try:
        with kinds[found](io.BytesIO(without_ancillary_parts(data))) as picture:
            _check_size(*picture.size)
            yield found, picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError("claims an impossibly large size") from error
    except InvalidImageError:
        raise
    except Exception as error:  # of any kind: bytes from outside may raise anything in a decoder
        raise InvalidImageError("is damaged") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"claims to be {width} × {height} pixels, which is impossibly large")
