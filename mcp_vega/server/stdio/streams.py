"""Serving over stdin and stdout, with a reader of our own before the SDK's."""

import os
import stat
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self, cast

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream
from mcp.os.win32.utilities import rebind_std_handle_to_fd
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, JSONRPCRequest

from mcp_vega.server.stdio.messages import END_CHARS, SHORTER, Outcome, id_between, parsed, read_line, refused

# As over HTTP. The longest message that a host has a reason for is the call of a tool.
LINE_BYTES = 1_000_000
CHUNK_BYTES = 64_000
# How many requests may be owed an answer when stdin ends, for how long (s) they are given one, and which take longer.
LATEST, MOMENT = 100, 0.3
LONG = ("tools/call", "subscriptions/listen")


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


class AnswerWriter:
    """The stream of messages for the host, of which the ids of the latest answers are kept."""

    def __init__(self, stream: MemoryObjectSendStream[SessionMessage]) -> None:
        self._stream = stream
        self.answered: deque[object] = deque(maxlen=LATEST)

    async def send(self, message: SessionMessage) -> None:
        """Pass a message on."""
        await self._stream.send(message)
        self.answered.append(getattr(message.message, "id", None))

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class LineReader:
    """The lines of stdin that the SDK can read: an async iterator, as which it reads its own file.

    Args:
        fd: Read until its end; not closed, because a thread may still be reading it.

    `send` takes the errors for the host; it is set before the first line is asked for. With a `writer`, what it has
    answered is known at the end.
    """

    send: Callable[[SessionMessage], Awaitable[None]]
    writer: AnswerWriter | None = None

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._latest: deque[str] = deque(maxlen=LATEST)
        mode = os.fstat(fd).st_mode
        # Of a file or a terminal not every system tells that something can be read; Windows tells it of sockets alone.
        self._can_be_waited_for = sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))

    async def __aiter__(self) -> AsyncGenerator[str]:
        async for outcomes in self._read():
            message = None
            for message in outcomes:
                if isinstance(message, str):
                    self._latest.append(message)
                    yield message
                else:
                    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the server is leaving
                        await self.send(SessionMessage(message))
            if message is None:
                await anyio.lowlevel.checkpoint()
        await self._until_answered()

    async def _until_answered(self) -> None:
        """Give the latest requests a moment: the SDK drops what is under way when this ends.

        Whoever tries a server by hand, or in a script, ends its stdin after the last one. What takes its time is not
        waited for: a host that left wants no picture.
        """
        if not self.writer:
            return
        requests = [each for each in map(parsed, self._latest) if isinstance(each, JSONRPCRequest)]
        owed = {each.id for each in requests if each.method not in LONG}
        with anyio.move_on_after(MOMENT):
            while not owed.issubset(self.writer.answered):  # noqa: ASYNC110  for a moment, once
                await anyio.sleep(MOMENT / 50)

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
            # No clone of the stream: until all are closed, the server does not end.
            lines.writer = AnswerWriter(cast("MemoryObjectSendStream[SessionMessage]", write))
            lines.send = lines.writer.send
            await server.run(read, cast("Any", lines.writer), server.create_initialization_options())


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
