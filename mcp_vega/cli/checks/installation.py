"""Python, the packages, the command."""

import platform
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from itertools import zip_longest
from pathlib import Path

from mcp_vega.cli.checks.check import Check, State
from mcp_vega.hosts.entry import lasting_command, passes

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
