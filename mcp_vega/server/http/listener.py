"""The server's socket and its connections: how many there may be, how long one may take to say what it wants."""

import asyncio
import logging
import socket
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_vega.errors import PortTaken

# Connections at once. One more takes the place of that which has said nothing for the longest; where each is at work,
# it is turned away.
CONNECTIONS = 256
# How long the headers of a request may take, and how long a client may leave its answer unread.
HEADER_SECONDS = 10.0
UNREAD_SECONDS = 30.0
FULL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        PortTaken: The port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PortTaken(host, port, error) from error
    # Else an answer's body waits 40 ms for the client to acknowledge its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def configured(app: Starlette) -> uvicorn.Config:
    """How the application is served."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Config(
        app,
        http=partial(_TimeLimitedProtocol, {}),  # pyright: ignore[reportArgumentType]  it is called as a class is
        ws="none",
        log_config=None,
        server_header=False,
        access_log=False,  # a URL may hold what a client should not have put there
        timeout_graceful_shutdown=0,
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is worth a line: at the end nothing is waited for, on purpose."""
    return not str(record.msg).startswith("Cancel %s running task")


class _TimeLimitedProtocol(H11Protocol):
    """Closes a connection whose next request does not begin in time, or drips, or whose client does not read.

    Args:
        waiting: The connections of the server that wait for a request, the one that has waited the longest first.
        server: What uvicorn gives.
    """

    def __init__(self, waiting: "dict[_TimeLimitedProtocol, asyncio.TimerHandle]", **server: Any) -> None:
        super().__init__(**server)
        self._waiting = waiting
        self._unread = 0
        self._over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._make_room()
        self._check_reading()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._over = True
        self._reading.cancel()
        self._stop_waiting()

    @property
    def unread(self) -> int:
        """How many bytes lie ready that the client has not taken."""
        return self.transport.get_write_buffer_size()

    def _check_reading(self) -> None:
        """End the connection if its client has taken nothing of what lies ready since the last check."""
        if self._unread and self.unread >= self._unread:
            self.transport.abort()
        self._unread = self.unread
        self._reading = self.loop.call_later(UNREAD_SECONDS, self._check_reading)

    def _watch(self) -> None:
        first = self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]  as it is until the first request
        if not first and not self.cycle.response_complete:
            self._stop_waiting()
        elif self not in self._waiting and not self._over:
            self._waiting[self] = self.loop.call_later(HEADER_SECONDS, self._expire)

    def _expire(self) -> None:
        """End the connection, or wait on while its client still takes the last answer."""
        self._stop_waiting()
        if self.unread:
            self._watch()
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if timer := self._waiting.pop(self, None):
            timer.cancel()

    def _make_room(self) -> None:
        idle = next((each for each in self._waiting if not each.unread), None) or next(iter(self._waiting), None)
        if idle:
            idle.end()
        else:
            self.transport.write(FULL)
            self.transport.close()

    def end(self) -> None:
        """End the connection at once."""
        self._stop_waiting()
        self.transport.abort()
