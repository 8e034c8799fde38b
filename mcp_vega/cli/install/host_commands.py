"""The hosts' own commands that add and remove a server.

The key is never among their arguments, which every user of a machine can read while a program runs: whoever calls them
puts it into the file afterwards.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mcp_vega.cli.install.entry import NAME, Entry

SECONDS = 60
# How much is shown of what a command said, in characters.
LINE = 200


@dataclass(frozen=True)
class HostCommand:
    """A host's own command.

    Attributes:
        name: On the PATH.
        adding: Its arguments that add an entry for the user, in all projects.
        removing: Its arguments that take the entry out, where it can.
    """

    name: str
    adding: Callable[[Entry], Sequence[str]]
    removing: Sequence[str] = ()

    def found(self, environment: Mapping[str, str]) -> str | None:
        """Its path, where it can be relied on.

        Windows starts batch files through its shell, whose quoting changes what an argument means.
        """
        path = shutil.which(self.name, path=environment.get("PATH"))
        return None if path and path.lower().endswith((".cmd", ".bat")) else path


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a host's own command; returns what was wrong, and nothing where all went well."""
    public = {name: value for name, value in environment.items() if not name.startswith(("SEGMIND_", "MCP_VEGA_"))}
    # No pipe for what it says: a child that outlives it would keep that open, and a minute would pass for nothing.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603  a program of the user's own, without a shell
                command,
                env=public,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            return str(error)
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return f"no end within {SECONDS} seconds"
        finally:
            _end(process)
        output.seek(0)
        said = output.read().decode(errors="replace").strip().splitlines()
    last = "".join(each if each.isprintable() else " " for each in said[-1])[:LINE] if said else ""
    return f"exit code {code}{f', {last}' if last else ''}" if code else ""


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program that has not ended by itself, and its children, which could change the file later."""
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _for_code(entry: Entry) -> Sequence[str]:
    server = {"name": NAME, "type": "stdio", "command": entry.command, "args": list(entry.args)}
    return ("--add-mcp", json.dumps(server))


CLAUDE = HostCommand(
    "claude",
    lambda entry: ("mcp", "add", "--scope", "user", NAME, "--", entry.command, *entry.args),
    ("mcp", "remove", "--scope", "user", NAME),
)
CODEX = HostCommand(
    "codex", lambda entry: ("mcp", "add", NAME, "--", entry.command, *entry.args), ("mcp", "remove", NAME)
)
GEMINI = HostCommand(
    "gemini",
    lambda entry: ("mcp", "add", "--scope", "user", NAME, entry.command, *entry.args),
    ("mcp", "remove", "--scope", "user", NAME),
)
CODE = HostCommand("code", _for_code)
