"""Serves over stdin and stdout, with a reader of our own in front of the SDK's."""

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

from mcp_vega.server.stdio.early_answers import EARLY_ANSWERS
from mcp_vega.server.stdio.messages import END_CHARS, SHORTER, Outcome, id_between, parsed, read_line, refused
from mcp_vega.server.stdio.recorder import AnswerRecorder

# As over HTTP. The longest real message is the call of a tool.
LINE_BYTES = 1_000_000
CHUNK_BYTES = 64_000
# How many of the latest requests may still get their answers when stdin ends, and within what time (s).
LATEST, GRACE_SECONDS = 100, 0.3
# The methods that take longer, so that nothing waits for them then.
LONG = ("tools/call", "subscriptions/listen")


# ---- lines from a file descriptor ----


class _Line:
    """A line while it arrives. If it is too long, only both ends are kept, to find its id."""

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
        """Yield the messages and errors of the line.

        A line that is too long gets one error: immediately if the id is at its beginning, else when the line ends.
        """
        if not self.is_too_long:
            yield from read_line(self._bytes.decode(errors="replace"))
        elif not self._answered and (ended or not self._looked_at):
            self._looked_at = True
            id_ = id_between(self._start, self._bytes.decode(errors="replace") if ended else "")
            self._answered = ended or id_ is not None
            if self._answered:
                yield refused(INVALID_REQUEST, f"The line is longer than {LINE_BYTES:,} bytes", id_, SHORTER)


class AnswerWriter:
    """The stream of messages for the host. It remembers the ids of the latest answers.

    Args:
        stream: Where the messages go.
        recorder: Knows which answers were sent before the SDK was ready.
    """

    def __init__(self, stream: MemoryObjectSendStream[SessionMessage], recorder: AnswerRecorder | None = None) -> None:
        self._stream, self._recorder = stream, recorder
        self.answered: deque[object] = deque(maxlen=LATEST)

    async def send(self, message: SessionMessage) -> None:
        """Pass a message on, unless it was sent early."""
        if not self._recorder or self._recorder.is_for_host(message.message):
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
    """The lines of stdin that the SDK can read. It is an async iterator, because the SDK iterates over its file.

    Args:
        fd: The file descriptor. It is read until its end, but not closed: a thread may still be reading it.
        start: Bytes that were read from it before.
        recorder: Sees the lines first.

    `send` sends errors to the host; it must be set before the first line is read. `writer` knows which requests were
    answered; if it is set, the iterator waits shortly for missing answers at its end.
    """

    send: Callable[[SessionMessage], Awaitable[None]]
    writer: AnswerWriter | None = None

    def __init__(self, fd: int, start: bytes = b"", recorder: AnswerRecorder | None = None) -> None:
        self._fd, self._start, self._recorder = fd, start, recorder
        self._latest: deque[str] = deque(maxlen=LATEST)
        mode = os.fstat(fd).st_mode
        # Not every system can wait until a file or a terminal is readable. Windows can do so for sockets only.
        self._can_be_waited_for = sys.platform != "win32" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))

    async def __aiter__(self) -> AsyncGenerator[str]:
        async for outcomes in self._read():
            message = None
            for message in outcomes:
                if isinstance(message, str):
                    if self._recorder:
                        self._recorder.note_line(message)
                    self._latest.append(message)
                    yield message
                else:
                    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the server is ending
                        await self.send(SessionMessage(message))
            if message is None:
                await anyio.lowlevel.checkpoint()
        await self._until_answered()

    async def _until_answered(self) -> None:
        """Wait shortly for the answers to the latest requests: when this ends, the SDK drops requests under way.

        Somebody who tries the server by hand or in a script closes its stdin after the last request. Nothing waits for
        requests that take long: a host that has ended wants no picture.
        """
        if not self.writer:
            return
        requests = [each for each in map(parsed, self._latest) if isinstance(each, JSONRPCRequest)]
        owed = {each.id for each in requests if each.method not in LONG}
        with anyio.move_on_after(GRACE_SECONDS):
            while not owed.issubset(self.writer.answered):  # noqa: ASYNC110  once, and for a short time
                await anyio.sleep(GRACE_SECONDS / 50)

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
        if self._start:
            start, self._start = self._start, b""
            return start
        if self._can_be_waited_for:
            await anyio.wait_readable(self._fd)
            return os.read(self._fd, CHUNK_BYTES)
        return await anyio.to_thread.run_sync(partial(os.read, self._fd, CHUNK_BYTES), abandon_on_cancel=True)


# ---- stdin and stdout ----


async def serve_stdio(server: Server[Any]) -> None:
    """Serve over stdin and stdout, until stdin ends.

    Raises:
        ExceptionGroup: With an OSError, if stdin cannot be read or stdout cannot be written.
    """
    early = EARLY_ANSWERS.get()
    if early:
        await anyio.to_thread.run_sync(early.stop, abandon_on_cancel=True)
    recorder = early and AnswerRecorder(early)
    with _stdin_taken() as fd:
        lines = LineReader(fd, early.read if early else b"", recorder)
        # The SDK wants a file here, but it only iterates over the lines.
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (read, write):
            # The stream is not cloned: the server only ends when all clones are closed.
            lines.writer = AnswerWriter(cast("MemoryObjectSendStream[SessionMessage]", write), recorder)
            lines.send = lines.writer.send
            await server.run(read, cast("Any", lines.writer), server.create_initialization_options())


@contextmanager
def _stdin_taken() -> Generator[int]:
    """Yield stdin under another descriptor. Meanwhile descriptor 0 is empty, so children and `input()` read nothing."""
    host, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    try:
        _put_at_stdin(nothing)
        os.close(nothing)
        yield host
    finally:
        _put_at_stdin(host)


def _put_at_stdin(fd: int) -> None:
    os.dup2(fd, 0)
    with suppress(OSError):
        rebind_std_handle_to_fd(0)  # on Windows, for children
