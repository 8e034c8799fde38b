"""Serves the sandbox on a port of this machine, in the event loop that is already running."""

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
import uvicorn
from starlette.applications import Starlette


class EmbeddedServer(uvicorn.Server):
    """A server that does not handle signals; the program around it does."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Do nothing; uvicorn would handle SIGINT and SIGTERM here."""
        yield


@asynccontextmanager
async def serving(app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str]:
    """Serve until the block ends, at the URL that is yielded. Port 0 picks a free port.

    Raises:
        OSError: The port is not available.
    """
    with socket.create_server((host, port)) as listener:
        # Without this, an answer's body waits 40 ms until the client acknowledges the headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # uvicorn's log is off: it would only repeat the faults that the client asked for.
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
