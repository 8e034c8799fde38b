"""Pictures that no disk would take, for as long as the server runs."""

from datetime import date

from mcp_vega.errors import GalleryError
from mcp_vega.job import MEMORY
from mcp_vega.storage.images.store import names_of


class MemoryImageStore:
    """An `ImageStore` that takes every picture."""

    address = MEMORY

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def prepare(self, day: date) -> None:
        """Nothing is needed."""

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> str:
        """Keep a picture; see `ImageStore`."""
        short, long = _keys(name, image_id, day)
        key = short if self._data.setdefault(short, data) == data else long
        self._data[key] = data
        return key

    async def set_aside(self, data: bytes, name: str, day: date) -> str:  # noqa: ARG002  it is refused
        """Keep nothing: what is no picture is not worth it.

        Raises:
            GalleryError: Always.
        """
        raise GalleryError(f"What came in the place of {name} is not kept in memory")

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that is here, None where it is not."""
        short, long = _keys(name, image_id, day)
        return self._data.get(long) or self._data.get(short)

    async def read(self, key: str) -> bytes:
        """The bytes of a picture."""
        try:
            return self._data[key]
        except KeyError as error:
            raise GalleryError(
                f"The picture {key} is not in this server's memory", next_step="Draw it again"
            ) from error

    async def delete(self, key: str) -> None:
        """Forget a picture."""
        self._data.pop(key, None)


def _keys(name: str, image_id: str, day: date) -> list[str]:
    return [f"{day.isoformat()}/{each}" for each in names_of(name, image_id)]
