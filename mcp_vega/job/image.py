"""A kept picture, and where it is kept."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# The address of the picture store in memory. Its pictures are lost when the server ends.
MEMORY = "memory"


class ImageLocation(NamedTuple):
    """Where a picture is kept: the store, and the key in that store.

    `store` is the store's address, which stays the same when the user changes the gallery's setting: the absolute path
    of a folder, `file://<disk>/path` for a folder on the disk of one of several replicas, the URL of a bucket, or
    `MEMORY`. `key` is a relative path with slashes, such as `2026-11-20/a-fox-7-0123abcd.jpg`.
    """

    store: str
    key: str

    @property
    def path(self) -> Path | None:
        """The absolute path of the picture's file; None if no path means this file on every server."""
        folder = Path(self.store)
        return folder / self.key if folder.is_absolute() else None


@dataclass(frozen=True, kw_only=True)
class Image:
    """A kept picture. `width` and `height` are in pixels; `sha256` is that of the file.

    `fallback` means that the first store could not keep the picture, so it is in another one. `starred` means that
    somebody wants to keep it. `deleted` is when its file was deleted from the gallery (UTC), else None.
    """

    id: str
    location: ImageLocation
    fallback: bool = False
    mime_type: str
    width: int
    height: int
    bytes: int
    sha256: str
    starred: bool = False
    deleted: datetime | None = None

    @property
    def uri(self) -> str:
        """The picture's address as an MCP resource."""
        return f"vega://images/{self.id}"

    @property
    def path(self) -> Path | None:
        """The absolute path of its file; None if it has no file."""
        return self.location.path

    @property
    def name(self) -> str:
        """The name of its file, or the name that its file would have."""
        return PurePosixPath(self.location.key).name

    @property
    def in_memory(self) -> bool:
        """Whether it is only in memory, because no disk could keep it. It is lost when the server ends."""
        return self.location.store == MEMORY
