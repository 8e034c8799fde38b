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
REINSTALL = "Install mcp-vega again, from its clone or wheel, in an environment of its own (docs/packages.md says how)"


def check_python() -> list[Check]:
    """Whether the package supports this version of Python: the check python."""
    found = platform.python_version()
    said = f"{found}, {sys.executable}"
    try:
        wanted = distribution(PACKAGE).metadata["Requires-Python"] or ""
    except PackageNotFoundError:
        wanted = ""
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return [Check("python", State.BAD, f"{said}; {wanted} is needed", "Install mcp-vega with a newer Python")]
    return [Check("python", State.GOOD, said)]


def check_packages(version_of: Callable[[str], str] = version) -> list[Check]:
    """Whether the versions of the other packages are those that this package needs: the check packages.

    Args:
        version_of: Returns the version of a package, or raises `PackageNotFoundError`.
    """
    try:
        versions, wrong = versions_of_needed(version_of)
    except PackageNotFoundError:
        return [Check("packages", State.BAD, f"{PACKAGE} is not installed; only its files are here", REINSTALL)]
    if wrong:
        return [Check("packages", State.BAD, "; ".join(wrong), REINSTALL)]
    shown = [f"{name} {versions[name]}" for name in (PACKAGE, *SHOWN) if name in versions]
    return [Check("packages", State.GOOD, ", ".join(shown))]


def versions_of_needed(version_of: Callable[[str], str] = version, extra: str = "") -> tuple[dict[str, str], list[str]]:
    """The versions of this package and of those that it needs, and what is wrong with them.

    Args:
        version_of: As for `check_packages`.
        extra: Also look at the packages of this extra.

    Raises:
        PackageNotFoundError: This package is not installed.
    """
    installed = distribution(PACKAGE)
    wrong: list[str] = []
    versions = {PACKAGE: installed.version}
    for line in installed.requires or ():
        required = Requirement(line)
        name, wanted = required.name, required.specifier
        if required.marker and not required.marker.evaluate({"extra": extra}):
            continue
        try:
            versions[name] = version_of(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not wanted.contains(versions[name], prereleases=True):
            wrong.append(f"{name} is {versions[name]}, but {wanted} is needed")
    return versions, wrong


def check_command(environment: Mapping[str, str], command: Sequence[str] | None = None) -> list[Check]:
    """The command that hosts start, and whether it will still be there next month: the check command.

    Args:
        environment: The environment variables, with PATH.
        command: The command and its arguments; by default those that `mcp-vega install` writes.

    Raises:
        NotInstalled: There is no command that a host can start.
    """
    program, *arguments = command or lasting_command(environment)
    found = shutil.which(PACKAGE, path=environment.get("PATH"))
    state, detail, fix = State.GOOD, f"{program}, also found on PATH", ""
    if arguments:
        detail = f"{shlex.join((program, *arguments))}, because mcp-vega runs from uv's cache"
    elif is_temporary(program):
        state, detail = State.NOTE, f"{program} is in a temporary folder or a cache, which may be emptied"
        fix = "Install mcp-vega in another folder, so that hosts always find it"
    elif found is None:
        detail = f"{program} is not on PATH, so hosts need this absolute path"
    elif not Path(found).samefile(program):
        state, detail = State.NOTE, f"{program}, but PATH finds another one first: {found}"
        fix = "Use the absolute path of the one that you want, or remove the other one"
    return [Check("command", state, detail, fix)]
