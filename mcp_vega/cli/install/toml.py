"""Codex's TOML, changed in one table. Every other character stays."""

import re
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
        written = document.as_string()
        if not text[start:end].endswith("\n"):
            written = written.rstrip("\n")
        changed = f"{text[:start]}{_with_line_ends_of(text, written)}{text[end:]}"
    else:
        rest = drop(text, path) if span else text
        table = tomlkit.dumps({path[0]: {path[1]: value}})
        # Always one empty line, and no line end where the file has none: `drop` can then restore the file exactly.
        if rest and not rest.endswith("\n"):
            table = f"\n\n{table.rstrip()}"
        elif rest:
            table = f"\n{table}"
        changed = f"{rest}{_with_line_ends_of(text, table)}"
    tomlkit.parse(changed)
    return changed


def drop(text: str, path: Sequence[str]) -> str:
    """The text without the table at `path`. At the end of the text, the empty line above the table goes with it.

    Raises:
        ValueError: It is not TOML, or there is no such table.
    """
    span = _span(text, path)
    if span is None:
        raise ValueError(f"there is no table {'.'.join(path)}")
    start, end = span
    above, below = text[:start], text[end:].lstrip("\r\n")
    if below:
        return above + below
    if re.search(r"(\A|\n)\r?\n\Z", above):
        above = re.sub(r"\r?\n\Z", "", above)
        if not text.endswith("\n"):
            above = re.sub(r"\r?\n\Z", "", above)
    return above


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
