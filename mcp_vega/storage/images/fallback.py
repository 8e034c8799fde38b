"""Several stores of pictures as one: a picture that the first store cannot take goes into the next."""

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
    """The stores of pictures, in the order in which they are tried.

    The stores after the first are only for pictures that were paid for already. For names, days and errors see
    `ImageStore`.
    """

    def __init__(self, stores: Sequence[ImageStore]) -> None:
        self._stores = stores
        self._first = stores[0]

    async def prepare(self, day: date) -> None:
        """Make sure that a picture can be kept in the first store, before one is paid for."""
        await self._first.prepare(day)

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> tuple[ImageLocation, str]:
        """Keep a picture in the first store that takes it.

        Returns:
            Where the picture is; and if that is not the first store, the reason, else "".
        """
        problem = ""
        for store in self._stores:
            try:
                return await store.save(data, name, image_id, day), problem
            except GalleryError as error:
                problem = problem or error.what
        raise GalleryError(f"{problem}; no other folder could be written either", charged=Charged.YES)

    async def set_aside(self, data: bytes, name: str, day: date) -> Path | None:
        """Keep an answer that is not a readable picture but was paid for; returns its path, None if it was not kept."""
        for store in self._stores:
            with suppress(GalleryError):
                return (await store.set_aside(data, name, day)).path
        return None

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture that a server saved in any store, but could not note in the ledger before it died."""
        for store in self._stores:
            data = await store.find(name, image_id, day)
            if data is not None:
                return data
        return None

    async def read(self, location: ImageLocation) -> bytes:
        """Return the bytes of a kept picture, even if it is in a folder that was the gallery under an older setting."""
        return await (await self._store_at(location.store)).read(location.key)

    async def delete(self, location: ImageLocation) -> None:
        """Delete a picture, if it exists."""
        await (await self._store_at(location.store)).delete(location.key)

    # ---- kept pictures ----

    async def is_intact(self, image: Image) -> bool:
        """Whether a picture is in its place and unchanged."""
        with suppress(GalleryError):
            return sha256(await self.read(image.location)).hexdigest() == image.sha256
        return False

    async def has_other(self, image: Image, location: ImageLocation) -> bool:
        """Whether a picture is in its place and unchanged, and `location` is a different file."""
        if not await self.is_intact(image):
            return False
        # A folder may now be a link to the other folder; or both names, which differ in capitals, mean one folder.
        return not await anyio.to_thread.run_sync(_same_file, image.path, location.path)

    async def holds(self, image: Image) -> bool:
        """Whether a picture is in one of these stores and unchanged. Other files belong to the user."""
        return await self._known(image.location.store) is not None and await self.is_intact(image)

    async def is_gone(self, image: Image) -> bool:
        """Whether someone else removed a picture's file: the folder is there, but the file is not."""
        path = image.path
        return path is not None and await anyio.to_thread.run_sync(_is_missing, Path(image.location.store), path)

    async def is_later(self, address: str) -> bool:
        """Whether an address belongs to a store after the first, or to an existing folder outside this chain.

        Such a folder may have been a store of an earlier server: on some systems the folder of temporary files is a
        different one each time.
        """
        if store := await self._known(address):
            return store is not self._first
        path = ImageLocation(address, "").path
        return path is not None and await anyio.to_thread.run_sync(path.is_dir)

    async def move(self, image: Image) -> ImageLocation | None:
        """Copy a picture to the first store. The old file stays.

        Returns:
            The new place, if the copy is intact there. None if the picture cannot be read, was changed, or is not
            intact in the new place: then it counts as being where it was.

        Raises:
            GalleryError: The first store cannot take the picture.
        """
        try:
            data = await self.read(image.location)
            name, day = name_and_day(image.location.key, image.id)
        except (GalleryError, ValueError):
            return None
        if sha256(data).hexdigest() != image.sha256:
            return None
        location = await self._first.save(data, name, image.id, day)
        # Files that the user changed may have both names; and a disk may break.
        return location if await self.is_intact(replace(image, location=location)) else None

    # ---- the stores by their addresses ----

    async def _store_at(self, address: str) -> ImageStore:
        if store := await self._known(address):
            return store
        if ImageLocation(address, "").path:
            return ImageFolder(Path(address))
        raise GalleryError(f"The pictures in {address} cannot be read: this server does not know that place")

    async def _known(self, address: str) -> ImageStore | None:
        """Return the store of this chain with an address; None if there is none."""
        # In a thread: a folder may be on a disk that is slow or hangs.
        return await anyio.to_thread.run_sync(self._look_up, address, abandon_on_cancel=True)

    def _look_up(self, address: str) -> ImageStore | None:
        path = ImageLocation(address, "").path
        # If a folder was moved and a link leads to it now, its address has changed.
        addresses = dict.fromkeys((address, os.path.realpath(path) if path else address))
        return next((store for each in addresses for store in self._stores if store.address == each), None)


def _is_missing(folder: Path, path: Path) -> bool:
    """Whether a folder can be read and a file below it is not there."""
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
        return True  # not known, so the file must not be deleted
