"""Pictures that could not be written to any disk, kept for as long as the server runs."""

from datetime import date

from mcp_vega.errors import GalleryError
from mcp_vega.job import MEMORY, ImageLocation
from mcp_vega.storage.images.store import names_of


class MemoryImageStore:
    """An `ImageStore` that takes every picture."""

    address = MEMORY

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def prepare(self, day: date) -> None:
        """Nothing is needed."""

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        """Keep a picture; see `ImageStore`."""
        short, long = _keys(name, image_id, day)
        key = short if self._data.setdefault(short, data) == data else long
        self._data[key] = data
        return ImageLocation(self.address, key)

    async def set_aside(self, data: bytes, name: str, day: date) -> ImageLocation:  # noqa: ARG002  it is refused
        """Refuse: only pictures are kept in memory.

        Raises:
            GalleryError: Always.
        """
        raise GalleryError(f"The answer for {name} is not a readable picture, so it is not kept in memory")

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture, None if it is not here."""
        short, long = _keys(name, image_id, day)
        return self._data.get(long) or self._data.get(short)

    async def read(self, key: str) -> bytes:
        """Return the bytes of a picture."""
        try:
            return self._data[key]
        except KeyError as error:
            raise GalleryError(
                f"The picture {key} is not in this server's memory", next_step="Draw it again"
            ) from error

    async def is_missing(self, key: str) -> bool:
        """Whether a picture is not here."""
        return key not in self._data

    async def identity(self, key: str) -> object:
        """Return a value that only the same picture has; None if it is not here."""
        return (self.address, key) if key in self._data else None

    async def delete(self, key: str) -> None:
        """Delete a picture, if it is here."""
        self._data.pop(key, None)


def _keys(name: str, image_id: str, day: date) -> list[str]:
    return [f"{day.isoformat()}/{each}" for each in names_of(name, image_id)]
