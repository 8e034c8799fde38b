"""Deletes old pictures. The ledger keeps how they were drawn."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import anyio

from mcp_vega.cli.application import image_store_of, open_job_store, preview_cache_of
from mcp_vega.cli.gallery.folder import counted
from mcp_vega.cli.output import print_error
from mcp_vega.errors import GalleryError, InvalidArguments
from mcp_vega.job import Image
from mcp_vega.settings import Settings
from mcp_vega.storage.gallery import Gallery


def prune(settings: Settings, days: int, *, confirmed: bool) -> bool:
    """Delete the pictures of jobs that were begun `days` times 24 hours ago or earlier; asks unless `confirmed`.

    Pictures with a star stay, and so does each file that was changed since it was kept.

    Returns:
        Whether it was done; false if the user said no, or if a picture cannot be deleted.

    Raises:
        LedgerError: The ledger cannot be read or changed.
        InvalidArguments: There is nobody to ask.
    """
    return anyio.run(_prune, settings, days, confirmed)


async def _prune(settings: Settings, days: int, confirmed: bool) -> bool:  # noqa: FBT001  by anyio.run
    now, images, done = datetime.now(UTC), image_store_of(settings), True
    before = now - timedelta(days=days)
    async with open_job_store(settings) as store:
        kept = await store.search.before(before) if store else []
        unchanged = [image for _, image in kept if await images.holds(image)]
        if not store or not unchanged:
            ago = "1 day" if days == 1 else f"{days} days"
            sys.stderr.write(f"There is no picture to delete that was drawn {ago} ago or earlier.\n")
        elif confirmed or _agreed(unchanged, settings.gallery_name):
            done = await _delete(unchanged, Gallery(store.search, images, preview_cache_of(settings)), now)
        else:
            done = False
            sys.stderr.write("Nothing was deleted.\n")
        if left := len(kept) - len(unchanged):
            sys.stderr.write(f"Not deleted: {left:,} that were changed, moved or kept in another folder.\n")
        if store and (starred := await store.search.starred_before(before)):
            sys.stderr.write(f"Not deleted: {starred:,} with a star.\n")
    return done


async def _delete(images: Sequence[Image], gallery: Gallery, now: datetime) -> bool:
    """Delete pictures; returns false if one of them cannot be deleted."""
    count, failed = 0, False
    try:
        for image in images:
            try:
                # During the question, somebody may have deleted it or given it a star.
                count += await gallery.delete(image.id, now, spare_starred=True)
            except GalleryError as error:
                failed = True
                print_error(error)
    finally:
        sys.stderr.write(f"Deleted: {count:,}. The ledger keeps how each was drawn.\n")
    return not failed


def _agreed(images: list[Image], gallery: str) -> bool:
    """Ask whether to delete the pictures.

    Raises:
        InvalidArguments: There is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise InvalidArguments(
            "--prune asks before it deletes, and there is no terminal to ask at", next_step="Add --yes"
        )
    count = counted([image.bytes for image in images])
    sys.stderr.write(f"{count} in {gallery} would be deleted. The ledger keeps how each was drawn.\n")
    sys.stderr.write("Delete them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
