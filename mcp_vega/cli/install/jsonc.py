"""JSON with comments and trailing commas, changed in one place. Every other character stays."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_STRING = r'"(?:[^"\\]++|\\.)*+"'
_COMMENTS = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMAS = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.DOTALL)
_SPACE = re.compile(r"\s*")
_FIRST_INDENTED = re.compile(r'\{[^\S\r\n]*\r?\n([ \t]+)["/]')
_DECODER = json.JSONDecoder()


class _Member(NamedTuple):
    """The positions of an object's member in the text: of its name, its value and its end."""

    start: int
    value: int
    end: int


def parse(text: str) -> Any:
    """The data; an empty text is an empty object.

    Raises:
        ValueError: It is not JSON, apart from comments and trailing commas.
    """

    def refuse(word: str) -> None:  # NaN and Infinity, which Python would accept
        raise ValueError(f"{word} is not JSON")

    bare = _bare(text)
    try:
        return json.loads(bare, parse_constant=refuse) if bare.strip() else {}
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def has_comments(text: str) -> bool:
    """Whether there is a comment in it."""
    return _without_comments(text) != text


def has_trailing_commas(text: str) -> bool:
    """Whether there is a comma after the last value of an object or list."""
    return _bare(text) != _without_comments(text)


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; missing objects on the path are added.

    Raises:
        ValueError: It is not JSON, or a value on the path is not an object.
    """
    if not _bare(text).strip():
        text = f"{text}{{}}{_newline(text)}"
    bare = _bare(text)
    start = at = end = _after_space(bare, 0)
    for depth, name in enumerate(path):
        if bare[at] != "{":
            raise ValueError(f"{name!r} cannot be put into a value that is not an object")
        member = _members(bare, at).get(name)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _with_member(text, at, name, value)
        start, at, end = member
    return f"{text[:at]}{_written(value, text, _indentation(text, start))}{text[end:]}"


def drop(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path` and its comma.

    Raises:
        ValueError: It is not JSON, or there is nothing at `path`.
    """
    uncommented = _without_comments(text)
    bare = _bare(text)
    start = at = end = _after_space(bare, 0)
    for name in path:
        try:
            start, at, end = _members(bare, at)[name]
        except KeyError as error:
            raise ValueError(f"there is no {name!r}") from error
    comma = _after_space(uncommented, end)
    if uncommented[comma] == ",":
        return _without(text[:comma] + text[comma + 1 :], start, end)
    before = uncommented[:start].rstrip()
    if before.endswith(","):
        return _without(text[: len(before) - 1] + text[len(before) :], start - 1, end - 1)
    return _without(text, start, end)


def _with_member(text: str, start: int, name: str, value: Any) -> str:
    """The text with a new last member in the object that begins at `start`."""
    bare = _bare(text)
    close = _DECODER.raw_decode(bare, start)[1] - 1
    # The end of the last member. A comma and a comment may follow it.
    end = len(bare[:close].rstrip())
    has_members = end > start + 1
    has_comma = "," in _without_comments(text)[end:close]
    before = text[:close].rstrip()
    if has_members and not has_comma:
        before = f"{text[:end]},{before[end:]}"
    comma = "," if has_comma else ""
    quoted = json.dumps(name, ensure_ascii=False)
    if has_members and "\n" not in text[start:close]:
        return f"{before} {quoted}: {json.dumps(value, ensure_ascii=False)}{comma}{text[close:]}"
    newline, outer = _newline(text), _indentation(text, start)
    first = _indentation(text, _after_space(bare, start + 1)) if has_members else ""
    inner = max(outer + _indent_unit(text), first, key=len)
    return f"{before}{newline}{inner}{quoted}: {_written(value, text, inner)}{comma}{newline}{outer}{text[close:]}"


def _members(bare: str, start: int) -> dict[str, _Member]:
    """The members of the object that begins at `start`. Of several with one name the last counts, as in JSON parsers.

    The standard library's parser finds the end of each value.
    """
    members: dict[str, _Member] = {}
    at = _after_space(bare, start + 1)
    while bare[at] != "}":
        name, end = _DECODER.raw_decode(bare, at)
        value = _after_space(bare, _after_space(bare, end) + 1)
        _, end = _DECODER.raw_decode(bare, value)
        members[name] = _Member(at, value, end)
        at = _after_space(bare, end)
        if bare[at] == ",":
            at = _after_space(bare, at + 1)
    return members


def _without(text: str, start: int, end: int) -> str:
    """The text without the characters from `start` to `end`, and without the empty line or space that they leave."""
    if text[:start].rstrip().endswith("{") and text[end:].lstrip().startswith("}"):
        return text[:start].rstrip() + text[end:].lstrip()
    line, rest = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    if rest >= 0 and not text[line:start].strip() and not text[end:rest].strip():
        return text[:line] + text[rest + 1 :]
    before, after = text[:start], text[end:].lstrip(" \t")
    return (before.rstrip(" \t") if after.startswith("}") else before) + after


def _written(value: Any, text: str, indentation: str) -> str:
    """A value as JSON in the style of the text, for a line with this indentation."""
    lines = json.dumps(value, indent=_indent_unit(text), ensure_ascii=False).split("\n")
    return f"{_newline(text)}{indentation}".join(lines)


def _indentation(text: str, position: int) -> str:
    """The space at the beginning of the line that a position is in."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line[: len(line) - len(line.lstrip())]


def _indent_unit(text: str) -> str:
    found = _FIRST_INDENTED.search(text)
    return found[1] if found else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _without_comments(text: str) -> str:
    """The text with spaces instead of comments, so that everything else keeps its position."""
    return _COMMENTS.sub(
        lambda found: found[0] if found[0].startswith('"') else re.sub(r"[^ \t\r\n]", " ", found[0]), text
    )


def _bare(text: str) -> str:
    """The text with spaces instead of comments and trailing commas."""
    return _TRAILING_COMMAS.sub(lambda found: " " if found[0] == "," else found[0], _without_comments(text))
