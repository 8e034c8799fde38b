"""Python, the packages, the command."""

import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.install.entry import lasting_command, passes

PACKAGE = "mcp-vega"
SHOWN = ("mcp", "httpx", "pydantic", "anyio", "pillow")
REINSTALL = (
    "Install mcp-vega anew, in an environment of its own (`uv tool install mcp-vega` or `pipx install mcp-vega`)"
)


def look_at_python() -> list[Check]:
    """Whether this Python is one that the package was written for: the check python."""
    found = platform.python_version()
    said = f"{found}, {sys.executable}"
    installed = _installed()
    wanted = str(installed.metadata["Requires-Python"] or "") if installed else ""
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return [Check("python", State.BAD, f"{said}: {wanted} is needed", "Install mcp-vega with a newer Python")]
    return [Check("python", State.GOOD, said)]


def look_at_packages() -> list[Check]:
    """Whether the packages are of versions that this one's metadata allows: the check packages."""
    installed = _installed()
    if installed is None:
        return [Check("packages", State.BAD, f"{PACKAGE} itself is not installed, only its files are here", REINSTALL)]
    wrong: list[str] = []
    versions = {PACKAGE: installed.version}
    for required in _required(installed):
        name, wanted = required.name, required.specifier
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not wanted.contains(versions[name], prereleases=True):
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


def _installed() -> Distribution | None:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        return None


def _required(installed: Distribution) -> list[Requirement]:
    """The packages that are needed here."""
    found = [Requirement(line) for line in installed.requires or ()]
    return [each for each in found if each.marker is None or each.marker.evaluate()]
