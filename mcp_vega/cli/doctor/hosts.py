"""The entries for this server in the hosts' files."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.doctor.installation import PACKAGE
from mcp_vega.cli.install.change import refused_in, servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, KEY_FILE, NAME
from mcp_vega.cli.install.hosts import HOSTS, Refused, UserEnvironment
from mcp_vega.cli.install.remote import url_of
from mcp_vega.cli.install.switches import switched_off
from mcp_vega.cli.output import command_line
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.values import as_object
from mcp_vega.settings import Settings

# What an entry can use that needs no key, and how the page says it.
KINDS = {"sandbox": " (sandbox)", "local": " (draws on this machine)"}


@dataclass(frozen=True)
class _HostEntry:
    """An entry for this server in a host's file. A $ in a command or value is a variable that the host fills in.

    `keyless` says what it uses that needs no key: `sandbox`, `local`, or empty for nothing of that kind.
    """

    host: str
    file: ConfigFile
    name: str
    command: str
    url: str
    variables: Mapping[str, str]
    keyless: str

    @property
    def key(self) -> str:
        return self.variables.get(KEY, "")

    @property
    def key_variable(self) -> Mapping[str, str]:
        """The variable with the key, or with the path of its file; empty if there is none, or if it is not used."""
        names = () if self.keyless else (KEY, KEY_FILE)
        return {name: value for name in names if (value := self.variables.get(name, ""))}

    @property
    def title(self) -> str:
        return HOSTS[self.host].title

    @property
    def kind(self) -> str:
        if self.url:
            return " (over HTTP)"
        return KINDS.get(self.keyless) or (" (with a key)" if self.key_variable else "")


def check_hosts(environment: Mapping[str, str]) -> list[Check]:
    """Which hosts have an entry for this server, and whether each entry can work: the check hosts."""
    having: list[str] = []
    found: list[Check] = []
    for entry in _entries(environment):
        if isinstance(entry, HostConfigError):
            found.append(Check("hosts", State.NOTE, entry.what, "Correct the file, or its permissions"))
        else:
            having.append(f"{entry.title}{entry.kind}")
            found += _findings(entry, environment)
    said = "; ".join((", ".join(having) or "no host has this server", *(each.detail for each in found)))
    if found:
        worst = max(found, key=lambda each: each.state is State.BAD)  # the first that is bad, else the first
        return [Check("hosts", worst.state, said, worst.fix)]
    if not having:
        fix = f"Run `{command_line('install', 'HOST')}` to add it. HOST is one of {', '.join(HOSTS)}"
        return [Check("hosts", State.NOTE, said, fix)]
    return [Check("hosts", State.GOOD, said)]


def _findings(entry: _HostEntry, environment: Mapping[str, str]) -> Iterator[Check]:
    """What is wrong with an entry, and what the user should know about it."""
    host, title, path = entry.host, entry.title, entry.file.path
    without_mark = f"Run `{command_line('install', host)}`: it writes the file without the byte order mark"
    refused = refused_in(HOSTS[host], entry.file, entry.name)
    for each in refused:
        fix = without_mark if each is Refused.BYTE_ORDER_MARK else f"Correct {path}"
        yield Check("hosts", State.BAD, f"{title} refuses {path}, because the file has {each}", fix)
    if entry.file.has_byte_order_mark and Refused.BYTE_ORDER_MARK not in refused:
        yield Check("hosts", State.NOTE, f"{path} begins with a byte order mark, which some hosts refuse", without_mark)
    if off := switched_off(host, entry.file, entry.name):
        yield Check("hosts", State.NOTE, f"{title} has this server switched off: {off.by}", off.fix)
    command = entry.command
    if command and "$" not in command and shutil.which(command, path=environment.get("PATH")) is None:
        fix = f"Run `{command_line('install', host)}`: it writes an entry that works"
        yield Check("hosts", State.BAD, f"{title} starts {command}, which does not exist", fix)
    elif entry.key and "$" not in entry.key and not entry.keyless:
        try:
            require_usable(Settings.from_environment({KEY: entry.key}).api_key)
        except InvalidSettings as error:
            fix = f"Run `{command_line('install', host)}`: it asks for another key"
            yield Check("hosts", State.BAD, f"{title}: {error.what}", fix)
    try:
        Settings.from_environment({name: value for name, value in entry.variables.items() if "$" not in value})
    except InvalidSettings as error:
        yield Check("hosts", State.BAD, f"{title}: {error.what}", f"Correct the variable in {path}")


def key_of_a_host(environment: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """The first variable with a key that a host's server uses, and that host's title; both are empty if none does."""
    for entry in _entries(environment):
        if isinstance(entry, _HostEntry) and entry.key_variable and "$" not in "".join(entry.key_variable.values()):
            return entry.key_variable, entry.title
    return {}, ""


def why_no_key(environment: Mapping[str, str]) -> str:
    """Why no entry for this server in a host's file needs a key; empty if one does, or if there is none."""
    entries = [entry for entry in _entries(environment) if isinstance(entry, _HostEntry)]
    if not entries or not all(entry.url or entry.keyless == "local" for entry in entries):
        return ""
    if all(entry.url for entry in entries):
        return "every host uses a server over HTTP, which has its own key"
    others = "uses a server over HTTP or " if any(entry.url for entry in entries) else ""
    return f"every host {others}draws on this machine"


def _entries(environment: Mapping[str, str]) -> Iterator[_HostEntry | HostConfigError]:
    """The entries for this server in the hosts' files; for a file that cannot be read, the error."""
    here = UserEnvironment.of(environment)
    for host, about in HOSTS.items():
        try:
            file = ConfigFile.read(about.file(here))
            servers = servers_in(about, file)
        except HostConfigError as error:
            yield error
            continue
        for name, value in servers.items():
            data = as_object(value)
            command, arguments, variables = data.get("command"), data.get("args"), as_object(data.get("env"))
            command = command if isinstance(command, str) else ""
            words = [command, *map(str, cast("list[Any]", arguments) if isinstance(arguments, list) else ())]
            if name == NAME or any(PACKAGE in word or "mcp_vega" in word for word in words):
                texts = {name: str(value or "") for name, value in variables.items()}
                yield _HostEntry(host, file, name, command, url_of(data), texts, _keyless(words, texts))


def _keyless(words: Sequence[str], variables: Mapping[str, str]) -> str:
    """What a server that is started so uses, as `_HostEntry.keyless`. An option replaces the variable of the other."""
    found = next((name for name in KINDS if f"--{name}" in words), "")
    return found or next((name for name in KINDS if _is_on(f"MCP_VEGA_{name.upper()}", variables)), "")


def _is_on(name: str, variables: Mapping[str, str]) -> bool:
    try:
        settings = Settings.from_environment({name: variables.get(name, "")})
    except InvalidSettings:
        return False
    return settings.sandbox or settings.local
