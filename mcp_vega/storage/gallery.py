"""The kept pictures as people see them: looked up, read, shown small, starred, deleted."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from mcp_vega.errors import GalleryError, LedgerError, UnknownImage
from mcp_vega.job import OPERATOR, Image, JobImage
from mcp_vega.redaction import named
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.ledger.search import ImageSearch

logger = logging.getLogger(__name__)

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
    """

    def __init__(
        self, search: ImageSearch, images: FallbackImageStore, previews: PreviewCache, look_up: LookUp | None = None
    ) -> None:
        self.search = search
        self._images = images
        self._previews = previews
        self._look_up = look_up or search.image

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
            moved = await self._moved(image)
            if moved is None:
                raise
            return await self._images.read(moved.location)

    async def _moved(self, image: Image) -> Image | None:
        """A picture that was moved since it was looked up; None where it was not."""
        for look_up in dict.fromkeys((self._look_up, self.search.image)):
            try:
                found = await look_up(image.id)
            except LedgerError as error:
                logger.warning(error.what)
            else:
                if found and found.image.location != image.location:
                    return found.image
        return None

    async def preview(self, image: Image) -> bytes:
        """A small form of a picture: see `PreviewCache.get`; raises as `read` does."""
        if image.deleted:
            return await self.read(image)
        return await self._previews.get(image, self.read)

    async def star(self, image_id: str, owner: str = OPERATOR, *, starred: bool) -> None:
        """Give a picture a star, which spares it from being pruned, or take it away."""
        await self.find(image_id, owner)
        await self.search.mark_starred(image_id, starred=starred)

    async def delete(self, image_id: str, moment: datetime, owner: str = OPERATOR) -> None:
        """Delete a picture's file; the ledger keeps how it was drawn, and that it was deleted at a moment (UTC).

        Raises:
            GalleryError: The file cannot be deleted; or it was changed or moved, so it is the user's.
        """
        image = (await self.find(image_id, owner)).image
        if image.deleted:
            return
        if not (await self._images.holds(image) or await self._images.is_gone(image)):
            said = f"The file of the picture {image.id} was changed since it was drawn, or is in another folder"
            raise GalleryError(f"{said}, so it is not deleted", next_step="Delete the file yourself, or leave it")
        # Noted before it is deleted: a file that is gone without a note would be looked for at each start.
        await self.search.mark_deleted(image.id, moment)
        try:
            await self._images.delete(image.location)
        except GalleryError:
            await self.search.mark_deleted(image.id, None)
            raise
        await self._previews.remove(image.id)
