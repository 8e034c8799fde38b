"""The picture formats that are accepted: told by their first bytes, and whether all bytes of a picture are there."""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_vega import errors

MAX_BYTES = 25_000_000  # of the largest picture that is accepted


@dataclass(frozen=True)
class Format:
    """A picture format."""

    mime_type: str
    suffix: str  # of a file's name
    is_whole: Callable[[bytes], bool]  # whether bytes of it are all there


# The end marker cannot stand inside a scan; what follows it (padding, metadata) does not matter.
JPEG = Format("image/jpeg", ".jpg", lambda data: data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"))
PNG = Format("image/png", ".png", lambda data: b"IEND\xaeB`\x82" in data)
WEBP = Format("image/webp", ".webp", lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"))
SUFFIXES = (JPEG.suffix, PNG.suffix, WEBP.suffix)
# By the ending that a file's name may have, in small letters.
BY_ENDING = {".jpg": JPEG, ".jpeg": JPEG, ".png": PNG, ".webp": WEBP}


def recognise(data: bytes) -> Format | None:
    """The format of picture bytes by their first bytes, or None; no header or file name is believed."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return None


def require_whole(data: bytes) -> bytes:
    """`data` itself, which is a whole picture; else raises `UnreadableAnswer`."""
    found = recognise(data)
    if found is None:
        said = "The API's answer holds bytes that are no JPEG, PNG or WebP picture"
        raise errors.UnreadableAnswer(said, received=data)
    if not found.is_whole(data):
        raise errors.UnreadableAnswer("The picture in the API's answer is cut off", received=data)
    return data
