"""Several stores of pictures as one: a picture that the first store cannot take goes into the next."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from mcp_vega.errors import Charged, GalleryError, InvalidSettings
from mcp_vega.job import Image, ImageLocation
from mcp_vega.storage.images.disk import FolderAddress
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.object_storage.address import PREFIXES
from mcp_vega.storage.images.store import ImageStore, name_and_day, place_of

# Opens the store with an address; returns None if this machine cannot reach such a store.
OpenStore = Callable[[str], ImageStore | None]


def open_store(address: str, disk: str = "") -> ImageStore | None:
    """Open a store that was the gallery under an older setting; None if this machine cannot reach it.

    Args:
        address: The store's address.
        disk: The name of this replica's disk.

    Raises:
        InvalidSettings: It is a bucket, and obstore is missing, or an environment variable cannot be used.
    """
    if folder := FolderAddress.parse(address):
        return ImageFolder(folder.path, disk=folder.disk) if folder.disk in ("", disk) else None
    if address.partition("://")[0] in PREFIXES:
        from mcp_vega.storage.images.bucket import Bucket

        return Bucket(address)
    return None


class FallbackImageStore:
    """The stores of pictures, in the order in which they are tried.

    For names, days and errors see `ImageStore`.

    Args:
        stores: The stores. Those after the first are only for pictures that were paid for already.
        open_other: Opens any other store, such as the gallery under an older setting.
    """

    def __init__(self, stores: Sequence[ImageStore], open_other: OpenStore | None = None) -> None:
        self._stores = stores
        self._first = stores[0]
        self._open_other = open_other or open_store
        self._others: dict[str, ImageStore | None] = {}

    async def prepare(self, day: date) -> None:
        """Make sure that a picture can be kept in the first store, before one is paid for."""
        await self._first.prepare(day)

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> tuple[ImageLocation, str]:
        """Keep a picture in the first store that takes it.

        Returns:
            Where the picture is; and if that is not the first store, the reason, else "".
        """
        first: GalleryError | None = None
        for store in self._stores:
            try:
                return await store.save(data, name, image_id, day), first.what if first else ""
            except GalleryError as error:
                first = first or error
        assert first  # noqa: S101  there is a store
        if len(self._stores) == 1:
            raise first
        raise GalleryError(f"{first.what}; no other folder could be written either", charged=Charged.YES)

    async def set_aside(self, data: bytes, name: str, day: date) -> str | None:
        """Keep an answer that is not a readable picture but was paid for; returns its place, or None if that failed."""
        for store in self._stores:
            with suppress(GalleryError):
                return place_of(await store.set_aside(data, name, day))
        return None

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture that a server saved in any store, but could not note in the ledger before it died."""
        for store in self._stores:
            data = await store.find(name, image_id, day)
            if data is not None:
                return data
        return None

    async def read(self, location: ImageLocation) -> bytes:
        """Return the bytes of a kept picture, even if it is in a store that was the gallery under an older setting."""
        return await (await self.store_at(location.store)).read(location.key)

    async def delete(self, location: ImageLocation) -> None:
        """Delete a picture, if it exists."""
        await (await self.store_at(location.store)).delete(location.key)

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
        try:
            places = [await (await self.store_at(each.store)).identity(each.key) for each in (image.location, location)]
        except GalleryError:
            return False  # not known, so the file must not be deleted
        return places[0] is not None and places[0] != places[1]

    async def holds(self, image: Image) -> bool:
        """Whether a picture is in one of these stores and unchanged. Other files belong to the user."""
        return await self._known(image.location.store) is not None and await self.is_intact(image)

    async def is_gone(self, image: Image) -> bool:
        """Whether someone else removed a picture: its folder or bucket is there, but the picture is not."""
        with suppress(GalleryError):
            return await (await self.store_at(image.location.store)).is_missing(image.location.key)
        return False

    async def is_later(self, address: str) -> bool:
        """Whether an address belongs to a store after the first, or to an existing folder outside this chain.

        Such a folder may have been a store of an earlier server: on some systems the folder of temporary files is a
        different one each time.
        """
        if store := await self._known(address):
            return store is not self._first
        folder = FolderAddress.parse(address)
        if folder is None or await self.is_on_other_disk(address):
            return False
        return await anyio.to_thread.run_sync(folder.path.is_dir)

    async def is_on_other_disk(self, address: str) -> bool:
        """Whether an address belongs to a folder that only another replica can reach."""
        folder = FolderAddress.parse(address)
        return folder is not None and folder.disk != "" and await self._any_at(address) is None

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

    async def store_at(self, address: str) -> ImageStore:
        """Return the store with an address.

        Raises:
            GalleryError: This machine cannot reach it.
        """
        if store := await self._any_at(address):
            return store
        folder = FolderAddress.parse(address)
        if folder and folder.disk:
            said = "The picture is still on the disk of {}, which moves it to the gallery when the gallery works again"
            step = "Check that this replica is running and that the gallery works, then try again in a minute"
            error = GalleryError(said.format(f"the replica {folder.disk}"), next_step=step)
            error.public = said.format("another replica")
            raise error
        raise GalleryError(f"The pictures in {address} cannot be read: this server does not know that place")

    async def _any_at(self, address: str) -> ImageStore | None:
        """Return the store of this chain with an address, or any other that can be opened."""
        if store := await self._known(address):
            return store
        if address not in self._others:
            # In a thread: to open a bucket takes a moment.
            try:
                store = await anyio.to_thread.run_sync(partial(self._open_other, address))
            except InvalidSettings as error:
                said = f"The pictures in {address} cannot be read: {error.what}"
                raise GalleryError(said, next_step=error.next_step) from error
            self._others[address] = store
        return self._others[address]

    async def _known(self, address: str) -> ImageStore | None:
        """Return the store of this chain with an address; None if there is none."""
        # In a thread: a folder may be on a disk that is slow or hangs.
        return await anyio.to_thread.run_sync(self._look_up, address, abandon_on_cancel=True)

    def _look_up(self, address: str) -> ImageStore | None:
        folder = FolderAddress.parse(address)
        # If a folder was moved and a link leads to it now, its address has changed.
        real = str(folder._replace(path=Path(os.path.realpath(folder.path)))) if folder else address
        addresses = dict.fromkeys((address, real))
        return next((store for each in addresses for store in self._stores if store.address == each), None)
