"""Serves an application on a port, in the event loop that is already running."""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp_vega.network.addresses import host_in_url

# How many seconds a connection may wait for the headers of its next request.
HEADER_SECONDS = 30.0
# How many seconds the requests under way have at the end before they are cancelled.
GRACE_SECONDS = 0.1


async def stop_listening(servers: Sequence[asyncio.Server]) -> None:
    """Refuse new connections. Those that wait to be accepted are accepted first.

    To close a server alone is not enough: asyncio forgets the connections that it has just accepted, so that their
    clients are neither answered nor refused.
    """
    await _let_loop_run()
    if sys.platform != "win32":  # there, a connection is complete when it is accepted
        for listening in [each for server in servers for each in server.sockets]:
            asyncio.get_running_loop().remove_reader(listening)
    await _let_loop_run()
    for server in servers:
        server.close()


async def _let_loop_run() -> None:
    """Let the event loop accept a connection, and complete it."""
    for _ in range(2):
        await anyio.lowlevel.checkpoint()


class TimedProtocol(H11Protocol):
    """Closes a connection if the headers of its next request do not come within `header_seconds`.

    uvicorn's own timer begins after the first answer, and the first byte of a request ends it.
    """

    def __init__(self, header_seconds: float, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._header_seconds = header_seconds
        self._request_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  as uvicorn has it
        """As uvicorn's."""
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        """As uvicorn's."""
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        super().connection_lost(exc)
        if self._request_timer:
            self._request_timer.cancel()

    @property
    def is_new(self) -> bool:
        """Whether it has not received a request yet."""
        return self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]  it is None until the first request

    def _await_request(self) -> None:
        if self._request_timer:
            self._request_timer.cancel()
        self._request_timer = self.loop.call_later(self._header_seconds, self._expire)

    def _expire(self) -> None:
        if self.is_new or self.cycle.response_complete:
            self.transport.close()  # the client can still read the rest of its last answer


class _BoundedProtocol(TimedProtocol):
    """Closes a new connection at once if there are too many: without file descriptors, the whole process suffers."""

    def __init__(self, most: int | None, **uvicorns: Any) -> None:
        super().__init__(HEADER_SECONDS, **uvicorns)
        self._most = most

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            transport.abort()


class EmbeddedServer(uvicorn.Server):
    """A server that runs inside another program: that program handles the signals, and calls `end`.

    uvicorn's own end takes 0.1 to 0.2 s even if nothing is under way. Here that would delay every command that uses the
    sandbox, and every test.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = anyio.Event()

    def end(self) -> None:
        """Let `serve` return. Requests that are still under way a moment later are cancelled."""
        self._ended.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing; uvicorn would handle SIGINT and SIGTERM here."""
        yield

    async def main_loop(self) -> None:
        """Wait for `end`; uvicorn would look every 0.1 s."""
        await self.on_tick(0)  # sets the headers that all responses have
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  an inherited name
        """Do what uvicorn does, without its pauses."""
        await stop_listening(self.servers)
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait([*self.server_state.tasks], timeout=GRACE_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serving(
    app: Starlette, *, host: str = "127.0.0.1", port: int = 0, most_connections: int | None = None
) -> AsyncGenerator[str]:
    """Serve until the block ends, at the URL that is yielded. Port 0 picks a free port.

    A connection that is one more than `most_connections` is closed at once.

    Raises:
        OSError: The port is not available.
    """
    is_v6 = ":" in host
    with socket.create_server((host, port), family=socket.AF_INET6 if is_v6 else socket.AF_INET) as listener:
        # Without this, an answer's body waits 40 ms until the client acknowledges the headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvicorn's log is off: it would only repeat the faults that the client asked for.
        config = uvicorn.Config(
            app,
            http=partial(_BoundedProtocol, most_connections),  # pyright: ignore[reportArgumentType]  it is called like a class
            backlog=most_connections or 2048,  # asyncio accepts so many at once
            log_config=None,
            log_level="critical",
            ws="none",
            lifespan="off",
            date_header=False,  # the sandbox's clock is not the machine's
        )
        server = EmbeddedServer(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield f"http://{host_in_url(host)}:{listener.getsockname()[1]}"
            server.end()
