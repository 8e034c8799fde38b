"""What a store of pictures can do, and what pictures are called in it."""

import os
import re
import unicodedata
from datetime import date
from pathlib import PurePosixPath
from typing import Protocol

SLUG_LENGTH = 40


class ImageStore(Protocol):
    """Keeps pictures under keys that it chooses, and never one in the place of another.

    A picture's `name` is that of `file_name`, without the digits of its id; its `day` is the first part of its key.
    What cannot be written or read is a `GalleryError`, and so is a key that leads out of the store.
    """

    @property
    def address(self) -> str:
        """What an `ImageLocation` calls it, the same in each process."""
        ...

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept, before one is paid for."""
        ...

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> str:
        """Keep a picture, whole or not at all; an equal one that is there already stays the one. Returns its key."""
        ...

    async def set_aside(self, data: bytes, name: str, day: date) -> str:
        """Keep what came in the place of a picture that was paid for; returns its key."""
        ...

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that was saved, though its server died before it could note that; None where there is none."""
        ...

    async def read(self, key: str) -> bytes:
        """The bytes of a kept picture."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a picture, if it is there."""
        ...


def file_name(prompt: str, seed: int, suffix: str) -> str:
    """What a picture's file is called, but for its id, in words that any system takes."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:SLUG_LENGTH].strip("-") or "picture"
    return f"{slug}-{seed}{suffix}"


def names_of(name: str, image_id: str) -> tuple[str, str]:
    """A name with the first digits of a picture's id, and with all of them, for where the short one is taken."""
    beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
    return f"{beginning}-{image_id[:8]}{suffix}", f"{beginning}-{image_id}{suffix}"


def name_and_day(key: str, image_id: str) -> tuple[str, date]:
    """What a picture was saved with, from its key.

    Raises:
        ValueError: The key is none of such a picture.
    """
    path = PurePosixPath(key)
    digits = image_id if path.stem.endswith(image_id) else image_id[:8]
    return f"{path.stem.removesuffix(f'-{digits}')}{path.suffix}", date.fromisoformat(path.parent.name)
