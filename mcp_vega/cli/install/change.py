"""What an installation changes in a host's file, and what it leaves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp_vega.cli.install import jsonc, toml
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, NAME, Entry
from mcp_vega.cli.install.hosts import Host, Refused
from mcp_vega.segmind.values import as_object

# Codex gives a server ten seconds to start, the first download included.
DOWNLOAD_SECONDS = 60


@dataclass(frozen=True)
class Change:
    """A change of a host's file.

    Attributes:
        host: Whose file it is.
        file: As it is.
        text: As it would be.
        before: The entry of this server as it is; None where there is none.
        after: The entry as it would be; None where it is taken out.
    """

    host: Host
    file: ConfigFile
    text: str
    before: Any
    after: Any


def servers_in(host: Host, file: ConfigFile) -> dict[str, Any]:
    """The servers in a host's file, by name.

    Raises:
        HostConfigError: The file does not hold what the host expects there.
    """
    servers = data_in(host, file).get(host.section, {})
    if not isinstance(servers, dict):
        raise HostConfigError(f"{host.section} in {file.path} holds no servers by name")
    return cast("dict[str, Any]", servers)


def refused_in(host: Host, file: ConfigFile, name: str = NAME) -> list[Refused]:
    """What is in a host's file that makes it refuse the file, or the entry of this name.

    Raises:
        HostConfigError: The file cannot be understood.
    """
    variables = as_object(as_object(servers_in(host, file).get(name)).get("env"))
    is_json = host.form == "json"
    found = {
        Refused.BYTE_ORDER_MARK: file.has_byte_order_mark,
        Refused.COMMENTS: is_json and jsonc.has_comments(file.text),
        Refused.TRAILING_COMMAS: is_json and jsonc.has_trailing_commas(file.text),
        Refused.NUMBERS: any(not isinstance(value, str) for value in variables.values()),
    }
    return [each for each in host.refuses if found[each]]


def installing(host: Host, file: ConfigFile, entry: Entry) -> Change:
    """The change that puts the entry into the file. What else is set in an older entry is kept.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
    """
    before = servers_in(host, file).get(NAME)
    return _changed(host, file, before, _merged(before, host, entry))


def uninstalling(host: Host, file: ConfigFile) -> Change:
    """The change that takes the entry out of the file.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
    """
    return _changed(host, file, servers_in(host, file).get(NAME), None)


def block(host: Host, entry: Entry) -> str:
    """An entry as it stands in a host's file."""
    form = toml if host.form == "toml" else jsonc
    return form.put("", (host.section, NAME), {**host.members, **entry.data}).rstrip("\n")


def _merged(before: Any, host: Host, entry: Entry) -> dict[str, Any]:
    """The entry, with what else is set in an older one."""
    new = {**host.members, **entry.data}
    slow = {"startup_timeout_sec": DOWNLOAD_SECONDS} if host.form == "toml" and entry.downloads else {}
    older = as_object(before)
    if "command" not in older:  # there is none, or one for a server elsewhere
        return {**new, **slow}
    if entry.key:
        new["env"] = {**as_object(older.get("env")), KEY: entry.key}
    return {**slow, **older, **new}


def _differences(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Where `after` has something that `before` has not, each as small as it can be."""
    older, newer = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
    if isinstance(before, dict) and isinstance(after, dict) and older.keys() <= newer.keys():
        for name, value in newer.items():
            if name not in older or older[name] != value:
                yield from _differences((*path, name), older.get(name), value)
    else:
        yield path, after


def _changed(host: Host, file: ConfigFile, before: Any, after: Any) -> Change:
    """The change of the entry, once it is sure that it touches this one alone."""
    text, path = file.text, (host.section, NAME)
    form = toml if host.form == "toml" else jsonc
    try:
        if after is None:
            text = text if before is None else form.drop(text, path)
        else:
            for where, value in _differences(path, before, after):
                text = form.put(text, where, value)
        text.encode()
    except UnicodeEncodeError as error:
        raise HostConfigError(f"{file.path} cannot be changed: the command's path is not UTF-8") from error
    except (ValueError, LookupError) as error:
        raise HostConfigError(f"{file.path} cannot be changed: {error}") from error
    changed = replace(file, text=text)
    if servers_in(host, changed).get(NAME) != after or _rest(host, changed) != _rest(host, file):
        raise HostConfigError(f"{file.path} cannot be changed without touching more than one entry")
    return Change(host, file, text, before, after)


def _rest(host: Host, file: ConfigFile) -> dict[str, Any]:
    """What is in a file beside the entry; a section that is missing is an empty one."""
    others = {name: server for name, server in servers_in(host, file).items() if name != NAME}
    return {**data_in(host, file), host.section: others}


def data_in(host: Host, file: ConfigFile) -> dict[str, Any]:
    """All that is in a host's file.

    Raises:
        HostConfigError: The file cannot be understood.
    """
    try:
        data = toml.parse(file.text) if host.form == "toml" else jsonc.parse(file.text)
    except ValueError as error:
        raise HostConfigError(f"{file.path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise HostConfigError(f"{file.path} does not hold an object with {host.section}")
    return cast("dict[str, Any]", data)
