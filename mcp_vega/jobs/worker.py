"""Does a job's work to its end, whichever way it travels.

A call is sent again only after a refusal. What is repeated freely are questions: how a queued job stands, what the
request history says, where a picture is.
"""

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.errors import VegaError
from mcp_vega.job import Job, Route, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.polling import Poller
from mcp_vega.jobs.rate_limiter import RateLimiter
from mcp_vega.jobs.reconciliation import Reconciler
from mcp_vega.jobs.running import RunningJob, RunningJobs
from mcp_vega.segmind.client import RECORD_SECONDS, SegmindClient
from mcp_vega.segmind.parsing import Submission

logger = logging.getLogger(__name__)

Work = Callable[[Job], Awaitable[None]]


class Worker:
    """Works on jobs, each in a task of its own."""

    def __init__(
        self, client: SegmindClient, running: RunningJobs, limiter: RateLimiter, saver: ImageSaver, config: JobConfig
    ) -> None:
        self._client = client
        self._running = running
        self._limiter = limiter
        self._saver = saver
        self._config = config
        self._poller = Poller(client, running, saver, config)
        self._reconciler = Reconciler(client, running, saver, self._poller, config)

    def open(self, tasks: TaskGroup) -> None:
        """Work in these tasks from now on."""
        self._tasks = tasks

    def start(self, job: Job) -> Job:
        """Send a new job's call and work on it to its end; the store has it. Returns it as it now stands."""
        running = self._running.add(job, started_here=True)
        self._tasks.start_soon(self._run, running, self._send_v1 if job.route is Route.V1 else self._send_v2)
        return running.job

    def resume(self, job: Job) -> Job:
        """Carry on with a job that the store says is this server's, whoever sent its call; returns it as it stands."""
        running = self._running.add(job, started_here=False)
        job = running.job
        work = self._reconciler.settle
        if any(image.in_memory for image in job.images):
            work = self._saver.save_from_memory
        elif job.route is Route.V2 and job.remote_id and job.age(self._config.clock()) < RECORD_SECONDS:
            work = self._poller.fetch
        self._tasks.start_soon(self._run, running, work)
        return job

    async def _run(self, running: RunningJob, work: Work) -> None:
        """Work on a job; what comes of it ends in its state, and takes no other job with it."""
        job = running.job
        with running.scope:
            try:
                try:
                    if job.sent is None and job.notes:
                        job = await self._running.update(job, notes=())  # it does not wait to be sent any more
                    job = await self._attempt(job, work)
                    if job.open and not job.complete and work != self._reconciler.settle:
                        await self._attempt(job, self._reconciler.settle)
                finally:
                    await self._running.remove(running)
            except Exception:
                logger.exception("Job %s broke", job.local_id)

    async def _attempt(self, job: Job, work: Work) -> Job:
        """Do a piece of work; what it fails with is the job's error. Returns the job as it now stands."""
        try:
            await work(job)
        except VegaError as error:
            return await self._running.fail(await self._saver.keep_received(job, error), job, self._config.clock())
        except Exception as error:
            logger.exception("Job %s broke", job.local_id)
            broken = errors.InternalError(f"The server broke while it drew ({type(error).__name__})")
            return await self._running.fail(broken, job, self._config.clock())
        return await self._running.get(job.local_id) or job

    # ---- a new job ----

    async def _send_v1(self, job: Job) -> None:
        several = job.parameters.pictures > 1  # only as base64 can v1 answer with more than one picture
        body = job.parameters.body(base64=several)
        job, response = await self._limiter.send(job, State.PROCESSING, lambda: self._client.generate(job.model, body))
        if isinstance(response, Submission):
            changes = {"remote_id": response.request_id, "state": State.QUEUED, "route": Route.V2}
            await self._poller.fetch(await self._running.update(job, **changes))
        else:
            await self._saver.save(job, response.pictures, response.receipt)

    async def _send_v2(self, job: Job) -> None:
        body = job.parameters.body(base64=False)
        try:
            job, submission = await self._limiter.send(job, State.QUEUED, lambda: self._client.submit(job.model, body))
        except (errors.NotFound, errors.MethodNotAllowed, errors.Retired):
            # Documented for v1 only, VegaRT may be missing from v2; such a refusal costs nothing.
            job = await self._running.get(job.local_id) or job
            await self._send_v1(await self._running.update(job, route=Route.V1))
        else:
            await self._poller.fetch(await self._running.update(job, remote_id=submission.request_id))

    # ---- the end ----

    async def finish(self, deadline: float) -> list[RunningJob]:
        """Wait until the deadline for the jobs that this server began; returns those that had not ended."""
        under_way = [each for each in self._running.active if each.started_here and not each.job.has_outcome]
        with anyio.CancelScope(deadline=deadline, shield=True):
            for each in under_way:
                await self._running.until_outcome(each)
        return under_way
