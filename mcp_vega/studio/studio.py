"""The studio: begins jobs, carries each to its end, and tells where it stands.

The work belongs to the studio, not to the call that began it: it goes on when the host cancels, times out or leaves.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from mcp_vega import errors
from mcp_vega.segmind.answers import Generation, Receipt, State, Submission
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.media import recognise
from mcp_vega.segmind.parameters import Parameters
from mcp_vega.studio import gallery as galleries
from mcp_vega.studio import pictures
from mcp_vega.studio.gallery import Gallery
from mcp_vega.studio.jobs import Image, Job, new_id
from mcp_vega.studio.ledger import Ledger

logger = logging.getLogger(__name__)

# How often a job that nothing happens to is shown to those who follow it; hosts want to hear within five seconds.
HEARTBEAT = 2.0


class Studio:
    """Draws pictures through the API and keeps them. Use it as a context: its jobs live in it.

    Args:
        client: Speaks to the API.
        gallery: Keeps the pictures.
        ledger: Keeps the jobs.
        pace: What the documented drawing times are multiplied by; 0 expects every answer at once.
        clock: The time (UTC).
    """

    def __init__(
        self,
        client: SegmindClient,
        gallery: Gallery,
        ledger: Ledger,
        *,
        pace: float = 1,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._gallery = gallery
        self._ledger = ledger
        self._pace = pace
        self._clock = clock
        self._changes: dict[str, anyio.Event] = {}
        self._finish_by: float | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        return await self._stack.__aexit__(kind, error, trace)

    @property
    def closing(self) -> bool:
        """Whether it takes no more jobs, because the process is about to end."""
        return self._finish_by is not None

    async def finish(self, grace: float) -> list[Job]:
        """Take no more jobs, and give those under way `grace` seconds to be kept, counted from the first call.

        Returns:
            The jobs that were under way, as they stand now.
        """
        if self._finish_by is None:
            self._finish_by = anyio.current_time() + grace
        under_way = list(self._changes)
        with anyio.CancelScope(deadline=self._finish_by, shield=True):
            while self._changes:
                await next(iter(self._changes.values())).wait()
        jobs: list[Job] = []
        with anyio.CancelScope(shield=True):
            for local_id in under_way:
                jobs += [job] if (job := await self._ledger.find(local_id)) else []
        return jobs

    # ---- beginning ----

    async def draw(self, parameters: Parameters) -> Job:
        """Begin a job by the quickest way: one picture in one round trip (v1), several by the queue (v2).

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, self._generate if parameters.pictures == 1 else self._queue)

    async def submit(self, parameters: Parameters) -> Job:
        """Begin a job in the API's queue (v2).

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, self._queue)

    async def _begin(self, parameters: Parameters, work: Callable[[Job], Awaitable[None]]) -> Job:
        self._client.require_key()
        await self._gallery.prepare(self._clock().date())
        if self.closing:
            raise errors.ServerClosing("The server is about to exit and takes no new work")
        if parameters.seed == -1:
            parameters = parameters.model_copy(update={"seed": secrets.randbelow(10**15)})
        job = Job(parameters=parameters, created=self._clock())
        self._changes[job.local_id] = anyio.Event()
        await self._ledger.save(job)
        self._tasks.start_soon(self._carry, job, work)
        return job

    # ---- carrying ----

    async def _carry(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        """Do a job's work to its end; whatever happens ends in the ledger."""
        try:
            await work(job)
        except errors.VegaError as error:
            await self._fail(job, error)
        except Exception as error:
            logger.exception("Job %s broke", job.local_id)
            broken = errors.VegaError(
                f"The server broke while it drew ({type(error).__name__})",
                charged=errors.Charged.UNKNOWN,
                next_step="Look in the server's log and in your request history before you repeat the call",
            )
            await self._fail(job, broken)
        finally:
            self._changes.pop(job.local_id).set()

    async def _generate(self, job: Job) -> None:
        job = await self._change(job, state=State.PROCESSING)
        several = job.parameters.pictures > 1  # only as base64 can v1 answer with more than one picture
        answer = await self._client.generate(job.model, job.parameters.body(base64=several))
        if isinstance(answer, Submission):
            await self._fetch(await self._change(job, remote_id=answer.request_id, state=State.QUEUED))
        else:
            await self._keep(job, answer, answer.receipt)

    async def _queue(self, job: Job) -> None:
        try:
            submission = await self._client.submit(job.model, job.parameters.body(base64=False))
        except (errors.NotFound, errors.MethodNotAllowed, errors.Retired):
            # Documented for v1 only, VegaRT may be missing from v2; such a refusal costs nothing.
            await self._generate(job)
        else:
            await self._fetch(await self._change(job, remote_id=submission.request_id))

    async def _fetch(self, job: Job) -> None:
        """Watch a queued job, then fetch its pictures."""
        request_id = job.request_id
        receipt = Receipt()
        async for status in self._client.watch(request_id, expected=self.expected_seconds(job)):
            receipt = status.receipt
            if status.error:
                raise status.error
            if status.state not in (job.state, State.COMPLETED):
                job = await self._change(job, state=status.state)
        generation = await self._client.result(request_id)
        await self._keep(job, generation, _merged(generation.receipt, receipt))

    async def _keep(self, job: Job, generation: Generation, receipt: Receipt) -> None:
        """Put the pictures into the gallery; one that cannot be had does not cost the others."""
        job = replace(job, receipt=receipt, remote_id=job.remote_id or receipt.request_id)
        images: list[Image] = []
        problem: errors.VegaError | None = None
        for picture in generation.pictures:
            try:
                data = picture if isinstance(picture, bytes) else await self._client.download(picture)
                images.append(await self._keep_one(job, data))
            except errors.VegaError as error:
                problem = error
            except Exception as error:
                logger.exception("A picture of job %s broke", job.local_id)
                problem = errors.MediaError(
                    f"A picture of the job could not be kept ({type(error).__name__})",
                    next_step=f"Look for {job.request_id} in your request history at https://cloud.segmind.com",
                )
        if problem and not images:
            await self._ledger.save(job)
            raise problem
        missing = job.parameters.pictures - len(images)
        note = f"{missing} of the {job.parameters.pictures} pictures did not arrive" if missing > 0 else ""
        if note and problem:
            note += f": {problem.what}"
        await self._change(job, state=State.COMPLETED, images=tuple(images), note=note)

    async def _keep_one(self, job: Job, data: bytes) -> Image:
        found = recognise(data)
        if found is None:
            raise errors.UnreadableAnswer("What the API sent is no picture")
        width, height = await anyio.to_thread.run_sync(pictures.measure, data)
        image_id = new_id()
        name = galleries.file_name(job.parameters.prompt, job.seed, image_id, found.suffix)
        path = await self._gallery.keep(data, name, self._clock().date())
        digest = sha256(data).hexdigest()
        return Image(
            id=image_id,
            path=path,
            mime_type=found.mime_type,
            width=width,
            height=height,
            bytes=len(data),
            sha256=digest,
        )

    async def _fail(self, job: Job, error: errors.VegaError) -> None:
        latest = await self._ledger.find(job.local_id) or job
        await self._change(latest, state=State.FAILED, error=error)

    async def _change(self, job: Job, **changes: Any) -> Job:
        """Write a change of a job down and tell those who follow it."""
        job = replace(job, **changes)
        await self._ledger.save(job)
        change, self._changes[job.local_id] = self._changes[job.local_id], anyio.Event()
        change.set()
        return job

    # ---- looking ----

    async def follow(self, job: Job, seconds: float) -> AsyncIterator[Job]:
        """A job as it stands now, then at every change and every heartbeat, until it has finished or time is up."""
        deadline = anyio.current_time() + seconds
        while True:
            change = self._changes.get(job.local_id)
            job = await self._ledger.find(job.local_id) or job
            yield job
            left = deadline - anyio.current_time()
            if job.state.finished or change is None or left <= 0:
                return
            with anyio.move_on_after(min(HEARTBEAT, left)):
                await change.wait()

    async def find(self, request_id: str) -> Job:
        """The job with this id.

        Raises:
            UnknownJob: There is none.
        """
        job = await self._ledger.find(request_id)
        if job is None:
            raise errors.UnknownJob(f"This server has no job with the request_id {request_id!r}")
        return job

    async def latest(self, limit: int) -> list[Job]:
        """The jobs begun last, newest first."""
        return await self._ledger.latest(limit)

    async def find_image(self, image_id: str) -> Image:
        """The picture with this id.

        Raises:
            UnknownImage: There is none.
        """
        image = await self._ledger.find_image(image_id)
        if image is None:
            raise errors.UnknownImage(f"There is no picture with the id {image_id!r}")
        return image

    async def read(self, image: Image) -> bytes:
        """The bytes of a kept picture, full size.

        Raises:
            GalleryError: The file is gone or cannot be read.
        """
        return await self._gallery.read(image.path)

    def expected_seconds(self, job: Job) -> float:
        """How long a job takes on average."""
        return job.parameters.expected_seconds * self._pace

    def elapsed_seconds(self, job: Job) -> float:
        """How long ago a job was begun."""
        return max((self._clock() - job.created).total_seconds(), 0)


def _merged(first: Receipt, second: Receipt) -> Receipt:
    """What either receipt knows; where both do, the first."""
    known = {name: value for field in fields(Receipt) if (value := getattr(first, name := field.name)) is not None}
    return replace(second, **known)
