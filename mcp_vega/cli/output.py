"""What commands print on stdout."""

import sys


def write(text: str) -> None:
    """Print text as UTF-8, whatever encoding the terminal names: a prompt or a path may hold what that lacks."""
    sys.stdout.buffer.write(f"{text}\n".encode(errors="replace"))
    sys.stdout.flush()
