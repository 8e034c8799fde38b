"""The number that identifies a schema, so that tables of another version are recognized."""

import re
from zlib import crc32


def fingerprint_of(schema: str) -> int:
    """Return the number that identifies a schema. Comments and white space do not change it."""
    return crc32(" ".join(re.sub("--.*", "", schema).split()).encode()) & 0x7FFFFFFF
