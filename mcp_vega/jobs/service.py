"""Begins jobs, works on each until it ends, and reports its state.

The work belongs to the service, not to the call that began it. It goes on when the host cancels, times out or leaves.
Jobs that a server leaves behind when it ends are continued by the next server.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

import anyio
import anyio.lowlevel

from mcp_vega import errors
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import LOCAL, OPERATOR, Job, JobImage, Route, State
from mcp_vega.jobs.changes import Listener
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.images.mover import ImageMover
from mcp_vega.jobs.images.saver import ImageSaver
from mcp_vega.jobs.rate_limiter import RateLimiter
from mcp_vega.jobs.reconciliation.imported_job import history_row, imported_job, job_without_id
from mcp_vega.jobs.recovery import Recovery
from mcp_vega.jobs.running import RunningJob, RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.parameters import Parameters
from mcp_vega.redaction import named
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.ledger.job_store import SUBMITTED, WANTED, JobStore
from mcp_vega.storage.ledger.spending import Budget
from mcp_vega.storage.ledger.transactions import Begun
from mcp_vega.telemetry.recorder import Load

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long an answer waits for its note in the store.
NOTED_SECONDS = 2.0


class JobService:
    """Draws pictures through the API and keeps them. Use it as a context manager: its jobs run inside of it.

    Its methods raise a `VegaError`: an `UnknownJob` or `UnknownImage` if there is none or it is another owner's, and a
    `LedgerError` if the store cannot be used. If a job cannot be begun, the error is raised before anything is sent.
    """

    def __init__(self, client: SegmindClient, images: FallbackImageStore, store: JobStore, config: JobConfig) -> None:
        self.client = client
        self._images = images
        self.store = store
        self.config = config
        self._running = RunningJobs(store)
        self._limiter = RateLimiter(self._running, config)
        self.processor = ImageProcessor()
        self._saver = ImageSaver(client, images, self._running, config)
        self._worker = Worker(client, self._running, self._limiter, self._saver, config)
        self.image_mover = ImageMover(images, store.locations, config)
        self._recovery = Recovery(client, self._running, self._worker, self.image_mover, config)
        # Whether it accepts no more jobs, because the process is about to exit.
        self.closing = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.enter_context(self._running.changes.receiving())
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._worker.open(self._tasks)
        self._recovery.open(self._tasks)
        self._tasks.start_soon(self._limiter.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._stack.__aexit__(kind, error, trace)
        finally:
            await self._recovery.leave()

    @property
    def active(self) -> list[Job]:
        """The jobs that this server is working on."""
        return [running.job for running in self._running.active]

    @property
    def load(self) -> Load:
        """What it does now, without a look into the store."""
        states = Counter(job.state for job in self.active)
        jobs = {state.lower(): states[state] for state in State}
        calls, most = self._limiter, self.config.limits.calls_at_once
        return Load(jobs, calls.sending, most, calls.waiting, self.image_mover.waiting)

    def close(self) -> None:
        """Accept no more jobs, because the process is about to exit. Calls that wait to be sent are refused."""
        self.closing = True
        self._limiter.close()

    async def finish(self, grace: float, *, save: bool = False) -> list[Job]:
        """Accept no more jobs, and give the jobs begun here `grace` seconds to end. `hurry` shortens this time.

        With `save`, it also waits until everything that only this server has is saved, as when the ledger was away.
        Returns the jobs begun here that were in progress, in their current state.
        """
        self.close()
        return await self._recovery.finish(anyio.current_time() + grace, save=save)

    def hurry(self) -> None:
        """Let `finish` wait no longer."""
        self._worker.hurry()

    def end_waits(self) -> None:
        """Let nobody wait for a job any longer: calls are answered with the job's current state."""
        self._running.changes.end_waits()

    async def leave(self) -> None:
        """Leave the jobs that have not ended to other servers."""
        await self._recovery.leave()

    def resume_orphans(self) -> None:
        """From now on, continue the unfinished jobs of this API that no running server works on."""
        self._recovery.resume_orphans()

    # ---- beginning ----

    async def generate(self, parameters: Parameters, owner: str = OPERATOR) -> Begun:
        """Begin a job in the quickest way: one picture in one round trip (v1), several through the queue (v2).

        If the same call already began a job and nobody received its result, this call joins that job instead
        (`ledger/joining.py`), because it is paid for already. After each call of this method, call `end_wait` once.
        """
        return await self._begin(parameters, Route.V1 if parameters.pictures == 1 else Route.V2, owner, WANTED)

    async def submit(self, parameters: Parameters, owner: str = OPERATOR) -> Begun:
        """Begin a job in the API's queue (v2), or join one as `generate` does."""
        return await self._begin(parameters, Route.V2, owner, SUBMITTED)

    async def _begin(self, parameters: Parameters, route: Route, owner: str, wanted: timedelta) -> Begun:
        if self.closing:
            raise errors.ServerClosing("The server is about to exit and accepts no new calls")
        arrived = self.store.uptime()
        job = Job.of_call(parameters, route=route, base_url=self.config.api, owner=owner, created=self.config.clock())
        with self.client.keeping_key(), self._limiter.starting(owner) as too_many:
            job = replace(job, account=await self._recovery.account())
            refusal = too_many or await self._no_room(job)
            begun = await self.store.begin(job, self.config.limits, wanted=wanted, refusal=refusal, arrived=arrived)
            try:
                await anyio.lowlevel.checkpoint_if_cancelled()
                job = await self._resumed(begun.job) if begun.joined else self._worker.start(begun)
                return begun._replace(job=job)
            except BaseException:  # the caller has left, and will not call `end_wait`
                if begun.joined:
                    self.end_wait(begun.job, delivered=False, cancelled=True)
                else:
                    self.store.discard(begun.job)
                raise

    async def _no_room(self, job: Job) -> errors.GalleryError | None:
        """Why the pictures of a job could not be saved; None if they could be."""
        try:
            await self._images.prepare(job.created.date())
        except errors.GalleryError as error:
            return error
        return None

    def end_wait(self, job: Job, *, delivered: bool, cancelled: bool) -> None:
        """Note that a call that began or joined a job has ended.

        `delivered`: the caller received the result. `cancelled`: the caller left before there was an answer.
        """
        self.store.end_wait(job, self.config.clock(), delivered=delivered, cancelled=cancelled)

    async def until_noted(self) -> None:
        """Wait until the notes so far are stored, but not for long. The same call may come next, to another server."""
        with anyio.move_on_after(NOTED_SECONDS):
            await _or_none(self.store.written())

    async def take_back(self, job: Job) -> None:
        """Note that a job's result was not received after all. When this returns, all notes so far are stored."""
        await self.store.take_back(job, self.config.clock())

    def mark_delivered(self, job: Job) -> None:
        """Note that someone received a job's result. The same call would now want another picture."""
        self.store.mark_delivered(job, self.config.clock())

    # ---- looking ----

    async def follow(self, job: Job, seconds: float, first: float = 0) -> AsyncIterator[Job]:
        """The current state of a job, then each change and heartbeat, until nobody works on it or the time is up.

        After `end_waits`, the time is up. With `first`, there is also a heartbeat after so many seconds.
        """
        now = anyio.current_time()
        deadline, first = now + seconds, now + first
        running: RunningJob | None = None
        changes = self._running.changes
        changes.open()
        while True:
            changed = changes.next_of(job)  # before the job is read, so that no change is missed
            running = self._running.get_active(job) or running
            # When this server has ended its work on a job, it knows the last state without the store.
            ended = running is not None and not running.job.held
            job = running.shown if running and ended else await self._running.current(job)
            if not job.held and not job.has_outcome:
                job = await self._resumed(job)  # the server that worked on it has died
            yield job
            now = anyio.current_time()
            # A job that was not sent yet is refused at the end, which takes only a moment.
            is_refused = running is not None and running.active and running.job.sent is None
            if not job.held or now >= deadline or (changes.waits_ended and not is_refused):
                return
            heartbeat = first if now < first else now + self.config.heartbeat
            with anyio.move_on_after(min(heartbeat, deadline) - now):
                await self._running.until_changed(job, changed)

    async def check(self, request_id: str, owner: str = OPERATOR) -> Job:
        """The job with this id, even if only the API knows it. If nobody works on it, the work is continued."""
        job = await self._running.get(request_id)
        if job and job.is_shown_to(owner):
            current = await self._recovery.resume(job)
            await self._saver.forget(job.images, current.images)  # another server has kept them
            return current
        if job or owner != OPERATOR or request_id.startswith("local-"):
            raise _unknown(request_id)
        with self.client.keeping_key():
            row = await history_row(self.client, request_id)
            whose = (self.config.api, await self._recovery.account())
            if known := await job_without_id(self.store, row, *whose):
                return await self._recovery.resume(known)
            job = imported_job(row, *whose, self.config.clock())
            if await self.store.add_known(job):
                return self._worker.resume(job)
        return await self.check(request_id)  # another server was quicker

    async def get(self, request_id: str, owner: str = OPERATOR) -> Job:
        """The job with this id in its current state. This starts no work and sends nothing to the API."""
        job = await self._running.get(request_id)
        if job is None or not job.is_shown_to(owner):
            raise _unknown(request_id)
        return job

    async def why_not_resumable(self, job: Job) -> str:
        """Why only another server can finish a job; empty if this one can, or if it has no key to decide by."""
        return await _or_none(self._recovery.why_not_resumable(job)) or ""

    async def _resumed(self, job: Job) -> Job:
        """A job, which is continued if there is something to do and it is possible now."""
        return await _or_none(self._recovery.resume(job)) or job

    async def budget(self, owner: str = OPERATOR) -> Budget | None:
        """How much an owner may spend today and how much was spent; None if nothing limits it, or without the store."""
        limits = self.config.limits
        if self.config.api == LOCAL or (limits.usd_a_day is None and limits.usd_a_day_each is None):
            return None
        spent = await _or_none(self.store.spending.by_all_and(owner, self.config.clock().date()))
        return spent and Budget.of(limits, spent)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Call `listener` at every change of a job while the block runs, also by servers that can send notices."""
        return self._running.changes.listening(listener)

    def expected_seconds(self, job: Job) -> float | None:
        """How many seconds a job usually takes; None if that is not known."""
        expected = self._running.times.expected(job)
        return None if expected is None else expected * self.config.pace

    def sent_seconds(self, job: Job) -> float:
        """How many seconds ago a job's call was sent; 0 if it has not been sent."""
        return max((self.config.clock() - job.sent).total_seconds(), 0) if job.sent else 0

    def is_answer_lost(self, job: Job) -> bool:
        """Whether the server that sent a job's call has ended, and this one does not know yet whether the call ran."""
        running = self._running.get_active(job)
        return running is not None and running.answer_lost and not job.has_outcome and job.remote_id is None

    async def look_up_image(self, image_id: str) -> JobImage | None:
        """The picture with this id and its job, from the store or from memory; None if there is none."""
        return await self._running.get_image(image_id)


def _unknown(request_id: str) -> errors.UnknownJob:
    return errors.UnknownJob(f"This server has no job with the id {named(request_id)}")


async def _or_none(work: Awaitable[T]) -> T | None:
    """The result of work that is optional; None if it fails."""
    try:
        return await work
    except errors.VegaError as error:
        logger.warning(error.what)
        return None
