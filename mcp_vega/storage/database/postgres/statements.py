"""Converts SQL with values named as `:name`, as all of this package uses it, to the form that psycopg reads."""

import re
from functools import lru_cache

# A text or a quoted name, a comment, a cast (`::`), a named value, a percent sign.
_PARTS = re.compile(
    r"""
    (?P<unchanged> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: ) | :(?P<name>[A-Za-z_]\w*) | %
    """,
    re.VERBOSE | re.DOTALL,
)
_TEXT_COLUMN = re.compile(r"(^\s*\w+\s+TEXT|\bADD\s+COLUMN\s+\w+\s+TEXT)\b(?!\s+COLLATE)", re.MULTILINE | re.IGNORECASE)


@lru_cache(maxsize=1000)
def for_psycopg(statement: str) -> str:
    """Return a statement with `%(name)s` in place of `:name`. Other percent signs are doubled."""

    def converted(found: re.Match[str]) -> str:
        return f"%({found['name']})s" if found["name"] else found[0].replace("%", "%%")

    return _PARTS.sub(converted, statement)


def with_collation(schema: str) -> str:
    """Return statements whose new text columns compare bytes, as SQLite's do, whatever the database's language is."""
    return _TEXT_COLUMN.sub(r'\1 COLLATE "C"', re.sub("--.*", "", schema))
