"""The studio: begins jobs, has each carried to its end, and tells where it stands.

The work belongs to the studio, not to the call that began it: it goes on when the host cancels, times out or leaves,
and what a server leaves behind when it ends is taken up by the next one.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import anyio

from mcp_vega import errors
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import OPERATOR, Budget, Image, Job, Limits, Route, State
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.imported_job import adopted, lost_twin
from mcp_vega.jobs.rate_limiter import RateLimiter
from mcp_vega.jobs.recovery import Recovery
from mcp_vega.jobs.running import Listener, RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.parameters import Parameters
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.database.search import ImageSearch, JobImage
from mcp_vega.storage.images.folder import ImageFolder

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How often a job is shown though nothing happens to it; hosts want to hear within five seconds.
HEARTBEAT = 2.0
# How often the ledger is asked about a job that another server works on.
GLANCE = 0.25


class JobService:
    """Draws pictures through the API and keeps them. Use it as a context: its jobs live in it.

    Args:
        client: Speaks to the API.
        gallery: Keeps the pictures.
        ledger: Keeps the jobs.
        api: What the ledger calls the API, whose jobs alone are taken up; the client's base URL by default.
        pace: What the documented drawing times and waits are multiplied by; 0 expects every answer at once.
        clock: The time (UTC).
        limits: What may be spent.
    """

    def __init__(  # noqa: PLR0913  what the world outside decides
        self,
        client: SegmindClient,
        image_folder: ImageFolder,
        store: JobStore,
        *,
        api: str | None = None,
        pace: float = 1,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: Limits | None = None,
    ) -> None:
        self._client = client
        self._image_folder = image_folder
        self._store = store
        self.api = api or client.base_url
        self._pace = pace
        self._clock = clock
        self._limits = limits or Limits()
        self._running = RunningJobs(store)
        self._limiter = RateLimiter(store, self._running, clock, self._limits)
        self.processor = ImageProcessor()
        saver = ImageSaver(client, image_folder, self.processor)
        worker = Worker(client, saver, store, self._running, self._limiter, clock, pace)
        self._recovery = Recovery(client, store, self._running, worker, self.api)
        self._finish_by: float | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._recovery.start(self._tasks)
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
    def closing(self) -> bool:
        """Whether it takes no more jobs, because the process is about to end."""
        return self._finish_by is not None

    @property
    def under_way(self) -> list[Job]:
        """The jobs that are worked on here."""
        return self._running.live

    async def finish(self, grace: float) -> list[Job]:
        """Take no more jobs, and give those begun here `grace` seconds to be kept, counted from the first call.

        What waits to be sent is refused; what is not finished then stays in the ledger, for another server or the next.

        Returns:
            The jobs begun here that were under way, as they stand now.
        """
        if self._finish_by is None:
            self._finish_by = anyio.current_time() + grace
            self._limiter.close()
        return await self._recovery.finish(self._finish_by)

    def take_up_orphans(self) -> None:
        """Take up, from now on, the unfinished jobs of this API that no living server works on."""
        self._recovery.take_up_orphans()

    # ---- beginning ----

    async def draw(self, parameters: Parameters, owner: str = OPERATOR) -> Job:
        """Begin a job by the quickest way: one picture in one round trip (v1), several by the queue (v2).

        A call with the same arguments whose result nobody received within two minutes is joined instead: it is paid
        for already. Each call of this ends with one of `answered`.

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, Route.V1 if parameters.pictures == 1 else Route.V2, owner)

    async def submit(self, parameters: Parameters, owner: str = OPERATOR) -> Job:
        """Begin a job in the API's queue (v2), or join one as `draw` does.

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, Route.V2, owner)

    async def _begin(self, parameters: Parameters, route: Route, owner: str) -> Job:
        if self.closing:
            raise errors.ServerClosing("The server is about to exit and takes no new work")
        job = Job.of_call(parameters, route, self.api, owner, self._clock())
        self._client.require_key()
        if joined := await self._store.join(job):
            self._recovery.callers += 1
            return await self._taken_up(joined)
        with self._limiter.room(owner):
            await self._image_folder.prepare(job.created.date())
            await self._store.add(job, limits=self._limits)
            if self.closing:
                error = errors.ServerClosing("The server is about to exit, so the call was not sent")
                await self._store.save(replace(job, state=State.FAILED, error=error, open=False))
                raise error
            self._recovery.callers += 1
            return self._recovery.draw(job)

    async def _taken_up(self, job: Job) -> Job:
        """A job, with someone who works on it if there is something to do and that is possible now."""
        return await _noted(self._recovery.take_up(job)) or job

    async def answered(self, job: Job, *, delivered: bool) -> None:
        """Note that a call that began or joined a job has ended, and whether its caller has the result."""
        self._recovery.callers -= 1
        await _noted(self._store.answer(job, self._clock(), delivered=delivered))

    async def delivered(self, job: Job) -> None:
        """Note that someone has a job's result: the same call would want another picture."""
        await _noted(self._store.deliver(job))

    # ---- looking ----

    async def follow(self, job: Job, seconds: float) -> AsyncIterator[Job]:
        """A job as it stands now, then at every change and heartbeat, until nobody works on it or time is up."""
        deadline = anyio.current_time() + seconds
        while True:
            bell = self._running.bell(job)
            job = await self._running.seen(job)
            if not job.held and not job.answered:
                job = await self._taken_up(job)  # whoever worked on it has died
                bell = self._running.bell(job)
            yield job
            left = deadline - anyio.current_time()
            if not job.held or left <= 0:
                return
            if bell:
                with anyio.move_on_after(min(HEARTBEAT, left)):
                    await bell.wait()
            else:
                await self._glance(job, min(HEARTBEAT, left))

    async def _glance(self, job: Job, seconds: float) -> None:
        """Wait for a change of a job that another server works on."""
        with anyio.move_on_after(seconds):
            while await self._running.seen(job) == job:  # noqa: ASYNC110  another process rings no bell here
                await anyio.sleep(GLANCE)

    async def find(self, request_id: str, owner: str = OPERATOR) -> Job:
        """The job with this id; if there is work left that nobody does, it is begun.

        Raises:
            UnknownJob: Neither the ledger nor the API knows it, or it is another's.
            VegaError: It cannot be looked up.
        """
        job = await self._running.find(request_id)
        if job and job.is_shown_to(owner):
            return await self._recovery.take_up(job)
        if job or owner != OPERATOR or request_id.startswith("local-"):
            raise errors.UnknownJob(f"This server has no job with the id {request_id!r}")
        job = await adopted(self._client, request_id, self.api, self._clock())
        if twin := await lost_twin(self._store, job, request_id):
            return await self._recovery.take_up(twin)
        if await self._store.add(job, awaited=False):
            return self._recovery.resume(job)
        return await self.find(request_id)  # another server was quicker

    async def latest(self, limit: int, owner: str = OPERATOR) -> list[Job]:
        """The jobs begun last, newest first.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        return await self._store.latest(limit, owner)

    async def budget(self) -> Budget | None:
        """What may be spent today and what was; None where there is no limit, or the ledger cannot be read."""
        if self._limits.usd_a_day is None:
            return None
        spent = await _noted(self._store.spending.spent_on(self._clock().date()))
        return None if spent is None else Budget(self._limits.usd_a_day, spent)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Have every change of a job that is worked on here told, for as long as the block runs."""
        return self._running.listening(listener)

    @property
    def search(self) -> ImageSearch:
        """What was kept, to be searched."""
        return self._store.search

    async def look(self, request_id: str, owner: str = OPERATOR) -> Job:
        """The job with this id as it stands; nothing is begun for it, and the API is not asked.

        Raises:
            UnknownJob: It is not known here, or another's.
            LedgerError: The ledger cannot be read.
        """
        job = await self._running.find(request_id)
        if job is None or not job.is_shown_to(owner):
            raise errors.UnknownJob(f"This server has no job with the id {request_id!r}")
        return job

    async def find_image(self, image_id: str, owner: str = OPERATOR) -> JobImage:
        """The picture with this id, and its job.

        Raises:
            UnknownImage: There is none, or it is another's.
            LedgerError: The ledger cannot be read.
        """
        kept = await self._running.find_image(image_id)
        if kept is None or not kept[0].is_shown_to(owner):
            raise errors.UnknownImage(f"There is no picture with the id {image_id!r}")
        return kept

    async def read(self, image: Image) -> bytes:
        """The bytes of a kept picture, full size.

        Raises:
            GalleryError: The file is gone or cannot be read.
            UnknownImage: It was deleted.
        """
        if image.deleted:
            said = f"The picture {image.id} was deleted from the gallery on {image.deleted:%Y-%m-%d}"
            raise errors.UnknownImage(said, next_step="Draw it again: its job tells with which parameters and seed")
        return await self._image_folder.read(image.path) if image.path else image.data or b""

    def expected_seconds(self, job: Job) -> float:
        """How long a job takes on average."""
        return job.parameters.expected_seconds * self._pace

    def elapsed_seconds(self, job: Job) -> float:
        """How long ago a job was begun."""
        return max((self._clock() - job.created).total_seconds(), 0)


async def _noted(work: Awaitable[T]) -> T | None:
    """What comes of work that a result does not wait for; None where it fails."""
    try:
        return await work
    except errors.VegaError as error:
        logger.warning(error.what)
        return None
