"""The gallery: kept pictures are looked up, read, previewed, starred and deleted here."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio

from mcp_vega.errors import GalleryError, LedgerError, UnknownImage
from mcp_vega.job import OPERATOR, Image, JobImage
from mcp_vega.redaction import named
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import place_of
from mcp_vega.storage.ledger.search import ImageSearch

logger = logging.getLogger(__name__)

# How many pictures are read at the same time for someone who looks at many. Each picture is in memory until its preview
# is made. And all reads and writes share forty threads: a disk that hangs must not block all of them.
CONCURRENT_READS = 8

LookUp = Callable[[str], Awaitable[JobImage | None]]


class Gallery:
    """The pictures of the ledger with their files.

    A method raises an `UnknownImage` if there is no such picture or it belongs to another owner, and a `LedgerError` if
    the ledger cannot be used.

    Args:
        search: The pictures in the ledger.
        images: The files of the pictures.
        previews: The small previews of the pictures.
        look_up: Finds a picture by its id, even if it is not in the ledger yet. The default looks in the ledger only.
        read_seconds: How long a disk may take to answer when many pictures are read: a disk may have to spin up.
    """

    def __init__(
        self,
        search: ImageSearch,
        images: FallbackImageStore,
        previews: PreviewCache,
        look_up: LookUp | None = None,
        *,
        read_seconds: float = 15,
    ) -> None:
        self.search = search
        self._images = images
        self._previews = previews
        self._look_up = look_up or search.image
        self._read_seconds = read_seconds
        self._readers = anyio.CapacityLimiter(CONCURRENT_READS)

    async def find(self, image_id: str, owner: str = OPERATOR) -> JobImage:
        """Return the picture with this id, and its job."""
        found = await self._look_up(image_id)
        if found is None or not found.job.is_shown_to(owner):
            raise UnknownImage(f"There is no picture with the id {named(image_id)}")
        return found

    async def read(self, image: Image) -> bytes:
        """Return the bytes of a kept picture, full size.

        Raises:
            GalleryError: The file is missing or cannot be read.
            UnknownImage: The picture was deleted.
        """
        if image.deleted:
            said = f"The picture {image.id} was deleted from the gallery on {image.deleted:%Y-%m-%d} (UTC)"
            raise UnknownImage(said, next_step="Draw it again: its job has the parameters and the seed")
        try:
            return await self._images.read(image.location)
        except GalleryError:
            now = await self._now(image)
            if now.location == image.location:
                raise
            return await self._images.read(now.location)

    async def _now(self, image: Image) -> Image:
        """Return the picture as the ledger has it now, or unchanged if the ledger cannot be read."""
        try:
            found = await self._look_up(image.id)
        except LedgerError as error:
            logger.warning(error.what)
            return image
        return found.image if found else image

    async def read_limited(self, image: Image) -> bytes:
        """As `read_in_time`, for callers that may ask for very many pictures: only a few are read at the same time."""
        async with self._readers:
            return await self.read_in_time(image)

    async def read_in_time(self, image: Image) -> bytes:
        """As `read`. A disk that does not answer in time is a `GalleryError`."""
        with anyio.move_on_after(self._read_seconds):
            return await self.read(image)
        raise _silent(image, "read")

    async def preview(self, image: Image) -> bytes:
        """Return a picture as a small JPEG, or unchanged if it is a small JPEG or PNG. Raises as `read_limited`."""
        if image.deleted:
            return await self.read(image)
        if kept := await self._previews.get(image.id):
            return kept
        async with self._readers:
            if kept := await self._previews.get(image.id):  # made meanwhile for another request
                return kept
            made = await self._previews.make(image.id, await self.read_in_time(image))
            if (await self._now(image)).deleted:  # deleted meanwhile
                await self._previews.remove(image.id)
            return made

    async def star(self, image_id: str, owner: str = OPERATOR, *, starred: bool) -> None:
        """Star a picture, so that it is not pruned, or remove its star.

        Raises:
            GalleryError: The picture is not in the ledger yet.
        """
        await self.find(image_id, owner)
        if not await self.search.mark_starred(image_id, starred=starred):
            raise _not_in_ledger(image_id)

    async def delete(
        self, image_id: str, moment: datetime, owner: str = OPERATOR, *, spare_starred: bool = False
    ) -> bool:
        """Delete a picture's file. The ledger keeps how it was drawn, and notes `moment` (UTC) as when it was deleted.

        Returns:
            Whether it was deleted: False if it was deleted before, or if it has a star and `spare_starred` is set.

        Raises:
            GalleryError: The file cannot be deleted; or the user changed or moved it, so it is left alone; or the
                picture is not in the ledger yet.
        """
        image = (await self.find(image_id, owner)).image
        if image.deleted or (spare_starred and image.starred):
            return False
        if image.in_memory:  # it would be lost, or the next server would fetch it again
            raise _not_in_ledger(image_id)
        await self._require_deletable(image)
        # Shielded: if the request is cancelled, the ledger must not say "deleted" of a file that is still there.
        with anyio.CancelScope(shield=True):
            # The ledger is written first: else each start would look for a file that is gone without a note.
            if await self.search.mark_deleted(image, moment, spare_starred=spare_starred):
                await self._delete_file(image)
                return True
        if (await self.find(image_id, owner)).image == image:
            raise _not_in_ledger(image_id)
        return await self.delete(image_id, moment, owner, spare_starred=spare_starred)  # it was changed meanwhile

    async def _require_deletable(self, image: Image) -> None:
        """Check that a picture is in the gallery and unchanged, or that somebody has removed its file already.

        Raises:
            GalleryError: Neither is the case, or it is not known because the file cannot be read.
        """
        with anyio.move_on_after(self._read_seconds):
            if await self._images.holds(image) or await self._images.is_gone(image):
                return
            await self._images.read(image.location)  # if it cannot be read, this error says why
            said = f"The file {image.name} was changed since it was drawn, or its folder is no longer the gallery"
            step = "Delete the file in its folder, then the picture here; or keep both"
            raise GalleryError(f"{said}, so it was not deleted", next_step=step)
        raise _silent(image, "deleted")

    async def _delete_file(self, image: Image) -> None:
        try:
            await self._images.delete(image.location)
        except GalleryError:
            await self.search.unmark_deleted(image)
            raise
        await self._previews.remove(image.id)


def _silent(image: Image, action: str) -> GalleryError:
    disk = "disk" if image.path else "storage"
    said = f"The picture {place_of(image.location)} cannot be {action}: its {disk} does not answer"
    return GalleryError(said, next_step=f"Check that the {disk} is connected, then load the page again")


def _not_in_ledger(image_id: str) -> GalleryError:
    said = f"The picture {image_id} is not in the ledger: a disk was full, or the ledger could not be written"
    return GalleryError(said, next_step="Free some disk space, then try again in a minute")
