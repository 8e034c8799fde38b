"""A terminal as a person has it: programs write to it, what it shows can be read, and answers can be typed."""

import os
import re
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

import pytest
from conftest import HANG_SECONDS

from mcp_vega.imaging.terminal import COLOURS

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals, shells or signals of this kind")

Colour = tuple[int, int, int]
# A sequence of kitty, one of iTerm2, one that moves the cursor or sets colours, or a character.
_PARTS = re.compile(r"\x1b_G(.*?)\x1b\\|\x1b\](.*?)\a|\x1b\[([\d;]*)([A-Za-z])|(.)", re.DOTALL)


class Cell(NamedTuple):
    """A character on the screen, with its colours."""

    character: str
    colour: Colour | None
    background: Colour | None


@dataclass
class Screen:
    """What a terminal with this many columns shows, as far as the programs of this project use a terminal.

    Attributes:
        columns: How many characters a line has.
        text: All that was written, with the sequences that set colours; lines end in "\\n".
        rows: The cells of each row of the screen, by column.
        kitty: The sequences that show pictures in kitty.
        iterm2: The sequences that show pictures in iTerm2.
    """

    columns: int
    text: str = ""
    rows: list[dict[int, Cell]] = field(default_factory=lambda: [{}])
    kitty: list[str] = field(default_factory=list[str])
    iterm2: list[str] = field(default_factory=list[str])
    _at: int = 0
    _colour: Colour | None = None
    _background: Colour | None = None

    def feed(self, text: str) -> None:
        self.text += text.replace("\r\n", "\n")
        for kitty, iterm2, numbers, command, character in _PARTS.findall(text):
            if kitty:
                self.kitty.append(kitty)
            elif iterm2:
                self.iterm2.append(iterm2)
            elif command == "K":
                self.rows[-1] = {at: cell for at, cell in self.rows[-1].items() if at < self._at}
            elif command:
                assert command == "m", f"an unknown sequence ends in {command}"
                self._set_colours([int(number or 0) for number in numbers.split(";")])
            else:
                self._put(character)

    def _put(self, character: str) -> None:
        if character == "\r":
            self._at = 0
        elif character == "\n":
            self.rows.append({})
        else:
            if self._at == self.columns:
                self.rows.append({})
                self._at = 0
            self.rows[-1][self._at] = Cell(character, self._colour, self._background)
            self._at += 1

    def _set_colours(self, numbers: list[int]) -> None:
        while numbers:
            match numbers:
                case [0, *numbers]:
                    self._colour = self._background = None
                case [38 | 48 as which, 2, red, green, blue, *numbers]:
                    self._set_colour(which, (red, green, blue))
                case [38 | 48 as which, 5, number, *numbers]:
                    self._set_colour(which, COLOURS[number - 16])
                case [31 | 32 | 33, *numbers]:  # red, green, yellow: each terminal has its own
                    self._colour = None
                case _:
                    raise AssertionError(numbers)

    def _set_colour(self, which: int, colour: Colour) -> None:
        if which == 38:
            self._colour = colour
        else:
            self._background = colour

    @property
    def lines(self) -> list[str]:
        """The text of each row."""
        blank = Cell(" ", None, None)
        return ["".join(row.get(at, blank).character for at in range(max(row, default=-1) + 1)) for row in self.rows]

    @property
    def picture(self) -> list[list[Colour | None]]:
        """The pixels of the half blocks in the top rows: two lines for each row. None is a place without one."""
        pixels: list[list[Colour | None]] = []
        for row, line in zip(self.rows, self.lines, strict=True):
            if not line or set(line) - set("▀▄ "):
                break
            cells = [row[at] for at in range(len(row))]
            pixels.append([cell.colour if cell.character == "▀" else None for cell in cells])
            pixels.append([cell.colour if cell.character == "▄" else cell.background for cell in cells])
        return pixels


@contextmanager
def terminal(columns: int = 80, lines: int = 50, typed: str = "") -> Generator[tuple[TextIO, Screen]]:
    """The program's end of a terminal, in which this was typed, and its screen, which is complete after the block."""
    import fcntl
    import pty
    import termios

    controller, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.write(controller, typed.encode())
    screen, written = Screen(columns), bytearray()
    reader = threading.Thread(target=lambda: written.extend(_rest(controller)))
    reader.start()
    try:
        with open(end, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  a file descriptor
            yield stream, screen
    finally:
        reader.join(HANG_SECONDS)
        os.close(controller)
        screen.feed(written.decode())


def dialogue(
    command: Sequence[str], answers: Sequence[tuple[str, str]], environment: Mapping[str, str]
) -> tuple[int, str]:
    """The exit code of a program at a terminal, and what is seen there. Each answer is typed after its question."""
    import pty

    controller, end = pty.openpty()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),  # noqa: PLW1509
    )
    os.close(end)
    seen, at = b"", 0
    try:
        for question, answer in answers:
            while (found := seen.find(question.encode(), at)) < 0:
                is_written, _, _ = select.select([controller], [], [], HANG_SECONDS)
                more = os.read(controller, 1000) if is_written else b""
                assert more, f"{question!r} is not asked: {seen!r}"
                seen += more
            at = found + len(question)
            os.write(controller, answer.encode())
        seen += _rest(controller)
        return process.wait(HANG_SECONDS), seen.decode()
    finally:
        process.kill()
        os.close(controller)


def _rest(controller: int) -> bytes:
    """Everything that is still written to a terminal until the last program has closed it."""
    data = bytearray()
    try:
        while more := os.read(controller, 65536):
            data.extend(more)
    except OSError:  # Linux reports the end in this way
        pass
    return bytes(data)
