"""What is asked at the terminal: which hosts, the API key or the access token, and whether to make a change."""

import getpass
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_vega.cli.install.entry import KEY
from mcp_vega.cli.install.found import FoundHost
from mcp_vega.cli.install.hosts import HOSTS
from mcp_vega.cli.install.remote import same_server, url_of, usable_token
from mcp_vega.cli.install.shown import has_key, has_token
from mcp_vega.errors import InvalidArguments
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.settings import Settings

KEY_START = "SG_"
TOKEN = "MCP_VEGA_TOKEN"  # noqa: S105  the name of a variable


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
        InvalidArguments: The input ended.
        InvalidSettings: It cannot be a key.
    """
    key = environment.get(KEY, "")
    if not key.strip() and ask:
        key = _secret("Segmind API key", {has_key(each) for each in olders}, KEY)
    secret = Settings.from_environment({KEY: key}).api_key
    if secret is None:
        return ""
    if not secret.get_secret_value().startswith(KEY_START):
        sys.stderr.write(f"Note: Segmind's keys begin with {KEY_START}, and this one does not.\n")
    return require_usable(secret)


def access_token(olders: Sequence[dict[str, Any]], url: str, environment: Mapping[str, str], *, ask: bool) -> str:
    """The access token to write down: the environment's, or the one that the user types; empty changes none.

    Args:
        olders: The entries that the hosts have; an empty one for none.
        url: The address that the token is for.
        environment: With the token, if it is set.
        ask: Whether the user may be asked.

    Raises:
        InvalidArguments: The input ended.
        InvalidSettings: No header can carry it.
    """
    secret = Settings.from_environment({TOKEN: environment.get(TOKEN, "")}).token
    token = secret.get_secret_value() if secret else ""
    if not token and ask:
        known = {same_server(url_of(each), url) and has_token(each) for each in olders}
        token = _secret("Access token of the server", known, TOKEN)
    return usable_token(token)


def _secret(name: str, known: set[bool], variable: str) -> str:
    """What the user types, without showing it; an empty line is an empty text.

    Args:
        name: What is asked for.
        known: Whether the hosts' entries have one already.
        variable: The variable that could hold it.
    """
    empty = "changes none" if len(known) > 1 else "keeps the one that is there" if True in known else "leaves it out"
    try:
        return getpass.getpass(f"{name} (it is not shown; empty {empty}): ")
    except EOFError as error:
        raise InvalidArguments("Nothing was typed", next_step=f"Press Enter for none, or set {variable}") from error


def agreed() -> bool:
    """Ask whether to make the change. An empty line is a yes; the end of the input is a no.

    Raises:
        InvalidArguments: There is nobody to ask.
    """
    if not is_terminal():
        raise InvalidArguments(
            "mcp-vega asks before it changes a host's file, and there is no terminal to ask at", next_step="Add --yes"
        )
    answer = _asked("Make this change? [Y/n] ")
    return answer is not None and answer.lower() in {"", "y", "yes"}


def choose(found: Sequence[FoundHost], *, with_url: bool) -> list[str]:
    """Show the hosts that were found and ask which of them to change; empty if the user wants none."""
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


def _asked(question: str) -> str | None:
    """The line that the user types; None at the end of the input."""
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.strip() if line else None
