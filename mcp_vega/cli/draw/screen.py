"""The terminal that a person looks at: its size, how it shows pictures, and its progress bar."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from mcp_vega.cli.output import shortened, width_of
from mcp_vega.imaging.terminal import Form

# The width of the progress bar, at most and at least; the text next to it comes first.
WIDEST_BAR, NARROWEST_BAR = 24, 5
CLEAR_LINE = "\r\x1b[K"
# From this version on Konsole shows pictures; it writes 22.04.0 as 220400.
KONSOLE_WITH_PICTURES = 220400
# A program between this one and the terminal, which passes on no pictures.
MULTIPLEXERS = ("TMUX", "STY", "ZELLIJ")


@dataclass(frozen=True)
class Screen:
    """What stdout and stderr lead to.

    Attributes:
        is_interactive: Whether stderr is a terminal that understands escape sequences.
        has_both: Whether stdout is a terminal as well.
        form: How it is shown pictures; None if it is not.
    """

    is_interactive: bool
    has_both: bool
    form: Form | None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The screen of this process, by what the terminal says of itself in the environment."""
        has_both = sys.stdout.isatty() and sys.stderr.isatty()
        is_dumb = environment.get("TERM", "").lower() in ("dumb", "unknown")
        is_interactive = sys.stderr.isatty() and not is_dumb and _takes_escapes()
        has_pictures = has_both and is_interactive and not environment.get("NO_COLOR")
        return cls(is_interactive, has_both, _form_of(environment) if has_pictures else None)

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines; 80 × 24 if the terminal does not say."""
        try:
            size = os.get_terminal_size(sys.stderr.fileno())
        except (OSError, ValueError):
            size = os.terminal_size((0, 0))
        return size if size.columns and size.lines else os.terminal_size((80, 24))

    def show_progress(self, message: str, share: float | None) -> None:
        """Show what is being done, with a bar if the share that is done is known."""
        columns = self.size.columns
        width = min(WIDEST_BAR, columns - width_of(f"[] {message} "))
        bar = ""
        if share is not None and width >= NARROWEST_BAR:
            done = round(width * min(share, 1))
            bar = f"[{'#' * done}{'.' * (width - done)}] "
        # A line that is wrapped could not be written over.
        sys.stderr.write(f"\r{shortened(f'{bar}{message}', columns - 1)}\x1b[K")
        sys.stderr.flush()

    def clear_progress(self) -> None:
        """Remove the progress bar."""
        if self.is_interactive:
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def _form_of(environment: Mapping[str, str]) -> Form | None:
    """How a terminal is shown pictures: by its own protocol if it names itself, else by half blocks."""
    if sys.platform == "win32":
        return Form.BLOCKS  # the console in between passes on nothing else
    term, program = (environment.get(name, "").lower() for name in ("TERM", "TERM_PROGRAM"))
    if any(environment.get(name) for name in MULTIPLEXERS) or term.startswith(("screen", "tmux")):
        return _half_blocks(environment)
    # TERM first: the other variables are inherited by a terminal that is started from another one.
    if term in ("xterm-kitty", "xterm-ghostty"):
        return Form.KITTY
    if program:
        protocols = {"ghostty": Form.KITTY, "kitty": Form.KITTY, "wezterm": Form.KITTY}
        protocols |= {"iterm.app": Form.ITERM2, "mintty": Form.ITERM2}
        return protocols.get(program) or _half_blocks(environment)
    konsole = environment.get("KONSOLE_VERSION", "")
    if environment.get("KITTY_WINDOW_ID") or (konsole.isdecimal() and int(konsole) >= KONSOLE_WITH_PICTURES):
        return Form.KITTY
    return Form.ITERM2 if environment.get("LC_TERMINAL") == "iTerm2" else _half_blocks(environment)


def _half_blocks(environment: Mapping[str, str]) -> Form | None:
    """In as many colours as the terminal has; None if its encoding lacks the characters."""
    try:
        "▀▄".encode(sys.stderr.encoding)
    except UnicodeEncodeError:
        return None
    # GNU screen passes the variable on, but not the colours.
    has_any_colour = environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") and not environment.get("STY")
    return Form.BLOCKS if has_any_colour or environment.get("WT_SESSION") else Form.BLOCKS_256


def _takes_escapes() -> bool:
    """Whether escape sequences reach the terminal; consoles of Windows before 2016 show them as text."""
    if sys.platform != "win32":
        return True
    import ctypes
    import msvcrt

    handle, mode = ctypes.c_void_p(msvcrt.get_osfhandle(sys.stderr.fileno())), ctypes.c_ulong()
    console = ctypes.windll.kernel32
    virtual_terminal_processing = 4
    return bool(
        console.GetConsoleMode(handle, ctypes.byref(mode))
        and console.SetConsoleMode(handle, mode.value | virtual_terminal_processing)
    )
