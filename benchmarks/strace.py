"""The system calls of a server, recorded by strace (Linux)."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Longer texts are cut. A page of the ledger is shorter.
LONGEST = 8192
# Seconds without a system call that count as quiet, and how long to wait for them.
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
    """A text among the arguments of a system call: its first bytes, and whether they are complete."""

    data: bytes
    whole: bool


@dataclass(frozen=True)
class SystemCall:
    """A system call: its name, its arguments as strace prints them, and its result (None if it did not return).

    `began` and `ended` are places in one order of all beginnings and ends. A call whose `ended` is less than another's
    `began` was over when the other was made.
    """

    name: str
    arguments: str
    result: int | None
    began: int
    ended: int

    @property
    def descriptor(self) -> int:
        """The file descriptor in its first argument."""
        return int(re.match(r"\d+", self.arguments)[0])  # type: ignore[index]  otherwise it has none

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
    """The system calls of a process that `command` starts.

    Args:
        file: The file in which they are recorded.
        names: The names of the calls to record, separated by commas.
        longest: How many bytes of a text are recorded.
    """

    def __init__(self, file: Path, names: str, longest: int = LONGEST) -> None:
        self.file = file
        what = ["-e", f"trace={names}", "-e", "signal=none", "-s", str(longest)]
        self.command = [program(), "-f", "-y", "-xx", "--seccomp-bpf", *what, "-o", str(file)]

    @property
    def place(self) -> int:
        """The size of the recording now."""
        return self.file.stat().st_size

    def quiet_place(self) -> int:
        """The size of the recording as soon as nothing has happened for a while."""
        give_up = time.monotonic() + LONGEST_WAIT
        place, since = self.place, time.monotonic()
        while (now := time.monotonic()) < min(give_up, since + QUIET):
            time.sleep(0.05)
            if self.place != place:
                place, since = self.place, now
        return place

    def read(self, start: int = 0, end: int | None = None, *, offset: int = 0) -> list[SystemCall]:
        """The system calls that were recorded between two places, ordered by their ends.

        `offset` is added to the places.
        """
        with self.file.open("rb") as file:
            file.seek(start)
            lines = file.read() if end is None else file.read(end - start)
        return parsed(lines.decode("ascii", errors="replace"), offset)


def parsed(lines: str, offset: int = 0) -> list[SystemCall]:
    """The system calls in the lines of strace. The first has place `offset`; calls that never returned are last."""
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
