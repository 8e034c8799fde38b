"""What is written for a host that starts this server: a command that lasts, its arguments, the API key."""

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mcp_vega.errors import VegaError
from mcp_vega.settings import Settings

NAME = "vega"
KEY, KEY_FILE, WEIGHTS = "SEGMIND_API_KEY", "SEGMIND_API_KEY_FILE", "MCP_VEGA_WEIGHTS"


class NotInstalled(VegaError):  # noqa: N818  says what happened
    """This package runs without being installed, so there is no command that a host could start."""

    next_step = "Install the package with pip, pipx or uv, and run the installed mcp-vega"


@dataclass(frozen=True)
class Entry:
    """How a host starts this server.

    Attributes:
        command: An absolute path: hosts with windows do not have the PATH of a shell.
        args: Its arguments.
        key: The API key for the server's environment; empty if it is not known.
        key_file: The path of a file with the key, instead of the key; empty if there is none.
        weights: The folder of the weights, if the server draws on this machine; empty for the default.
    """

    command: str
    args: tuple[str, ...] = ()
    key: str = field(default="", repr=False)
    key_file: str = ""
    weights: str = ""

    @property
    def env(self) -> dict[str, str]:
        """The variables for the server's environment."""
        key = {KEY_FILE: self.key_file} if self.key_file else {KEY: self.key}
        return {name: value for name, value in {**key, WEIGHTS: self.weights}.items() if value}

    @property
    def data(self) -> dict[str, Any]:
        """The entry as most hosts spell it."""
        return {"command": self.command, "args": list(self.args), **({"env": self.env} if self.env else {})}

    @property
    def downloads(self) -> bool:
        """Whether the command may have to download the package before it starts."""
        return Path(self.command).stem == "uvx"


def api_option(options: Namespace) -> tuple[str, ...]:
    """The option of a server that uses something else than the API, and so needs no key; empty for the API."""
    return ("--sandbox",) if options.sandbox else ("--local",) if options.local else ()


def own_entry(environment: Mapping[str, str], option: tuple[str, ...]) -> Entry:
    """The entry that starts this installation, without a key.

    Args:
        environment: As for `lasting_command`; if the server draws on this machine, also with the folder of the weights.
        option: What `api_option` returns.

    Raises:
        InvalidSettings: The folder of the weights cannot be used.
        NotInstalled: There is no command that a host could start.
    """
    local = "--local" in option
    command, *rest = lasting_command(environment, local=local)
    folder = Settings.from_environment({WEIGHTS: environment.get(WEIGHTS, "")}).weights if local else None
    return Entry(command, (*rest, *option), weights=str(folder or ""))


def lasting_command(
    environment: Mapping[str, str], installed: Distribution | None = None, *, local: bool = False
) -> tuple[str, ...]:
    """The command that starts this installation, today and next month: an absolute path and its arguments.

    If uvx runs the package, its files are in a cache that is cleared from time to time, so the command is uvx itself.

    Args:
        environment: With the PATH, and the variables that uv sets.
        installed: This package's metadata; by default the metadata that Python finds.
        local: Whether the program is to draw on this machine. If the extra `local` is here, uvx is to fetch it as well.

    Raises:
        NotInstalled: The package runs from a folder that no host would find.
    """
    if uvx := _uvx(environment):
        source = _source(installed or distribution("mcp-vega"))
        if local and find_spec("torch"):
            source = f"mcp-vega[local] @ {source}" if source else "mcp-vega[local]"
        return (uvx, *(("--from", source) if source else ()), "mcp-vega")
    script = _script()
    if script is None:
        raise NotInstalled(f"mcp-vega is not installed in {sys.executable}, so no host could start it")
    return (str(script),)


def is_temporary(command: str) -> bool:
    """Whether a command is in a cache or in a temporary folder, where files are deleted from time to time."""
    path = Path(command)
    if {"cache", ".cache", "caches"} & {part.lower() for part in path.parts}:
        return True
    try:
        return path.is_relative_to(tempfile.gettempdir())
    except OSError:  # there is no temporary folder
        return False


def _uvx(environment: Mapping[str, str]) -> str | None:
    """The absolute path of uvx, if uvx runs this process."""
    # The environment that uv makes for a single command is in uv's cache; those of tools and projects are not.
    if not {"archive-v0", "builds-v0", "environments-v2"} & set(Path(sys.prefix).parts):
        return None
    named = Path(environment["UV"]).absolute() if environment.get("UV") else None  # older versions do not set it
    beside = named.with_name(f"uvx{named.suffix}") if named else None
    found = shutil.which("uvx", path=environment.get("PATH"))
    # If both are the same program: the name on the PATH. It may be a link that outlives the folder of one version.
    if beside and beside.is_file() and not (found and beside.samefile(found)):
        return str(beside)
    return os.path.abspath(found) if found else None  # noqa: PTH100  the PATH may be relative


def _source(installed: Distribution) -> str:
    """The folder, wheel or repository that the package came from, as uvx takes it; empty if it was a registry."""
    try:
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
    except (OSError, ValueError):
        return ""
    url = origin.get("url", "")
    version = origin.get("vcs_info", {})
    revision = f"@{version['requested_revision']}" if version.get("requested_revision") else ""
    folder = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
    return f"{version['vcs']}+{url}{revision}{folder}" if version else f"{url}{folder}"


def _script() -> Path | None:
    """The installed command of this interpreter."""
    name = "mcp-vega.exe" if sys.platform == "win32" else "mcp-vega"
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))]
    scripts = [Path(folder) / name for folder in folders] + [Path(sys.argv[0]).absolute()]
    return next((script for script in scripts if script.name == name and script.is_file()), None)
