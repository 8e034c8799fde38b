"""What `mcp-vega doctor` looks at in the installation: Python, the packages, the command, the hosts."""

import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

from mcp_vega.cli.checks import Check, State
from mcp_vega.errors import InvalidSettings
from mcp_vega.hosts.changes import servers_in
from mcp_vega.hosts.config_file import ConfigFile, HostConfigError
from mcp_vega.hosts.entry import KEY, NAME, lasting_command, passes
from mcp_vega.hosts.known import HOSTS, Host, Surroundings
from mcp_vega.segmind.keys import require_usable
from mcp_vega.segmind.responses import as_object
from mcp_vega.settings import Settings

PACKAGE = "mcp-vega"
SHOWN = ("mcp", "httpx", "pydantic", "anyio", "pillow")
REINSTALL = (
    "Install mcp-vega anew, in an environment of its own (`uv tool install mcp-vega` or `pipx install mcp-vega`)"
)

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;()]*)\)?\s*(;.*)?")


def look_at_python() -> list[Check]:
    """Whether this Python is one that the package was written for: the check python."""
    found = platform.python_version()
    said = f"{found}, {sys.executable}"
    installed = _installed()
    wanted = str(installed.metadata["Requires-Python"] or "") if installed else ""
    if not is_within(found, wanted):
        return [Check("python", State.BAD, f"{said}: {wanted} is needed", "Install mcp-vega with a newer Python")]
    return [Check("python", State.GOOD, said)]


def look_at_packages() -> list[Check]:
    """Whether the packages are of versions that this one's metadata allows: the check packages."""
    installed = _installed()
    if installed is None:
        return [Check("packages", State.BAD, f"{PACKAGE} itself is not installed, only its files are here", REINSTALL)]
    wrong: list[str] = []
    versions = {PACKAGE: installed.version}
    for name, wanted in _required(installed):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not is_within(versions[name], wanted):
            wrong.append(f"{name} is {versions[name]}, but {wanted} is needed")
    if wrong:
        return [Check("packages", State.BAD, "; ".join(wrong), REINSTALL)]
    shown = [f"{name} {versions[name]}" for name in (PACKAGE, *SHOWN) if name in versions]
    return [Check("packages", State.GOOD, ", ".join(shown))]


def look_at_command(environment: Mapping[str, str]) -> list[Check]:
    """What hosts are to start, and whether it will still be there next month: the check command.

    Raises:
        NotInstalled: There is no command that a host could start.
    """
    program, *arguments = lasting_command(environment)
    if arguments:
        return [Check("command", State.GOOD, f"{shlex.join((program, *arguments))}, since this runs from uv's cache")]
    if passes(program):
        mend = "Install mcp-vega elsewhere, or hosts will not find it one day"
        return [Check("command", State.NOTE, f"{program}, where files are cleared away now and then", mend)]
    return [_on_path(Path(program), environment)]


def _on_path(command: Path, environment: Mapping[str, str]) -> Check:
    found = shutil.which(PACKAGE, path=environment.get("PATH"))
    if found is None:
        return Check("command", State.GOOD, f"{command}; it is not on PATH, so hosts need this absolute path")
    if Path(found).samefile(command):
        return Check("command", State.GOOD, f"{command}, the one on PATH")
    mend = "Name the one that you want by its absolute path, or remove the other"
    return Check("command", State.NOTE, f"{command}, but another one comes first on PATH: {found}", mend)


# ---- the hosts ----


def look_at_hosts(environment: Mapping[str, str]) -> list[Check]:
    """Which hosts have this server, and whether what they start is there: the check hosts."""
    having: list[str] = []
    unread: list[str] = []
    wrong: dict[str, str] = {}
    for host, found in _entries(environment):
        if isinstance(found, HostConfigError):
            unread.append(found.what)
            continue
        words = _words(found)
        having.append(f"{host.title}{_kind(found)}")
        if words and not _is_there(words[0], environment):
            wrong[f"{host.title} starts {words[0]}, which is not there"] = (
                f"`mcp-vega install {host.name}` writes an entry that works"
            )
        elif problem := _key_problem(found):
            # Without one in the environment, `install` leaves the key as it is.
            wrong[f"{host.title}: {problem}"] = f"Set {KEY} and run `mcp-vega install {host.name}`"
    return [_hosts_check(having, wrong, unread)]


def key_of_a_host(environment: Mapping[str, str]) -> tuple[str, str]:
    """The first key in a host's file, and that host's title; both empty where there is none."""
    for host, found in _entries(environment):
        key = "" if isinstance(found, HostConfigError) else _key_in(found)
        if key and not _is_variable(key):
            return key, host.title
    return "", ""


def _entries(environment: Mapping[str, str]) -> Iterator[tuple[Host, dict[str, Any] | HostConfigError]]:
    """The entries for this server in the hosts' files, or why a file could not be read."""
    here = Surroundings(environment, Path.home())
    for host in HOSTS.values():
        try:
            servers = servers_in(host, ConfigFile.read(host.file(here)))
        except HostConfigError as error:
            yield host, error
            continue
        for name, entry in servers.items():
            if name == NAME or any(PACKAGE in word or "mcp_vega" in word for word in _words(entry)):
                yield host, as_object(entry)


def _kind(entry: dict[str, Any]) -> str:
    if "--sandbox" in _words(entry):
        return " (sandbox)"
    return " (with a key)" if _key_in(entry) else ""


def _hosts_check(having: Sequence[str], wrong: Mapping[str, str], unread: Sequence[str]) -> Check:
    """The check, of what is wrong, each with its mend, before anything else."""
    said = ", ".join(having) or "none has this server"
    if wrong:
        return Check("hosts", State.BAD, "; ".join((said, *wrong, *unread)), next(iter(wrong.values())))
    if unread:
        return Check("hosts", State.NOTE, "; ".join((said, *unread)), "Mend the file, or its permissions")
    if not having:
        return Check("hosts", State.NOTE, said, f"`mcp-vega install HOST` adds it; HOST is one of {', '.join(HOSTS)}")
    return Check("hosts", State.GOOD, said)


def _words(entry: Any) -> list[str]:
    """The command and arguments of a host's entry; none where it names no command."""
    data = as_object(entry)
    command, arguments = data.get("command"), data.get("args")
    rest = cast("list[Any]", arguments) if isinstance(arguments, list) else []
    return [command, *map(str, rest)] if isinstance(command, str) else []


def _is_there(command: str, environment: Mapping[str, str]) -> bool:
    """Whether a host can start a command, as far as that can be told: some hosts have variables in it."""
    return "$" in command or shutil.which(command, path=environment.get("PATH")) is not None


def _key_in(entry: dict[str, Any]) -> str:
    return str(as_object(entry.get("env")).get(KEY) or "")


def _is_variable(key: str) -> bool:
    """Whether it names a variable, which the host fills."""
    return "$" in key


def _key_problem(entry: dict[str, Any]) -> str:
    """What is wrong with the key of an entry that needs one; empty where that cannot be told, or nothing is."""
    key = _key_in(entry)
    variables = {name: str(value) for name, value in as_object(entry.get("env")).items()}
    if not key or _is_variable(key) or "--sandbox" in _words(entry) or variables.get("MCP_VEGA_SANDBOX"):
        return ""
    try:
        require_usable(Settings.from_environment({KEY: key}).api_key)
    except InvalidSettings as error:
        return error.what
    return ""


# ---- packages and versions ----


def _installed() -> Distribution | None:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        return None


def _required(installed: Distribution) -> list[tuple[str, str]]:
    """The packages that are needed always, each with its range."""
    found = (_REQUIREMENT.fullmatch(line.strip()) for line in installed.requires or ())
    return [(each[1], each[2].replace(" ", "")) for each in found if each and not each[3]]


def is_within(found: str, wanted: str) -> bool:
    """Whether a version is in a range of lower and upper bounds such as `>=2.3,<3`; no other kind is judged."""
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", wanted)
    return all(_is_before(found, bound) == (sign == "<") for sign, bound in bounds)


def _is_before(one: str, other: str) -> bool:
    """Whether one version's numbers are lower; what follows them (rc1, .post1) is left aside."""
    numbers = ([int(each) for each in _numbers(text).split(".")] for text in (one, other))
    for mine, yours in zip_longest(*numbers, fillvalue=0):
        if mine != yours:
            return mine < yours
    return False


def _numbers(text: str) -> str:
    found = re.match(r"\d+(\.\d+)*", text)
    return found[0] if found else "0"
