"""JSON with comments and trailing commas, changed in one place: everything else stays, character for character."""

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
    """A member of an object, and where it stands in the text."""

    key: str
    start: int
    value: int
    end: int


def parse(text: str) -> Any:
    """The data; an empty text is an empty object.

    Raises:
        ValueError: It is no JSON, comments and trailing commas aside.
    """
    bare = _without_trailing_commas(_without_comments(text))
    try:
        return json.loads(bare) if bare.strip() else {}
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def comments(text: str) -> list[str]:
    """The comments, in order."""
    return [found[0] for found in _COMMENTS.finditer(text) if not found[0].startswith('"')]


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; objects on the way are made where they are missing.

    Raises:
        ValueError: It is no JSON, or something on the way is no object.
    """
    if not _without_comments(text).strip():
        text = f"{text}{{}}{_newline(text)}"
    return _put(text, 0, tuple(path), value)


def drop(text: str, path: Sequence[str]) -> str:
    """The text without what is at `path`, and without its comma.

    Raises:
        ValueError: It is no JSON, or there is nothing at `path`.
    """
    uncommented = _without_comments(text)
    bare = _without_trailing_commas(uncommented)
    start = _after_space(bare, 0)
    for name in path[:-1]:
        start = _named(_members(bare, start), name).value
    members = _members(bare, start)
    member = _named(members, path[-1])
    after = _after_space(uncommented, member.end)
    previous = members.index(member) - 1
    if uncommented[after] == ",":
        return _without(text[:after] + text[after + 1 :], member.start, member.end)
    if previous >= 0:
        comma = _after_space(uncommented, members[previous].end)
        return _without(text[:comma] + text[comma + 1 :], member.start - 1, member.end - 1)
    return _without(text, member.start, member.end)


def _put(text: str, start: int, path: tuple[str, ...], value: Any) -> str:
    """The text with `value` at `path` below the object that begins at `start`, or after space from there."""
    bare = _without_trailing_commas(_without_comments(text))
    start = _after_space(bare, start)
    if bare[start] != "{":
        raise ValueError(f"{path[0]!r} cannot be put into what is no object")
    named = [member for member in _members(bare, start) if member.key == path[0]]
    if not named:
        for name in reversed(path[1:]):
            value = {name: value}
        return _with_member(text, start, path[0], value)
    member = named[-1]
    if len(path) > 1:
        return _put(text, member.value, path[1:], value)
    written = _written(value, text, _indentation(text, member.start))
    return f"{text[: member.value]}{written}{text[member.end :]}"


def _with_member(text: str, start: int, name: str, value: Any) -> str:
    """The text with a new last member in the object that begins at `start`."""
    uncommented = _without_comments(text)
    bare = _without_trailing_commas(uncommented)
    members = _members(bare, start)
    close = _after_space(bare, members[-1].end if members else start + 1)
    # After the last thing in the object, which may be a comment on the last member.
    last = len(text[:close].rstrip())
    comma = bool(members) and "," in uncommented[members[-1].end : close]
    before = text[:last]
    if members and not comma:
        before = f"{text[: members[-1].end]},{text[members[-1].end : last]}"
    if "\n" not in text[start:close] and (members or _is_one_line(text)):
        written = f"{' ' if members else ''}{_quoted(name)}: {json.dumps(value, ensure_ascii=False)}"
        return f"{before}{written}{',' if comma else ''}{text[close:]}"
    outer = _indentation(text, start)
    inner = max(outer + _indent_unit(text), _indentation(text, members[0].start) if members else "", key=len)
    written = f"{_quoted(name)}: {_written(value, text, inner)}{',' if comma else ''}"
    return f"{before}{_newline(text)}{inner}{written}{_newline(text)}{outer}{text[close:]}"


def _members(bare: str, start: int) -> list[_Member]:
    """The members of the object that begins at `start`; the standard library's parser tells where each value ends."""
    members: list[_Member] = []
    at = _after_space(bare, start + 1)
    while bare[at] != "}":
        key, end = _DECODER.raw_decode(bare, at)
        value = _after_space(bare, _after_space(bare, end) + 1)
        _, end = _DECODER.raw_decode(bare, value)
        members.append(_Member(key, at, value, end))
        at = _after_space(bare, end)
        if bare[at] == ",":
            at = _after_space(bare, at + 1)
    return members


def _named(members: list[_Member], name: str) -> _Member:
    """The member of a name; of several the last, which is the one that counts."""
    for member in reversed(members):
        if member.key == name:
            return member
    raise ValueError(f"there is no {name!r}")


def _without(text: str, start: int, end: int) -> str:
    """The text without a stretch of it, and without the line, or within the braces the space, that it leaves empty."""
    if text[:start].rstrip().endswith("{") and text[end:].lstrip().startswith("}"):
        return text[:start].rstrip() + text[end:].lstrip()
    line, rest = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    if rest >= 0 and not text[line:start].strip() and not text[end:rest].strip():
        return text[:line] + text[rest + 1 :]
    before, after = text[:start], text[end:].lstrip(" \t")
    return (before.rstrip(" \t") if after.startswith("}") else before) + after


def _written(value: Any, text: str, indentation: str) -> str:
    """A value as JSON in the text's own style, for a line with this indentation."""
    if _is_one_line(text):
        return json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=_indent_unit(text), ensure_ascii=False).split("\n")
    return f"{_newline(text)}{indentation}".join(lines)


def _is_one_line(text: str) -> bool:
    """Whether the text keeps all that it holds in one line."""
    return "\n" not in text.strip() and bool(text.strip("{} \t\r\n"))


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _indentation(text: str, position: int) -> str:
    """The space at the beginning of the line of a position."""
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
    """The text with spaces in the place of comments, so that everything else keeps its place."""
    return _COMMENTS.sub(
        lambda found: found[0] if found[0].startswith('"') else re.sub(r"[^ \t\r\n]", " ", found[0]), text
    )


def _without_trailing_commas(uncommented: str) -> str:
    return _TRAILING_COMMAS.sub(lambda found: " " if found[0] == "," else found[0], uncommented)
