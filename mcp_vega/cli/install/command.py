"""`mcp-vega install` and `uninstall`: an entry for this server in a host's file, and out again."""

import getpass
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp_vega.cli.install.change import Change, block, installing, refused_in, servers_in, uninstalling
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import KEY, NAME, Entry, is_temporary, lasting_command
from mcp_vega.cli.install.hosts import HOSTS, Host, UserEnvironment
from mcp_vega.cli.install.switches import switched_off
from mcp_vega.cli.output import write
from mcp_vega.errors import InvalidArguments
from mcp_vega.segmind.api_key import is_placeholder, require_usable
from mcp_vega.segmind.values import as_object
from mcp_vega.settings import Settings

KEY_START = "SG_"
PLACEHOLDER = "SG_your_key"
# What is shown of any entry; of the arguments only this server's own.
PLAIN = ("type", "command", "startup_timeout_sec")
HIDDEN = "(not shown)"
OWN_ARGUMENTS = ("[]", '["--sandbox"]', '["mcp-vega"]', '["mcp-vega", "--sandbox"]')
# Whose form most others take.
USUAL = "claude-desktop"


def run_install(options: Namespace, environment: Mapping[str, str]) -> int:
    """Put an entry for this server into a host's file, or print it; returns the exit code.

    Raises:
        InvalidArguments: No host is named, or there is nobody to ask.
        HostConfigError: The file cannot be read or changed.
        InvalidSettings: The key cannot be one.
        NotInstalled: There is no command that a host could start.
    """
    command, *rest = lasting_command(environment)
    args = (*rest, *(("--sandbox",) if options.sandbox else ()))
    if options.print:
        entry = Entry(command, args, "" if options.sandbox else PLACEHOLDER)
        write(block(HOSTS[options.host or USUAL], entry))
        return 0
    if options.host is None:
        raise InvalidArguments("No host is named", next_step=f"Name one of {', '.join(HOSTS)}, or add --print")
    host = HOSTS[options.host]
    file = _file_of(host, environment)
    key = "" if options.sandbox else _key(host, file, environment, ask=not (options.yes or options.dry_run))
    change = installing(host, file, Entry(command, args, key))
    if is_temporary(command):
        sys.stderr.write(
            f"Note: {command} lies where files are cleared away now and then; install mcp-vega elsewhere.\n"
        )
    if not options.sandbox and not _has_key(change.after):
        sys.stderr.write(f"Note: without {KEY} no picture can be drawn; run this again with it set to add it.\n")
    for note in _notes(options.host, change):
        sys.stderr.write(f"Note: {note}.\n")
    return _carry_out(change, options, environment)


def run_uninstall(options: Namespace, environment: Mapping[str, str]) -> int:
    """Take the entry for this server out of a host's file; returns the exit code.

    Raises:
        InvalidArguments: There is nobody to ask.
        HostConfigError: The file cannot be read or changed.
    """
    host = HOSTS[options.host]
    return _carry_out(uninstalling(host, _file_of(host, environment)), options, environment)


def _file_of(host: Host, environment: Mapping[str, str]) -> ConfigFile:
    try:
        return ConfigFile.read(host.file(UserEnvironment(environment, Path.home())))
    except RuntimeError as error:
        raise HostConfigError(
            f"The file of {host.title} cannot be found: this user has no home folder", next_step="Set HOME"
        ) from error


def _key(host: Host, file: ConfigFile, environment: Mapping[str, str], *, ask: bool) -> str:
    """The key to write down: the environment's, or what the user types; none leaves things as they are.

    Raises:
        InvalidSettings: It is none, but a placeholder, or has something that no key has.
    """
    key = environment.get(KEY, "")
    known = _has_key(servers_in(host, file).get(NAME))
    if not key.strip() and ask and _is_terminal():
        empty = "keeps the one that is there" if known else "leaves it out"
        try:
            key = getpass.getpass(f"Segmind API key (it is not shown; empty {empty}): ")
        except EOFError as error:
            raise InvalidArguments("No key was typed", next_step=f"Press Enter for none, or set {KEY}") from error
    secret = Settings.from_environment({KEY: key}).api_key
    if secret is None:
        return ""
    if not secret.get_secret_value().startswith(KEY_START):
        sys.stderr.write(f"Note: Segmind's keys begin with {KEY_START}, and this one does not.\n")
    return require_usable(secret)


# ---- the change ----


def _notes(host: str, change: Change) -> Iterator[str]:
    """What keeps a host from starting the entry, once it is there."""
    changed = ConfigFile(change.file.path, change.text.encode(), change.text)
    for each in refused_in(change.host, changed):
        yield f"{change.host.title} refuses {change.file.path}, because it holds {each}"
    if off := switched_off(host, changed, NAME):
        yield f"{NAME} stays switched off in {change.host.title}, as {off.by}. {off.mend}"


def _carry_out(change: Change, options: Namespace, environment: Mapping[str, str]) -> int:
    """Show a change, ask, make it."""
    marked = change.file.has_byte_order_mark
    if change.before == change.after and (change.after is None or not marked):
        state = "has this entry already" if change.after is not None else f"has no entry {NAME}"
        write(f"{change.file.path} {state}; nothing to do.")
        if _has_key(change.after) and not environment.get(KEY):
            write(f"Its key is kept; with {KEY} set, it is replaced.")
        return 0
    write("\n".join(_shown(change)))
    if options.dry_run:
        write("Nothing was changed (--dry-run).")
        return 0
    if not options.yes and not _agreed():
        write("Nothing was changed.")
        return 1
    backup = change.file.back_up()
    change.file.write(change.text)
    write(f"Done.{f' What was there before: {backup}' if backup else ''}")
    if change.after is not None:
        write(f"{change.host.then}.")
        return 0
    write(f"{change.host.title} forgets it with its next start.")
    if KEY in _environment_of(change.before):
        write("The copy still holds the key; delete it when all is well.")
    return 0


def _shown(change: Change) -> Iterator[str]:
    """What changes, line by line, without any secret: an environment may hold keys of other kinds, too."""
    yield f"{change.host.title}: {change.file.path}{'' if change.file.raw is not None else ' (new)'}"
    before, after = _members(change.before), _members(change.after)
    yield f"  {'+' if change.before is None else '-' if change.after is None else ' '} {NAME}"
    for name in before | after:
        old, new = before.get(name), after.get(name)
        if old is not None and old != new:
            # Arguments of others may hold a key, and so may a command of several parts, which some hosts had.
            is_public = old in OWN_ARGUMENTS or (name in PLAIN and not old.startswith(("[", "{")))
            yield f"  -   {name}: {old if is_public else HIDDEN}"
        if new is not None:
            sign = " " if old == new else "+"
            yield f"  {sign}   {name}: {new if name in (*PLAIN, 'args') else HIDDEN}"
    if change.file.has_byte_order_mark:
        yield "  - the byte order mark at the beginning of the file, for which some hosts refuse it"
    if others := [name for name in servers_in(change.host, change.file) if name != NAME]:
        yield f"  kept as they are: {', '.join(others)}"


def _members(entry: Any) -> dict[str, str]:
    """An entry's members as text, those of its environment each by itself."""
    members: dict[str, str] = {}
    for name, value in as_object(entry).items():
        if name == "env":
            members |= {f"env {variable}": str(each) for variable, each in as_object(value).items()}
        else:
            members[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return members


def _has_key(entry: Any) -> bool:
    """Whether an entry has a key, or a variable of the host's that gives one."""
    key = str(_environment_of(entry).get(KEY) or "")
    return bool(key) and ("$" in key or not is_placeholder(key))


def _environment_of(entry: Any) -> dict[str, Any]:
    return as_object(as_object(entry).get("env"))


def _agreed() -> bool:
    """Ask whether the change is to be made.

    Raises:
        InvalidArguments: There is nobody to ask.
    """
    if not _is_terminal():
        raise InvalidArguments(
            "mcp-vega asks before it changes a host's file, and there is no terminal to ask at", next_step="Add --yes"
        )
    sys.stderr.write("Make this change? [Y/n] ")
    sys.stderr.flush()
    # An empty line is a yes, the end of the input is none.
    answer = sys.stdin.readline()
    return bool(answer) and answer.strip().lower() in {"", "y", "yes"}


def _is_terminal() -> bool:
    """Whether there is somebody to ask; a process that was started with stdin closed has none."""
    return sys.stdin is not None and sys.stdin.isatty()
