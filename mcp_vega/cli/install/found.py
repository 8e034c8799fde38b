"""The hosts on this machine, and how each was found."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.cli.install.change import servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import NAME
from mcp_vega.cli.install.hosts import HOSTS, Host, UserEnvironment


@dataclass(frozen=True)
class FoundHost:
    """A host that is on this machine.

    Attributes:
        name: Its name on the command line.
        evidence: What was found of it: its file, the folder of its settings, or its program.
        has_entry: Whether its file has an entry for this server.
        problem: Why its file cannot be read; empty if it can, or is not there.
    """

    name: str
    evidence: str
    has_entry: bool = False
    problem: str = ""

    @property
    def title(self) -> str:
        """The name that its users know."""
        return HOSTS[self.name].title


def find_hosts(here: UserEnvironment) -> list[FoundHost]:
    """The hosts on this machine, in the order of their table.

    Programs and folders are only looked at: nothing is started.
    """
    found: list[FoundHost] = []
    for name, host in HOSTS.items():
        if evidence := _evidence(host, here):
            found.append(_with_state(name, evidence, host.file(here)))
    return found


def _evidence(host: Host, here: UserEnvironment) -> str:
    """What shows that a host is here; empty if nothing does. A program may lack a file until its first start."""
    file = host.file(here)
    folder = host.folder(here) if host.folder else file.parent
    looks: tuple[tuple[str, Callable[[], list[Path]]], ...] = (
        ("", lambda: [file]),
        ("the folder ", lambda: [folder]),
        ("the program ", lambda: _programs(host, here)),
        ("the application ", lambda: _applications(host, here)),
    )
    for kind, paths in looks:
        for path in paths():
            if os.path.exists(path):  # noqa: PTH110  a folder that may not be looked into counts as not found
                return f"{kind}{_short(path, here.home)}"
    return ""


def _programs(host: Host, here: UserEnvironment) -> list[Path]:
    found = (shutil.which(program, path=here.environment.get("PATH", "")) for program in host.programs)
    return [Path(each) for each in found if each]


def _applications(host: Host, here: UserEnvironment) -> list[Path]:
    if here.platform != "darwin" or not host.application:
        return []
    return [folder / host.application for folder in (Path("/Applications"), here.home / "Applications")]


def _with_state(name: str, evidence: str, file: Path) -> FoundHost:
    """A host that was found, with what its file says about this server."""
    try:
        return FoundHost(name, evidence, has_entry=NAME in servers_in(HOSTS[name], ConfigFile.read(file)))
    except HostConfigError as error:
        return FoundHost(name, evidence, problem=error.what)


def _short(path: Path, home: Path) -> str:
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)
