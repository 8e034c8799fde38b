"""Checks that a picture has arrived completely, and finds out its size, without decoding it.

What the checks prove:

- PNG: every chunk up to the last one is there, and its checksum is right. No other data can have these checksums by
  chance. Only chunks that no decoder needs, such as texts, may have a wrong one.
- JPEG: the header has a size, image data follows it, and then the end marker. A JPEG has no checksum, and a decoder
  fills what is missing in the middle with grey, so decoding would prove no more.
- WebP: all the bytes that its header announces are there, its chunks fit into them, and the first one has a size.

Data that passes may still be such that no decoder can use it. Then no preview can be made of it, but it is kept.
"""

from typing import NamedTuple

from mcp_vega import errors
from mcp_vega.imaging.formats import JPEG, PNG, WEBP, Format, recognise
from mcp_vega.imaging.parts import MOST_PARTS, parts

# Four times the pixels that either model draws. A larger picture is not from these models.
MAX_PIXELS = 4 * 1024 * 1024
# The kinds of the JPEG segments that begin a frame. Their content begins with the precision, the height and the width.
_FRAMES = {bytes([kind]) for kind in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}
_END_OF_JPEG = b"\xff\xd9"
_BEGINNING_OF_SCAN = b"\xff\xda"
# The chunks of a PNG without which its pixels can be decoded: texts, how to show the colours, further frames.
_NOT_NEEDED = {
    *(b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"),
    *(b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"bKGD", b"sBIT", b"hIST", b"sPLT"),
    *(b"acTL", b"fcTL", b"fdAT"),
}


class Measured(NamedTuple):
    """The format of a picture, and its width and height in pixels."""

    format: Format
    width: int
    height: int


class InvalidImageError(ValueError):
    """The data is not a complete picture. The text says why, as the end of a sentence ("is damaged")."""


def measure(data: bytes) -> Measured:
    """Check a picture, and return its format and size.

    Raises:
        InvalidImageError: It is not a picture, is cut off or damaged, or claims to be larger than any picture of the
            models.
    """
    found = recognise(data)
    if found is None:
        raise InvalidImageError("is not a picture")
    width, height = _SIZES[found](data)
    check_size(width, height)
    if not is_complete(data):
        raise InvalidImageError("is cut off")
    if not width or not height or not _CHECKS[found](data):
        raise InvalidImageError("is damaged")
    return Measured(found, width, height)


def check_size(width: int, height: int) -> None:
    """Raise an `InvalidImageError` if a picture claims to be larger than any picture of the models."""
    if width * height > MAX_PIXELS:
        raise InvalidImageError(f"claims to be {width} × {height} pixels, which is impossibly large")


def require_complete(data: bytes) -> bytes:
    """Return `data` if it is a picture whose end is there. This takes microseconds; `measure` checks the rest.

    Raises:
        UnreadableAnswer: It is not a picture, or it is cut off.
    """
    if recognise(data) is None:
        said = "The API's answer is not a JPEG, PNG or WebP picture"
        raise errors.UnreadableAnswer(said, received=data)
    if not is_complete(data):
        raise errors.UnreadableAnswer("The picture in the API's answer is cut off", received=data)
    return data


def is_complete(data: bytes) -> bool:
    """Whether the end of a picture is there. Bytes after it (padding, metadata) do not matter. False for other data."""
    found = recognise(data)
    if found is JPEG:
        # The end marker cannot be in the image data. It may be in a segment before that, such as one with a thumbnail.
        return data.rfind(_END_OF_JPEG) >= _end_of_segments(data)
    if found is PNG:
        return any(part.kind == b"IEND" and part.end <= len(data) for part in parts(data))
    return found is not None and len(data) >= 8 + int.from_bytes(data[4:8], "little")


# ---- sizes in pixels, 0 × 0 if there is none ----


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    frame = next((part.content for part in parts(data) if part.kind in _FRAMES), b"")
    return int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])


def _size_of_png(data: bytes) -> tuple[int, int]:
    return (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) if data[12:16] == b"IHDR" else (0, 0)


def _size_of_webp(data: bytes) -> tuple[int, int]:
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X":
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if kind == b"VP8L" and content[:1] == b"\x2f":
        sizes = int.from_bytes(content[1:5], "little")
        return (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(content[6:8], "little") & 0x3FFF, int.from_bytes(content[8:10], "little") & 0x3FFF
    return 0, 0


_SIZES = {JPEG: _size_of_jpeg, PNG: _size_of_png, WEBP: _size_of_webp}


# ---- further checks ----


def _has_scan(jpeg: bytes) -> bool:
    """Whether image data follows the segments, and they are not too many."""
    count = sum(1 for _ in parts(jpeg))
    return count < MOST_PARTS and jpeg.find(_BEGINNING_OF_SCAN, _end_of_segments(jpeg)) >= 0


def _end_of_segments(jpeg: bytes) -> int:
    return max((part.end for part in parts(jpeg)), default=2)


def _has_right_checksums(png: bytes) -> bool:
    for part in parts(png):
        if part.kind not in _NOT_NEEDED and not part.has_right_checksum:
            return False
        if part.kind == b"IEND":
            break
    return True


def _chunks_fit(webp: bytes) -> bool:
    """Whether the last chunk ends where the file's header says that the file ends."""
    at, end = 12, 8 + int.from_bytes(webp[4:8], "little")
    for _ in range(MOST_PARTS):
        if at + 8 > min(end, len(webp)):
            return at - 1 <= end  # some programs leave out the last byte of padding
        length = int.from_bytes(webp[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return False


_CHECKS = {JPEG: _has_scan, PNG: _has_right_checksums, WEBP: _chunks_fit}
