"""What is asked at the terminal: which hosts, the API key or the access token, and whether to make a change."""

import getpass
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcp_vega.cli.install.entry import KEY, KEY_FILE
from mcp_vega.cli.install.found import FoundHost
from mcp_vega.cli.install.hosts import HOSTS
from mcp_vega.cli.install.remote import same_server, url_of, usable_token
from mcp_vega.cli.install.shown import has_key, has_token
from mcp_vega.errors import InvalidArguments, InvalidSettings
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.settings import Settings

KEY_START = "SG_"
TOKEN = "MCP_VEGA_TOKEN"  # noqa: S105  the name of a variable
TRIES = 3


def is_terminal() -> bool:
    """Whether there is somebody to ask; a process that was started with stdin closed has nobody."""
    return sys.stdin is not None and sys.stdin.isatty()


def api_key(olders: Sequence[dict[str, Any]], environment: Mapping[str, str], *, ask: bool) -> str:
    """The API key to write down: the environment's, or the one that the user types; empty changes none.

    Args:
        olders: The entries that the hosts have; an empty one for none.
        environment: With the key, if it is set.
        ask: Whether the user may be asked.

    Raises:
        EOFError: The input ended.
        InvalidArguments: The user typed no usable key.
        InvalidSettings: The environment's cannot be a key.
    """
    if environment.get(KEY, "").strip() or not ask:
        return _usable_key(environment.get(KEY, ""))
    return _typed("Segmind API key", {has_key(each) for each in olders}, _usable_key)


def key_file(environment: Mapping[str, str]) -> str:
    """The path of the file with the API key; empty if the environment names none.

    Raises:
        InvalidSettings: The file cannot be used, or what it holds cannot be a key.
    """
    settings = Settings.from_environment({name: environment.get(name, "") for name in (KEY, KEY_FILE)})
    if settings.api_key_file is None:
        return ""
    require_usable(settings.api_key, in_file=True)
    return str(settings.api_key_file)


def _usable_key(text: str) -> str:
    secret = Settings.from_environment({KEY: text}).api_key
    if secret is None:
        return ""
    key = require_usable(secret)
    if not key.startswith(KEY_START):
        sys.stderr.write(f"Note: Segmind's keys begin with {KEY_START}, and this one does not.\n")
    return key


def access_token(olders: Sequence[dict[str, Any]], url: str, environment: Mapping[str, str], *, ask: bool) -> str:
    """The access token to write down: the environment's, or the one that the user types; empty changes none.

    Args:
        olders: The entries that the hosts have; an empty one for none.
        url: The address that the token is for.
        environment: With the token, if it is set.
        ask: Whether the user may be asked.

    Raises:
        EOFError: The input ended.
        InvalidArguments: The user typed no usable token.
        InvalidSettings: No header can carry the environment's.
    """
    secret = Settings.from_environment({TOKEN: environment.get(TOKEN, "")}).token
    if secret or not ask:
        return usable_token(secret.get_secret_value() if secret else "")
    known = {same_server(url_of(each), url) and has_token(each) for each in olders}
    return _typed("Access token of the server", known, usable_token)


def _typed(name: str, known: set[bool], usable: Callable[[str], str]) -> str:
    """What the user types, without showing it; an empty line is an empty text. A mistake is asked for again.

    Args:
        name: What is asked for.
        known: Whether the hosts' entries have one already.
        usable: Returns the text as it is used, or raises InvalidSettings.

    Raises:
        EOFError: The input ended.
        InvalidArguments: No answer was usable.
    """
    empty = "changes none" if len(known) > 1 else "keeps the one that is there" if True in known else "leaves it out"
    for _ in range(TRIES):
        try:
            text = getpass.getpass(f"{name} (it is not shown; empty {empty}): ")
        except EOFError:
            sys.stderr.write("\n")
            raise
        try:
            return usable(text)
        except InvalidSettings as error:
            # The errors speak of the variable, but the user has typed a text.
            sys.stderr.write(f"{re.sub(f'.*{KEY}', 'The text', str(error))}.\n")
    raise InvalidArguments(f"None of {TRIES} answers could be used", next_step="Copy it again, then try again")


def agreed() -> bool:
    """Ask whether to make the change. An empty line is a yes.

    Raises:
        EOFError: The input ended.
        InvalidArguments: There is nobody to ask.
    """
    if not is_terminal():
        raise InvalidArguments(
            "mcp-vega asks before it changes a host's file, and there is no terminal to ask at", next_step="Add --yes"
        )
    return _asked("Make this change? [Y/n] ").lower() in {"", "y", "yes"}


def choose(found: Sequence[FoundHost], *, with_url: bool) -> list[str]:
    """Show the hosts that were found and ask which of them to change; empty if the user wants none.

    Raises:
        EOFError: The input ended.
    """
    sys.stderr.write("MCP hosts on this machine:\n")
    width = max(len(each.name) for each in found)
    for number, each in enumerate(found, 1):
        mark = _mark(each, with_url=with_url)
        sys.stderr.write(f"{number:3}  {each.name:{width}}  {each.title}: {each.evidence}{mark}\n")
    while answer := _asked("Add vega to which? Type numbers or names, or all; Enter for none: "):
        try:
            return _chosen(answer, found, with_url=with_url)
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
    return []


def _mark(host: FoundHost, *, with_url: bool) -> str:
    if with_url and HOSTS[host.name].remote is None:
        return " (its file takes no URL)"
    if host.problem:
        return " (its file cannot be read)"
    return " (has the entry vega)" if host.has_entry else ""


def _chosen(answer: str, found: Sequence[FoundHost], *, with_url: bool) -> list[str]:
    """The names of the hosts in an answer; one that was not found may be named as well.

    Raises:
        ValueError: A word is neither a number in the list nor the name of a host.
    """
    names: list[str] = []
    for word in re.split(r"[\s,;]+", answer.lower().strip(" ,;")):
        if word == "all":
            names += (each.name for each in found if not with_url or HOSTS[each.name].remote)
        elif word in HOSTS:
            names.append(word)
        elif word.isdecimal() and 0 < int(word) <= len(found):
            names.append(found[int(word) - 1].name)
        else:
            raise ValueError(f"{word!r} is neither a number from 1 to {len(found)} nor one of {', '.join(HOSTS)}.")
    return list(dict.fromkeys(names))


def _asked(question: str) -> str:
    """The line that the user types.

    Raises:
        EOFError: The input ended. The terminal is at the beginning of a line again.
    """
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        sys.stderr.write("\n")
        raise EOFError
    return line.strip()
