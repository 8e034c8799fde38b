"""The interface of a store of pictures, and the names of pictures in it."""

import os
import re
import unicodedata
from datetime import date
from pathlib import PurePosixPath
from typing import Protocol

from mcp_vega.job import MEMORY, ImageLocation
from mcp_vega.redaction import beginning, is_visible, redacted

# Leaves room for the seed, the complete id and the ending of a temporary file: eCryptfs allows 143 bytes for a name,
# most other file systems allow 255.
SLUG_LENGTH, SLUG_BYTES = 40, 72
# The folder of answers that are not readable pictures, and how many bytes are kept of one that does not begin like a
# picture.
UNREADABLE, UNREADABLE_BYTES = "unreadable", 1_000_000
# How many characters of a prompt are read to find its first words.
READ_CHARACTERS = 1000
# Marks that only choose how a letter is displayed.
_VARIANTS = re.compile("[\u034f\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")


class ImageStore(Protocol):
    """Keeps pictures under keys that it chooses. It never replaces a picture by another.

    A picture's `name` comes from `file_name` and has no digits of the id; its `day` is the first part of its key. A
    method raises a `GalleryError` if a picture cannot be written or read, or if a key leads out of the store.
    """

    @property
    def address(self) -> str:
        """The name of this store in an `ImageLocation`, the same in each process."""
        ...

    async def prepare(self, day: date) -> None:
        """Make sure that a picture can be kept, before one is paid for."""
        ...

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        """Keep a picture, completely or not at all; returns its place. An equal picture is not kept twice."""
        ...

    async def set_aside(self, data: bytes, name: str, day: date) -> ImageLocation:
        """Keep an answer that is not a readable picture but was paid for; returns its place."""
        ...

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture that a server saved, but could not note before it died; None if there is none."""
        ...

    async def read(self, key: str) -> bytes:
        """Return the bytes of a kept picture."""
        ...

    async def is_missing(self, key: str) -> bool:
        """Whether the store can be read and the picture is not there, so somebody else has removed it."""
        ...

    async def identity(self, key: str) -> object:
        """Return a value that only the same file has, whatever store is asked for it; None if it is missing."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a picture, if it exists."""
        ...


def place_of(location: ImageLocation) -> str | None:
    """Return where a picture is, for people: its path or its address. None if it is only in memory."""
    if location.store == MEMORY:
        return None
    return str(location.path or f"{location.store}/{location.key}")


def file_name(prompt: str, seed: int, suffix: str) -> str:
    """Return the name of a picture's file without its id: the prompt's first words in lower case, seed and suffix.

    The words may be of any script.
    """
    text = unicodedata.normalize("NFKC", prompt[:READ_CHARACTERS])
    seen = (each for each in text if unicodedata.category(each) != "Cf")
    lower = redacted("".join(seen)).lower()  # an API key in a prompt must not get into the name
    slug = beginning(_words(unicodedata.normalize("NFC", lower)), SLUG_LENGTH)
    while len(slug.encode()) > SLUG_BYTES:
        slug = beginning(slug, len(slug) - 1)
    return f"{slug.strip('-') or 'picture'}-{seed}{suffix}"


def _words(text: str) -> str:
    """Return the letters and digits of a text with their marks, and one hyphen for anything in between."""
    slug = ""
    for each in text:
        if unicodedata.category(each)[0] in "LN" and is_visible(each):
            slug += each
        elif unicodedata.category(each)[0] == "M":
            slug += each if slug and slug[-1] != "-" and not _VARIANTS.match(each) else ""
        else:
            slug += "-"
    return re.sub("-+", "-", slug).strip("-")


def ascii_name(name: str) -> str:
    """Return a picture's name in ASCII, for file systems that accept nothing else."""
    if name.isascii():
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lstrip("-")
    return plain if plain[0].isalpha() else f"picture-{plain}"


def names_of(name: str, image_id: str) -> tuple[str, str]:
    """Return two names: with the first digits of a picture's id, and with all of them, if the short one is taken."""
    beginning, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
    return f"{beginning}-{image_id[:8]}{suffix}", f"{beginning}-{image_id}{suffix}"


def name_and_day(key: str, image_id: str) -> tuple[str, date]:
    """Return the name and the day with which a picture was saved, from its key.

    Raises:
        ValueError: The key is not the key of such a picture.
    """
    path = PurePosixPath(key)
    digits = image_id if path.stem.endswith(image_id) else image_id[:8]
    return f"{path.stem.removesuffix(f'-{digits}')}{path.suffix}", date.fromisoformat(path.parent.name)
