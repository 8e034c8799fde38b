"""What commands print on stdout."""

import sys


def write(text: str) -> None:
    """Print text as UTF-8, whatever encoding the terminal names: a prompt or a path may hold what that lacks.

    A path comes out byte for byte, also one that is not UTF-8.
    """
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # of a prompt: no bytes stand for it
        data = text.encode(errors="replace")
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.flush()  # what cannot be written is to be heard of here, not when the process ends
