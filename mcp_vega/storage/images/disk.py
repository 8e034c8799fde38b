"""Which replica's disk a folder is on.

If several replicas share a ledger, a path alone does not say where a picture is: each replica has folders of its own.
The address of such a folder is `file://<name of the disk>/absolute/path`. All other folders are the same for all
servers that use the ledger, and their address is the path.
"""

import logging
import re
import secrets
import socket
import time
from pathlib import Path
from typing import NamedTuple, Self

from mcp_vega.errors import InvalidSettings
from mcp_vega.storage import folders
from mcp_vega.storage.images import atomic_write

logger = logging.getLogger(__name__)

# The file in the home folder with the name of the disk.
FILE = "replica"
# How many seconds to wait until another process has written that file.
WRITTEN_SECONDS = 1.0
_SCHEME = "file://"
_NAME = "[a-z0-9-]{1,60}-[0-9a-f]{8}"


class FolderAddress(NamedTuple):
    """A folder, and the name of the replica's disk that it is on; "" if all servers find it at its path."""

    path: Path
    disk: str = ""

    @classmethod
    def parse(cls, address: str) -> Self | None:
        """Return the folder that has an address; None if it is not a folder's address."""
        if address.startswith(_SCHEME):
            disk, _, rest = address.removeprefix(_SCHEME).partition("/")
            path = Path(f"/{rest}") if Path(f"/{rest}").is_absolute() else Path(rest)
            return cls(path, disk)
        path = Path(address)
        return cls(path) if path.is_absolute() else None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.disk}/{self.path.as_posix().lstrip('/')}" if self.disk else str(self.path)


def replica_disk_name(home: Path) -> str:
    """Return the name of this replica's disk: the same after a restart, and another one on each disk.

    The name is kept in the home folder. If that cannot be written, the name is for this process only.

    Raises:
        InvalidSettings: The file with the name has something else in it.
    """
    host = re.sub("[^a-z0-9]+", "-", socket.gethostname().lower())[:50].strip("-") or "replica"
    name, file = f"{host}-{secrets.token_hex(4)}", home / FILE
    try:
        folders.make(home)
        if not atomic_write.write_new(file, name.encode()):  # by an earlier server, or one that starts at the same time
            name = _read(file)
    except OSError as error:
        lost = "After a restart, the server does not find the pictures that are in its temporary folder now"
        logger.warning("The file %s cannot be used: %s. %s", file, error.strerror, lost)
    if not re.fullmatch(_NAME, name):
        step = "Delete the file, then start the server again"
        raise InvalidSettings(f"The file {file} does not contain the name of a replica's disk", next_step=step)
    return name


def _read(file: Path) -> str:
    """Return a file's text. Without hard links, a file is empty for a moment before it gets its text."""
    end = time.monotonic() + WRITTEN_SECONDS
    while not (text := file.read_text(encoding="utf-8", errors="replace").strip()) and time.monotonic() < end:
        time.sleep(0.01)
    return text
