"""Foreign text made safe to show: on one line, without control characters, without keys."""

import re

# Keys of this API; those of others with a longer name; what stands where a key usually does and has a digit in it.
_KEYS = re.compile(
    r"SG_[A-Za-z0-9_-]{4,}|\b[sp]k-[A-Za-z0-9_-]{16,}"
    r"|(?<=bearer )(?=\S*\d)[\w.~+/-]{8,}|(?<=api-key[:=])\s*[\w.-]{8,}|(?<=api_key[:=])\s*[\w.-]{8,}",
    re.IGNORECASE,
)
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
