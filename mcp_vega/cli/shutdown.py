"""How the process ends: it first keeps the paid pictures, for as long as the program that started it allows."""

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.abc

from mcp_vega.errors import OutcomeUnknown
from mcp_vega.job import Job
from mcp_vega.job.free import of_free_call
from mcp_vega.jobs.service import JobService
from mcp_vega.storage.images.store import place_of
from mcp_vega.telemetry.log_context import working_on

logger = logging.getLogger(__name__)

T = TypeVar("T")

if sys.platform == "win32":
    SIGNALS = ()
else:
    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The official MCP clients kill a server 4 seconds after they close its stdin: 3 are for the pictures, 1 to close.
GRACE_SECONDS = 3.0


def handled_signals(*, hangup: bool = True) -> list[signal.Signals]:
    """The signals that end the process. SIGHUP is left out if it is ignored, as under `nohup`, or without `hangup`."""
    return [each for each in SIGNALS if each.name != "SIGHUP" or (hangup and signal.getsignal(each) != signal.SIG_IGN)]


def print_end(job: Job) -> None:
    """Say on stderr, to the person who started the command, what happened to a job."""
    if job.problem:
        lines = [job.problem.text]
    elif job.state.finished:
        lines = [*_kept(job), *job.notes]
    else:
        lines = [_left(job).text]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.stderr.flush()


def log_end(job: Job) -> None:
    """Log what happened to a job. Its error and its notes may quote the prompt, so they are left out."""
    with working_on(job):
        if job.error:
            logger.warning("Job %s ended: %s. Charged: %s", job.request_id, job.error.code, job.charged)
        elif job.state.finished:
            for line in _kept(job):
                logger.warning(line)
        else:
            log_left(job)


def log_left(job: Job) -> None:
    """Log a job that another server continues. With `INFO`, the log has the ends of the other jobs already."""
    if not (job.error or job.state.finished):
        with working_on(job):
            logger.warning(_left(job).text.replace("\n", " "))


def _kept(job: Job) -> list[str]:
    return [f"Kept: {place_of(image.location) or image.uri}" for image in job.images if not image.in_memory]


def _left(job: Job) -> OutcomeUnknown:
    error = OutcomeUnknown(
        f"The process ended while job {job.request_id} was still running",
        next_step="Do not repeat the call. Another server on this ledger continues the job. If there is none, start "
        "mcp-vega again",
    )
    return of_free_call(error) if job.is_free else error


async def finish(service: JobService, tell: Callable[[Job], None]) -> None:
    """Give the running jobs a little time, leave the rest to other servers, and report what happened to each."""
    jobs = await service.finish(GRACE_SECONDS)
    await service.leave()
    for job in jobs:
        tell(job)


async def until_signal(
    service: JobService, work: Callable[[], Awaitable[T]], tell: Callable[[Job], None] = print_end
) -> T:
    """Do the process's work, then give the running jobs a little time to keep their pictures.

    SIGINT, SIGTERM and SIGHUP (the terminal was closed) end the work, and then the process, with the exit code 128 +
    signal. Nothing waits for the thread that reads stdin, because it cannot be stopped. The signals are handled until
    the last picture is kept, because hosts send one after they close stdin. Windows has no such signals.

    Args:
        service: The service whose jobs are given time.
        work: The process's work.
        tell: Reports each job that was running at the end.

    Returns:
        The result of `work`.
    """
    scope = anyio.CancelScope()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*handled_signals()) as signals:
            task_status.started()
            async for number in signals:
                if service.closing:
                    continue  # the work has ended, and the pictures are being kept already
                scope.cancel()
                with suppress(OSError):  # nothing can be written to a closed terminal
                    await finish(service, tell)
                os._exit(128 + number)

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(watch)
        with scope:
            try:
                done = await work()
            except Exception:  # paid pictures are kept first
                await finish(service, tell)
                raise
            await finish(service, tell)
            tasks.cancel_scope.cancel()
            return done
        await anyio.sleep_forever()  # a signal came; `watch` ends the process
    raise RuntimeError("the process went on after a signal")
