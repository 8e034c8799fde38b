"""What an installation changes in a host's file, and what it leaves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from mcp_vega.cli.install import jsonc, toml
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, NAME, Entry
from mcp_vega.cli.install.hosts import Host

# Codex gives a server ten seconds to start, the first download included.
DOWNLOAD_SECONDS = 60


class Form(Protocol):
    """A form of files: the functions of `jsonc` and `toml`."""

    def parse(self, text: str, /) -> Any: ...  # noqa: D102  said there
    def comments(self, text: str, /) -> list[str]: ...  # noqa: D102
    def put(self, text: str, path: Sequence[str], value: Any, /) -> str: ...  # noqa: D102
    def drop(self, text: str, path: Sequence[str], /) -> str: ...  # noqa: D102


FORMS: Mapping[str, Form] = {"json": jsonc, "toml": toml}


@dataclass(frozen=True)
class Change:
    """A change of a host's file.

    Attributes:
        host: Whose file it is.
        file: As it is.
        text: As it would be.
        before: The entry of this server as it is; None where there is none.
        after: The entry as it would be; None where it is taken out.
        arguments: For the host's own command, where that does the same and loses nothing; else none.
    """

    host: Host
    file: ConfigFile
    text: str
    before: Any
    after: Any
    arguments: Sequence[str]

    @property
    def differs(self) -> bool:
        """Whether there is anything to do."""
        return self.before != self.after

    @property
    def others(self) -> dict[str, Any]:
        """The other servers in the file, by name."""
        return {name: server for name, server in servers_in(self.host, self.file).items() if name != NAME}

    @property
    def settings(self) -> frozenset[str]:
        """The names of what else is in the file."""
        return frozenset(_rest(self.host, self.file))


def servers_in(host: Host, file: ConfigFile) -> dict[str, Any]:
    """The servers in a host's file, by name.

    Raises:
        HostConfigError: The file does not hold what the host expects there.
    """
    servers = _data(host, file).get(host.section, {})
    if not isinstance(servers, dict):
        raise HostConfigError(f"{host.section} in {file.path} holds no servers by name")
    return cast("dict[str, Any]", servers)


def installing(host: Host, file: ConfigFile, entry: Entry) -> Change:
    """The change that puts the entry into the file. What else is set in an older entry is kept.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
    """
    before = servers_in(host, file).get(NAME)
    after = _merged(before, host, entry)
    text, form = file.text, FORMS[host.form]
    try:
        for path, value in _places((host.section, NAME), before, after):
            text = form.put(text, path, value)
    except ValueError as error:
        raise HostConfigError(f"{file.path} cannot be changed: {error}") from error
    # `codex mcp add` drops what else is set in an older entry, `claude mcp add` refuses it.
    arguments = host.program.adding(entry) if host.program and before is None else ()
    return _checked(Change(host, file, text, before, after, arguments))


def uninstalling(host: Host, file: ConfigFile) -> Change:
    """The change that takes the entry out of the file.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
    """
    servers = servers_in(host, file)
    before: Any = servers.get(NAME)
    if before is None and NAME in servers:  # it is null
        before = {}
    text = file.text
    if before is not None:
        try:
            text = FORMS[host.form].drop(text, (host.section, NAME))
        except ValueError as error:
            raise HostConfigError(f"{file.path} cannot be changed: {error}") from error
    arguments = host.program.removing if host.program else ()
    return _checked(Change(host, file, text, before, None, arguments))


def _merged(before: Any, host: Host, entry: Entry) -> dict[str, Any]:
    """The entry, with what else is set in an older one."""
    new = {**host.members, **entry.data}
    slow = {"startup_timeout_sec": DOWNLOAD_SECONDS} if host.name == "codex" and entry.downloads else {}
    if not isinstance(before, dict) or "command" not in before:  # there is none, or one for a server elsewhere
        return {**new, **slow}
    older = cast("dict[str, Any]", before)
    environment = older.get("env")
    if entry.key and isinstance(environment, dict):
        new["env"] = {**cast("dict[str, Any]", environment), KEY: entry.key}
    return {**slow, **older, **new}


def _places(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Where `after` has something that `before` has not, each as small as it can be."""
    older, newer = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
    if isinstance(before, dict) and isinstance(after, dict) and older.keys() <= newer.keys():
        for name, value in newer.items():
            if name not in older or older[name] != value:
                yield from _places((*path, name), older.get(name), value)
    else:
        yield path, after


def _checked(change: Change) -> Change:
    """The change, once it is sure that it touches this one entry alone, and loses no comment."""
    host, file = change.host, change.file
    changed = replace(file, text=change.text)
    try:
        change.text.encode()
    except UnicodeEncodeError as error:
        raise HostConfigError(f"{file.path} cannot be changed: the command's path is not UTF-8") from error
    wanted = change.others if change.after is None else {**change.others, NAME: change.after}
    if servers_in(host, changed) != wanted or _rest(host, file) != _rest(host, changed):
        raise HostConfigError(f"{file.path} cannot be changed without touching more than one entry")
    # The hosts' own commands write some comments away.
    return replace(change, arguments=()) if FORMS[host.form].comments(file.text) else change


def _rest(host: Host, file: ConfigFile) -> dict[str, Any]:
    """What is in a file beside the servers."""
    return {name: value for name, value in _data(host, file).items() if name != host.section}


def _data(host: Host, file: ConfigFile) -> dict[str, Any]:
    try:
        data = FORMS[host.form].parse(file.text)
    except ValueError as error:
        raise HostConfigError(f"{file.path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise HostConfigError(f"{file.path} does not hold an object with {host.section}")
    return cast("dict[str, Any]", data)
