"""Opens folders and addresses with the programs of the desktop."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

# How long a program that opens something may take to fail.
OPEN_SECONDS = 5.0


def open_on_desktop(target: str, environment: Mapping[str, str]) -> str:
    """Open a folder by its path or a page by its URL; returns why that cannot be done, or nothing."""
    try:
        if sys.platform == "win32":
            os.startfile(target)  # noqa: S606  the system's own
            return ""
        program = "open" if sys.platform == "darwin" else "xdg-open"
        # Without a desktop xdg-open looks for a browser in the terminal.
        if program == "xdg-open" and not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")):
            return "there is no desktop here"
        found = shutil.which(program, path=environment.get("PATH"))
        if found is None:
            return f"there is no {program} here"
        code = _exit_code([found, target])
    except OSError as error:
        return error.strerror or str(error)
    return f"{program} failed with exit code {code}" if code else ""


def _exit_code(command: list[str]) -> int:
    """How a program ended; 0 where it goes on, as some file managers do for as long as their window is open."""
    process = subprocess.Popen(  # noqa: S603  the system's own
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(OPEN_SECONDS)
    except subprocess.TimeoutExpired:
        return 0
