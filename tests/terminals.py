"""What a command shows on a terminal: a pseudo-terminal of a given width, in this process or with one of its own."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

import anyio.to_thread
from conftest import HANG_SECONDS
from test_command_line import COMMAND, settings

from mcp_vega.cli.main import main


@contextmanager
def terminal(width: int) -> Generator[tuple[int, list[bytes]]]:
    """A terminal as the number of its file, and what was written to it, once the block has ended."""
    controller, number = pty.openpty()
    fcntl.ioctl(number, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    written: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(controller, 100_000):
                written.append(data)
        except OSError:  # Linux says so that nobody has it open any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield number, written
    finally:
        os.close(number)
        reader.join(HANG_SECONDS)
        os.close(controller)


def shown(width: int, arguments: Sequence[str], folder: Path, **variables: str) -> str:
    """What the command shows, run in this process."""
    with (
        terminal(width) as (number, written),
        patch.dict(
            os.environ, {**settings(folder / "gallery", folder), "COLUMNS": str(width), **variables}, clear=True
        ),
        open(os.dup(number), "w", encoding="utf-8") as stream,  # noqa: PTH123  a number
        redirect_stdout(stream),
        redirect_stderr(stream),
    ):
        main(arguments)
    return _text(written)


async def shown_beside(width: int, *arguments: str, folder: Path, **variables: str) -> str:
    """The same, beside a loop that is running."""
    return await anyio.to_thread.run_sync(partial(shown, width, arguments, folder, **variables))


def shown_by_process(width: int, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """What the command shows, run in a process of its own, which asks the terminal how wide it is."""
    with terminal(width) as (number, written):
        subprocess.run(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=number,
            stderr=number,
            env=environment,
            timeout=HANG_SECONDS,
            check=False,
        )
    return _text(written)


def _text(written: Sequence[bytes]) -> str:
    return b"".join(written).decode().replace("\r\n", "\n")
