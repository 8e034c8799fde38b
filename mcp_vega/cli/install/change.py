"""What an installation changes in a host's file, and what it leaves unchanged."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

from mcp_vega.cli.install import jsonc, toml
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, KEY_FILE, NAME, Entry
from mcp_vega.cli.install.hosts import Host, Refused
from mcp_vega.cli.install.remote import HEADER, URLS, RemoteEntry, same_server, url_of
from mcp_vega.segmind.values import as_object

# Codex gives a server ten seconds to start, the first download included.
DOWNLOAD_SECONDS = 60
# What belongs to an entry that starts a program, and to one with a URL. Codex refuses an entry that has both.
LOCAL = frozenset({"command", "args", "env", "envFile", "env_vars", "cwd"})
HEADERS = frozenset({"headers", "http_headers", "env_http_headers"})
# How requests are signed in, if no header in the entry does that.
SIGN_IN = frozenset(
    {"bearer_token", "bearer_token_env_var", "headersHelper", "http_headers_helper"}
    | {"auth", "authProviderType", "oauth", "oauth_resource", "scopes"}
)
REMOTE = HEADERS | SIGN_IN | {*URLS, "transport"}


@dataclass(frozen=True)
class Change:
    """A change of a host's file.

    Attributes:
        host: Whose file it is.
        file: As it is.
        text: As it would be.
        before: The entry of this server as it is; None if there is none.
        after: The entry as it would be; None if it is removed.
    """

    host: Host
    file: ConfigFile
    text: str
    before: Any
    after: Any


def servers_in(host: Host, file: ConfigFile) -> dict[str, Any]:
    """The servers in a host's file, by name.

    Raises:
        HostConfigError: The file cannot be understood, or its section is not an object.
    """
    servers = data_in(host, file).get(host.section, {})
    if not isinstance(servers, dict):
        raise HostConfigError(f"{host.section} in {file.path} is not an object with servers by name")
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


def installing(host: Host, file: ConfigFile, entry: Entry | RemoteEntry) -> Change:
    """The change that puts the entry into the file. Other settings of an older entry are kept if they still apply.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
        InvalidArguments: The entry has a URL, and the host takes none in its file.
    """
    before = servers_in(host, file).get(NAME)
    older = as_object(before)
    after = _with_url(older, host, entry) if isinstance(entry, RemoteEntry) else _with_command(older, host, entry)
    return _changed(host, file, before, after)


def uninstalling(host: Host, file: ConfigFile) -> Change:
    """The change that removes the entry from the file.

    If the file is a backup with this entry added and no other change, it gets the backup's text, byte for byte.

    Raises:
        HostConfigError: The file cannot be understood, or not be changed without touching more.
    """
    change = _changed(host, file, servers_in(host, file).get(NAME), None)
    if change.before is None:
        return change
    for path in file.backups():
        with suppress(HostConfigError):
            backup = ConfigFile.read(path)
            if NAME not in servers_in(host, backup) and _changed(host, backup, None, change.before).text == file.text:
                return replace(change, text=backup.text)
    return change


def block(host: Host, entry: Entry | RemoteEntry) -> str:
    """An entry as it is written in a host's file.

    Raises:
        InvalidArguments: The entry has a URL, and the host takes none in its file.
    """
    form = toml if host.form == "toml" else jsonc
    data = entry.data(host) if isinstance(entry, RemoteEntry) else {**host.members, **entry.data, **host.defaults}
    return form.put("", (host.section, NAME), data).rstrip("\n")


def _with_command(older: dict[str, Any], host: Host, entry: Entry) -> dict[str, Any]:
    """The entry that starts a program, with the other settings of an older one."""
    new = {**host.members, **entry.data}
    slow = {"startup_timeout_sec": DOWNLOAD_SECONDS} if host.form == "toml" and entry.downloads else {}
    kept = {name: value for name, value in older.items() if name not in REMOTE}
    if kept.get("type", "stdio") != "stdio":
        del kept["type"]
    if entry.env and "env" in kept:
        # A server accepts only one of the two variables for the key.
        replaced = {KEY, KEY_FILE} if entry.env.keys() & {KEY, KEY_FILE} else set[str]()
        others = {name: value for name, value in as_object(kept["env"]).items() if name not in replaced}
        new["env"] = others | entry.env
    return {**slow, **host.defaults, **kept, **new}


def _with_url(older: dict[str, Any], host: Host, entry: RemoteEntry) -> dict[str, Any]:
    """The entry with a URL, with the other settings of an older one.

    Headers stay with the server that they were written for: another server would learn a token that is not its own.
    """
    new = entry.data(host)
    left_out = LOCAL | {*URLS, "type", "transport"}
    if not same_server(url_of(older), entry.url):
        left_out |= REMOTE
    elif entry.token:
        left_out |= SIGN_IN
    kept = {name: value for name, value in older.items() if name not in left_out}
    if "command" in older:  # an installation wrote these for the program
        kept = {name: value for name, value in kept.items() if host.defaults.get(name) != value}
    headers = host.remote.headers if host.remote else ""
    if headers in kept and headers in new:
        others = {name: each for name, each in as_object(kept[headers]).items() if name.lower() != HEADER.lower()}
        new[headers] = {**others, **new[headers]}
    return {**kept, **new}


def _differences(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What `after` has and `before` does not: the path and value of each, as small as possible.

    If something of `before` is missing in `after`, that is the whole entry.
    """
    older, newer = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
    if isinstance(before, dict) and isinstance(after, dict) and older.keys() <= newer.keys():
        for name, value in newer.items():
            if name not in older or older[name] != value:
                yield from _differences((*path, name), older.get(name), value)
    else:
        yield path, after


def _changed(host: Host, file: ConfigFile, before: Any, after: Any) -> Change:
    """The change of the entry, checked to leave everything else in the file unchanged."""
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
    """Everything in a file except the entry; a missing section counts as empty."""
    others = {name: server for name, server in servers_in(host, file).items() if name != NAME}
    return {**data_in(host, file), host.section: others}


def data_in(host: Host, file: ConfigFile) -> dict[str, Any]:
    """Everything in a host's file.

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
