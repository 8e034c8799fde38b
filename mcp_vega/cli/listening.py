"""The server's socket and its connections: how many there may be, how long one may take to say what it wants."""

import asyncio
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
    return uvicorn.Config(
        app,
        http=partial(_Impatient, {}),  # pyright: ignore[reportArgumentType]  it is called as a class is
        ws="none",
        log_config=None,
        server_header=False,
        access_log=False,  # a URL may hold what a client should not have put there
        timeout_graceful_shutdown=0,
    )


class _Impatient(H11Protocol):
    """Closes a connection whose next request does not begin in time, or drips, or whose client does not read.

    Args:
        waiting: The connections of the server that wait for a request, the one that has waited the longest first.
        server: What uvicorn gives.
    """

    def __init__(self, waiting: dict[asyncio.Transport, asyncio.TimerHandle], **server: Any) -> None:
        super().__init__(**server)
        self._waiting = waiting
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_unread()
        _stop(self._waiting, self.transport)

    def _watch(self) -> None:
        first = self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]  as it is until the first request
        if not first and not self.cycle.response_complete:
            _stop(self._waiting, self.transport)
        elif self.transport not in self._waiting:
            self._waiting[self.transport] = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _make_room(self) -> None:
        if self._waiting:
            longest = next(iter(self._waiting))
            _stop(self._waiting, longest)
            longest.abort()
        else:
            self.transport.write(FULL)
            self.transport.close()

    def _forget_unread(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None


def _stop(waiting: dict[asyncio.Transport, asyncio.TimerHandle], transport: asyncio.Transport) -> None:
    if timer := waiting.pop(transport, None):
        timer.cancel()
