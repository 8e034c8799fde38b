"""Serving over stdin and stdout, with a reader of our own before the SDK's."""

import os
import stat
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import anyio
import anyio.lowlevel
from mcp.os.win32.utilities import rebind_std_handle_to_fd
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST

from mcp_vega.server.stdio.messages import END_CHARS, SHORTER, Outcome, id_between, read_line, refused

# As over HTTP. The longest message that a host has a reason for is the call of a tool.
LINE_BYTES = 1_000_000
CHUNK_BYTES = 64_000


# ---- lines from a file descriptor ----


class _Line:
    """A line as it arrives. Of one that is too long both ends are kept, for its id."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._start = ""
        self._looked_at = self._answered = False
        self.is_too_long = False

    def add(self, piece: bytes) -> None:
        self._bytes += piece
        if len(self._bytes) > LINE_BYTES and not self.is_too_long:
            self.is_too_long = True
            self._start = self._bytes[:END_CHARS].decode(errors="replace")
        if self.is_too_long:
            del self._bytes[:-END_CHARS]

    def read(self, *, ended: bool) -> Iterator[Outcome]:
        """What becomes of it. One that is too long is answered once: at once if its beginning has an id."""
        if not self.is_too_long:
            yield from read_line(self._bytes.decode(errors="replace"))
        elif not self._answered and (ended or not self._looked_at):
            self._looked_at = True
            id_ = id_between(self._start, self._bytes.decode(errors="replace") if ended else "")
            self._answered = ended or id_ is not None
            if self._answered:
                yield refused(INVALID_REQUEST, f"The line is longer than {LINE_BYTES:,} bytes", id_, SHORTER)


class LineReader:
    """The lines of stdin that the SDK can read: an async iterator, as which it reads its own file.

    Args:
        fd: Read until its end; not closed, because a thread may still be reading it.

    `send` takes the errors for the host; it is set before the first line is asked for.
    """

    send: Callable[[SessionMessage], Awaitable[None]]

    def __init__(self, fd: int) -> None:
        self._fd = fd
        mode = os.fstat(fd).st_mode
        # Of a file or a terminal not every system tells that something can be read; Windows tells it of sockets alone.
        self._can_be_waited_for = sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))

    async def __aiter__(self) -> AsyncGenerator[str]:
        async for outcomes in self._read():
            message = None
            for message in outcomes:
                if isinstance(message, str):
                    yield message
                else:
                    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the server is leaving
                        await self.send(SessionMessage(message))
            if message is None:
                await anyio.lowlevel.checkpoint()

    async def _read(self) -> AsyncGenerator[Iterator[Outcome]]:
        line = _Line()
        while chunk := await self._chunk():
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                line.add(piece)
                yield line.read(ended=True)
                line = _Line()
            line.add(rest)
            if line.is_too_long:
                yield line.read(ended=False)
        yield line.read(ended=True)

    async def _chunk(self) -> bytes:
        if self._can_be_waited_for:
            await anyio.wait_readable(self._fd)
            return os.read(self._fd, CHUNK_BYTES)
        return await anyio.to_thread.run_sync(partial(os.read, self._fd, CHUNK_BYTES), abandon_on_cancel=True)


# ---- stdin and stdout ----


async def serve_stdio(server: Server[Any]) -> None:
    """Serve over stdin and stdout, until stdin ends.

    Raises:
        ExceptionGroup: With an OSError, if stdin cannot be read or stdout not be written.
    """
    with _stdin_taken() as fd:
        lines = LineReader(fd)
        # With the file that it asks for, it does nothing but iterate over the lines.
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (read, write):
            lines.send = write.send  # no clone of the stream: until all are closed, the server does not end
            await server.run(read, write, server.create_initialization_options())


@contextmanager
def _stdin_taken() -> Generator[int]:
    """The wire, under a number of its own. Where it was, children and `input()` find nothing."""
    wire, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    try:
        _put_at_stdin(nothing)
        os.close(nothing)
        yield wire
    finally:
        _put_at_stdin(wire)


def _put_at_stdin(fd: int) -> None:
    os.dup2(fd, 0)
    with suppress(OSError):
        rebind_std_handle_to_fd(0)  # on Windows, for children
