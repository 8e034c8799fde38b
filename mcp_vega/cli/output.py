"""What commands print: text, errors, tables, and paragraphs that fit the terminal."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mcp_vega.errors import VegaError
from mcp_vega.redaction import beginning

# Between two columns of a table.
GAP = "  "
# A flexible column is made no narrower than this to keep another column.
LEAST_FLEXIBLE = 10
# A letter from right to left would turn around what is next to it. This invisible mark ends that.
LEFT_TO_RIGHT = "\u200e"
# Behind the last one a pattern for words finds an empty one more.
WORD = re.compile("((?:`[^`]*`|[^ ])*)(?: |$)")


class OutputError(Exception):
    """What a command has to say cannot be written."""


def write(text: str) -> None:
    """Print text as UTF-8, whatever encoding the terminal names: a prompt or a path may hold what that lacks.

    A path is written byte for byte, even if it is not UTF-8.

    Raises:
        OutputError: It cannot be written, because the disk is full for example.
    """
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a prompt with a character that has no bytes
        data = text.encode(errors="replace")
    try:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.flush()  # an error must be raised here, not when the process ends
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it would be tried again at the end
        raise OutputError(error.strerror) from error


def command_line(*words: str, sandbox: bool = False) -> str:
    """This program with further words, for hints that are to run as they are printed."""
    return " ".join((_called_as(), *words, *(("--sandbox",) if sandbox else ())))


def _called_as() -> str:
    """How the user called this program: by its name if the PATH finds this very program, else as it was typed."""
    typed = Path(sys.argv[0])
    if typed.name == "__main__.py":
        words = [sys.orig_argv[0], "-m", "mcp_vega"]
    elif typed.stem == "mcp-vega" and not _is_on_path(typed):
        words = [sys.argv[0]]
    else:
        return "mcp-vega"
    return _joined(words)


def _joined(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _is_on_path(program: Path) -> bool:
    found = shutil.which(program.name)
    try:
        return found is not None and program.samefile(found)
    except OSError:
        return False


def print_error(error: VegaError, *, draws: bool = False) -> None:
    """Print an error on stderr; whether something was charged is said only by commands that draw."""
    what, charged, step = error.text.splitlines()
    sys.stderr.write("".join(f"{line}\n" for line in ([what, charged, step] if draws else [what, step])))


def install_step(extra: str) -> str:
    """How to install an extra of this package, as the next step of an error."""
    return f"Run `{pip_line('install', f'mcp-vega[{extra}]')}` (if uvx runs mcp-vega, add the extra to its --from)"


def pip_line(*words: str) -> str:
    """Pip with further words, for this program's environment, for hints that are to run as they are printed."""
    if find_spec("pip"):
        return _joined([sys.executable, "-m", "pip", *words])
    # An environment may have no pip, like that of the README. The pip of another Python can change it.
    return _joined(["py" if sys.platform == "win32" else "python3", "-m", "pip", "--python", sys.executable, *words])


def terminal_width() -> int | None:
    """How many columns the terminal has that stdout is; None if stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


# ---- tables ----


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its first cell.
        cells: One for each row, each on one line.
        rank: If there is too little room, the column with the highest rank gives way first; one with 0 stays.
        short: What replaces it when it gives way; without that it is left out.
        flexible: Whether its cells may be cut. One column of a table at most is flexible.
        both_ends: Whether a cell is cut in its middle.
        right: Whether its cells are flush right.
    """

    heading: str
    cells: Sequence[str]
    rank: int = 0
    short: "Column | None" = None
    flexible: bool = False
    both_ends: bool = False
    right: bool = False

    @property
    def width(self) -> int:
        """How many columns of a terminal it takes when nothing is cut."""
        return max(map(width_of, (self.heading, *self.cells)))

    def lines(self, width: int) -> list[str]:
        """Its cells, each of this width."""
        shorten = _with_both_ends if self.both_ends else shortened
        cells = [shorten(cell, width) for cell in (self.heading, *self.cells)]
        padding = [" " * (width - width_of(cell)) for cell in cells]
        cells = [f"{LEFT_TO_RIGHT}{cell}{LEFT_TO_RIGHT}" if _has_right_to_left(cell) else cell for cell in cells]
        return [pad + cell if self.right else cell + pad for cell, pad in zip(cells, padding, strict=True)]


def table(columns: Sequence[Column], width: int | None) -> str:
    """A table as text, its columns under one another; as wide as `width`, or without a limit if that is None."""
    shown = list(columns)
    for column in sorted((each for each in columns if each.rank), key=lambda each: -each.rank):
        if width is None or _least_width(shown) <= width:
            break
        at = shown.index(column)
        shown[at : at + 1] = [column.short] if column.short else []
    widths = [column.width for column in shown]
    if width is not None:
        too_wide = max(sum(widths) + len(GAP) * (len(shown) - 1) - width, 0)
        widths = [
            max(each - too_wide, 1) if column.flexible else each for column, each in zip(shown, widths, strict=True)
        ]
    cells = [column.lines(each) for column, each in zip(shown, widths, strict=True)]
    return "\n".join(GAP.join(row).rstrip() for row in zip(*cells, strict=True))


def _least_width(columns: Sequence[Column]) -> int:
    widths = (min(each.width, LEAST_FLEXIBLE) if each.flexible else each.width for each in columns)
    return sum(widths) + len(GAP) * (len(columns) - 1)


# ---- text on a terminal ----


def paragraph(start: str, text: str, width: int | None, indent: int = 0) -> list[str]:
    """The lines of a text behind its start; from the second on they are indented by so many columns.

    A word that is longer than a line stays in one piece, so that it can be copied, and so does a `command`.
    """
    lines, used = [start], width_of(start)
    for number, word in enumerate(WORD.findall(text)[:-1]):
        length = width_of(word)
        fits = width is None or used + bool(number) + length <= width
        if not fits and used > indent:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * indent + word)
            used = indent + length
        else:
            lines[-1] += f" {word}" if number else word
            used += length + bool(number)
    return lines


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_width_at(text, at) for at in range(len(text)))


def shortened(text: str, width: int) -> str:
    """A text of so many columns of a terminal at most, with an ellipsis if it is cut."""
    used = end = 0
    for at in range(len(text)):
        used += _width_at(text, at)
        if used > width:
            return f"{beginning(text, end).rstrip()}…"
        if used < width:
            end = at + 1
    return text


def _with_both_ends(text: str, width: int) -> str:
    """A text of so many columns of a terminal at most, with an ellipsis in its middle if it is cut."""
    if width_of(text) <= width:
        return text
    start, end = shortened(text, (width + 1) // 2), len(text)
    while end and width_of(start) + width_of(text[end - 1 :]) <= width:
        end -= 1
    return start + text[end:]


def _width_at(text: str, at: int) -> int:
    """How many columns the character at a place takes."""
    character = text[at]
    if character == "\ufe0f":  # it makes an emoji of the character before it, and that wide
        return int(at > 0 and text[at - 1] != character and _width_at(text, at - 1) == 1)
    if unicodedata.category(character) in {"Mn", "Me", "Cf"} or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _has_right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(each) in {"R", "AL"} for each in text)
