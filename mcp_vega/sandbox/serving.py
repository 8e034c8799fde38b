"""The sandbox on a port of this machine, in the loop that is already running."""

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
import uvicorn
from starlette.applications import Starlette


class EmbeddedServer(uvicorn.Server):
    """A server that leaves the signals to the program it runs in."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take none, where uvicorn would take SIGINT and SIGTERM."""
        yield


@asynccontextmanager
async def serving(app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve until the block ends, at the URL that is yielded; port 0 takes a free one.

    Raises:
        OSError: The port cannot be had.
    """
    with socket.create_server((host, port)) as listener:
        # Else an answer's body waits 40 ms for the client to acknowledge its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Its log would only repeat the faults that were asked for.
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=0,
            date_header=False,  # the sandbox's clock is not the machine's
        )
        server = EmbeddedServer(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield f"http://{host}:{listener.getsockname()[1]}"
            server.should_exit = True
