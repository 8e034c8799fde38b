"""TOML, changed in one place: everything else stays, comments too."""

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

# One and the same, since two do not equal each other: files are compared.
_NAN = float("nan")
_COMMENTS = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]++|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|(#[^\r\n]*)",
    re.DOTALL,
)


def parse(text: str) -> dict[str, Any]:
    """The data.

    Raises:
        ValueError: It is no TOML.
    """
    try:
        return tomllib.loads(text, parse_float=lambda number: _NAN if "nan" in number else float(number))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def comments(text: str) -> list[str]:
    """The comments, in order."""
    return [comment for comment in _COMMENTS.findall(text) if comment]


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; tables on the way are made where they are missing.

    Within a table that is there it takes a line, objects in braces; else an object becomes a table.

    Raises:
        ValueError: It is no TOML that can be changed, something on the way is no table, or a comment would be lost.
    """
    if not isinstance(value, dict) or (isinstance(_at(tomlkit.parse(text), path[:2]), Table) and len(path) > 2):
        return _complete(text, _above_comments(text, _set(text, path, _in_braces(value))))
    table = cast("dict[str, Any]", value)
    written = _in_lines_of(text, _set("", path, table))
    if isinstance(_at(tomlkit.parse(text), path), Table):
        text = drop(text, path)
    # At the end it moves nothing, where it may stand there.
    appended = f"{text}{_separator(text)}{written}"
    try:
        if _at(parse(appended), path) == table:
            return appended
    except ValueError:  # the tables on the way are closed
        pass
    return _complete(text, _set(text, path, table))


def drop(text: str, path: Sequence[str]) -> str:
    """The text without what is at `path`.

    Raises:
        ValueError: It is no TOML that can be changed, there is nothing at `path`, or a comment elsewhere would be lost.
    """
    try:
        document = tomlkit.parse(text)
        table: Any = document
        for name in path[:-1]:
            table = table[name]
        own = f"{table[path[-1]].trivia.comment}\n{table[path[-1]].as_string()}"
        del table[path[-1]]
        left = _with_comments_below(text, document.as_string())
        if not re.search(r"\n\r?\n\Z", text):  # nor shall it end with an empty line now
            left = re.sub(r"(\r?\n)+\Z", r"\1", left)
        return _complete(text, left, _without_comments_below(own))
    except (TOMLKitError, TypeError, KeyError) as error:
        raise ValueError(f"{'.'.join(path)} cannot be taken out of it: {error}") from error


def _set(text: str, path: Sequence[str], value: Any) -> str:
    try:
        document = tomlkit.parse(text)
        table: Any = document
        for name in path[:-1]:
            if name not in table:
                table[name] = {} if isinstance(table, InlineTable) else tomlkit.table(is_super_table=True)
            table = table[name]
        plain = isinstance(table, InlineTable) or not isinstance(value, dict) or isinstance(value, InlineTable)
        table[path[-1]] = value if plain else _table(cast("dict[str, Any]", value))
        return _in_lines_of(text, document.as_string())
    except (TOMLKitError, TypeError) as error:
        raise ValueError(f"{'.'.join(path)} cannot be put into it: {error}") from error


def _complete(before: str, after: str, without: str = "") -> str:
    """The text, if no comment is lost but those of what was taken out."""
    if Counter(comments(before)) - Counter(comments(without)) - Counter(comments(after)):
        raise ValueError("a comment would be lost")
    return after


def _at(table: Any, path: Sequence[str]) -> Any:
    """What is at `path`; None where there is nothing."""
    for name in path:
        if not isinstance(table, Mapping) or name not in table:
            return None
        table = cast("Mapping[str, Any]", table)[name]
    return table


def _above_comments(before: str, after: str) -> str:
    """The text with a new line moved above the comments that it came to stand below: they belong to what follows."""
    lines, left = before.split("\n"), after.split("\n")
    start, more = _first_difference(lines, left), len(left) - len(lines)
    if more < 1 or lines[start:] != left[start + more :]:
        return after
    above = start
    while above and _is_no_data(lines[above - 1]):
        above -= 1
    return "\n".join([*lines[:above], *left[start : start + more], *lines[above:]])


def _with_comments_below(before: str, after: str) -> str:
    """The text after a table was taken out, with the comments that stood below it: they belong to what follows."""
    lines, left = before.split("\n"), after.split("\n")
    start = _first_difference(lines, left)
    end = start + len(lines) - len(left)
    if lines[end:] != left[start:]:
        return after
    below = end
    while below > start and _is_no_data(lines[below - 1]):
        below -= 1
    if not any(line.strip() for line in lines[below:end]):
        return after
    return "\n".join([*lines[:start], *lines[below:]])


def _without_comments_below(text: str) -> str:
    lines = text.split("\n")
    while lines and _is_no_data(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _first_difference(lines: Sequence[str], others: Sequence[str]) -> int:
    pairs = enumerate(zip(lines, others, strict=False))
    return next((number for number, (line, other) in pairs if line != other), min(len(lines), len(others)))


def _is_no_data(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _separator(text: str) -> str:
    """What ends a text's last line and leaves one empty."""
    if not text.strip():
        return ""
    return _in_lines_of(text, "\n" if text.endswith("\n") else "\n\n")


def _in_lines_of(text: str, written: str) -> str:
    """What is written, with the line ends of the text."""
    return re.sub(r"(?<!\r)\n", "\r\n", written) if "\r\n" in text else written


def _table(data: dict[str, Any]) -> Table:
    """A table with what is below it in braces."""
    table = tomlkit.table()
    for name, value in data.items():
        table[name] = _in_braces(value)
    return table


def _in_braces(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    braces = tomlkit.inline_table()
    braces.update(cast("dict[str, Any]", value))
    return braces
