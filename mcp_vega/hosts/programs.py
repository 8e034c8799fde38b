"""The hosts' own commands that add and remove a server.

The key is never among their arguments, which every user of a machine can read while a program runs: whoever calls them
puts it into the file afterwards.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mcp_vega.hosts.entry import NAME, Entry

SECONDS = 60


@dataclass(frozen=True)
class Program:
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
    without_key = {name: value for name, value in environment.items() if name != "SEGMIND_API_KEY"}
    try:
        done = subprocess.run(  # noqa: S603  a program of the user's own, without a shell
            command,
            env=without_key,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not done.returncode:
        return ""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return f"exit code {done.returncode}{f', {said[-1]}' if said else ''}"


def _for_code(entry: Entry) -> Sequence[str]:
    server = {"name": NAME, "type": "stdio", "command": entry.command, "args": list(entry.args)}
    return ("--add-mcp", json.dumps(server))


CLAUDE = Program(
    "claude",
    lambda entry: ("mcp", "add", "--scope", "user", NAME, "--", entry.command, *entry.args),
    ("mcp", "remove", "--scope", "user", NAME),
)
CODEX = Program("codex", lambda entry: ("mcp", "add", NAME, "--", entry.command, *entry.args), ("mcp", "remove", NAME))
GEMINI = Program(
    "gemini",
    lambda entry: ("mcp", "add", "--scope", "user", NAME, entry.command, *entry.args),
    ("mcp", "remove", "--scope", "user", NAME),
)
CODE = Program("code", _for_code)
