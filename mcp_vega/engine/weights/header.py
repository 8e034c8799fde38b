"""The header of a safetensors file: the names of its tensors, and how long the complete file is."""

import json
import struct
from pathlib import Path
from typing import Any, cast

# The format's own limit. It keeps a wrong file from filling the memory.
LARGEST = 100_000_000


class BrokenFile(Exception):  # noqa: N818  it says what the file is
    """The file is no complete safetensors file. The text says why, without a period."""


def tensors_of(path: Path) -> frozenset[str]:
    """The names of the tensors in a file. Only its header is read.

    Raises:
        BrokenFile: It is no safetensors file, or a part of it is missing.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length: int = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > LARGEST:
            raise BrokenFile("it is no safetensors file")
        text = file.read(length)
    if not length or len(text) < length:
        raise BrokenFile(f"it ends after {size:,} bytes, within its header")
    try:
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        end = 8 + length + max((cast("int", each["data_offsets"][1]) for each in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise BrokenFile("it is no safetensors file") from None
    if size != end:
        raise BrokenFile(f"it has {size:,} bytes instead of {end:,}")
    return frozenset(header)
