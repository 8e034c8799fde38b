"""`mcp-vega gallery`: the folder of the pictures, what is in it, and how it gets smaller."""

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

from mcp_vega.cli.application import image_folder_of, image_store_of, open_job_store
from mcp_vega.cli.output import write
from mcp_vega.errors import GalleryError, InvalidArguments
from mcp_vega.job import Image
from mcp_vega.settings import Settings
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.ledger.search import ImageSearch

# How long a program that opens a folder may take to fail.
OPEN_SECONDS = 5.0


def run_gallery(options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the folder with the count and size of its pictures; open it, or delete old pictures first.

    Returns:
        The exit code.

    Raises:
        VegaError: The ledger cannot be read, or a picture not be deleted.
    """
    settings = Settings.from_environment(environment)
    image_folder = image_folder_of(settings)
    if options.yes and options.prune is None:
        raise InvalidArguments("--yes goes with --prune", next_step="Add --prune DAYS, or leave --yes out")
    if options.prune is not None:
        anyio.run(_prune, settings, options.prune, options.yes)
    sizes, aside = image_folder.sizes(), image_folder.sizes_aside()
    write(f"{image_folder.folder}\n{_counted(sizes)}")
    if aside:
        write(f"Beside them {len(aside):,} that came in the place of pictures, in {image_folder.unreadable}")
    problem = _open(image_folder.folder, environment) if options.open else ""
    if problem:
        sys.stderr.write(f"{image_folder.folder} cannot be opened: {problem}\n")
    return int(bool(problem))


def _counted(sizes: Sequence[int]) -> str:
    return f"{len(sizes):,} {'picture' if len(sizes) == 1 else 'pictures'}, {_readable(sum(sizes))}"


def _readable(size: float) -> str:
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def _open(folder: Path, environment: Mapping[str, str]) -> str:
    """Open a folder on the desktop; returns why that cannot be done, or nothing."""
    if not folder.is_dir():
        return "it is not there yet; draw a picture first"
    try:
        if sys.platform == "win32":
            os.startfile(folder)  # noqa: S606  the system's own
            return ""
        program = "open" if sys.platform == "darwin" else "xdg-open"
        # Without a desktop xdg-open looks for a browser in the terminal.
        if program == "xdg-open" and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
            return "there is no desktop here"
        found = shutil.which(program, path=environment.get("PATH"))
        if found is None:
            return f"there is no {program} here"
        code = _exit_code([found, str(folder)])
    except OSError as error:
        return error.strerror or str(error)
    return f"{program} failed with exit code {code}" if code else ""


def _exit_code(command: list[str]) -> int:
    """How a program ended; 0 where it goes on, as some file managers do for as long as their window is open."""
    process = subprocess.Popen(  # noqa: S603  the system's own
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(OPEN_SECONDS)
    except subprocess.TimeoutExpired:
        return 0


# ---- pruning ----


async def _prune(settings: Settings, days: int, confirmed: bool) -> None:  # noqa: FBT001  by anyio.run
    """Delete the pictures of jobs that were begun so many days ago or earlier, after asking."""
    now, images = datetime.now(UTC), image_store_of(settings)
    async with open_job_store(settings) as store:
        kept = await store.search.before(now - timedelta(days=days)) if store else []
        unchanged = [image for _, image in kept if await images.holds(image)]
        if not store or not unchanged:
            sys.stderr.write(f"There is no picture to delete that was drawn {days} days ago or earlier.\n")
        elif confirmed or _agreed(unchanged, settings.gallery_folder):
            count = 0
            try:
                for image in unchanged:
                    count += await _deleted(image.id, images, store.search, now)
            finally:
                sys.stderr.write(f"Deleted: {count:,}. The ledger still tells how each was drawn.\n")
        else:
            sys.stderr.write("Nothing was deleted.\n")
        if left := len(kept) - len(unchanged):
            sys.stderr.write(f"Left as they are: {left:,} that were changed, moved or kept in another folder.\n")


async def _deleted(image_id: str, images: FallbackImageStore, search: ImageSearch, now: datetime) -> bool:
    """Whether a picture could be deleted: while a question stands, anything may happen to a file."""
    found = await search.image(image_id)
    if found is None or not await images.holds(found.image):
        return False
    image = found.image
    # Noted before it is deleted: a file that is gone without a note would be looked for at each start.
    await search.mark_deleted(image.id, now)
    try:
        await images.delete(image.location)
    except GalleryError as error:
        await search.mark_deleted(image.id, None)
        sys.stderr.write(f"{error.text}\n")
        return False
    return True


def _agreed(images: list[Image], folder: Path) -> bool:
    """Ask whether pictures are to be deleted.

    Raises:
        InvalidArguments: There is nobody to ask.
    """
    if not sys.stdin.isatty():
        raise InvalidArguments(
            "--prune asks before it deletes, and there is no terminal to ask at", next_step="Add --yes"
        )
    count = _counted([image.bytes for image in images])
    sys.stderr.write(f"{count} would be deleted from {folder}; the ledger keeps how each was drawn.\n")
    sys.stderr.write("Delete them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
