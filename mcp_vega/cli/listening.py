"""The server's socket and its connections: how many there may be, how long one may take to say what it wants."""

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_vega.errors import PortTaken

# Connections at once; one more is answered with 503.
CONNECTIONS = 256
# How long the headers of a request may take.
HEADER_SECONDS = 10.0


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
        http=_Impatient,
        ws="none",
        log_config=None,
        server_header=False,
        access_log=False,  # a URL may hold what a client should not have put there
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=0,
    )


class _Impatient(H11Protocol):
    """Closes a connection whose next request does not begin in time, or drips: there is room for so many only."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn has it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        first = self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]  as it is until the first request
        waiting = first or self.cycle.response_complete
        if waiting and self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not waiting:
            self._unwatch()

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
