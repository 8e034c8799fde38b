"""Finds the pictures in an answer by what a value is, at any depth.

A picture is bytes of one (in base64, in a data URI, in hex digits, or as a list of numbers), or the address of one.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES, recognise, require_whole
from mcp_vega.segmind.values import ECHOES, FIELD_DEPTH, WRAPPERS, as_list, as_object, plain_name

# How deep in an answer pictures may lie, how many values of it are looked at, and how many pictures are taken: four
# times what a call draws at most.
DEPTH, MOST_VALUES, MOST_PICTURES = 100, 100_000, 16
# The documented fields, in the order in which they count, and what others are called that hold what was drawn.
DOCUMENTED = ("image", "images", "output")
DRAWN = re.compile("output|result|generat|artifact|image|picture|original|full|large|url", re.IGNORECASE)
# Whole words in the names of fields that hold another picture than the one that was drawn, or less than that; and in
# those of fields with addresses of something else.
OTHER_PICTURE = re.compile(
    r"(?<![a-z])(input|init|source|src_image|references?|controls?|masks?|examples?|recent|banners?|covers?|logos?|icons?"
    r"|avatars?|thumb|thumbnails?|previews?|small|medium|progress|current|intermediate|steps?|branding|watermark)(?![a-z])",
    re.IGNORECASE,
)
OTHER_ADDRESS = re.compile(
    r"(?<![a-z])(status|poll|polling|response|get|cancel|webhook|callback|docs?|help|logs?|self|links?|web|dashboard"
    r"|console|billing|href|next|prev)(?![a-z])",
    re.IGNORECASE,
)

_BASE64_FOR_URLS = str.maketrans("-_", "+/", " \t\r\n")
_DATA_URI = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s\"<>\\]+", re.IGNORECASE)
_PATH = re.compile(r"//?[^/\s\"<>\\][^\s\"<>\\]*")
_PICTURE_PATH = re.compile(r"[^?#]*\.(jpe?g|png|webp)([?#]|$)", re.IGNORECASE)
# Longer than any address.
_LONGEST_ADDRESS = 10_000
# The first bytes of each format in base64 and in hex, so that other texts are not decoded.
_ENCODED = re.compile(r"/9j/|_9j_|iVBORw0KGg|UklGR")
_HEX = re.compile(r"(ffd8ff|89504e47|52494646)[0-9a-f]*", re.IGNORECASE)


class _Found(NamedTuple):
    """A picture; `surely` where its value says so, or a documented field: an address may be that of anything."""

    picture: bytes | str
    surely: bool


class _PictureFinder:
    """Looks through one answer; `problem` is that of the last picture which is not whole, and is left out."""

    def __init__(self) -> None:
        self._left = MOST_VALUES
        self.problem: errors.UnreadableAnswer | None = None

    def look(self, value: Any, depth: int = DEPTH) -> list[_Found]:
        self._left -= 1
        if not depth or self._left < 0:
            return []
        if isinstance(value, str):
            return [*self._in_text(value)]
        if isinstance(value, list):
            several = as_list(value)
            if data := _from_numbers(several):
                return [*self._whole(data)]
            return [each for inner in several for each in self.look(inner, depth - 1)]
        return self._best(as_object(value), depth)

    def _best(self, fields: dict[str, Any], depth: int) -> list[_Found]:
        """The pictures of one field: several fields of an object may name the same ones, or others than were drawn.

        Fields whose names differ in a number only are one.
        """
        by_name: dict[str, list[_Found]] = {}
        for name, value in fields.items():
            if plain_name(name) not in ECHOES and not OTHER_PICTURE.search(name[:100]):
                other = OTHER_ADDRESS.search(name[:100])
                found = [each for each in self.look(value, depth - 1) if each.surely or not other]
                if name in DOCUMENTED:
                    found = [each._replace(surely=True) for each in found]
                if found:
                    by_name.setdefault(re.sub(r"[0-9]+", "#", name), []).extend(found)
        return max(by_name.items(), key=_rank)[1] if by_name else []

    def _in_text(self, text: str) -> Iterator[_Found]:
        text = text.strip()
        if found := _DATA_URI.match(text):
            in_base64 = found[0].lower().rstrip(", ").endswith(";base64")
            content = text[found.end() :]
            if in_base64 or len(content) < MAX_BYTES // 10:  # what is written in per cent is slow to read
                yield from self._whole(_from_base64(content) if in_base64 else unquote_to_bytes(content))
        elif _ENCODED.match(text):
            yield from self._whole(_from_base64(text))
        elif _HEX.fullmatch(text):
            yield from self._whole(bytes.fromhex(text[: len(text) // 2 * 2]))
        elif len(text) <= _LONGEST_ADDRESS:
            yield from _address(text)

    def _whole(self, data: bytes) -> Iterator[_Found]:
        if recognise(data):
            try:
                yield _Found(require_whole(data), surely=True)
            except errors.UnreadableAnswer as error:
                self.problem = error


def _address(text: str) -> Iterator[_Found]:
    if _ADDRESS.fullmatch(text):
        surely = _PICTURE_PATH.match(text.partition("://")[2]) is not None
        if surely or "/requests/" not in text:
            yield _Found(text, surely)
    elif _PATH.fullmatch(text) and _PICTURE_PATH.match(text):
        yield _Found(text, surely=True)


def _rank(field: tuple[str, list[_Found]]) -> tuple[Any, ...]:
    """How well a field does as that of the pictures; the greatest is taken.

    Bytes go before addresses, documented names before likely ones and these before others, then the larger number.
    """
    name, found = field
    is_documented = name in DOCUMENTED
    return (
        any(isinstance(each.picture, bytes) for each in found),
        2 if is_documented else 1 if DRAWN.search(name) else 0,
        all(each.surely for each in found),
        len({each.picture for each in found}),
        -DOCUMENTED.index(name) if is_documented else 0,
    )


def _from_base64(text: str) -> bytes:
    digits = text.translate(_BASE64_FOR_URLS).rstrip("=")
    try:
        return b64decode(digits + "=" * (-len(digits) % 4))
    except ValueError:
        return b""


def _from_numbers(numbers: list[Any]) -> bytes:
    """The bytes that a list of numbers stands for; none where it does not."""
    if len(numbers) < 100 or numbers[0] not in (0xFF, 0x89, ord("R")):
        return b""
    try:
        return bytes(numbers)
    except (TypeError, ValueError):
        return b""


def find_pictures(json: Any, *, surely: bool = False) -> tuple[bytes | str, ...]:
    """The pictures in an answer, in its order, each once; with `surely` only what can be nothing else.

    Raises:
        UnreadableAnswer: All that there are have been cut off.
    """
    finder = _PictureFinder()
    found = [each for each in finder.look(json) if each.surely or not surely]
    if finder.problem and not found:
        raise finder.problem
    return tuple(dict.fromkeys(each.picture for each in found))[:MOST_PICTURES]


def documented_fields(json: Any, depth: int = FIELD_DEPTH) -> dict[str, Any]:
    """An answer's documented fields for pictures, at the top or in what wraps it."""
    fields = as_object(json) if depth else {}
    wrapped = {name: documented_fields(each, depth - 1) for name, each in fields.items() if name in WRAPPERS}
    return {name: each for name, each in fields.items() if name in DOCUMENTED} | wrapped
