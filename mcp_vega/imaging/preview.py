"""How large a picture is, and the picture in another form: small enough for a conversation, or in another format.

Pure functions that take a while: `ImageProcessor` calls them off the event loop. Pillow is imported on first use,
because the handshake does without it.
"""

import io
from base64 import b64encode
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import JPEG, PNG, WEBP, Format, recognise
from mcp_vega.imaging.parts import without_side_data

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Four times the pixels that either model draws: anything larger is no picture of theirs.
MAX_PIXELS = 4 * 1024 * 1024
# A message of more than 1 MiB ends the connection of several clients; as base64 these are 933,332 characters.
MESSAGE_BYTES = 700_000
SHRINK = (1, 0.75, 0.5, 0.33)

# How large the previews in a result are; and those of which many are looked at together.
Mode = Literal["auto", "small", "full", "off", "thumbnail"]


@dataclass(frozen=True)
class PreviewLimit:
    """What all previews of one result may take: their longest sides in pixels, their base64 in characters.

    `qualities` are those that a JPEG is tried at before its size goes down.
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
    """A picture as it goes into a conversation. `unchanged` says that it is the very file, `width` is in pixels."""

    bytes: bytes
    mime_type: str
    width: int
    height: int
    unchanged: bool = False

    @property
    def base64(self) -> str:
        """Its bytes as base64."""
        return b64encode(self.bytes).decode()


class Measured(NamedTuple):
    """The format of a picture, and its width and height in pixels."""

    format: Format
    width: int
    height: int


class InvalidImageError(ValueError):
    """What is no whole picture; its text says why, as the end of a sentence."""


def measure(data: bytes) -> Measured:
    """The format and size of a picture that can be decoded to its end.

    Raises:
        InvalidImageError: It cannot, or it claims to be larger than any picture of the models.
    """
    with opened(data) as (found, picture):
        picture.load()
        return Measured(found, *picture.size)


def previews(pictures: Sequence[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
    """The pictures of one result, together within the mode's limit: None for what is no whole picture.

    Each gets an equal share of what those before it, and the `taken` characters, have left; with the mode `off` there
    are none.
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
    """A picture in a format, with its recipe: the very bytes where it is in that already.

    PNG and WebP keep every pixel, a JPEG nearly.

    Raises:
        InvalidImageError: It is no whole picture.
    """
    with opened(data) as (found, picture):
        if found is form:
            return data
        picture.load()
        # All modes that PNG and WebP have as well; others are print colours or 16 bits of grey.
        is_plain = form is not JPEG and picture.mode in ("L", "P", "RGB", "RGBA")
        image, profile = (_upright(picture) if is_plain else as_rgb(picture)), picture.info.get("icc_profile")
    buffer, name = io.BytesIO(), form.mime_type.removeprefix("image/")
    profile = profile if image.mode == picture.mode else None
    options = {JPEG: {"quality": 95, "subsampling": 0}, WEBP: {"lossless": True, "exact": True}}.get(form, {})
    image.save(buffer, name, icc_profile=profile, **options)
    recipe = metadata.read(data)
    return metadata.embed(buffer.getvalue(), recipe) if recipe else buffer.getvalue()


def encoded_length(data: bytes) -> int:
    """How many characters of base64 some bytes become."""
    return (len(data) + 2) // 3 * 4


def _preview(data: bytes, side: int, characters: int, qualities: tuple[int, ...]) -> Preview:
    """The largest, then finest form of a picture that fits: itself, else a JPEG of at most `side` pixels."""
    with opened(data) as (found, picture):
        if found in (JPEG, PNG) and max(picture.size) <= side and encoded_length(data) <= characters:
            picture.load()
            return Preview(data, found.mime_type, *picture.size, unchanged=True)
        return fitted(picture, side, characters, qualities)


def fitted(picture: "Image", side: int, characters: int, qualities: tuple[int, ...]) -> Preview:
    """The largest, then finest JPEG of a picture that fits: at most `side` pixels, and `characters` of base64.

    What fits in no form comes in the smallest.
    """
    *_, last = _until(characters, _ladder(picture, side, qualities))
    return last


def _until(characters: int, steps: Iterator[Preview]) -> Iterator[Preview]:
    """The steps down to the first that fits."""
    for step in steps:
        yield step
        if encoded_length(step.bytes) <= characters:
            return


def _ladder(picture: "Image", side: int, qualities: tuple[int, ...]) -> Iterator[Preview]:
    """Ever smaller JPEGs of a picture: the quality goes down first, then the size."""
    for share in SHRINK:
        size = round(side * share)
        picture.draft("RGB", (size, size))  # libjpeg decodes at a half or a quarter where that is enough
        picture.load()
        smaller = as_rgb(picture)
        smaller.thumbnail((size, size))
        smaller.info.clear()  # Pillow would write the recipe into each preview again, however long it is
        for quality in qualities:
            buffer = io.BytesIO()
            smaller.save(buffer, "JPEG", quality=quality, optimize=True)
            yield Preview(buffer.getvalue(), JPEG.mime_type, *smaller.size)


def _upright(picture: "Image") -> "Image":
    """A copy of a picture, the right side up."""
    from PIL import ImageOps

    with suppress(Exception):  # whatever a broken Exif brings Pillow to, the picture beside it is whole
        return ImageOps.exif_transpose(picture)
    return picture.copy()


def as_rgb(picture: "Image") -> "Image":
    """A picture as every JPEG can hold it: eight bits a colour, on white, the right side up."""
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
    """A picture's format, and the picture, not decoded yet and not too large to be.

    Raises:
        InvalidImageError: It is no picture, is damaged, or claims to be larger than any picture of the models.
    """
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    # The format by its first bytes, and no other: Pillow's own search would try more, and only warn of some bombs.
    kinds = {JPEG: JpegImageFile, PNG: PngImageFile, WEBP: WebPImageFile}
    found = recognise(data)
    if found is None:
        raise InvalidImageError("is no picture")
    try:
        with kinds[found](io.BytesIO(without_side_data(data))) as picture:
            _check_size(*picture.size)
            yield found, picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImageError("claims a size that is too large to be true") from error
    except InvalidImageError:
        raise
    except Exception as error:  # of any kind: foreign bytes may bring a decoder to anything
        raise InvalidImageError("is damaged") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"claims to be {width} × {height} pixels, too large to be true")
