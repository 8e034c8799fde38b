"""How the process ends: what is paid for is kept first, for as long as the one who started it lets it."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.abc

from mcp_vega.errors import OutcomeUnknown
from mcp_vega.jobs.service import JobService

T = TypeVar("T")

if sys.platform == "win32":
    SIGNALS = ()
else:
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The official MCP clients kill a server 4 seconds after they closed its stdin: 3 for the pictures, the rest to close.
GRACE_SECONDS = 3.0


def heeded() -> list[signal.Signals]:
    """The signals that end the process, without a SIGHUP that it is not to hear: `nohup` has it ignored."""
    return [each for each in SIGNALS if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN]


async def finish(service: JobService) -> None:
    """Give the jobs under way a little time, and say on stderr what became of each."""
    for job in await service.finish(GRACE_SECONDS):
        if job.problem:
            lines = [job.problem.text]
        elif job.state.finished:
            lines = [*(f"Kept: {image.path or image.uri}" for image in job.images if not image.in_memory), *job.notes]
        else:
            unknown = OutcomeUnknown(
                f"The process ended while job {job.request_id} was still being drawn",
                next_step="Start mcp-vega again: it finds out how the job ended and keeps its picture. Do not repeat "
                "the call",
            )
            lines = [unknown.text]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


async def until_signal(service: JobService, work: Callable[[], Awaitable[T]]) -> T:
    """Do the process's work, then give the jobs under way a little time to be kept.

    SIGINT, SIGTERM and SIGHUP (its terminal was closed) end the work, and then the process, with the exit code 128 +
    signal: a thread that reads stdin cannot be stopped, so nothing waits for it. They are watched for until the last
    picture is kept, because hosts send one after they closed stdin. On Windows there are none.

    Returns:
        What `work` gives.
    """
    scope = anyio.CancelScope()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*heeded()) as signals:
            task_status.started()
            async for number in signals:
                if service.closing:
                    continue  # the work has ended by itself, and what follows is under way
                scope.cancel()
                with suppress(OSError):  # a terminal that was closed hears nothing
                    await finish(service)
                os._exit(128 + number)

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(watch)
        with scope:
            try:
                done = await work()
            except Exception:  # whatever broke, what is paid for is kept first
                await finish(service)
                raise
            await finish(service)
            tasks.cancel_scope.cancel()
            return done
        await anyio.sleep_forever()  # a signal came; the watch ends the process
    raise RuntimeError("the process went on after a signal")
