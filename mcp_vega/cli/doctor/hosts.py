"""The entries for this server in the hosts' files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.doctor.installation import PACKAGE
from mcp_vega.cli.install.change import servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, NAME
from mcp_vega.cli.install.hosts import HOSTS, Host, UserEnvironment
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.response import as_object
from mcp_vega.settings import Settings


def look_at_hosts(environment: Mapping[str, str]) -> list[Check]:
    """Which hosts have this server, and whether what they start is there: the check hosts."""
    having: list[str] = []
    unread: list[str] = []
    wrong: dict[str, str] = {}
    for host, found in _entries(environment):
        if isinstance(found, HostConfigError):
            unread.append(found.what)
            continue
        words = _words(found)
        having.append(f"{host.title}{_kind(found)}")
        if words and not _is_there(words[0], environment):
            wrong[f"{host.title} starts {words[0]}, which is not there"] = (
                f"`mcp-vega install {host.name}` writes an entry that works"
            )
        elif problem := _key_problem(found):
            wrong[f"{host.title}: {problem}"] = f"`mcp-vega install {host.name}` asks for another one"
    return [_hosts_check(having, wrong, unread)]


def key_of_a_host(environment: Mapping[str, str]) -> tuple[str, str]:
    """The first key in a host's file, and that host's title; both empty where there is none."""
    for host, found in _entries(environment):
        key = "" if isinstance(found, HostConfigError) else _key_in(found)
        if key and not _is_variable(key):
            return key, host.title
    return "", ""


def _entries(environment: Mapping[str, str]) -> Iterator[tuple[Host, dict[str, Any] | HostConfigError]]:
    """The entries for this server in the hosts' files, or why a file could not be read."""
    here = UserEnvironment(environment, Path.home())
    for host in HOSTS.values():
        try:
            servers = servers_in(host, ConfigFile.read(host.file(here)))
        except HostConfigError as error:
            yield host, error
            continue
        for name, entry in servers.items():
            if name == NAME or any(PACKAGE in word or "mcp_vega" in word for word in _words(entry)):
                yield host, as_object(entry)


def _kind(entry: dict[str, Any]) -> str:
    if _is_sandbox(entry):
        return " (sandbox)"
    return " (with a key)" if _key_in(entry) else ""


def _is_sandbox(entry: dict[str, Any]) -> bool:
    return "--sandbox" in _words(entry) or bool(as_object(entry.get("env")).get("MCP_VEGA_SANDBOX"))


def _hosts_check(having: Sequence[str], wrong: Mapping[str, str], unread: Sequence[str]) -> Check:
    """The check, of what is wrong, each with its mend, before anything else."""
    said = ", ".join(having) or "none has this server"
    if wrong:
        return Check("hosts", State.BAD, "; ".join((said, *wrong, *unread)), next(iter(wrong.values())))
    if unread:
        return Check("hosts", State.NOTE, "; ".join((said, *unread)), "Mend the file, or its permissions")
    if not having:
        return Check("hosts", State.NOTE, said, f"`mcp-vega install HOST` adds it; HOST is one of {', '.join(HOSTS)}")
    return Check("hosts", State.GOOD, said)


def _words(entry: Any) -> list[str]:
    """The command and arguments of a host's entry; none where it names no command."""
    data = as_object(entry)
    command, arguments = data.get("command"), data.get("args")
    rest = cast("list[Any]", arguments) if isinstance(arguments, list) else []
    return [command, *map(str, rest)] if isinstance(command, str) else []


def _is_there(command: str, environment: Mapping[str, str]) -> bool:
    """Whether a host can start a command, as far as that can be told: some hosts have variables in it."""
    return "$" in command or shutil.which(command, path=environment.get("PATH")) is not None


def _key_in(entry: dict[str, Any]) -> str:
    return str(as_object(entry.get("env")).get(KEY) or "")


def _is_variable(key: str) -> bool:
    """Whether it names a variable, which the host fills."""
    return "$" in key


def _key_problem(entry: dict[str, Any]) -> str:
    """What is wrong with the key of an entry that needs one; empty where that cannot be told, or nothing is."""
    key = _key_in(entry)
    if not key or _is_variable(key) or _is_sandbox(entry):
        return ""
    try:
        require_usable(Settings.from_environment({KEY: key}).api_key)
    except InvalidSettings as error:
        return error.what
    return ""
