"""Opens folders, files and pages with the programs of the desktop, and says why if that fails."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# A program that cannot open something fails within this time. One that runs longer shows a window, as some file
# managers and browsers do until it is closed; nobody waits for their end.
OPEN_SECONDS = 5.0
# These show a page in the terminal, which belongs to the command itself.
TEXT_BROWSERS = frozenset({"www-browser", "browsh", "elinks", "links", "links2", "lynx", "w3m"})
# By xdg-open's manual page.
NO_PROGRAM = 3


def open_on_desktop(target: str, environment: Mapping[str, str]) -> str:
    """Open a folder or file by its path, or a page by its URL; returns why that failed, or an empty text.

    For a page, the browsers that `BROWSER` names are tried first, also without a desktop: on a machine that is reached
    over the network, such a browser may open the page on the user's own.
    """
    if sys.platform == "win32":
        try:
            os.startfile(target)  # noqa: S606  the system's own
        except OSError as error:
            return error.strerror or str(error)
        return ""
    problems: list[str] = []
    if target.startswith(("http://", "https://")):
        for command in filter(str.strip, environment.get("BROWSER", "").split(os.pathsep)):
            if not (problem := _open_in_browser(command, target, environment)):
                return ""
            problems.append(problem)
    problem = _open_with_desktop(target, environment)
    return "; ".join((*problems, problem)) if problem else ""


def _open_in_browser(command: str, url: str, environment: Mapping[str, str]) -> str:
    """Open a page with one command of `BROWSER`, where %s stands for the URL; returns why that failed."""
    try:
        words = shlex.split(command.strip().removesuffix("&"))
    except ValueError:
        words = []
    found = shutil.which(words[0], path=environment.get("PATH")) if words else None
    if found is None:
        return f"BROWSER names {words[0] if words else command}, which is not there"
    if Path(found).name in TEXT_BROWSERS:
        return f"BROWSER names {words[0]}, which has no window"
    arguments = [each.replace("%s", url) for each in words[1:]]
    return _run([found, *arguments, *(() if "%s" in command else (url,))])


def _open_with_desktop(target: str, environment: Mapping[str, str]) -> str:
    """Open something with the program that the desktop has for it; returns why that failed."""
    program = "open" if sys.platform == "darwin" else "xdg-open"
    # Without a desktop xdg-open looks for a browser that runs in the terminal.
    if program == "xdg-open" and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
        return "there is no desktop here"
    found = shutil.which(program, path=environment.get("PATH"))
    return _run([found, target]) if found else f"there is no {program} here"


def _run(command: list[str]) -> str:
    """Start a program that opens something; returns why it failed, or an empty text."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(  # noqa: S603  the system's own, or the user's
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        code = process.wait(OPEN_SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    except OSError as error:
        return f"{name} cannot be started: {error.strerror or error}"
    if code == 0:
        return ""
    why = ": it found no program for this" if (name, code) == ("xdg-open", NO_PROGRAM) else ""
    return f"{name} failed with exit code {code}{why}"
