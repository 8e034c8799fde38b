"""`mcp-vega doctor`: whether all that a server needs is there, on one page, with the mend beside what is not."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from mcp_vega.cli.doctor import api, folders, handshake, hosts, installation
from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.cli.doctor.settings import look_at_settings, read_settings
from mcp_vega.cli.output import write
from mcp_vega.errors import VegaError
from mcp_vega.redaction import redacted
from mcp_vega.segmind.api_key import is_placeholder
from mcp_vega.settings import Settings

# When a look is given up. Those over a network or at a process end by themselves, and say more.
SECONDS = 10.0
NETWORK_SECONDS = SECONDS + api.API_SECONDS + 5
PROCESS_SECONDS = handshake.DEADLINE_SECONDS + 5
COLOURS = {State.GOOD: "32", State.BAD: "31", State.NOTE: "33"}
# What is shorter is no secret, and stands in other words by chance.
SECRET_LENGTH = 4


@dataclass(frozen=True)
class _Look:
    """Something to look at.

    Attributes:
        names: The checks that it gives.
        look: Gives the checks, or raises why the first of them is bad.
        variables: The settings that it reads; where one cannot be used, it is not looked.
        seconds: When it is given up; after `SECONDS` unless set.
    """

    names: tuple[str, ...]
    look: Callable[[], Awaitable[list[Check]]]
    variables: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass
class _Heard:
    """What is learnt on the way.

    Attributes:
        given_up: The names of the checks whose deadline came.
        keys: Those in the hosts' files.
    """

    given_up: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])


def run_doctor(options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the page, or JSON for programs.

    Returns:
        The exit code: 1 if something is bad, else 0.
    """
    return anyio.run(_printed, options, environment)


async def _printed(options: Namespace, environment: Mapping[str, str]) -> int:
    """The page is printed inside the loop: its end waits for names that are still being resolved."""
    heard = _Heard()
    found = [_discreet(check, environment, heard.keys) for check in await _examined(environment, heard)]
    if options.json:
        write(json.dumps([asdict(check) for check in found], indent=2, ensure_ascii=False))
    else:
        write("\n".join(_page(found, in_colour=_takes_colours(environment))))
    code = int(any(check.state is State.BAD for check in found))
    if heard.given_up:  # its thread cannot be stopped, and the process would wait for it
        os._exit(code)  # what is printed is flushed
    return code


async def _examined(environment: Mapping[str, str], heard: _Heard) -> list[Check]:
    """All checks, in the page's order. They are made at once, each with a deadline."""
    settings, problems = read_settings(environment)
    every = tuple(str(field.alias) for field in Settings.model_fields.values())
    base, gallery, home = "SEGMIND_BASE_URL", "MCP_VEGA_GALLERY", "MCP_VEGA_HOME"
    looks = (
        _Look(("python",), _in_thread(installation.look_at_python)),
        _Look(("packages",), _in_thread(installation.look_at_packages)),
        _Look(("command",), _in_thread(installation.look_at_command, environment)),
        _Look(("settings",), _in_thread(look_at_settings, environment, problems)),
        _Look(("api", "key", "balance"), partial(_look_at_api, settings, environment, heard), (base,), NETWORK_SECONDS),
        _Look(("gallery",), _in_thread(folders.look_at_gallery, settings), (gallery,)),
        _Look(("ledger", "servers", "jobs"), _in_thread(folders.look_at_ledger, settings), (home,)),
        _Look(("handshake",), partial(handshake.look_at_handshake, environment), every, PROCESS_SECONDS),
        _Look(("hosts",), _in_thread(hosts.look_at_hosts, environment)),
    )
    found: dict[_Look, list[Check]] = {}

    async def examine(look: _Look) -> None:
        if {*look.variables, *(["MCP_VEGA_SANDBOX"] if look.variables else [])} & problems.keys():
            found[look] = [unknown(name, "settings") for name in look.names]
        else:
            found[look] = await _within_its_time(look, heard)

    async with anyio.create_task_group() as tasks:
        for look in looks:
            tasks.start_soon(examine, look)
    return [check for look in looks for check in found[look]]


def _in_thread(look: Callable[..., list[Check]], *arguments: Any) -> Callable[[], Awaitable[list[Check]]]:
    """A look in a thread that is left behind when it is given up: a disk in a network may never answer."""
    return partial(anyio.to_thread.run_sync, look, *arguments, abandon_on_cancel=True)


async def _look_at_api(settings: Settings, environment: Mapping[str, str], heard: _Heard) -> list[Check]:
    """Ask the API with the key that is set or, as who typed it at an installation has set none, with a host's."""
    source = ""
    if not environment.get("SEGMIND_API_KEY", "").strip() and not settings.sandbox:
        with anyio.move_on_after(SECONDS):
            look = partial(hosts.key_of_a_host, environment)
            key, source = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
            heard.keys.append(key)
            settings = read_settings({**environment, "SEGMIND_API_KEY": key})[0]
    begun = anyio.current_time()
    found = await api.look_at_api(settings, source)
    if anyio.current_time() - begun >= api.API_SECONDS:  # a thread may still be resolving its name
        heard.given_up.append("api")
    return found


async def _within_its_time(look: _Look, heard: _Heard) -> list[Check]:
    name, *others = look.names
    seconds = look.seconds or SECONDS
    try:
        with anyio.fail_after(seconds):
            return await look.look()
    except TimeoutError:
        heard.given_up.append(name)
        bad = Check(name, State.BAD, f"no answer within {seconds:g} s", "Try again; check the network and the disk")
    except VegaError as error:
        bad = Check(name, State.BAD, error.what, error.next_step)
    except Exception as error:  # noqa: BLE001  one check that breaks takes no other with it
        bad = Check(name, State.BAD, f"could not be looked at ({type(error).__name__}: {error})", "Report this")
    return [bad, *(unknown(other, name) for other in others)]


# ---- the page ----


def _page(found: Sequence[Check], *, in_colour: bool) -> list[str]:
    width = max(len(check.name) for check in found)
    lines: list[str] = []
    for check in found:
        state = f"{check.state:4}"
        state = f"\x1b[{COLOURS[check.state]}m{state}\x1b[0m" if in_colour else state
        lines.append(f"{state}  {check.name:{width}}  {check.detail}")
        if check.mend:
            lines.append(f"{'':{width + 6}}  mend: {check.mend}{'' if check.mend.endswith('?') else '.'}")
    bad = [check.name for check in found if check.state is State.BAD]
    return [*lines, "", f"To be mended: {', '.join(bad)}." if bad else "All that a server needs is there."]


def _takes_colours(environment: Mapping[str, str]) -> bool:
    plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb" or sys.platform == "win32"
    return sys.stdout.isatty() and not plain


def _discreet(check: Check, environment: Mapping[str, str], keys: Sequence[str]) -> Check:
    """A check whose words hold no key or token, whoever said them, and nothing that a terminal would obey."""
    given = [environment.get("SEGMIND_API_KEY", ""), *keys, *environment.get("MCP_VEGA_AUTH_TOKENS", "").split(",")]
    secrets = [each.strip() for each in given if len(each.strip()) >= SECRET_LENGTH and not is_placeholder(each)]

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "…")
        return redacted("".join(each if each.isprintable() else " " for each in text))

    return replace(check, detail=clean(check.detail), mend=clean(check.mend))
