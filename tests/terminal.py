"""A terminal as a person has one: programs write to it, and what it shows can be read."""

import os
import re
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

from mcp_vega.imaging.terminal import COLOURS

Colour = tuple[int, int, int]
# A sequence of kitty, one of iTerm2, one that moves the cursor or sets colours, or a character.
_PARTS = re.compile(r"\x1b_G(.*?)\x1b\\|\x1b\](.*?)\a|\x1b\[([\d;]*)([A-Za-z])|(.)", re.DOTALL)


class Cell(NamedTuple):
    """What is in one place of the screen."""

    character: str
    colour: Colour | None
    background: Colour | None


@dataclass
class Screen:
    """What a terminal of so many columns shows, as far as this project's programs use one."""

    columns: int
    rows: list[dict[int, Cell]] = field(default_factory=lambda: [{}])
    kitty: list[str] = field(default_factory=list[str])
    iterm2: list[str] = field(default_factory=list[str])
    _at: int = 0
    _colour: Colour | None = None
    _background: Colour | None = None

    def feed(self, text: str) -> None:
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
                case _:
                    raise AssertionError(numbers)

    def _set_colour(self, which: int, colour: Colour) -> None:
        if which == 38:
            self._colour = colour
        else:
            self._background = colour

    @property
    def lines(self) -> list[str]:
        """Its text, line by line."""
        blank = Cell(" ", None, None)
        return ["".join(row.get(at, blank).character for at in range(max(row, default=-1) + 1)) for row in self.rows]

    @property
    def picture(self) -> list[list[Colour | None]]:
        """The pixels of the half blocks at its top: two lines of them for each row; None where there is no picture."""
        pixels: list[list[Colour | None]] = []
        for row, line in zip(self.rows, self.lines, strict=True):
            if not line or set(line) - set("▀▄ "):
                break
            cells = [row[at] for at in range(len(row))]
            pixels.append([cell.colour if cell.character == "▀" else None for cell in cells])
            pixels.append([cell.colour if cell.character == "▄" else cell.background for cell in cells])
        return pixels


@contextmanager
def terminal(columns: int, lines: int) -> Generator[tuple[TextIO, Screen]]:
    """A terminal's end to write to, and what it shows once the block has ended."""
    import fcntl
    import pty
    import termios

    controller, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    screen, written = Screen(columns), bytearray()

    def read() -> None:
        try:
            while data := os.read(controller, 65536):
                written.extend(data)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with open(end, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123  a file descriptor
            yield stream, screen
    finally:
        reader.join()
        os.close(controller)
        screen.feed(written.decode())
