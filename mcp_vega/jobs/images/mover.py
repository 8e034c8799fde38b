"""Moves the pictures that the first store could not keep to that store, when it works again."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import anyio

from mcp_vega.errors import GalleryError, VegaError
from mcp_vega.job import Image
from mcp_vega.jobs.config import JobConfig
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.store import place_of
from mcp_vega.storage.ledger.image_locations import ImageLocations, OldCopy

logger = logging.getLogger(__name__)

# How long an old file stays, because somebody may still use its path.
KEPT = timedelta(days=1)
# Seconds until the first store is tried again after it could not keep a picture.
PAUSE = 10.0
# How many pictures are moved in one run, so that nobody waits long for its end.
AT_ONCE = 20


class ImageMover:
    """Copies a picture, then records its new location, and deletes the old file a day later.

    The server may die between any two of these steps. Several servers may move a picture at the same time. They make
    the same copy, and one of them records it.
    """

    def __init__(self, images: FallbackImageStore, locations: ImageLocations, config: JobConfig) -> None:
        self._images = images
        self._locations = locations
        self._config = config
        self._due = 0.0
        self.waiting = 0  # how many pictures were still to be moved at the last look
        # Pictures that stay where they are, because their file was changed or cannot be deleted. Not tried again.
        self._left = set[object]()

    async def can_move(self) -> bool:
        """Whether the first store takes pictures now."""
        try:
            await self._images.prepare(self._config.clock().date())
        except GalleryError:
            return False
        return True

    async def move_back(self) -> None:
        """Move the pictures that can be moved now, and delete old files of those moved a day ago. Logs all failures.

        If there is nothing to do, it costs one read of the ledger.
        """
        if anyio.current_time() < self._due:
            return
        try:
            await self._move_back()
        except VegaError as error:
            # Only one warning, because a disk may be full for days.
            logger.log(logging.DEBUG if self._due else logging.WARNING, "No picture is moved: %s", error.what)
        except Exception:
            logger.exception("The pictures in other stores could not be moved")
        else:
            self._due = 0.0
            return
        self._due = anyio.current_time() + PAUSE * self._config.pace

    async def _move_back(self) -> None:
        now = self._config.clock()
        images, copies = await self._locations.pending(now - KEPT)
        for copy in (await self._reachable(copies))[:AT_ONCE]:
            await self._delete(copy)
        later = await self._in_later_stores(images)
        self.waiting = len(later)
        if later:
            await self._images.prepare(now.date())
        for image in later[:AT_ONCE]:
            await self._move(image)

    async def _reachable(self, copies: Sequence[OldCopy]) -> list[OldCopy]:
        """The old files that this server can delete. Those on the disk of another replica are deleted there."""
        stores = {copy.location.store for copy in copies}
        elsewhere = {store for store in stores if await self._images.is_on_other_disk(store)}
        return [copy for copy in copies if copy.location.store not in elsewhere and copy.location not in self._left]

    async def _in_later_stores(self, images: Sequence[Image]) -> list[Image]:
        """The pictures that are in a later store, or in a store that an earlier server had."""
        stores = {image.location.store for image in images}
        later = {store for store in stores if await self._images.is_later(store)}
        return [image for image in images if image.location.store in later and image.id not in self._left]

    async def _move(self, image: Image) -> None:
        """Move a picture.

        Raises:
            GalleryError: The first store cannot keep it.
            LedgerError: The move could not be recorded. The next run finds the copy and records it.
        """
        location = await self._images.move(image)
        if location is None:
            self._left.add(image.id)
            logger.warning(
                "The picture %s stays at %s: a complete copy of it cannot be made", image.id, place_of(image.location)
            )
            return
        now = await self._locations.move(image, location, self._config.clock())
        if now and now.deleted:
            await self._images.delete(location)

    async def _delete(self, copy: OldCopy) -> None:
        """Delete the old file of a picture that was moved, unless it is the last complete one."""
        old = replace(copy.image, location=copy.location)
        if not copy.image.deleted and not await self._images.has_other(copy.image, copy.location):
            logger.warning("The file %s stays: it is the only one with its picture", place_of(old.location))
            self._left.add(copy.location)
            return
        try:
            data = await self._images.read(old.location)
            if sha256(data).hexdigest() == old.sha256:  # else the user has changed it
                await self._images.delete(copy.location)
        except GalleryError as error:
            if not await self._images.is_gone(old):
                logger.warning(error.what)
                self._left.add(copy.location)
                return
        await self._locations.forget_copy(copy.location)
