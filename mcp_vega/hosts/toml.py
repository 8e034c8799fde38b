"""TOML, changed in one place: everything else stays, comments too."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

# One and the same, since two do not equal each other: files are compared.
_NAN = float("nan")


def parse(text: str) -> dict[str, Any]:
    """The data.

    Raises:
        ValueError: It is no TOML.
    """
    try:
        return tomllib.loads(text, parse_float=lambda number: _NAN if "nan" in number else float(number))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def has_comments(text: str) -> bool:
    """Whether there may be a comment in it."""
    return "#" in text


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; tables on the way are made where they are missing.

    Raises:
        ValueError: It is no TOML that can be changed, or something on the way is no table.
    """
    try:
        document = tomlkit.parse(text)
        table: Any = document
        if isinstance(value, dict) and isinstance(_at(document, path), Table):
            document = table = tomlkit.parse(drop(text, path))
        for name in path[:-1]:
            if name not in table:
                table[name] = {} if isinstance(table, InlineTable) else tomlkit.table(is_super_table=True)
            table = table[name]
        inline = isinstance(table, InlineTable) or not isinstance(value, dict)
        table[path[-1]] = value if inline else _table(cast("dict[str, Any]", value))
        written = document.as_string()
        if not isinstance(value, dict):
            written = _above_comments(text, written)
        return re.sub(r"(?<!\r)\n", "\r\n", written) if "\r\n" in text else written
    except (TOMLKitError, TypeError) as error:
        raise ValueError(f"{'.'.join(path)} cannot be put into it: {error}") from error


def drop(text: str, path: Sequence[str]) -> str:
    """The text without what is at `path`.

    Raises:
        ValueError: It is no TOML that can be changed, or there is nothing at `path`.
    """
    try:
        document = tomlkit.parse(text)
        table: Any = document
        for name in path[:-1]:
            table = table[name]
        del table[path[-1]]
        return _with_comments_below(text, document.as_string())
    except (TOMLKitError, TypeError, KeyError) as error:
        raise ValueError(f"{'.'.join(path)} cannot be taken out of it: {error}") from error


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


def _first_difference(lines: Sequence[str], others: Sequence[str]) -> int:
    pairs = enumerate(zip(lines, others, strict=False))
    return next((number for number, (line, other) in pairs if line != other), min(len(lines), len(others)))


def _with_comments_below(before: str, after: str) -> str:
    """The text after a table was taken out, with the comments that stood below it: they belong to what follows."""
    lines, left = before.split("\n"), after.split("\n")
    start = _first_difference(lines, left)
    end = start + len(lines) - len(left)
    if lines[end:] != left[start:]:
        return after
    comments = end
    while comments > start and _is_no_data(lines[comments - 1]):
        comments -= 1
    if not any(line.strip() for line in lines[comments:end]):
        return after
    return "\n".join([*lines[:start], *lines[comments:]])


def _is_no_data(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


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
