"""How the process ends: what is paid for is kept first, for as long as the one who started it lets it."""

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from mcp_vega.studio.studio import Studio

# The official MCP clients kill a server 4 seconds after they closed its stdin.
GRACE_SECONDS = 3.3


@asynccontextmanager
async def leaving_on_signal(studio: Studio) -> AsyncGenerator[anyio.CancelScope]:
    """Ends the process on SIGINT and SIGTERM, once what is paid for is kept, with the exit code 128 + signal.

    A thread that reads stdin cannot be stopped, so the process is left without waiting for it. The watch goes on
    until the block ends: after they closed stdin, hosts send SIGTERM while the last picture is being kept.

    Yields:
        The scope to work in; it is cancelled when a signal comes. On Windows none does.
    """
    scope = anyio.CancelScope()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                scope.cancel()
                await studio.finish(GRACE_SECONDS)
                sys.stderr.flush()
                os._exit(128 + number)

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(watch)
        yield scope
        await studio.finish(GRACE_SECONDS)
        tasks.cancel_scope.cancel()
