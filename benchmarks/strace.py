"""What a server asks of the system, as strace writes it down from outside (Linux)."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# The longest text that is written down whole: more than a page of the ledger.
LONGEST = 8192
# How long nothing must happen, and for how long that is waited for, in seconds.
QUIET, LONGEST_WAIT = 1.0, 30.0
_LINE = re.compile(r"(\d+) +(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))")
_END = re.compile(r"\) += (-?\d+|\?)[^\"]*$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
UNFINISHED = "<unfinished ...>"


def program() -> str:
    """The path of strace."""
    found = shutil.which("strace")
    if found is None:
        raise SystemExit("This needs Linux and strace, which is not installed here")
    return found


class Text(NamedTuple):
    """A text among the arguments of a system call: its first bytes, and whether they are all."""

    data: bytes
    whole: bool


@dataclass(frozen=True)
class SystemCall:
    """A system call: its name, its arguments as strace writes them, what it returned (None: it did not).

    `began` and `ended` are places in one order of all beginnings and ends: what ended before another began was over
    when that was asked for.
    """

    name: str
    arguments: str
    result: int | None
    began: int
    ended: int

    @property
    def descriptor(self) -> int:
        """The file descriptor that is its first argument."""
        return int(re.match(r"\d+", self.arguments)[0])  # type: ignore[index]  else it has none

    @property
    def path(self) -> Path:
        """The path of the file behind its first argument."""
        found = re.match(r"(?:\d+|AT_FDCWD)<([^>]*)>", self.arguments)
        return Path(_bytes(found[1]).decode(errors="replace") if found else "")

    @property
    def texts(self) -> list[Text]:
        """The texts among its arguments."""
        return [Text(_bytes(data), not more) for data, more in _TEXT.findall(self.arguments)]

    @property
    def numbers(self) -> list[int]:
        """The whole numbers at the end of its arguments."""
        return [int(each) for each in re.findall(r", (\d+)(?=, \d|$)", self.arguments)]


class Trace:
    """The system calls of a process that is started by `command`.

    Args:
        file: Where they are written down.
        names: The names of those that are, separated by commas.
        longest: How many bytes of a text are.
    """

    def __init__(self, file: Path, names: str, longest: int = LONGEST) -> None:
        self.file = file
        what = ["-e", f"trace={names}", "-e", "signal=none", "-s", str(longest)]
        self.command = [program(), "-f", "-y", "-xx", "--seccomp-bpf", *what, "-o", str(file)]

    @property
    def place(self) -> int:
        """How much is written down by now."""
        return self.file.stat().st_size

    def quiet_place(self) -> int:
        """How much is written down once nothing more happens for a while."""
        give_up = time.monotonic() + LONGEST_WAIT
        place, since = self.place, time.monotonic()
        while (now := time.monotonic()) < min(give_up, since + QUIET):
            time.sleep(0.05)
            if self.place != place:
                place, since = self.place, now
        return place

    def read(self, start: int = 0, end: int | None = None, *, offset: int = 0) -> list[SystemCall]:
        """The system calls that were written down between two places, in the order of their ends.

        `offset` is added to the places in that order.
        """
        with self.file.open("rb") as file:
            file.seek(start)
            lines = file.read() if end is None else file.read(end - start)
        return parsed(lines.decode("ascii", errors="replace"), offset)


def parsed(lines: str, offset: int = 0) -> list[SystemCall]:
    """The system calls in the lines of strace, the first in place `offset`; those that never returned come last."""
    begun: dict[str, tuple[str, str, int]] = {}
    ended: list[SystemCall] = []
    for place, line in enumerate(lines.splitlines(), offset):
        found = _LINE.match(line)
        if not found:
            continue
        process, name, beginning, _, rest = found.groups()
        if name:
            begun[process] = (name, beginning.removesuffix(UNFINISHED).rstrip(), place)
            rest = ""
        if not line.endswith(UNFINISHED) and process in begun:
            name, arguments, began = begun.pop(process)
            ended.append(_whole(name, f"{arguments}{rest}", began, place))
    last = offset + lines.count("\n") + 1
    return ended + [SystemCall(name, text.rstrip(), None, began, last) for name, text, began in begun.values()]


def _whole(name: str, text: str, began: int, ended: int) -> SystemCall:
    end = _END.search(text)
    arguments, result = (text[: end.start()], end[1]) if end else (text, "?")
    return SystemCall(name, arguments, None if result == "?" else int(result), began, ended)


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", "")) if escaped.startswith("\\x") else escaped.encode()
