"""Serves over HTTP until a signal comes, then drains the server."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.abc
from starlette.types import ASGIApp

from mcp_vega.cli.shutdown import GRACE_SECONDS, handled_signals, print_end
from mcp_vega.job import Job
from mcp_vega.jobs.service import JobService
from mcp_vega.server.http.connections.listener import HttpServer

logger = logging.getLogger(__name__)

# A signal that comes within so many seconds after the first one repeats it: some programs pass on what the server gets
# from the terminal as well.
SAME_SIGNAL_SECONDS = 1.0
# How long the server may take to leave its ledger after the drain. A database that hangs may never answer.
CLOSING_SECONDS = 10.0


@dataclass(frozen=True)
class Ending:
    """How a server ends.

    Attributes:
        grace: How many seconds running jobs get to end.
        tell: Reports each job that was running when the end began.
        hangup: Whether SIGHUP ends the server.
    """

    grace: float = GRACE_SECONDS
    tell: Callable[[Job], None] = print_end
    hangup: bool = True


async def serve_until_signal(
    service: JobService,
    asgi: ASGIApp,
    listener: socket.socket,
    ending: Ending = Ending(),
    until: Callable[[], Awaitable[None]] = anyio.sleep_forever,
) -> None:
    """Serve an application until a signal comes or `until` returns, then drain the server.

    It refuses new connections and new jobs, and gives the running jobs time to end; a second signal shortens this time.
    Calls that still wait then are answered with the states of their jobs. The caller closes the service, which leaves
    these jobs to other servers.
    """
    server = HttpServer(asgi)
    drain = _Drain(service, server, ending)

    async def drain_in_time() -> None:
        await until()
        if not service.closing:
            await drain.run()

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(drain.on_signal)
        tasks.start_soon(drain_in_time)
        await server.serve([listener])
        if not service.closing:  # on Windows, uvicorn handles the signals
            drain.report(await service.finish(ending.grace, save=True))
        tasks.cancel_scope.cancel()


def _end_soon(handled: Sequence[signal.Signals]) -> None:
    """Let the process end within `CLOSING_SECONDS`. Until then, signals change nothing."""
    for each in handled:
        signal.signal(each, signal.SIG_IGN)
    timer = threading.Timer(CLOSING_SECONDS, _end_now)
    timer.daemon = True
    timer.start()


def _end_now() -> None:
    logger.error("The server ends without leaving its ledger, which does not answer. Other servers continue its jobs")
    os._exit(1)


class _Drain:
    def __init__(self, service: JobService, server: HttpServer, ending: Ending) -> None:
        self._service = service
        self._server = server
        self._ending = ending

    async def run(self) -> None:
        """Let the server end."""
        logger.info("The server ends: it accepts no new calls, and running jobs have %g s", self._ending.grace)
        self._service.close()
        await self._server.stop_accepting()
        jobs = await self._service.finish(self._ending.grace, save=True)
        self._service.end_waits()
        await self._server.until_answered()
        self._server.should_exit = True
        self.report(jobs)
        ended = sum(1 for job in jobs if job.error or job.state.finished)
        logger.info("All calls are answered. Jobs that were running: %d, ended: %d", len(jobs), ended)

    async def on_signal(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Wait for signals: the first one begins the drain, and a second one shortens it."""
        began: float | None = None
        handled = handled_signals(hangup=self._ending.hangup)
        try:
            with anyio.open_signal_receiver(*handled) as signals:
                async with anyio.create_task_group() as tasks:
                    task_status.started()
                    async for _ in signals:
                        if began is None:
                            began = anyio.current_time()
                            tasks.start_soon(self.run)
                        elif anyio.current_time() > began + SAME_SIGNAL_SECONDS:
                            self._service.hurry()
        finally:
            if began is not None:
                _end_soon(handled)

    def report(self, jobs: Sequence[Job]) -> None:
        """Report what happened to the jobs that were running."""
        with suppress(OSError):  # nothing can be written to a closed terminal
            for job in jobs:
                self._ending.tell(job)
