"""Watches a job in the API's queue, and fetches its pictures when it is done."""

import logging
from collections.abc import AsyncIterator

import anyio

from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.job import Job, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.parsing import Status

logger = logging.getLogger(__name__)

# What a job usually spends in the API's queue before it is drawn.
QUEUE_SECONDS = 0.2
# A job that is drawn sooner than this is asked for once it should be there, and not before: each question is one of the
# plan's requests a minute, of which the free plan has five.
LONG_SECONDS = 4.0


class Poller:
    """Polls the status of queued jobs (v2)."""

    def __init__(self, client: SegmindClient, running: RunningJobs, saver: ImageSaver, config: JobConfig) -> None:
        self._client = client
        self._running = running
        self._saver = saver
        self._config = config

    async def fetch(self, job: Job) -> None:
        """Watch a job until it has ended, then keep its pictures.

        Raises:
            VegaError: It failed, or how it stands or its result cannot be had.
        """
        request_id, age = job.request_id, job.age(self._config.clock())
        ready = (job.parameters.expected_seconds + QUEUE_SECONDS) * self._config.pace - age
        receipt = job.receipt
        async for status in self._statuses(request_id, max(ready, 0), age):
            receipt = status.receipt
            if (len(status.pictures) >= job.parameters.pictures or status.error) and await self._save(job, status):
                return
            if status.error:
                await self._running.update(job, receipt=receipt.or_else(job.receipt))
                raise status.error
            if status.state not in (job.state, State.COMPLETED):
                changes = {"state": status.state, "error": None}
                # That it is drawn now is worth telling, but not worth writing down.
                job = await self._running.update(job, **changes) if job.error else self._running.show(job, **changes)
        generation = await self._client.result(request_id)
        await self._saver.save(job, generation.pictures, generation.receipt.or_else(receipt))

    async def _save(self, job: Job, status: Status) -> bool:
        """Keep the pictures that came with a status; whether there are any: they may be only announced."""
        if not status.pictures:
            return False
        try:
            await self._saver.save(job, status.pictures, status.receipt)
        except VegaError as error:
            logger.info("The pictures in the status of job %s: %s", job.request_id, error.what)
            return False
        return True

    async def _statuses(self, request_id: str, ready: float, age: float) -> AsyncIterator[Status]:
        """How a job stands that is likely to be drawn in `ready` seconds, until it has finished; raises as `watch`."""
        early = self._config.early_look
        if ready > LONG_SECONDS * self._config.pace:
            await anyio.sleep(early)
            answer = await self._early_look(request_id, ready - early)
            if isinstance(answer, Status):
                yield answer
                if answer.state.finished:
                    return
            wait = answer.wait.total_seconds() if isinstance(answer, SegmindError) and answer.wait else 0
            ready, age = max(ready - early, wait, 0), age + early
        async for status in self._client.watch(request_id, expected=ready, age=age):
            yield status

    async def _early_look(self, request_id: str, seconds: float) -> Status | SegmindError | None:
        """How a job stands, or why that is not to be had, as it is asked again anyway; None if not in time."""
        with anyio.move_on_after(seconds):
            try:
                return await self._client.status(request_id)
            except SegmindError as error:
                return error
        return None
