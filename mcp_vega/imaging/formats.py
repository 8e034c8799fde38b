"""The accepted picture formats: how their first bytes look, and how to check that a picture is complete."""

from collections.abc import Callable
from dataclasses import dataclass

from mcp_vega import errors

MAX_BYTES = 25_000_000  # larger pictures are not accepted


@dataclass(frozen=True)
class Format:
    """A picture format."""

    mime_type: str
    suffix: str  # of a file name
    is_complete: Callable[[bytes], bool]  # whether a picture's bytes are all there


# The end marker cannot occur inside a scan. Bytes after it (padding, metadata) do not matter.
JPEG = Format("image/jpeg", ".jpg", lambda data: data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"))
PNG = Format("image/png", ".png", lambda data: b"IEND\xaeB`\x82" in data)
WEBP = Format("image/webp", ".webp", lambda data: len(data) >= 8 + int.from_bytes(data[4:8], "little"))
SUFFIXES = (JPEG.suffix, PNG.suffix, WEBP.suffix)
# The formats by the endings of file names, in lower case.
BY_ENDING = {".jpg": JPEG, ".jpeg": JPEG, ".png": PNG, ".webp": WEBP}


def recognise(data: bytes) -> Format | None:
    """Return the format of a picture by its first bytes, or None. HTTP headers and file names are not trusted."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return None


def require_complete(data: bytes) -> bytes:
    """Return `data` if it is a complete picture.

    Raises:
        UnreadableAnswer: It is not a picture, or it is cut off.
    """
    found = recognise(data)
    if found is None:
        said = "The API's answer is not a JPEG, PNG or WebP picture"
        raise errors.UnreadableAnswer(said, received=data)
    if not found.is_complete(data):
        raise errors.UnreadableAnswer("The picture in the API's answer is cut off", received=data)
    return data
