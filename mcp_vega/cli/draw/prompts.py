"""The prompts of a file or of stdin: one a line."""

import re
import sys
from argparse import Namespace
from typing import NamedTuple

from mcp_vega.errors import InvalidArguments
from mcp_vega.redaction import is_blank

STDIN = "-"
# The most that is read: 1,000 of the longest prompts.
MAX_BYTES = 10_000_000


class Prompt(NamedTuple):
    """A prompt and the line that it is on, from 1."""

    line: int
    text: str


def prompts_in_file(options: Namespace) -> list[Prompt] | None:
    """The prompts of the file or of stdin that the options name; None if they name neither.

    Raises:
        InvalidArguments: The file cannot be read, is not UTF-8 text, or has no prompt; or PROMPT is given as well.
    """
    from_stdin = options.prompt == [STDIN]
    if options.prompts is None and not from_stdin:
        return None
    if options.prompts is not None and options.prompt:
        raise InvalidArguments("PROMPT and --prompts are both given", next_step="Leave one of them out")
    shown = name_of(options)
    data = _read(STDIN if from_stdin else str(options.prompts), shown)
    if len(data) > MAX_BYTES:
        raise InvalidArguments(f"{shown} has more than {MAX_BYTES:,} bytes", next_step="Split it into several files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidArguments(
            f"{shown} is not UTF-8 text: see line {line}", next_step="Save it as UTF-8, one prompt a line"
        ) from error
    lines = [Prompt(number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)]
    prompts = [each for each in lines if not is_blank(each.text)]
    if not prompts:
        raise InvalidArguments(f"{shown} has no prompt", next_step="Write one prompt a line")
    return prompts


def name_of(options: Namespace) -> str:
    """What the file with the prompts is called in texts."""
    return "stdin" if options.prompts in (None, STDIN) else options.prompts


def _read(name: str, shown: str) -> bytes:
    try:
        if name != STDIN:
            with open(name, "rb") as file:  # noqa: PTH123  pathlib raises for an odd name
                return file.read(MAX_BYTES + 1)
        if sys.stdin.isatty():
            sys.stderr.write("Write one prompt a line. Ctrl-D on a line of its own ends them.\n")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidArguments(f"{shown} cannot be read: {said}", next_step="Name a file with prompts") from error
