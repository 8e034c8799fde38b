"""What people see of an export or import: a line that shows the progress, and what could not be moved."""

import sys
from collections.abc import Mapping
from time import monotonic

from mcp_vega.cli.draw.screen import Screen
from mcp_vega.redaction import printable

# Seconds between two changes of the line that shows the progress.
PAUSE = 0.1


class Report:
    """Writes to stderr. Only a terminal shows the progress."""

    def __init__(self, environment: Mapping[str, str], verb: str) -> None:
        self._screen = Screen.of(environment)
        self._verb = verb
        self._shown = 0.0
        self.problems = 0

    def progress(self, done: int, total: int) -> None:
        """Show how many jobs are done, a few times a second."""
        if self._screen.is_interactive and monotonic() - self._shown > PAUSE:
            self._shown = monotonic()
            self._screen.show_progress(f"{self._verb}: {done:,} of {total:,} jobs", done / max(total, 1))

    def problem(self, text: str) -> None:
        """Say what could not be moved. The exit code is then 1."""
        self.problems += 1
        self.say(text)

    def say(self, text: str) -> None:
        """Say something in a line of its own."""
        self.clear()
        sys.stderr.write(f"{printable(text)}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the progress."""
        self._screen.clear_progress()


def number_of(count: int, thing: str) -> str:
    """A number with its unit, such as `1 job` or `1,234 jobs`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
