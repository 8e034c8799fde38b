"""Serves an application on a port, in the event loop that is already running."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
import anyio.lowlevel
import uvicorn
from starlette.applications import Starlette

from mcp_vega.network.addresses import host_in_url

# How many seconds the requests under way have at the end before they are cancelled.
GRACE_SECONDS = 0.1


async def stop_listening(servers: Sequence[asyncio.Server]) -> None:
    """Refuse new connections. Those that wait to be accepted are accepted first.

    To close a server alone is not enough: asyncio forgets the connections that it has just accepted, so that their
    clients are neither answered nor refused.
    """
    await _let_loop_run()
    with suppress(NotImplementedError):  # on Windows, a connection is complete when it is accepted
        for listening in [each for server in servers for each in server.sockets]:
            asyncio.get_running_loop().remove_reader(listening)
    await _let_loop_run()
    for server in servers:
        server.close()


async def _let_loop_run() -> None:
    """Let the event loop accept a connection, and complete it."""
    for _ in range(2):
        await anyio.lowlevel.checkpoint()


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
async def serving(app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve until the block ends, at the URL that is yielded. Port 0 picks a free port.

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
