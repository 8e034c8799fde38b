"""The accepted picture formats, and how their first bytes look."""

from dataclasses import dataclass

MAX_BYTES = 25_000_000  # larger pictures are not accepted


@dataclass(frozen=True)
class Format:
    """A picture format."""

    mime_type: str
    suffix: str  # of a file name


JPEG = Format("image/jpeg", ".jpg")
PNG = Format("image/png", ".png")
WEBP = Format("image/webp", ".webp")
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
