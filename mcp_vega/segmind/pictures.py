"""Finds the pictures in an answer, at any depth, by the form of each value.

A picture is the bytes of its file (in base64, in a data URI, in hex digits, or as a list of numbers), or its address.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES, recognise
from mcp_vega.imaging.integrity import require_complete
from mcp_vega.segmind.values import ECHOES, FIELD_DEPTH, WRAPPERS, as_list, as_object, plain_name

# How deep in an answer pictures may be nested, how many of its values are searched, and how many pictures are taken:
# four times as many as a call draws at most.
DEPTH, MOST_VALUES, MOST_PICTURES = 100, 100_000, 16
# The documented fields, the most important first; and the names of other fields that may hold the drawn picture.
DOCUMENTED = ("image", "images", "output")
DRAWN = re.compile("output|result|generat|artifact|image|picture|original|full|large|url", re.IGNORECASE)
# Words in the names of fields with another picture than the drawn one, or with a smaller or unfinished form of it; and
# words in the names of fields with the address of something else.
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
# The first bytes of each format in base64 and in hex. Other texts are not decoded.
_ENCODED = re.compile(r"/9j/|_9j_|iVBORw0KGg|UklGR")
_HEX = re.compile(r"(ffd8ff|89504e47|52494646)[0-9a-f]*", re.IGNORECASE)


class _Found(NamedTuple):
    """A picture. It is `certain` if its value or a documented field proves it. Other addresses may be of anything."""

    picture: bytes | str
    certain: bool


class _PictureFinder:
    """Searches one answer. It leaves out incomplete pictures; `problem` is the error of the last of them."""

    def __init__(self) -> None:
        self._left = MOST_VALUES
        self.problem: errors.UnreadableAnswer | None = None

    def search(self, value: Any, depth: int = DEPTH) -> list[_Found]:
        self._left -= 1
        if not depth or self._left < 0:
            return []
        if isinstance(value, str):
            return [*self._in_text(value)]
        if isinstance(value, list):
            several = as_list(value)
            if data := _from_numbers(several):
                return [*self._complete(data)]
            return [each for inner in several for each in self.search(inner, depth - 1)]
        return self._best(as_object(value), depth)

    def _best(self, fields: dict[str, Any], depth: int) -> list[_Found]:
        """The pictures of the best field. Other fields may name the same pictures, or pictures that were not drawn.

        Fields whose names differ only in a number count as one field.
        """
        by_name: dict[str, list[_Found]] = {}
        for name, value in fields.items():
            if plain_name(name) not in ECHOES and not OTHER_PICTURE.search(name[:100]):
                other = OTHER_ADDRESS.search(name[:100])
                found = [each for each in self.search(value, depth - 1) if each.certain or not other]
                if name in DOCUMENTED:
                    found = [each._replace(certain=True) for each in found]
                if found:
                    by_name.setdefault(re.sub(r"[0-9]+", "#", name), []).extend(found)
        return max(by_name.items(), key=_rank)[1] if by_name else []

    def _in_text(self, text: str) -> Iterator[_Found]:
        text = text.strip()
        if found := _DATA_URI.match(text):
            in_base64 = found[0].lower().rstrip(", ").endswith(";base64")
            content = text[found.end() :]
            if in_base64 or len(content) < MAX_BYTES // 10:  # percent-encoded text is slow to decode
                yield from self._complete(_from_base64(content) if in_base64 else unquote_to_bytes(content))
        elif _ENCODED.match(text):
            yield from self._complete(_from_base64(text))
        elif _HEX.fullmatch(text):
            yield from self._complete(bytes.fromhex(text[: len(text) // 2 * 2]))
        elif len(text) <= _LONGEST_ADDRESS:
            yield from _address(text)

    def _complete(self, data: bytes) -> Iterator[_Found]:
        if recognise(data):
            try:
                yield _Found(require_complete(data), certain=True)
            except errors.UnreadableAnswer as error:
                self.problem = error


def _address(text: str) -> Iterator[_Found]:
    if _ADDRESS.fullmatch(text):
        certain = _PICTURE_PATH.match(text.partition("://")[2]) is not None
        if certain or "/requests/" not in text:
            yield _Found(text, certain)
    elif _PATH.fullmatch(text) and _PICTURE_PATH.match(text):
        yield _Found(text, certain=True)


def _rank(field: tuple[str, list[_Found]]) -> tuple[Any, ...]:
    """How likely it is that a field holds the drawn pictures. The greatest rank wins.

    Bytes win over addresses. Then documented names win over likely ones, and these over others. Then certain pictures
    win, then the larger number.
    """
    name, found = field
    is_documented = name in DOCUMENTED
    return (
        any(isinstance(each.picture, bytes) for each in found),
        2 if is_documented else 1 if DRAWN.search(name) else 0,
        all(each.certain for each in found),
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
    """The bytes that a list of numbers stands for; empty if it is not such a list."""
    if len(numbers) < 100 or numbers[0] not in (0xFF, 0x89, ord("R")):
        return b""
    try:
        return bytes(numbers)
    except (TypeError, ValueError):
        return b""


def find_pictures(json: Any, *, certain: bool = False) -> tuple[bytes | str, ...]:
    """The pictures in an answer, in its order, each once. With `certain`, only values that can be nothing else.

    Raises:
        UnreadableAnswer: All pictures in it are incomplete.
    """
    finder = _PictureFinder()
    found = [each for each in finder.search(json) if each.certain or not certain]
    if finder.problem and not found:
        raise finder.problem
    return tuple(dict.fromkeys(each.picture for each in found))[:MOST_PICTURES]


def documented_fields(json: Any, depth: int = FIELD_DEPTH) -> dict[str, Any]:
    """The documented picture fields of an answer, at the top or inside of a wrapper."""
    fields = as_object(json) if depth else {}
    wrapped = {name: documented_fields(each, depth - 1) for name, each in fields.items() if name in WRAPPERS}
    return {name: each for name, each in fields.items() if name in DOCUMENTED} | wrapped
