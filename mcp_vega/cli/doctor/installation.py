"""Python, the packages, the command."""

import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.install.entry import is_temporary, lasting_command

PACKAGE = "mcp-vega"
SHOWN = ("mcp", "httpx", "pydantic", "anyio", "pillow")
REINSTALL = (
    "Install mcp-vega anew, in an environment of its own (`uv tool install mcp-vega` or `pipx install mcp-vega`)"
)


def check_python() -> list[Check]:
    """Whether this Python is one that the package was written for: the check python."""
    found = platform.python_version()
    said = f"{found}, {sys.executable}"
    try:
        wanted = distribution(PACKAGE).metadata["Requires-Python"] or ""
    except PackageNotFoundError:
        wanted = ""
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return [Check("python", State.BAD, f"{said}: {wanted} is needed", "Install mcp-vega with a newer Python")]
    return [Check("python", State.GOOD, said)]


def check_packages(version_of: Callable[[str], str] = version) -> list[Check]:
    """Whether the packages are of versions that this one's metadata allows: the check packages.

    Args:
        version_of: Gives the version of a package, or raises `PackageNotFoundError`.
    """
    try:
        installed = distribution(PACKAGE)
    except PackageNotFoundError:
        return [Check("packages", State.BAD, f"{PACKAGE} itself is not installed, only its files are here", REINSTALL)]
    wrong: list[str] = []
    versions = {PACKAGE: installed.version}
    for line in installed.requires or ():
        required = Requirement(line)
        name, wanted = required.name, required.specifier
        if required.marker and not required.marker.evaluate():
            continue
        try:
            versions[name] = version_of(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not wanted.contains(versions[name], prereleases=True):
            wrong.append(f"{name} is {versions[name]}, but {wanted} is needed")
    if wrong:
        return [Check("packages", State.BAD, "; ".join(wrong), REINSTALL)]
    shown = [f"{name} {versions[name]}" for name in (PACKAGE, *SHOWN) if name in versions]
    return [Check("packages", State.GOOD, ", ".join(shown))]


def check_command(environment: Mapping[str, str], command: Sequence[str] | None = None) -> list[Check]:
    """What hosts are to start, and whether it will still be there next month: the check command.

    Args:
        environment: With the PATH.
        command: The command and its arguments; by default those that `mcp-vega install` writes.

    Raises:
        NotInstalled: There is no command that a host could start.
    """
    program, *arguments = command or lasting_command(environment)
    found = shutil.which(PACKAGE, path=environment.get("PATH"))
    state, detail, mend = State.GOOD, f"{program}, the one on PATH", ""
    if arguments:
        detail = f"{shlex.join((program, *arguments))}, since this runs from uv's cache"
    elif is_temporary(program):
        state, detail = State.NOTE, f"{program}, where files are cleared away now and then"
        mend = "Install mcp-vega elsewhere, or hosts will not find it one day"
    elif found is None:
        detail = f"{program}; it is not on PATH, so hosts need this absolute path"
    elif not Path(found).samefile(program):
        state, detail = State.NOTE, f"{program}, but another one comes first on PATH: {found}"
        mend = "Name the one that you want by its absolute path, or remove the other"
    return [Check("command", state, detail, mend)]
