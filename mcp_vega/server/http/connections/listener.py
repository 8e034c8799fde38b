"""The server's socket and its connections. Limits how long a client may let them wait, and drains the server."""

import asyncio
import logging
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import anyio
import h11
import uvicorn
from starlette.types import ASGIApp

from mcp_vega.errors import PortTaken
from mcp_vega.jobs.service import NOTED_SECONDS
from mcp_vega.network.serving import TimedProtocol, stop_listening
from mcp_vega.server.http.connections.capacity import CONNECTION, Activity, Capacity, Connection
from mcp_vega.server.http.forwarded import ForwardedMiddleware
from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits

# Open files for the ledger, pictures and calls to the API.
OTHER_FILES = 256
# Seconds that answers have to leave before the server ends: an answer may wait for its note in a ledger that hangs.
# Seconds between two looks whether they have left.
ANSWER_SECONDS, LOOK_SECONDS = NOTED_SECONDS + 1.0, 0.02
CLOSE_HEADER = (b"connection", b"close")


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections; port 0 picks a free port.

    Raises:
        PortTaken: The port is not available. (uvicorn's own `bind_socket` would end the process.)
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PortTaken(host, port, error) from error
    # Without this, an answer's body waits 40 ms until the client acknowledges the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def server_config(app: ASGIApp, limits: HttpLimits = DEFAULT_LIMITS) -> uvicorn.Config:
    """Return uvicorn's configuration. The application itself limits the contents of requests."""
    logging.getLogger("uvicorn.error").addFilter(_is_relevant)
    config = uvicorn.Config(
        app,
        # uvicorn's limit_concurrency also counts silent connections and drops none, so that a few hundred of them
        # would lock everybody out. Its timeout_keep_alive (5 s) stays, but the first byte of a request ends that timer.
        http=partial(_LimitedProtocol, limits, Capacity(limits)),  # pyright: ignore[reportArgumentType]  it is called like a class
        # uvicorn answers larger headers with a bare 400. AuthMiddleware explains more and checks the exact limit, so
        # it must also get headers that are somewhat too large.
        h11_max_incomplete_event_size=4 * limits.header_bytes,
        ws="none",
        proxy_headers=False,  # ForwardedMiddleware does the same, and more
        log_config=None,
        server_header=False,
        access_log=False,  # a URL may contain secrets that a client should not have put there
        timeout_graceful_shutdown=0,
    )
    config.app = ForwardedMiddleware(cast("Any", app), config.forwarded_allow_ips)
    return config


def allow_files(limits: HttpLimits = DEFAULT_LIMITS) -> None:
    """Let this process open enough files for all connections, and for the ledger, pictures and calls besides.

    macOS allows a program 256 open files unless the program asks for more.
    """
    if sys.platform != "win32":
        import resource

        wanted = limits.connections + limits.unknown_connections + OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _is_relevant(record: logging.LogRecord) -> bool:
    """Whether to log a record. That uvicorn cancels running requests at the end is intended, so it is not logged."""
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not (is_cancelled or str(record.msg).startswith("Cancel %s running task"))


class HttpServer(uvicorn.Server):
    """A server that can be drained before it ends."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(server_config(app))

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the caller of `serve`. On Windows an event loop cannot handle them, but uvicorn can."""
        if sys.platform == "win32":
            with super().capture_signals():
                yield
        else:
            yield

    @property
    def _connections(self) -> list["_LimitedProtocol"]:
        return cast("list[_LimitedProtocol]", [*self.server_state.connections])

    async def stop_accepting(self) -> None:
        """Refuse new connections. Idle connections end, all others after their next answer."""
        await stop_listening(self.servers if self.started else ())
        self.config.encoded_headers.append(CLOSE_HEADER)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        for connection in self._connections:
            connection.drain()

    async def until_answered(self) -> None:
        """Wait until all answers have left, but not for long."""
        with anyio.move_on_after(ANSWER_SECONDS):
            while any(connection.is_answering for connection in self._connections):  # noqa: ASYNC110
                await anyio.sleep(LOOK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams of notifications, then all connections."""
        for connection in self._connections:
            connection.end_stream()
        await super().shutdown(sockets)


class _LimitedProtocol(TimedProtocol):
    """Closes a connection if its next request does not come in time, or if its client does not read."""

    def __init__(self, limits: HttpLimits, capacity: Capacity, **uvicorns: Any) -> None:
        super().__init__(limits.header_seconds, **uvicorns)
        self._limits = limits
        self._capacity = capacity
        self._connection = Connection(capacity)
        self._unread = 0
        self._reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn has it
        super().connection_made(transport)
        # With this limit, `pause_writing` is called whenever the client has left something unread. Nothing more is
        # written until the client has read everything.
        transport.set_write_buffer_limits(high=0)
        address = self.client[0] if self.client else ""
        self._connection = Connection(
            self._capacity, address, transport.abort, lambda: transport.get_write_buffer_size() > 0
        )
        self.app_state = {**self.app_state, CONNECTION: self._connection}
        self._capacity.add(self._connection)

    def on_response_complete(self) -> None:
        self._connection.set_activity(Activity.WAITING)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._reading_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._capacity.remove(self._connection)
        _cancel(self._reading_timer)

    def drain(self) -> None:
        """Close the connection now if it is idle, otherwise after its next answer."""
        if self.is_new or self.conn.trailing_data[0]:
            pass  # a request is coming; the server's headers say that its answer is the last one
        elif self.cycle.response_complete:
            self.shutdown()
        else:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
            self.cycle.keep_alive = False

    @property
    def is_answering(self) -> bool:
        """Whether an answer is still on its way. A stream that only waits for notifications is no answer."""
        return not self._connection.idle

    def end_stream(self) -> None:
        """End a stream of notifications as its client expects it, and close the connection."""
        is_open = self._connection.activity is Activity.LISTENING and not self.cycle.response_complete
        if is_open and self.cycle.response_started and not self.transport.is_closing():
            self.cycle.disconnected = True  # what the application still sends is dropped
            self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")
            self.transport.close()

    def _watch_reading(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(self._limits.unread_seconds, self._check_reading)

    def _check_reading(self) -> None:
        """Close the connection if its client has read nothing since the last check."""
        if self.transport.get_write_buffer_size() >= self._unread:
            self.transport.abort()
        else:
            self._watch_reading()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
