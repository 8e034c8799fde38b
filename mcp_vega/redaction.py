"""Text made safe to show: foreign text on one line, without control characters and keys; any text without paths."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

# Keys of this API; those of others with a longer name; what stands where a key usually does and has a digit in it.
_KEYS = re.compile(
    r"SG_[A-Za-z0-9_-]{4,}|\b[sp]k-[A-Za-z0-9_-]{16,}"
    r"|(?<=bearer )(?=\S*\d)[\w.~+/-]{8,}|(?<=api-key[:=])\s*[\w.-]{8,}|(?<=api_key[:=])\s*[\w.-]{8,}",
    re.IGNORECASE,
)
# What a path begins with, up to its last name; or a quotation, which is left as it is.
_PATHS = re.compile(r"“[^”]*”|(?<![^\s(])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\]+[/\\])+")
_QUOTATION_MARKS = str.maketrans("“”", '""')


def quoted(text: str, limit: int = 300) -> str:
    """Printable text in quotation marks, which one in it does not end; at most `limit` characters."""
    plain = printable(text).translate(_QUOTATION_MARKS)
    return f"“{plain[:limit]}{'…' if len(plain) > limit else ''}”"


def printable(text: str) -> str:
    """Foreign text on one line, without control characters and keys."""
    return redacted(" ".join("".join(each if each.isprintable() else " " for each in str(text)).split()))


def redacted(text: str) -> str:
    """Text without what looks like a key."""
    return _KEYS.sub(lambda found: "SG_…" if found[0].startswith("SG_") else "…", text)


def without_paths(text: str, folders: Mapping[Path, str]) -> str:
    """Text that does not tell where files lie on this machine.

    In the place of one of the `folders` stands the word for it; of any other path only its last name is left.
    """
    words = {str(each): word for folder, word in folders.items() for each in (folder, Path(os.path.realpath(folder)))}
    for folder in sorted(words, key=len, reverse=True):  # one may be inside another
        if len(Path(folder).parts) > 1:
            text = re.sub(rf"{re.escape(folder)}(?!\.?[\w-])", words[folder], text)
    return _PATHS.sub(lambda found: found[0] if found[0].startswith("“") else "…/", text)
