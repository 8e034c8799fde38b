"""What a person or a program learns about each call: its pictures, its facts, its errors."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mcp_vega.cli.draw.arguments import Call
from mcp_vega.cli.draw.outcome import Outcome
from mcp_vega.cli.draw.output import Output
from mcp_vega.cli.draw.screen import Screen
from mcp_vega.cli.output import OutputError, command_line, width_of, write
from mcp_vega.imaging.integrity import InvalidImageError
from mcp_vega.imaging.terminal import as_text
from mcp_vega.redaction import quoted
from mcp_vega.storage.ledger.search import FEWEST_DIGITS

# How much of a prompt is next to its picture.
PROMPT_CHARACTERS = 30


class Report:
    """Prints paths or JSON on stdout and all else on stderr, in the order of the calls."""

    def __init__(self, screen: Screen, *, as_json: bool, sandbox: bool, local: bool = False) -> None:
        self._screen = screen
        self._json = as_json
        self._sandbox = sandbox
        self._local = local
        self.files: list[Path | str] = []
        self.next = 0  # which call is reported next, from 0
        self._failed: list[Call] = []
        self._failed_first: dict[str, int | None] = {}
        self._limit = ""
        self._doing: dict[int, str] = {}  # what was said last of a call, without its figures

    def progress(self, index: int, call: Call, message: str, share: float | None) -> None:
        """Say what is being done for a call.

        A terminal shows it for the call that is reported next. A file gets a line when more than the figures change.
        """
        if not self._screen.is_interactive:
            if self._doing.get(index) != (doing := re.sub(r"\d+", "", message)):
                self._doing[index] = doing
                sys.stderr.write(f"{_line_of(call)}{message}\n")
        elif index == self.next:
            self._screen.show_progress(f"{_line_of(call)}{message}", share)

    def ended(self, outcome: Outcome) -> None:
        """Report how the next call ended.

        Raises:
            OutputError: stdout cannot be written.
        """
        self._screen.clear_progress()
        self.next += 1
        self.files += outcome.files
        self._limit = outcome.limit or self._limit
        if outcome.problems:
            self._failed.append(outcome.call)
        line = _line_of(outcome.call)
        if self._json:
            _say(f"{line}{note}" for note in outcome.notes)
            write(json.dumps(outcome.data))
        elif outcome.job is not None:
            self._show(outcome)
        _say(
            f"{line}{self._in_words(outcome.call, text)}"
            for text in dict.fromkeys(problem.text for problem in outcome.problems)
        )

    def interrupted(self, outcomes: Iterable[Outcome]) -> None:
        """Report calls that have ended although one before them has not."""
        with suppress(OSError, OutputError):
            self._screen.clear_progress()
            for outcome in outcomes:
                self.ended(outcome)

    def close(self, calls: Sequence[Call], output: Output | None) -> int:
        """Say what is about all calls; returns the exit code."""
        if self._limit and not self._json:
            _say([self._limit])
        if calls[0].line is not None:
            if self.files and self._screen.is_interactive and not self._json:
                _say([self._another("FILE")])
            if self._failed:
                lines = ", ".join(str(call.line) for call in self._failed)
                some = "line" if len(self._failed) == 1 else "lines"
                missing = self._missing(calls, output)
                not_written = f"; not written: {', '.join(missing)}" if missing else ""
                _say([f"{len(self._failed)} of {len(calls)} failed: {some} {lines}{not_written}"])
        return 1 if self._failed else 0

    def _missing(self, calls: Sequence[Call], output: Output | None) -> list[str]:
        """The names of the numbered files that calls which failed did not write."""
        if output is None or output.is_folder:
            return []
        names: list[str] = []
        number = 1
        for call in calls:
            targets = [output.target(number + index, "") for index in range(call.parameters.pictures)]
            number += call.parameters.pictures
            if call in self._failed:
                names += [target.name for target in targets if target and target.resolve() not in self.files]
        return names

    # ---- a call that drew ----

    def _show(self, outcome: Outcome) -> None:
        """Show the pictures if the terminal can, then a line for each, with its file."""
        facts = [_caption_of(outcome.call) + fact for fact in outcome.facts(pretend=self._sandbox)]
        notes = [_line_of(outcome.call) + note for note in outcome.notes]
        files = [
            (fact, picture.written) for fact, picture in zip(facts, outcome.pictures, strict=False) if picture.written
        ]
        another = [*self._another_of(outcome)]
        sys.stderr.write(self._as_text(outcome, [*notes, *(f"{fact}: {file}" for fact, file in files), *another]))
        _say(notes)
        if not (files and self._screen.has_both):
            _say(facts[:1])
        for fact, file in files:
            if self._screen.has_both:  # it shows both as one line, and stdout has the path alone
                sys.stderr.write(f"{fact}: ")
                sys.stderr.flush()
            write(str(file))
        _say(another)

    def _as_text(self, outcome: Outcome, below: Sequence[str]) -> str:
        """The pictures as the terminal shows them, with room for the lines below; empty if it shows none."""
        if self._screen.form is None:
            return ""
        columns, rows = self._screen.size
        # Below are these lines and that of the next command. The last column stays free, because some terminals begin
        # a new line when it is written.
        taken = sum(1 + width_of(line) // columns for line in below) + 1
        try:
            data = [picture.read() for picture in outcome.pictures]
            return as_text(data, self._screen.form, columns - 1, rows - taken)
        except (OSError, InvalidImageError):
            return ""

    def _another_of(self, outcome: Outcome) -> Iterator[str]:
        """How to get the same picture with another seed."""
        if outcome.call.line is None and outcome.files and self._screen.is_interactive:
            yield self._another(outcome.pictures[0].id[:FEWEST_DIGITS])

    def _another(self, name: str) -> str:
        words = ("draw", "--like", name, "--seed", "-1", *(("--local",) if self._local else ()))
        return f"Another one: {command_line(*words, sandbox=self._sandbox)}"

    # ---- a call that failed ----

    def _in_words(self, call: Call, text: str) -> str:
        """An error in full; if an earlier line had the same one, that line's number."""
        first = self._failed_first.setdefault(text, call.line)
        return text + self._for_a_person(text) if first == call.line else f"failed for the same reason as line {first}"

    def _for_a_person(self, text: str) -> str:
        """What a person does if the error says that an agent should call check_job."""
        if "check_job" not in text:
            return ""
        found = re.search(r"with the request_id (?:local-)?([\w-]+)", text)
        words = ["jobs", *([found[1][:FEWEST_DIGITS]] if found else [])]
        return f"\nOn the command line: `{command_line(*words, sandbox=self._sandbox)}`."


def _line_of(call: Call) -> str:
    """What a line of stderr about a call begins with."""
    return "" if call.line is None else f"Line {call.line}: "


def _caption_of(call: Call) -> str:
    """The same with the beginning of the prompt, for a picture."""
    return "" if call.line is None else f"Line {call.line}, {quoted(call.parameters.prompt, PROMPT_CHARACTERS)}: "


def _say(lines: Iterable[str]) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()
