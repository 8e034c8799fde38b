"""Works on each job until it ends, whether its call uses v1 or v2.

A paid call is sent again only after a refusal. Free requests are repeated as needed: for the status of a queued job,
for the request history, for a picture.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.errors import VegaError
from mcp_vega.job import Job, Route, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.images.saver import ImageSaver
from mcp_vega.jobs.polling.poller import Poller
from mcp_vega.jobs.rate_limiter import RateLimiter
from mcp_vega.jobs.reconciliation.reconciler import Reconciler
from mcp_vega.jobs.running import ClaimedElsewhereError, RunningJob, RunningJobs
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.parsing import Generation, Submission
from mcp_vega.storage.ledger.transactions import Begun
from mcp_vega.telemetry import spans
from mcp_vega.telemetry.log_context import working_on

logger = logging.getLogger(__name__)

Work = Callable[[RunningJob], Awaitable[None]]

# Seconds until a job is tried again after a failure. In the first two days the pause is at most an hour.
SHORTEST_PAUSE, LONGEST_PAUSE, HOUR, TWO_DAYS = 300.0, 24 * 3600.0, 3600.0, 2 * 24 * 3600.0

# Seconds between two looks, at the end, whether there is something that only this server has.
LOOK_SECONDS = 0.05


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
        self._grace: anyio.CancelScope | None = None  # while `finish` waits
        self._reconciler = Reconciler(client, running, saver, self._poller, config)

    def open(self, tasks: TaskGroup) -> None:
        """Use this task group for the work from now on."""
        self._tasks = tasks

    def start(self, begun: Begun) -> Job:
        """Start to send a new job's call and to work on the job until it ends. Returns its current state."""
        running = self._running.add(begun.job, begun_here=True, may_send=begun.may_send)
        with working_on(running):
            logger.info("Job %s was begun: %s by %s", running.local_id, running.job.model, running.job.route)
        self._begin(running, self._send)
        return running.job

    def resume(self, job: Job, *, may_send: bool = False) -> Job:
        """Continue a job that the store has given to this server, even if another one began it; returns its state.

        With `may_send`, its call need not wait for its turn: it may have a slot already.
        """
        running = self._running.add(job, may_send=may_send)
        job = running.job
        work = self._settle
        if job.sent is None and not job.images:
            work = self._send
        elif job.in_memory:
            work = self._save_from_memory
        elif job.route is Route.V2 and job.remote_id and job.age(self._config.clock()) < self._client.record_seconds:
            work = self._fetch
        running.answer_lost = work == self._settle
        self._begin(running, work, resumed=True)
        return job

    def _begin(self, running: RunningJob, work: Work, *, resumed: bool = False) -> None:
        self._tasks.start_soon(partial(self._traced, running, work, resumed=resumed))
        with spans.detached():  # no job waits for this
            self._tasks.start_soon(self._running.times.load, running.job.base_url)

    async def _traced(self, running: RunningJob, work: Work, *, resumed: bool = False) -> None:
        """Work on a job, in a span. It belongs to the call that began the job, unless the job is continued later."""
        about = {"mcp_vega.model": running.job.model, "mcp_vega.job": running.job.local_id}
        with spans.span("continue job" if resumed else "job", about, root=resumed) as span:
            await self._run(running, work)
            if error := running.job.error:
                spans.mark_failed(span, error.code)

    async def _run(self, running: RunningJob, work: Work) -> None:
        """Work on a job. Whatever happens is recorded in its state, and never stops another job."""
        with working_on(running):
            next_try = None  # if the server ends meanwhile, another one continues the job immediately
            try:
                try:
                    await self._attempt(running, work)
                    if running.job.sent and not running.job.done and work != self._settle:
                        await self._attempt(running, self._settle)
                    next_try = self._next_try(running.job)
                except ClaimedElsewhereError:
                    self._running.drop(running)
                except Exception:
                    next_try = self._next_try(running.job)
                    raise
                finally:
                    if running.active:
                        await self._running.remove(running, next_try)
            except Exception:
                logger.exception("The work on job %s failed", running.job.local_id)

    async def _attempt(self, running: RunningJob, work: Work) -> None:
        """Do a piece of work. If it fails, its error becomes the job's error."""
        try:
            await work(running)
        except VegaError as error:
            job = running.job
            await self._running.fail(await self._saver.keep_received(job, error), job, self._config.clock())
        except ClaimedElsewhereError:
            raise
        except Exception as error:
            logger.exception("The work on job %s failed", running.job.local_id)
            bug = errors.InternalError(f"An unexpected error in the server stopped the job ({type(error).__name__})")
            await self._running.fail(bug, running.job, self._config.clock())

    def _next_try(self, job: Job) -> datetime:
        """When a job that is still open is tried again. The older it is, the longer the pause."""
        now = self._config.clock()
        age = job.age(now)
        pause = min(max(age, SHORTEST_PAUSE), HOUR if age < TWO_DAYS else LONGEST_PAUSE)
        return now + timedelta(seconds=pause)

    # ---- kinds of work ----

    async def _send(self, running: RunningJob) -> None:
        self._client.prepare()
        await (self._send_v1 if running.job.route is Route.V1 else self._send_v2)(running)

    async def _send_v1(self, running: RunningJob) -> None:
        parameters = running.job.parameters
        several = parameters.pictures > 1  # v1 can answer with several pictures only as base64
        body = parameters.body(base64=several)
        job, response = await self._limiter.send(
            running, State.PROCESSING, lambda: self._client.generate(parameters.slug, body)
        )
        await self._finish(job, response)

    async def _send_v2(self, running: RunningJob) -> None:
        parameters = running.job.parameters
        body = parameters.body(base64=False)
        try:
            job, response = await self._limiter.send(
                running, State.QUEUED, lambda: self._client.submit(parameters.slug, body)
            )
        except (errors.NotFound, errors.MethodNotAllowed, errors.Retired):
            # VegaRT is documented only for v1, so v2 may not have it. Such a refusal costs nothing.
            await self._running.update(running.job, route=Route.V1, state=State.QUEUED, sent=None)
            await self._send_v1(running)
        else:
            await self._finish(job, response)

    async def _finish(self, job: Job, response: Generation | Submission) -> None:
        """Save the pictures in the answer to a call. If the API queued the call, wait for them."""
        if isinstance(response, Generation):
            await self._saver.save(job, response.pictures, response.receipt)
            return
        changes = {"remote_id": response.request_id, "state": State.QUEUED, "route": Route.V2}
        await self._poller.fetch(await self._running.update(job, **changes))

    async def _fetch(self, running: RunningJob) -> None:
        await self._poller.fetch(running.job)

    async def _save_from_memory(self, running: RunningJob) -> None:
        await self._saver.save_from_memory(running.job)

    async def _settle(self, running: RunningJob) -> None:
        await self._reconciler.settle(running.job)

    # ---- the end ----

    async def finish(self, deadline: float, *, save: bool) -> list[RunningJob]:
        """Wait until the deadline, or `hurry`, for the jobs that this server began. Returns the jobs it waited for.

        With `save`, also wait for the jobs that it continued: it may have sent their calls. And wait until everything
        that only this server has is saved. `Recovery` tries to do that.
        """
        under_way = [each for each in self._running.active if (save or each.begun_here) and not each.shown.has_outcome]
        with anyio.CancelScope(deadline=deadline, shield=True) as self._grace:
            for each in under_way:
                while each.active and not each.shown.has_outcome:
                    await self._running.changes.next_of(each.job).wait()
            while save and self._running.only_here:  # noqa: ASYNC110  there is no event
                await anyio.sleep(LOOK_SECONDS)
        return under_way

    def hurry(self) -> None:
        """Let `finish` wait no longer."""
        if self._grace:
            self._grace.deadline = anyio.current_time()
