"""Several stores of pictures as one: what the first will not take goes into the next."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.job import Image, ImageLocation
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.store import ImageStore, name_and_day


class FallbackImageStore:
    """The stores of pictures, in the order in which they are tried; those behind the first are for what was paid for.

    For names, days and errors see `ImageStore`.
    """

    def __init__(self, stores: Sequence[ImageStore]) -> None:
        self._stores = stores
        self._first = stores[0]

    async def prepare(self, day: date) -> None:
        """Make sure that a picture could be kept in the first store, before one is paid for."""
        await self._first.prepare(day)

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> tuple[ImageLocation, str]:
        """Keep a picture in the first store that takes it.

        Returns:
            Where it is; and, where that is not the first store, why.
        """
        problem = ""
        for store in self._stores:
            try:
                key = await store.save(data, name, image_id, day)
            except GalleryError as error:
                problem = problem or error.what
            else:
                return ImageLocation(store.address, key), problem
        raise GalleryError(f"{problem}; nor could any other", charged=Charged.YES)

    async def set_aside(self, data: bytes, name: str, day: date) -> Path | None:
        """Keep what came in the place of a picture that was paid for; returns its path, None where nothing took it."""
        for store in self._stores:
            with suppress(GalleryError):
                key = await store.set_aside(data, name, day)
                return ImageLocation(store.address, key).path
        return None

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """A picture that was saved in any store, though its server died before it could note that."""
        for store in self._stores:
            data = await store.find(name, image_id, day)
            if data is not None:
                return data
        return None

    async def read(self, location: ImageLocation) -> bytes:
        """The bytes of a kept picture, also one in a folder that was the gallery before the setting was changed."""
        return await (await self._store_at(location.store)).read(location.key)

    async def delete(self, location: ImageLocation) -> None:
        """Delete a picture, if it is there."""
        await (await self._store_at(location.store)).delete(location.key)

    # ---- kept pictures ----

    async def is_whole(self, image: Image) -> bool:
        """Whether a picture is in its place as it was kept."""
        with suppress(GalleryError):
            return sha256(await self.read(image.location)).hexdigest() == image.sha256
        return False

    async def has_other(self, image: Image, location: ImageLocation) -> bool:
        """Whether a picture is in its place as it was kept, and in a file that is not the one at another place."""
        if not await self.is_whole(image):
            return False
        # A folder may have become a link to the other one, or the two may be one under names that differ in capitals.
        return not await anyio.to_thread.run_sync(_same_file, image.path, location.path)

    async def holds(self, image: Image) -> bool:
        """Whether a picture is in one of these stores as it was kept: anything else is the user's."""
        return await self._known(image.location.store) is not None and await self.is_whole(image)

    async def is_gone(self, image: Image) -> bool:
        """Whether a picture's file was removed by others: it is not in its folder, and that is there."""
        path = image.path
        return path is not None and await anyio.to_thread.run_sync(_is_missing, Path(image.location.store), path)

    async def is_later(self, address: str) -> bool:
        """Whether an address is that of a store behind the first, or of a folder that is none of these stores.

        Such a folder may have been one for an earlier server: that of temporary files has another place each time on
        some systems.
        """
        if store := await self._known(address):
            return store is not self._first
        path = ImageLocation(address, "").path
        return path is not None and await anyio.to_thread.run_sync(path.is_dir)

    async def move(self, image: Image) -> ImageLocation | None:
        """Keep a picture in the first store as well; it also stays where it is.

        Returns:
            Its new place, where it is whole; None where it cannot be had like that: then it is left where it is.

        Raises:
            GalleryError: The first store does not take it.
        """
        try:
            data = await self.read(image.location)
            name, day = name_and_day(image.location.key, image.id)
        except (GalleryError, ValueError):
            return None
        if sha256(data).hexdigest() != image.sha256:
            return None
        key = await self._first.save(data, name, image.id, day)
        location = ImageLocation(self._first.address, key)
        # Both names may be taken by files that were changed, and a disk may break.
        return location if await self.is_whole(replace(image, location=location)) else None

    # ---- the stores by their addresses ----

    async def _store_at(self, address: str) -> ImageStore:
        if store := await self._known(address):
            return store
        if ImageLocation(address, "").path:
            return ImageFolder(Path(address))
        raise GalleryError(f"The pictures in {address} cannot be read: this server does not know the place")

    async def _known(self, address: str) -> ImageStore | None:
        """The store of this chain that has an address; None where none has it."""
        # In a thread: a folder may be on a disk that takes its time, or hangs.
        return await anyio.to_thread.run_sync(self._look_up, address, abandon_on_cancel=True)

    def _look_up(self, address: str) -> ImageStore | None:
        path = ImageLocation(address, "").path
        # A folder that was moved and is reached by a link now has another address than it had.
        addresses = dict.fromkeys((address, os.path.realpath(path) if path else address))
        return next((store for each in addresses for store in self._stores if store.address == each), None)


def _is_missing(folder: Path, path: Path) -> bool:
    """Whether a folder can be looked into and a file below it is not there."""
    try:
        return folder.is_dir() and not os.path.lexists(path)
    except OSError:
        return False


def _same_file(one: Path | None, other: Path | None) -> bool:
    if one is None or other is None:
        return False
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it cannot be looked at, so it is not to be deleted
