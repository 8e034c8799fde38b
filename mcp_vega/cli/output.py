"""What commands print on stdout."""

import os
import sys


class OutputError(Exception):
    """What a command has to say cannot be written."""


def write(text: str) -> None:
    """Print text as UTF-8, whatever encoding the terminal names: a prompt or a path may hold what that lacks.

    A path comes out byte for byte, also one that is not UTF-8.

    Raises:
        OutputError: There is no room for it, for example.
    """
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # of a prompt: no bytes stand for it
        data = text.encode(errors="replace")
    try:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.flush()  # what cannot be written is to be heard of here, not when the process ends
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it would be tried again at the end
        raise OutputError(error.strerror) from error
