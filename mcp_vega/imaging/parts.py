"""The parts of a picture's file: the segments of a JPEG, the chunks of a PNG."""

import re
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from mcp_vega.imaging.formats import JPEG, PNG, recognise

# Segments of a JPEG: application segments (of JFIF, Exif, a colour profile, Adobe), and the comment.
JFIF, EXIF, PROFILE, ADOBE, COMMENT = b"\xe0", b"\xe1", b"\xe2", b"\xee", b"\xfe"
# What follows the last segment: image data, or the end of the picture.
END_OF_SEGMENTS = (b"\xda", b"\xd9")
# The segments that say how to read the pixels: how they begin, and their least length.
_NEEDED_SEGMENTS = {
    JFIF: (b"JFIF\0", 14),
    EXIF: (b"Exif\0\0", 14),
    PROFILE: (b"ICC_PROFILE\0", 14),
    ADOBE: (b"Adobe", 12),
}
_NEEDED_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# A picture with more parts is not complete: no program makes such small ones, and it would take seconds to look at
# each one.
MOST_PARTS = 20_000
# The beginning of a segment. As decoders do, bytes before it are skipped, and so are markers without a segment.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
# Larger than any colour profile. Pillow unpacks at most 1 MiB.
PROFILE_BYTES = 1_000_000
# The allowed lengths of a PNG's transparency chunk, by the colour type in its header. For a palette: a byte per colour.
_TRANSPARENCY = {0: (2,), 2: (6,), 3: range(1, 257)}


class Part(NamedTuple):
    """A segment or chunk of a picture: its kind, and the positions in the file where it begins and ends."""

    picture: bytes
    kind: bytes
    start: int
    end: int

    @property
    def content(self) -> bytes:
        """Its bytes without length, kind and checksum."""
        is_segment = len(self.kind) == 1
        return self.picture[self.start + 4 : self.end] if is_segment else self.picture[self.start + 8 : self.end - 4]

    @property
    def has_right_checksum(self) -> bool:
        """Whether a chunk of a PNG has the checksum that it states. Segments have none."""
        view = memoryview(self.picture)
        stated = int.from_bytes(view[self.end - 4 : self.end])
        return zlib.crc32(view[self.start + 4 : self.end - 4]) == stated


def parts(picture: bytes) -> Iterator[Part]:
    """Yield each segment before a JPEG's image data, or each chunk of a PNG; nothing for other formats.

    At most `MOST_PARTS` are yielded.
    """
    found = recognise(picture)
    if found is JPEG:
        yield from islice(_segments(picture), MOST_PARTS)
    elif found is PNG:
        yield from islice(_chunks(picture), MOST_PARTS)


def _segments(jpeg: bytes) -> Iterator[Part]:
    at = 2
    while (marker := _MARKER.search(jpeg, at)) and marker[0][1:] not in END_OF_SEGMENTS:
        at, kind = marker.start(), marker[0][1:]
        end = at + 2 + max(int.from_bytes(jpeg[at + 2 : at + 4]), 2)  # the length field, even if the file says less
        yield Part(jpeg, kind, at, end)
        at = end


def _chunks(png: bytes) -> Iterator[Part]:
    at = 8
    while len(png) >= at + 12:
        end = at + 12 + int.from_bytes(png[at : at + 4])
        yield Part(png, png[at + 4 : at + 8], at, end)
        at = end


def without_ancillary_parts(picture: bytes) -> bytes:
    """Return a picture with only the parts that its pixels need.

    The other parts (texts, broken profiles and so on) may be damaged, or too large to unpack.
    """
    view = memoryview(picture)
    kept, last = [view[:8] if recognise(picture) is PNG else view[:2]], 0
    colour_type = picture[25] if len(picture) > 25 else 0
    for part in parts(picture):
        last = part.end
        if _is_needed(part, colour_type):
            kept.append(view[part.start : part.end])
    return b"".join((*kept, view[last:])) if last else picture


def _is_needed(part: Part, colour_type: int) -> bool:
    if len(part.kind) == 1:
        beginning, length = _NEEDED_SEGMENTS.get(part.kind, (b"", 0))
        is_application = b"\xe0" <= part.kind <= b"\xef" or part.kind == COMMENT
        return not is_application or (length > 0 and part.content.startswith(beginning) and len(part.content) >= length)
    if part.kind == b"tRNS":
        return len(part.content) in _TRANSPARENCY.get(colour_type, ())
    if part.kind == b"iCCP":
        return part.has_right_checksum and _is_profile(part.content)
    return part.kind in _NEEDED_CHUNKS


def _is_profile(content: bytes) -> bool:
    """Whether a PNG's colour profile can be unpacked, and is not larger than `PROFILE_BYTES`."""
    _, _, packed = content.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], PROFILE_BYTES)
    except zlib.error:
        return False
    return packed.startswith(b"\0") and unpacker.eof
