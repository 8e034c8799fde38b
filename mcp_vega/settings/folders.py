"""The folders of the gallery and the ledger, and their defaults."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from mcp_vega.errors import InvalidSettings

_NOT_UTF8 = "not valid UTF-8, so no result could show it"


def folder_or_url(value: Any) -> Any:
    """A value of the gallery's setting: a path, unless it begins like a URL."""
    is_path = isinstance(value, str) and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value)
    return Path(value) if is_path else value


def absolute_path(path: Path) -> Path:
    """The path of a folder or a file, with the home folder instead of `~`.

    Raises:
        ValueError: It is not an absolute path, or cannot be shown.
    """
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError("it names a home folder that is not known") from error
    if not _is_utf8(path):
        raise ValueError(f"it is {_NOT_UTF8}")
    if not path.is_absolute():
        raise ValueError("it must be an absolute path or begin with ~: a host may start the server in any folder")
    return path


AbsolutePath = Annotated[Path, AfterValidator(absolute_path)]


def default_gallery() -> Path:
    """The folder of the pictures for this user. Raises as `_default_folder` does."""
    from platformdirs import user_pictures_path

    return _default_folder("MCP_VEGA_GALLERY", user_pictures_path) / "mcp-vega"


def default_home() -> Path:
    """The folder of the ledger for this user. Raises as `_default_folder` does."""
    from platformdirs import user_data_path

    return _default_folder("MCP_VEGA_HOME", lambda: user_data_path("mcp-vega", appauthor=False))


def _default_folder(variable: str, find: Callable[[], Path]) -> Path:
    """The folder that the platform provides for this user.

    Raises:
        InvalidSettings: There is no such folder, or it cannot be used.
    """
    step = f"Set {variable} to the absolute path of a folder that this user may write to"
    try:
        folder = find()
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InvalidSettings(
            f"{variable} is not set, and this user's home folder is unknown or not an absolute path", next_step=step
        )
    if not _is_utf8(folder):
        raise InvalidSettings(f"{variable} is not set, and its default, {folder}, is {_NOT_UTF8}", next_step=step)
    return folder


def _is_utf8(folder: Path) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in str(folder))
