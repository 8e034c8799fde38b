"""The kept pictures as people see them: looked up, read, shown small, starred, deleted."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio

from mcp_vega.errors import GalleryError, LedgerError, UnknownImage
from mcp_vega.job import OPERATOR, Image, JobImage
from mcp_vega.redaction import named
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.ledger.search import ImageSearch

logger = logging.getLogger(__name__)

# So many are read at once for people who look at many. Each is whole in memory until its preview is made;
# and whatever is read or written shares forty threads, of which a disk that hangs is not to take all.
AT_ONCE = 8

LookUp = Callable[[str], Awaitable[JobImage | None]]


class Gallery:
    """The pictures of the ledger with their files.

    A method raises an `UnknownImage` where there is no such picture or it is another owner's, and a `LedgerError` where
    the ledger cannot be used.

    Args:
        search: The pictures in the ledger.
        images: Their files.
        previews: Small ones of them.
        look_up: Gives a picture by its id, also one that is not in the ledger yet; the ledger's own unless given.
        read_seconds: How long a disk may take to answer those who look at many pictures; one may have to start.
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
        self._turns = anyio.CapacityLimiter(AT_ONCE)

    async def find(self, image_id: str, owner: str = OPERATOR) -> JobImage:
        """The picture with this id, and its job."""
        found = await self._look_up(image_id)
        if found is None or not found.job.is_shown_to(owner):
            raise UnknownImage(f"There is no picture with the id {named(image_id)}")
        return found

    async def read(self, image: Image) -> bytes:
        """The bytes of a kept picture, full size.

        Raises:
            GalleryError: The file is gone or cannot be read.
            UnknownImage: It was deleted.
        """
        if image.deleted:
            said = f"The picture {image.id} was deleted from the gallery on {image.deleted:%Y-%m-%d} (UTC)"
            raise UnknownImage(said, next_step="Draw it again: its job tells with which parameters and seed")
        try:
            return await self._images.read(image.location)
        except GalleryError:
            now = await self._now(image)
            if now.location == image.location:
                raise
            return await self._images.read(now.location)

    async def _now(self, image: Image) -> Image:
        """A picture as it is noted now; as it was where the ledger cannot be read."""
        try:
            found = await self._look_up(image.id)
        except LedgerError as error:
            logger.warning(error.what)
            return image
        return found.image if found else image

    async def read_in_turn(self, image: Image) -> bytes:
        """As `read`, for those who may ask for very many; a disk that does not answer in time is a `GalleryError`."""
        async with self._turns:
            return await self._read_in_time(image)

    async def _read_in_time(self, image: Image) -> bytes:
        with anyio.move_on_after(self._read_seconds):
            return await self.read(image)
        said = f"The picture {image.path or image.name} cannot be read: its disk does not answer"
        raise GalleryError(said, next_step="Look whether the disk is there, then load the page again")

    async def preview(self, image: Image) -> bytes:
        """A picture as a small JPEG, or itself where it is a small JPEG or PNG; raises as `read_in_turn` does."""
        if image.deleted:
            return await self.read(image)
        if kept := await self._previews.get(image.id):
            return kept
        async with self._turns:
            if kept := await self._previews.get(image.id):  # somebody else asked for it as well
                return kept
            made = await self._previews.make(image.id, await self._read_in_time(image))
            if (await self._now(image)).deleted:  # meanwhile
                await self._previews.remove(image.id)
            return made

    async def star(self, image_id: str, owner: str = OPERATOR, *, starred: bool) -> None:
        """Give a picture a star, which spares it from being pruned, or take it away.

        Raises:
            GalleryError: It is not in the ledger yet.
        """
        await self.find(image_id, owner)
        if not await self.search.mark_starred(image_id, starred=starred):
            raise _not_in_ledger(image_id)

    async def delete(
        self, image_id: str, moment: datetime, owner: str = OPERATOR, *, spare_starred: bool = False
    ) -> bool:
        """Delete a picture's file; the ledger keeps how it was drawn, and that it was deleted at a moment (UTC).

        Returns:
            Whether that was done: not where it was deleted before, or has a star that is to spare it.

        Raises:
            GalleryError: The file cannot be deleted; or it was changed or moved, so it is the user's; or the picture is
                not in the ledger yet.
        """
        image = (await self.find(image_id, owner)).image
        if image.deleted or (spare_starred and image.starred):
            return False
        if image.in_memory:  # it would be lost, or fetched again by the next server
            raise _not_in_ledger(image_id)
        if not (await self._images.holds(image) or await self._images.is_gone(image)):
            said = f"The file {image.name} was changed since it was drawn, or its folder is not the gallery any more"
            step = "Delete the file in its folder, then the picture here; or leave both"
            raise GalleryError(f"{said}, so it is left to you", next_step=step)
        # Who asked may leave, but a file that is not deleted is not to stay noted as deleted.
        with anyio.CancelScope(shield=True):
            # Noted before it is deleted: a file that is gone without a note would be looked for at each start.
            if await self.search.mark_deleted(image, moment, spare_starred=spare_starred):
                await self._delete_file(image)
                return True
        if (await self.find(image_id, owner)).image == image:
            raise _not_in_ledger(image_id)
        return await self.delete(image_id, moment, owner, spare_starred=spare_starred)  # as it is now

    async def _delete_file(self, image: Image) -> None:
        try:
            await self._images.delete(image.location)
        except GalleryError:
            await self.search.unmark_deleted(image)
            raise
        await self._previews.remove(image.id)


def _not_in_ledger(image_id: str) -> GalleryError:
    said = f"The picture {image_id} is not in the ledger, because a disk was full or the ledger could not be written"
    return GalleryError(said, next_step="Make room on the disk, then try again in a minute")
