"""Finds the pictures in a JSON answer by what a value is, at any depth.

A picture is bytes of one (in base64, in a data URI, in hex digits, or as a list of numbers), or the address of one.
"""

import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from mcp_vega import errors
from mcp_vega.imaging.formats import recognise, require_whole
from mcp_vega.segmind.values import ECHOES, as_list, as_object

# How deep in an answer pictures may lie, and how many values of it are looked at.
DEPTH, MOST_VALUES = 100, 100_000
# The documented fields, in the order in which they count where they name as many pictures.
DOCUMENTED = ("image", "images", "output", "url", "image_url", "generation_url")
# Fields with addresses of something else, and with less than the picture; whole words of a name.
OTHERS = re.compile(
    r"(?<![a-z])(status|poll|response|cancel|webhook|callback|docs?|help|logs?|self)(?![a-z])", re.IGNORECASE
)
LESSER = re.compile(r"(?<![a-z])(thumb|thumbnails?|previews?|icons?|logos?|avatars?|mask)(?![a-z])", re.IGNORECASE)

_BASE64_FOR_URLS = str.maketrans("-_", "+/", " \t\r\n")
_DATA_URI = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s\"<>\\]+", re.IGNORECASE)
_PATH = re.compile(r"//?[^/\s\"<>\\][^\s\"<>\\]*")
_PICTURE_PATH = re.compile(r"[^?#]*\.(jpe?g|png|webp)([?#]|$)", re.IGNORECASE)
# The first bytes of each format in base64 and in hex, so that other texts are not decoded.
_ENCODED = re.compile(r"/9j/|_9j_|iVBORw0KGgo|UklGR")
_HEX = re.compile(r"(ffd8ff|89504e47|52494646)[0-9a-f]*", re.IGNORECASE)


class _Found(NamedTuple):
    """A picture; `surely` where its value alone says so, which is not the case with an address like any other."""

    picture: bytes | str
    surely: bool


class _PictureFinder:
    """Looks through one answer; `problem` is that of the last picture which is not whole, and is left out."""

    def __init__(self, *, surely: bool) -> None:
        self._surely = surely
        self._left = MOST_VALUES
        self.problem: errors.UnreadableAnswer | None = None

    def find(self, json: Any) -> tuple[bytes | str, ...]:
        """The pictures in an answer, in its order, each once."""
        return tuple(dict.fromkeys(each.picture for each in self._look(json, DEPTH)))

    def _look(self, value: Any, depth: int) -> list[_Found]:
        self._left -= 1
        if not depth or self._left < 0:
            return []
        if isinstance(value, str):
            return [*self._in_text(value)]
        if isinstance(value, list):
            numbers = as_list(value)
            if data := _from_numbers(numbers):
                return [*self._whole(data)]
            return [each for inner in numbers for each in self._look(inner, depth - 1)]
        return self._best(as_object(value), depth)

    def _best(self, fields: dict[str, Any], depth: int) -> list[_Found]:
        """The pictures of the field that names most of them: several fields of one object may name the same ones.

        Fields whose names differ in a number only are one.
        """
        by_name: dict[str, list[_Found]] = {}
        for name, value in fields.items():
            if name not in ECHOES and not (self._surely and LESSER.search(name)):
                found = [each for each in self._look(value, depth - 1) if each.surely or not OTHERS.search(name)]
                by_name.setdefault(re.sub(r"[0-9]+", "#", name), []).extend(found)
        return max(by_name.items(), key=_rank)[1] if by_name else []

    def _in_text(self, text: str) -> Iterator[_Found]:
        text = text.strip()
        if found := _DATA_URI.match(text):
            content = text[found.end() :]
            in_base64 = found[0].lower().rstrip(", ").endswith(";base64")
            yield from self._whole(_from_base64(content) if in_base64 else unquote_to_bytes(content))
        elif _ENCODED.match(text):
            yield from self._whole(_from_base64(text))
        elif _HEX.fullmatch(text):
            yield from self._whole(bytes.fromhex(text[: len(text) // 2 * 2]))
        elif _ADDRESS.fullmatch(text):
            surely = _PICTURE_PATH.match(text.partition("://")[2]) is not None
            if surely or not (self._surely or "/requests/" in text):
                yield _Found(text, surely)
        elif _PATH.fullmatch(text) and _PICTURE_PATH.match(text):
            yield _Found(text, surely=True)

    def _whole(self, data: bytes) -> Iterator[_Found]:
        if recognise(data):
            try:
                yield _Found(require_whole(data), surely=True)
            except errors.UnreadableAnswer as error:
                self.problem = error


def _rank(field: tuple[str, list[_Found]]) -> tuple[Any, ...]:
    """How well a field does as that of the pictures; the greatest is taken."""
    name, found = field
    is_documented = name in DOCUMENTED
    is_sure = bool(found) and (is_documented or all(each.surely for each in found))
    here = sum(isinstance(each.picture, bytes) for each in found)
    return (
        bool(found) and not LESSER.search(name),
        is_sure,
        len({each.picture for each in found}),
        here,
        -DOCUMENTED.index(name) if is_documented else -len(DOCUMENTED),
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
    finder = _PictureFinder(surely=surely)
    found = finder.find(json)
    if finder.problem and not found:
        raise finder.problem
    return found
