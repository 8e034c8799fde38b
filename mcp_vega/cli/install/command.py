"""`mcp-vega install` and `uninstall`: puts an entry for this server into hosts' files, or removes it."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mcp_vega.cli.install.asking import TOKEN, access_token, agreed, api_key, choose, is_terminal, key_file
from mcp_vega.cli.install.change import Change, block, installing, servers_in, uninstalling
from mcp_vega.cli.install.config_file import ConfigFile
from mcp_vega.cli.install.entry import KEY, NAME, Entry, api_option, is_temporary, own_entry
from mcp_vega.cli.install.found import FoundHost, find_hosts
from mcp_vega.cli.install.hosts import HOSTS, Host, UserEnvironment
from mcp_vega.cli.install.remote import RemoteEntry, answer_of, server_url, takes_no_url
from mcp_vega.cli.install.shown import has_key, has_token, lines_of, may_hold_secret, notes_on, secrets_of
from mcp_vega.cli.output import command_line, print_error, write
from mcp_vega.errors import InvalidArguments, VegaError
from mcp_vega.segmind.values import as_object

KEY_PLACEHOLDER, TOKEN_PLACEHOLDER = "SG_your_key", "TOKEN"
# The hosts whose forms most others take: of an entry with a command, and of one with a URL.
USUAL, USUAL_WITH_URL = "claude-desktop", "claude-code"


def run_install(options: Namespace, environment: Mapping[str, str]) -> int:
    """Put an entry for this server into the files of hosts, or print it; returns the exit code.

    Without a name, the hosts on this machine are found, and the user chooses among them.

    Raises:
        InvalidArguments: No host is named and nobody can choose, or the options do not fit together or the host.
        HostConfigError: The file cannot be read or changed.
        InvalidSettings: The key or the token cannot be used.
        NotInstalled: There is no command that a host could start.
    """
    entry = _entry(options, environment)
    if options.print:
        write(_printed(entry, options))
        return 0
    try:
        names = [options.host] if options.host else _chosen(options, environment)
    except EOFError:
        names = []
    if not names:
        write("No host was chosen, so nothing was changed.")
        return 1
    return _install_in(names, entry, options, environment)


def _install_in(
    names: Sequence[str], entry: Entry | RemoteEntry, options: Namespace, environment: Mapping[str, str]
) -> int:
    """Put the entry into the files of these hosts; returns the exit code."""
    failures, targets, codes = _Failures(alone=len(names) == 1), list[_Target](), [0]
    for name in names:
        with failures.reported():
            targets.append(_target(name, entry, environment))
    said = set[str]()
    try:
        if targets:
            entry = _with_secret(entry, [each.older for each in targets], options, environment)
            if isinstance(entry, RemoteEntry) and not options.dry_run:
                entry = _ask_server(entry)
        for number, target in enumerate(targets):
            if number:
                write("")
            with failures.reported():
                change = installing(target.host, target.file, entry)
                _print_notes([*_notes(entry, change, options), *notes_on(target.name, change)], said)
                codes.append(_carry_out(change, options, environment))
    except EOFError:
        write("Nothing was changed." if len(codes) == 1 else "Nothing more was changed.")
        return 1
    if options.dry_run and targets:
        write(("\n" if len(targets) > 1 else "") + "Nothing was changed (--dry-run).")
    return max(*codes, failures.code)


def run_uninstall(options: Namespace, environment: Mapping[str, str]) -> int:
    """Remove the entry for this server from a host's file; returns the exit code.

    Raises:
        InvalidArguments: There is nobody to ask.
        HostConfigError: The file cannot be read or changed.
    """
    host = HOSTS[options.host]
    file = _file_of(host, environment)
    try:
        code = _carry_out(uninstalling(host, file), options, environment)
    except EOFError:
        write("Nothing was changed.")
        return 1
    if options.dry_run:
        write("Nothing was changed (--dry-run).")
        return code
    left = [backup for backup in file.backups() if may_hold_secret(host, backup)]
    if left and code == 0:
        write("These backups still hold a key or token. Delete them when everything works:")
        for backup in left:
            write(f'  del "{backup}"' if sys.platform == "win32" else f"  rm {shlex.quote(str(backup))}")
    return code


# ---- which hosts ----


def _chosen(options: Namespace, environment: Mapping[str, str]) -> list[str]:
    """The hosts that the user chooses among those on this machine; with --dry-run all that are found.

    Raises:
        InvalidArguments: None is found, or nobody can choose: nothing is written without a choice.
    """
    found = find_hosts(UserEnvironment.of(environment))
    if not found:
        step = f"Name one of {', '.join(HOSTS)}, or add --print"
        raise InvalidArguments("No host is named, and none was found on this machine", next_step=step)
    fitting = [each for each in found if options.url is None or HOSTS[each.name].remote]
    if options.dry_run and fitting:
        return [each.name for each in fitting]
    if options.yes or options.dry_run or not is_terminal():
        said = (f"{each.name} ({each.evidence}{'; has the entry' if each.has_entry else ''})" for each in found)
        raise InvalidArguments(
            f"No host is named. Found on this machine: {', '.join(said)}",
            next_step=_step(fitting, options),
        )
    return choose(found, with_url=options.url is not None)


def _step(fitting: Sequence[FoundHost], options: Namespace) -> str:
    """What to type instead: the command for the first of these hosts that has no entry yet."""
    if not fitting:
        return f"Name one of {', '.join(name for name, host in HOSTS.items() if host.remote)}"
    name = next((each.name for each in fitting if not each.has_entry), fitting[0].name)
    url = [] if options.url is None else ["--url", shlex.quote(options.url.strip())]
    return f"Name one, as in `{command_line('install', name, *url, '--yes', *api_option(options))}`"


@dataclass(frozen=True)
class _Target:
    """A host whose file can be read and takes the entry.

    Attributes:
        name: Its name on the command line.
        host: The host.
        file: Its file.
        older: The entry for this server in the file; empty if there is none.
    """

    name: str
    host: Host
    file: ConfigFile
    older: dict[str, Any]


def _target(name: str, entry: Entry | RemoteEntry, environment: Mapping[str, str]) -> _Target:
    """A host with its file. This comes before any question: if the file is broken, no key is typed in vain.

    Raises:
        InvalidArguments: The entry has a URL, and the host takes none in its file.
        HostConfigError: The file cannot be read.
    """
    host = HOSTS[name]
    if isinstance(entry, RemoteEntry) and host.remote is None:
        raise takes_no_url(host)
    file = _file_of(host, environment)
    return _Target(name, host, file, as_object(servers_in(host, file).get(NAME)))


class _Failures:
    """What happens to the error of a host.

    If it is the only host, the error is raised. Of several it is printed, and the others still get their entries.
    """

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self.code = 0

    @contextmanager
    def reported(self) -> Generator[None]:
        """Run the block for one host."""
        try:
            yield
        except VegaError as error:
            if self._alone:
                raise
            print_error(error)
            self.code = 1


def _file_of(host: Host, environment: Mapping[str, str]) -> ConfigFile:
    return ConfigFile.read(host.file(UserEnvironment.of(environment)))


# ---- what is written ----


def _entry(options: Namespace, environment: Mapping[str, str]) -> Entry | RemoteEntry:
    """The entry without key or token: with the URL that was given, or with the command of this installation."""
    option = api_option(options)
    if options.url is None:
        return own_entry(environment, option)
    if option:
        raise InvalidArguments(
            f"{option[0]} is for a server that the host starts, and --url for one that runs elsewhere",
            next_step=f"Leave one of them out; the server itself can be started with {option[0]}",
        )
    return RemoteEntry(server_url(options.url))


def _printed(entry: Entry | RemoteEntry, options: Namespace) -> str:
    """The entry as its host writes it, with a placeholder for what is secret."""
    if isinstance(entry, RemoteEntry):
        return block(HOSTS[options.host or USUAL_WITH_URL], replace(entry, token=TOKEN_PLACEHOLDER))
    return block(HOSTS[options.host or USUAL], entry if api_option(options) else replace(entry, key=KEY_PLACEHOLDER))


def _with_secret(
    entry: Entry | RemoteEntry, olders: Sequence[dict[str, Any]], options: Namespace, environment: Mapping[str, str]
) -> Entry | RemoteEntry:
    """The entry with the API key or the access token, which is asked for once, whatever the number of hosts."""
    ask = not options.yes and not options.dry_run and is_terminal()
    if isinstance(entry, RemoteEntry):
        # A server with OAuth takes no token that a person could type.
        ask = ask and (bool(environment.get(TOKEN)) or not answer_of(entry.url, "").signs_in)
        return replace(entry, token=access_token(olders, entry.url, environment, ask=ask))
    if api_option(options):
        return entry
    # A host gets the path, and never what the file holds.
    file = key_file(environment)
    return replace(entry, key_file=file) if file else replace(entry, key=api_key(olders, environment, ask=ask))


# ---- the change ----


def _notes(entry: Entry | RemoteEntry, change: Change, options: Namespace) -> Iterator[str]:
    """What a person should know of an entry, whatever its host."""
    if isinstance(entry, RemoteEntry):
        if entry.signs_in:
            if has_token(change.after):
                yield "the entry has an access token, so the host may not open the sign-in page; remove the token"
        elif not has_token(change.after):
            yield "the entry has no access token; a server that asks for one refuses its calls"
    else:
        if is_temporary(entry.command):
            yield f"{entry.command} is in a temporary folder; install mcp-vega elsewhere"
        if options.local:
            doctor = command_line("doctor", "--local")
            yield f"to draw on this machine, the server needs the extra `local` and the weights; `{doctor}` checks both"
        elif not options.sandbox and not has_key(change.after):
            yield f"without {KEY} no picture can be drawn; run this again with it set to add it"


def _ask_server(entry: RemoteEntry) -> RemoteEntry:
    """Say whether the server is there and takes the token. If not, the entry is right all the same when it starts."""
    answer = answer_of(entry.url, entry.token)
    if answer.is_good:
        write(answer.sentence)
    else:
        sys.stderr.write(f"Note: {answer.sentence}.\n")
    return replace(entry, signs_in=answer.signs_in)


def _print_notes(notes: Sequence[str], said: set[str]) -> None:
    """Print those notes that were not said for another host."""
    for note in notes:
        if note not in said:
            sys.stderr.write(f"Note: {note}.\n")
    said.update(notes)


def _carry_out(change: Change, options: Namespace, environment: Mapping[str, str]) -> int:
    """Show a change, ask, and make it; returns the exit code."""
    marked = change.file.has_byte_order_mark
    if change.before == change.after and (change.after is None or not marked):
        state = "has this entry already" if change.after is not None else f"has no entry {NAME}"
        write(f"{change.file.path} {state}; nothing to do.")
        for secret, variable, is_kept in (("key", KEY, has_key), ("token", TOKEN, has_token)):
            if is_kept(change.after) and not (environment.get(variable) or environment.get(f"{variable}_FILE")):
                write(f"Its {secret} is kept. To replace it, set {variable} and run this again.")
        return 0
    write("\n".join(lines_of(change)))
    if options.dry_run:
        return 0
    if not options.yes and not agreed():
        write("Nothing was changed.")
        return 1
    backup = change.file.back_up()
    change.file.write(change.text)
    if backup:
        change.file.delete_old_backups(backup)
    write(f"Done.{f' Backup: {backup}' if backup else ''}")
    write(f"{change.host.then}." if change.after is not None else f"{change.host.title} drops it at its next start.")
    if change.after is not None and secrets_of(change.before) - secrets_of(change.after):
        write("The backup still holds the old key or token. Delete it when everything works.")
    return 0
