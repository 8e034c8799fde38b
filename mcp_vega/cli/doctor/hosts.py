"""The entries for this server in the hosts' files."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.doctor.installation import PACKAGE
from mcp_vega.cli.install.change import servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, NAME
from mcp_vega.cli.install.hosts import HOSTS, UserEnvironment
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.values import as_object
from mcp_vega.settings import Settings


@dataclass(frozen=True)
class _HostEntry:
    """An entry for this server in a host's file; in a command or key with a $ the host fills in a variable."""

    host: str
    command: str
    key: str
    is_sandbox: bool


def check_hosts(environment: Mapping[str, str]) -> list[Check]:
    """Which hosts have this server, and whether what they start is there: the check hosts."""
    having: list[str] = []
    unread: list[str] = []
    wrong: dict[str, str] = {}
    for entry in _entries(environment):
        if isinstance(entry, HostConfigError):
            unread.append(entry.what)
            continue
        title, command = HOSTS[entry.host].title, entry.command
        having.append(title + (" (sandbox)" if entry.is_sandbox else " (with a key)" if entry.key else ""))
        if command and "$" not in command and shutil.which(command, path=environment.get("PATH")) is None:
            mend = f"`mcp-vega install {entry.host}` writes an entry that works"
            wrong[f"{title} starts {command}, which is not there"] = mend
        elif entry.key and "$" not in entry.key and not entry.is_sandbox:
            try:
                require_usable(Settings.from_environment({KEY: entry.key}).api_key)
            except InvalidSettings as error:
                wrong[f"{title}: {error.what}"] = f"`mcp-vega install {entry.host}` asks for another one"
    said = "; ".join((", ".join(having) or "none has this server", *wrong, *unread))
    if wrong:
        return [Check("hosts", State.BAD, said, next(iter(wrong.values())))]
    if unread:
        return [Check("hosts", State.NOTE, said, "Mend the file, or its permissions")]
    if not having:
        mend = f"`mcp-vega install HOST` adds it; HOST is one of {', '.join(HOSTS)}"
        return [Check("hosts", State.NOTE, said, mend)]
    return [Check("hosts", State.GOOD, said)]


def key_of_a_host(environment: Mapping[str, str]) -> tuple[str, str]:
    """The first key in a host's file, and that host's title; both empty where there is none."""
    for entry in _entries(environment):
        if isinstance(entry, _HostEntry) and entry.key and "$" not in entry.key:
            return entry.key, HOSTS[entry.host].title
    return "", ""


def _entries(environment: Mapping[str, str]) -> Iterator[_HostEntry | HostConfigError]:
    """The entries for this server in the hosts' files, or why a file could not be read."""
    here = UserEnvironment(environment, Path.home())
    for host, about in HOSTS.items():
        try:
            servers = servers_in(about, ConfigFile.read(about.file(here)))
        except HostConfigError as error:
            yield error
            continue
        for name, value in servers.items():
            data = as_object(value)
            command, arguments, variables = data.get("command"), data.get("args"), as_object(data.get("env"))
            command = command if isinstance(command, str) else ""
            words = [command, *map(str, cast("list[Any]", arguments) if isinstance(arguments, list) else ())]
            if name == NAME or any(PACKAGE in word or "mcp_vega" in word for word in words):
                is_sandbox = "--sandbox" in words or bool(variables.get("MCP_VEGA_SANDBOX"))
                yield _HostEntry(host, command, str(variables.get(KEY) or ""), is_sandbox)
