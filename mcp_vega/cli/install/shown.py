"""A change of a host's file as a person sees it before it is made: no value that may be a secret."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_vega.cli.install.change import HEADERS, SIGN_IN, Change, refused_in, servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, KEY_FILE, NAME, WEIGHTS
from mcp_vega.cli.install.hosts import Host
from mcp_vega.cli.install.remote import URLS, url_of
from mcp_vega.cli.install.switches import switched_off
from mcp_vega.redaction import escaped, redacted
from mcp_vega.segmind.api_key import is_placeholder
from mcp_vega.segmind.values import as_object

# Members of an entry whose values are shown; arguments and addresses only if they are this server's own.
PLAIN = ("type", "command", "startup_timeout_sec", "required")
NEW = (*PLAIN, *URLS, "args", f"env {KEY_FILE}", f"env {WEIGHTS}")
HIDDEN = "(not shown)"
OWN_ARGUMENTS = tuple(
    json.dumps([*command, *switch]) for command in ((), ("mcp-vega",)) for switch in ((), ("--sandbox",), ("--local",))
)
OWN_ADDRESS = re.compile(r"https?://[\w.:\[\]-]+/mcp")


def lines_of(change: Change) -> list[str]:
    """What changes, line by line, without characters from the file that control a terminal.

    Keys of other kinds may be anywhere in an older entry, so most of it is hidden.
    """
    return [escaped(redacted(line)) for line in _lines_of(change)]


def _lines_of(change: Change) -> Iterator[str]:
    yield f"{change.host.title}: {change.file.path}{'' if change.file.raw is not None else ' (new)'}"
    before, after = _members(change.before), _members(change.after)
    yield f"  {'+' if change.before is None else '-' if change.after is None else ' '} {NAME}"
    for name in before | after:
        old, new = before.get(name), after.get(name)
        if old is not None and old != new:
            yield f"  -   {name}: {old if _is_public(name, old) else HIDDEN}"
        if new is not None:
            sign = " " if old == new else "+"
            yield f"  {sign}   {name}: {new if name in NEW else HIDDEN}"
    if change.file.has_byte_order_mark:
        yield "  - the byte order mark at the beginning of the file: some hosts refuse a file that has one"
    if others := [name for name in servers_in(change.host, change.file) if name != NAME]:
        yield f"  unchanged: {', '.join(others)}"


def notes_on(name: str, change: Change) -> Iterator[str]:
    """What a person should know of an entry before it is written: what keeps its host from starting it, for example.

    Args:
        name: The host's name on the command line.
        change: The change that writes the entry.
    """
    host, path = change.host, change.file.path
    if secrets_of(change.after) and change.file.is_readable_by_others:
        yield (
            f"the permissions of {path} let other users of this machine read it, and the entry holds a key or token; "
            f"`chmod 600 {shlex.quote(str(path))}` changes that"
        )
    changed = ConfigFile(path, change.text.encode(), change.text)
    for each in refused_in(host, changed):
        yield f"{host.title} refuses {path}, because it holds {each}"
    if off := switched_off(name, changed, NAME):
        yield f"{NAME} stays switched off in {host.title}, as {off.by}. {off.fix}"
    if "command" in change.after and "required" in host.defaults:
        if change.after["required"] is False:
            yield f"the entry keeps required = false, so the first turn of {host.title} may have no {NAME}"
        elif as_object(change.before).get("required") is not True:
            yield (
                f"with required = true, {host.title} waits for {NAME} at its start, and does not start without it; "
                f"required = false in {path} changes that"
            )


def _is_public(name: str, old: str) -> bool:
    """Whether an older value holds no secret. A command of several parts, as some hosts had it, may hold one."""
    if name in URLS:
        return OWN_ADDRESS.fullmatch(old) is not None
    return old in OWN_ARGUMENTS or (name in PLAIN and not old.startswith(("[", "{")))


def _members(entry: Any) -> dict[str, str]:
    """An entry's members as text; each variable and each header is one of its own."""
    members: dict[str, str] = {}
    for name, value in as_object(entry).items():
        if name == "env" or name in HEADERS:
            kind = "env" if name == "env" else "header"
            members |= {f"{kind} {each}": str(inner) for each, inner in as_object(value).items()}
        else:
            members[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return members


def has_key(entry: Any) -> bool:
    """Whether an entry has an API key, the path of a file with the key, or a variable of the host's in its place."""
    variables = as_object(as_object(entry).get("env"))
    key = str(variables.get(KEY) or variables.get(KEY_FILE) or "")
    return bool(key) and ("$" in key or not is_placeholder(key))


def has_token(entry: Any) -> bool:
    """Whether an entry with a URL has headers, or another member that signs requests in."""
    members = as_object(entry)
    return bool(url_of(members)) and any(members.get(name) for name in HEADERS | SIGN_IN)


def secrets_of(entry: Any) -> set[str]:
    """What an entry holds that others must not learn: the API key, and the values of headers."""
    members = as_object(entry)
    headers = (as_object(members.get(name)) for name in HEADERS - {"env_http_headers"})
    key = as_object(members.get("env")).get(KEY)
    found = {str(each) for each in (key, *(value for values in headers for value in values.values())) if each}
    return {each for each in found if "${" not in each}  # the host puts the secret there when it reads the file


def may_hold_secret(host: Host, backup: Path) -> bool:
    """Whether a backup of a host's file has an entry with a key or token, or cannot be read."""
    try:
        return bool(secrets_of(servers_in(host, ConfigFile.read(backup)).get(NAME)))
    except HostConfigError:
        return True
