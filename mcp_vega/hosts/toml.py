"""TOML, changed in one place: everything else stays, comments too."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any, cast

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table


def parse(text: str) -> dict[str, Any]:
    """The data.

    Raises:
        ValueError: It is no TOML.
    """
    return tomllib.loads(text)


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
        for name in path[:-1]:
            if name not in table:
                table[name] = {} if isinstance(table, InlineTable) else tomlkit.table(is_super_table=True)
            table = table[name]
        inline = isinstance(table, InlineTable) or not isinstance(value, dict)
        table[path[-1]] = value if inline else _table(cast("dict[str, Any]", value))
        written = document.as_string()
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
        return document.as_string()
    except (TOMLKitError, TypeError, KeyError) as error:
        raise ValueError(f"{'.'.join(path)} cannot be taken out of it: {error}") from error


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
