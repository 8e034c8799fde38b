"""The files that -o asks for: each is checked before anything is paid, and written when its picture is there."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.cli.application import rescued_folder_of
from mcp_vega.errors import InvalidArguments
from mcp_vega.imaging.formats import BY_ENDING, JPEG, PNG, WEBP, recognise
from mcp_vega.imaging.preview import converted
from mcp_vega.settings import Settings

# How many bytes a file's name may have on the usual file systems.
LONGEST_NAME = 255
# What Pillow calls the library that writes a format.
LIBRARIES = {JPEG: "jpg", PNG: "zlib", WEBP: "webp"}
# The disk, the user's share of it, or what the process may write is full.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Output:
    """Where pictures are copied to: into a folder, or to a file, whose name has a number from the second picture on."""

    path: Path
    is_folder: bool

    def target(self, number: int | None, name: str) -> Path | None:
        """The file for a picture; None if there is none, as the API gave more pictures than were asked for.

        Args:
            number: The picture's number among all that the command asks for, from 1; None if it is one more.
            name: The name of its file in the gallery.
        """
        if self.is_folder:
            return self.path / name
        return None if number is None else _numbered(self.path, number)


def write_as_named(data: bytes, target: Path) -> str:
    """Write a picture in the format of the file's ending, else unchanged; returns a note if pixels were changed.

    Raises:
        OSError: It cannot be written.
        InvalidImageError: It is not a complete picture.
    """
    form = BY_ENDING.get(target.suffix.lower())
    _replace(target.resolve(), converted(data, form) if form else data)
    return (
        f"{target} was converted to JPEG, which changes pixels" if form is JPEG and recognise(data) is not JPEG else ""
    )


def _replace(file: Path, data: bytes) -> None:
    """Write a file completely. If the disk is full, the older file stays as it is.

    Another name of the older file, such as one in the gallery, keeps its content.

    Raises:
        OSError: It cannot be written.
    """
    temporary = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        temporary.write_bytes(data)
        with suppress(OSError):  # there is no older file, or its permissions cannot be copied
            shutil.copymode(file, temporary)
        temporary.replace(file)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        file.write_bytes(data)  # this user may write the file, but not change its folder
    finally:
        temporary.unlink(missing_ok=True)


def output_of(given: str | None, pictures: int, settings: Settings) -> Output | None:
    """Where the pictures of a command go besides the gallery; None if nothing is asked for.

    Args:
        given: The value of -o.
        pictures: How many pictures the command asks for.
        settings: They say where the gallery is.

    Raises:
        InvalidArguments: One of the files cannot be written.
    """
    if given is None:
        return None
    # The functions of pathlib raise for an odd name.
    if os.path.isdir(given):  # noqa: PTH112
        if not os.access(given, os.W_OK | os.X_OK):
            raise InvalidArguments(f"-o names a folder that this user may not write to: {given}")
        return Output(Path(given), is_folder=True)
    output = Path(given)
    if not given or given == "-" or (output.name.startswith(".") and output.name.lower() in BY_ENDING):
        raise InvalidArguments(f"-o names no file: {given!r}", next_step="Name a file, such as fox.png, or a folder")
    if given.endswith(("/", os.sep)) or not os.path.isdir(output.parent):  # noqa: PTH112
        folder = given if given.endswith(("/", os.sep)) else output.parent
        raise InvalidArguments(f"-o names a folder that does not exist: {folder}", next_step="Make the folder first")
    _check_format(output)
    for number in range(1, pictures + 1):
        _check_file(_numbered(output, number), settings)
    return Output(output, is_folder=False)


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _check_format(output: Path) -> None:
    from PIL import features

    suffix = output.suffix.lower()
    can_write = [ending for ending, form in BY_ENDING.items() if features.check(LIBRARIES[form])]
    if suffix and suffix not in can_write:
        why = "this installation of Pillow cannot write" if suffix in BY_ENDING else "no picture is written as"
        raise InvalidArguments(
            f"-o names {output}, but {why} {suffix}",
            next_step=f"End the name in one of {', '.join(can_write)}; without an ending the picture is written "
            "unchanged",
        )


def _check_file(target: Path, settings: Settings) -> None:
    if len(os.fsencode(target.name)) > LONGEST_NAME:
        raise InvalidArguments(
            f"-o names a file whose name is longer than {LONGEST_NAME} bytes", next_step="Use a shorter name"
        )
    if not os.path.lexists(target):
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise InvalidArguments(f"-o names a file in a folder that this user may not write to: {target.parent}")
    elif not target.is_file():
        raise InvalidArguments(f"-o names what is not a file: {target}", next_step="Name a file or a folder")
    elif _is_of_gallery(target, settings):
        raise InvalidArguments(f"-o names a picture of the gallery: {target}", next_step="Name another file")
    elif not os.access(target, os.W_OK):
        raise InvalidArguments(f"-o names a file that this user may not write to: {target}")


def _is_of_gallery(file: Path, settings: Settings) -> bool:
    """Whether a file is a picture that was kept, by the sandbox or not: these are in folders of a day."""
    both = [settings.model_copy(update={"sandbox": sandbox}) for sandbox in (False, True)]
    folders = [rescued_folder_of(each) for each in both]
    folders += [each.gallery_folder for each in both if not each.gallery_url]
    return file.resolve().parent.parent in {folder.resolve() for folder in folders}
