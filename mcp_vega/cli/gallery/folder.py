"""Prints and opens the folder of the pictures, and counts what is in it."""

import sys
from collections.abc import Mapping, Sequence

from mcp_vega.cli.application import image_folder_of
from mcp_vega.cli.desktop import open_on_desktop
from mcp_vega.cli.jobs.lookup import say_hint
from mcp_vega.cli.output import command_line, write
from mcp_vega.settings import Settings


def show_folder(settings: Settings, environment: Mapping[str, str], *, is_opened: bool) -> int:
    """Print the folder with the count and size of its pictures, and open it if `is_opened`.

    If the gallery is a bucket, only its URL is printed: to list a large bucket takes minutes, and may cost money.

    Returns:
        The exit code: 1 if the folder cannot be opened.
    """
    if bucket := settings.gallery_url:
        write(bucket)
        if is_opened:
            sys.stderr.write(f"{bucket} is a bucket. Open it in the console of its cloud, or run {_page(settings)}\n")
        return int(is_opened)
    image_folder = image_folder_of(settings)
    folder = image_folder.folder
    sizes, aside = image_folder.sizes(), image_folder.sizes_aside()
    write(f"{folder}\n{counted(sizes)}")
    if aside:
        write(f"Kept apart, because they are not pictures: {len(aside):,}, in {image_folder.unreadable}")
    if not sizes:
        say_hint(settings)
    if not is_opened:
        return 0
    is_there = folder.is_dir()
    problem = open_on_desktop(str(folder), environment) if is_there else "it does not exist; draw a picture first"
    if problem:
        sys.stderr.write(f"{folder} cannot be opened: {problem}\n")
    return int(bool(problem))


def _page(settings: Settings) -> str:
    return f"`{command_line('gallery', sandbox=settings.sandbox)}` to see its pictures on a page."


def counted(sizes: Sequence[int]) -> str:
    """How many pictures there are, and their total size; `sizes` are in bytes."""
    return f"{len(sizes):,} {'picture' if len(sizes) == 1 else 'pictures'}, {readable(sum(sizes))}"


def readable(size: float) -> str:
    """A number of bytes with its unit, such as `4.5 MB`."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"
