"""Codex's TOML, changed in one table. Every other character stays."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import tomlkit
from tomlkit.container import Container
from tomlkit.items import Table, Whitespace

# No TOML file has this character. Without a line end here, tomlkit would add one after it.
_MARK = "\0\n"


def parse(text: str) -> dict[str, Any]:
    """The data.

    Raises:
        ValueError: It is not TOML.
    """
    try:
        return tomlkit.parse(text).unwrap()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def put(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`: a server becomes a table at the end, a member a line in its server's table.

    Args:
        text: The text of the file.
        path: The section, the server and, for a member of the server, its names.
        value: The new value.

    Raises:
        ValueError: It is not TOML, or its form does not allow this change.
    """
    span = _span(text, path[:2])
    if span and len(path) > 2:
        start, end = span
        document = tomlkit.parse(text[start:end])
        table: Any = document
        for name in path[:-1]:
            table = table[name]
        if isinstance(value, dict):
            table[path[-1]] = tomlkit.inline_table()
            table[path[-1]].update(cast("dict[str, Any]", value))
        else:
            table[path[-1]] = value
        changed = f"{text[:start]}{_with_line_ends_of(text, document.as_string())}{text[end:]}"
    else:
        rest = drop(text, path) if span else text
        empty_line = "" if not rest or rest.endswith(("\n\n", "\n\r\n")) else "\n" if rest.endswith("\n") else "\n\n"
        table = tomlkit.dumps({path[0]: {path[1]: value}})
        changed = f"{rest}{_with_line_ends_of(text, empty_line + table)}"
    tomlkit.parse(changed)
    return changed


def drop(text: str, path: Sequence[str]) -> str:
    """The text without the table at `path`.

    Raises:
        ValueError: It is not TOML, or there is no such table.
    """
    span = _span(text, path)
    if span is None:
        raise ValueError(f"there is no table {'.'.join(path)}")
    start, end = span
    return text[:start] + text[end:].lstrip("\r\n")


def _span(text: str, path: Sequence[str]) -> tuple[int, int] | None:
    """Where the table at `path` begins and ends in the text; None if there is no such table."""
    document = tomlkit.parse(text)
    places = [*_places(document, path)]
    if not places:
        return None
    container, index = places[0]
    container.body[index] = (None, Whitespace(_MARK))
    above, _, below = document.as_string().partition(_MARK)
    start, end = len(above), len(text) - len(below)
    if len(places) > 1 or above + text[start:end] + below != text:
        raise ValueError(f"the parts of {'.'.join(path)} are in different places")
    lines = text[start:end].splitlines(keepends=True)
    # Comments at the end of a table belong to the next one.
    while lines and lines[-1].lstrip()[:1] in {"", "#"}:
        lines.pop()
    return start, start + len("".join(lines))


def _places(container: Container, path: Sequence[str]) -> Iterator[tuple[Container, int]]:
    """Where the parts of the value at `path` are: the container of each, and its index there."""
    for index, (key, item) in enumerate(container.body):
        if key is not None and key.key == path[0]:
            if len(path) == 1:
                yield container, index
            elif isinstance(item, Table):
                yield from _places(item.value, path[1:])


def _with_line_ends_of(text: str, written: str) -> str:
    return written.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else written
