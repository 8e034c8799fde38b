"""What the answers of a server depend on besides the request.

This module is imported before anything is answered, so it imports only small modules.
"""

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mcp_vega import __version__

# The packages whose versions decide the answers, as in the names of their folders `NAME-VERSION.dist-info`.
PACKAGES = {"mcp", "mcp_types", "pydantic", "pydantic_core"}

# The folder of this package.
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def fingerprint_of(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """A number that changes with the interpreter, the versions of the packages, this package's files and the settings.

    Of the secrets among the settings, it only depends on whether they are set.
    """
    settings = {
        name: bool(value) if any(word in name for word in ("KEY", "TOKEN", "LEDGER")) else value
        for name, value in environment.items()
        if name.startswith(("MCP_VEGA_", "SEGMIND_"))
    }
    parts = [sys.version, sys.path, __version__, [*arguments], sorted(settings.items()), _versions(), _files()]
    return zlib.crc32(repr(parts).encode())


def _versions() -> list[str]:
    """The names of the folders with the packages' metadata."""
    found: list[str] = []
    for folder in sys.path:
        with suppress(OSError):  # not every folder of the path exists
            found += (each for each in os.listdir(folder or ".") if each.partition("-")[0] in PACKAGES)
    return sorted(found)


def _files() -> list[tuple[str, int, int]]:
    """The files of this package, with their sizes and the times of their last changes."""
    found: list[tuple[str, int, int]] = []
    for folder, _, names in os.walk(PACKAGE):
        if not folder.endswith("__pycache__"):
            paths = [os.path.join(folder, name) for name in names]
            found += ((path, (status := os.stat(path)).st_size, status.st_mtime_ns) for path in paths)
    if not found:
        raise FileNotFoundError(PACKAGE)  # the package is inside a zip file
    return sorted(found)
