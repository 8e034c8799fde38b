"""What a store of pictures can do, and what pictures are called in it."""

import os
import re
import unicodedata
from datetime import date
from pathlib import PurePosixPath
from typing import Protocol

from mcp_vega.redaction import beginning, is_visible, redacted

# Room for the seed, all of the id and the ending of a temporary file in the 143 bytes that eCryptfs leaves a name; most
# other file systems leave it 255.
SLUG_LENGTH, SLUG_BYTES = 40, 72
# In so many characters of a prompt its first words are found.
LOOKED_AT = 1000
# Marks that only choose between the looks of a letter.
_LOOKS = re.compile("[\u034f\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


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
    """What a picture's file is called, but for its id: the prompt's first words, in small letters of any script."""
    seen = (each for each in unicodedata.normalize("NFKC", prompt[:LOOKED_AT]) if unicodedata.category(each) != "Cf")
    lower = redacted("".join(seen)).lower()  # a key in a prompt goes no further
    slug = beginning(_words(unicodedata.normalize("NFC", lower)), SLUG_LENGTH)
    while len(slug.encode()) > SLUG_BYTES:
        slug = beginning(slug, len(slug) - 1)
    return f"{slug.strip('-') or 'picture'}-{seed}{suffix}"


def _words(text: str) -> str:
    """The letters and digits of a text with the marks that belong to them, and a hyphen for all that is between."""
    slug = ""
    for each in text:
        if unicodedata.category(each)[0] in "LN" and is_visible(each):
            slug += each
        elif unicodedata.category(each)[0] == "M":
            slug += each if slug and slug[-1] != "-" and not _LOOKS.match(each) else ""
        else:
            slug += "-"
    return re.sub("-+", "-", slug).strip("-")


def ascii_name(name: str) -> str:
    """A picture's name for what takes ASCII alone."""
    if name.isascii():
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lstrip("-")
    return plain if plain[0].isalpha() else f"picture-{plain}"


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
