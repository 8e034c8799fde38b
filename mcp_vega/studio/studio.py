"""The studio: begins jobs, has each carried to its end, and tells where it stands.

The work belongs to the studio, not to the call that began it: it goes on when the host cancels, times out or leaves,
and what a server leaves behind when it ends is taken up by the next one.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import anyio

from mcp_vega import errors
from mcp_vega.segmind.answers import State
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.parameters import Parameters
from mcp_vega.studio.adoption import adopted
from mcp_vega.studio.board import Board, Listener
from mcp_vega.studio.carrier import Carrier
from mcp_vega.studio.catalogue import Catalogue, Kept
from mcp_vega.studio.crew import Crew
from mcp_vega.studio.darkroom import Darkroom
from mcp_vega.studio.gallery import Gallery
from mcp_vega.studio.jobs import Image, Job, Route
from mcp_vega.studio.keeper import Keeper
from mcp_vega.studio.ledger import Ledger

logger = logging.getLogger(__name__)

# How often a job that nothing happens to is shown to those who follow it; hosts want to hear within five seconds.
HEARTBEAT = 2.0
# How often the ledger is asked about a job that another server works on.
GLANCE = 0.25


class Studio:
    """Draws pictures through the API and keeps them. Use it as a context: its jobs live in it.

    Args:
        client: Speaks to the API.
        gallery: Keeps the pictures.
        ledger: Keeps the jobs.
        api: What the ledger calls the API, whose jobs alone are taken up; the client's base URL by default.
        pace: What the documented drawing times and waits are multiplied by; 0 expects every answer at once.
        clock: The time (UTC).
    """

    def __init__(  # noqa: PLR0913  what the world outside decides
        self,
        client: SegmindClient,
        gallery: Gallery,
        ledger: Ledger,
        *,
        api: str | None = None,
        pace: float = 1,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._gallery = gallery
        self._ledger = ledger
        self.api = api or client.base_url
        self._pace = pace
        self._clock = clock
        self._board = Board(ledger)
        self.darkroom = Darkroom()
        carrier = Carrier(client, Keeper(client, gallery, self.darkroom), ledger, self._board, clock, pace)
        self._crew = Crew(client, ledger, self._board, carrier, self.api)
        self._finish_by: float | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._crew.start(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        try:
            return await self._stack.__aexit__(kind, error, trace)
        finally:
            await self._crew.leave()

    @property
    def closing(self) -> bool:
        """Whether it takes no more jobs, because the process is about to end."""
        return self._finish_by is not None

    @property
    def under_way(self) -> list[Job]:
        """The jobs that are worked on here: drawn, fetched or looked up."""
        return self._board.live

    async def finish(self, grace: float) -> list[Job]:
        """Take no more jobs, and give those begun here `grace` seconds to be kept, counted from the first call.

        What is not finished then stays in the ledger as under way, for another server or the next start.

        Returns:
            The jobs begun here that were under way, as they stand now.
        """
        if self._finish_by is None:
            self._finish_by = anyio.current_time() + grace
        return await self._crew.finish(self._finish_by)

    def take_up_orphans(self) -> None:
        """Take up, from now on, the unfinished jobs of this API that no living server works on."""
        self._crew.take_up_orphans()

    # ---- beginning ----

    async def draw(self, parameters: Parameters) -> Job:
        """Begin a job by the quickest way: one picture in one round trip (v1), several by the queue (v2).

        A call with the same arguments whose result nobody received within two minutes is joined instead: it is paid
        for already. Each call of this ends with one of `answered`.

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, Route.V1 if parameters.pictures == 1 else Route.V2)

    async def submit(self, parameters: Parameters) -> Job:
        """Begin a job in the API's queue (v2), or join one as `draw` does.

        Raises:
            VegaError: The job cannot be begun; nothing was sent.
        """
        return await self._begin(parameters, Route.V2)

    async def _begin(self, parameters: Parameters, route: Route) -> Job:
        if self.closing:
            raise errors.ServerClosing("The server is about to exit and takes no new work")
        given = parameters.model_dump(mode="json", exclude_unset=True)
        if parameters.seed == -1:
            parameters = parameters.model_copy(update={"seed": secrets.randbelow(10**15)})
        job = Job(parameters=parameters, arguments=given, route=route, base_url=self.api, created=self._clock())
        self._client.require_key()
        if joined := await self._ledger.join(job):
            self._crew.callers += 1
            return await self._taken_up(joined)
        await self._gallery.prepare(job.created.date())
        await self._ledger.add(job)
        if self.closing:
            error = errors.ServerClosing("The server is about to exit, so the call was not sent")
            await self._ledger.save(replace(job, state=State.FAILED, error=error, open=False))
            raise error
        self._crew.callers += 1
        return self._crew.draw(job)

    async def _taken_up(self, job: Job) -> Job:
        """A job, with someone who works on it if there is something to do and that is possible now."""
        try:
            return await self._crew.take_up(job)
        except errors.VegaError as error:
            logger.warning(error.what)
            return job

    async def answered(self, job: Job, *, delivered: bool) -> None:
        """Note that the call that began or joined a job has ended, and whether its caller has the result."""
        self._crew.callers -= 1
        try:
            await self._ledger.answer(job, self._clock(), delivered=delivered)
        except errors.LedgerError as error:
            logger.warning(error.what)

    async def delivered(self, job: Job) -> None:
        """Note that someone has a job's result: the same call would want another picture."""
        try:
            await self._ledger.deliver(job)
        except errors.LedgerError as error:
            logger.warning(error.what)

    # ---- looking ----

    async def follow(self, job: Job, seconds: float) -> AsyncIterator[Job]:
        """A job as it stands now, then at every change and heartbeat, until nobody works on it or time is up."""
        deadline = anyio.current_time() + seconds
        while True:
            bell = self._board.bell(job)
            job = await self._board.seen(job)
            if not job.held and not job.answered:
                job = await self._taken_up(job)  # whoever worked on it has died
                bell = self._board.bell(job)
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
            while await self._board.seen(job) == job:  # noqa: ASYNC110  another process rings no bell here
                await anyio.sleep(GLANCE)

    async def find(self, request_id: str) -> Job:
        """The job with this id; if there is work left that nobody does, it is begun.

        Raises:
            UnknownJob: Neither the ledger nor the API knows it.
            VegaError: It cannot be looked up.
        """
        job = await self._board.find(request_id)
        if job:
            return await self._crew.take_up(job)
        if request_id.startswith("local-"):
            raise errors.UnknownJob(f"This server has no job with the id {request_id!r}")
        try:
            self._client.require_key()
        except errors.InvalidSettings as error:
            said = f"This server has no job with the id {request_id!r}, and the API cannot be asked: {error.what}"
            raise errors.UnknownJob(said) from error
        job = await adopted(self._client, request_id, self.api, self._clock())
        for twin in await self._ledger.twins(job):
            same = twin.parameters.model_dump(exclude={"base64"}) == job.parameters.model_dump(exclude={"base64"})
            if same and not twin.held and await self._ledger.assign(twin, request_id):
                return await self._crew.take_up(replace(twin, remote_id=request_id))
        if await self._ledger.add(job, awaited=False):
            return self._crew.resume(job)
        return await self.find(request_id)  # another server was quicker

    async def latest(self, limit: int) -> list[Job]:
        """The jobs begun last, newest first.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        return await self._ledger.latest(limit)

    def listening(self, listener: Listener) -> AbstractContextManager[None]:
        """Have every change of a job that is worked on here told, for as long as the block runs."""
        return self._board.listening(listener)

    @property
    def catalogue(self) -> Catalogue:
        """What was kept, to be searched."""
        return self._ledger.catalogue

    async def look(self, request_id: str) -> Job:
        """The job with this id as it stands; nothing is begun for it, and the API is not asked.

        Raises:
            UnknownJob: It is not known here.
            LedgerError: The ledger cannot be read.
        """
        job = await self._board.find(request_id)
        if job is None:
            raise errors.UnknownJob(f"This server has no job with the id {request_id!r}")
        return job

    async def find_image(self, image_id: str) -> Kept:
        """The picture with this id, and its job.

        Raises:
            UnknownImage: There is none.
            LedgerError: The ledger cannot be read.
        """
        kept = await self._board.find_image(image_id)
        if kept is None:
            raise errors.UnknownImage(f"There is no picture with the id {image_id!r}")
        return kept

    async def read(self, image: Image) -> bytes:
        """The bytes of a kept picture, full size.

        Raises:
            GalleryError: The file is gone or cannot be read.
            UnknownImage: It was deleted.
        """
        if image.deleted:
            raise errors.UnknownImage(
                f"The picture {image.id} was deleted from the gallery on {image.deleted:%Y-%m-%d}",
                next_step="Draw it again: its job tells with which parameters and seed",
            )
        return await self._gallery.read(image.path) if image.path else image.data or b""

    def expected_seconds(self, job: Job) -> float:
        """How long a job takes on average."""
        return job.parameters.expected_seconds * self._pace

    def elapsed_seconds(self, job: Job) -> float:
        """How long ago a job was begun."""
        return max((self._clock() - job.created).total_seconds(), 0)
