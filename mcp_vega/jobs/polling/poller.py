"""Watches a job in the API's queue, and gets its pictures when it is done."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio

from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.job import Job, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.images.saver import ImageSaver
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.http import LONGEST_POLL_PAUSE
from mcp_vega.segmind.parsing import Status

logger = logging.getLogger(__name__)

# How many seconds a job usually waits in the API's queue before it is drawn.
QUEUE_SECONDS = 0.2
# If a drawing takes less than this, its status is first requested when it should be ready, and not before. Each request
# counts against the plan's requests per minute; the free plan has five.
LONG_SECONDS = 4.0
# The longest pause between two requests to an engine of the user's own (s): it has no limit of requests, and answers
# only when there is news, or after seconds.
LONGEST_FREE_PAUSE = 0.5


class Poller:
    """Polls the status of queued jobs (v2)."""

    def __init__(self, client: SegmindClient, running: RunningJobs, saver: ImageSaver, config: JobConfig) -> None:
        self._client = client
        self._running = running
        self._saver = saver
        self._config = config

    async def fetch(self, job: Job) -> None:
        """Watch a job until it has ended, then save its pictures.

        Raises:
            VegaError: It failed, or its status or its result is not available.
        """
        request_id, age = job.request_id, job.age(self._config.clock())
        expected = None if job.is_free else self._running.times.expected(job)
        ready = 0 if expected is None else (expected + QUEUE_SECONDS) * self._config.pace - age
        receipt = job.receipt
        async for status in self._statuses(job, max(ready, 0), age):
            receipt = status.receipt
            self._running.times.note_progress(job, status, job.age(self._config.clock()))
            if (len(status.pictures) >= job.parameters.pictures or status.error) and await self._save(job, status):
                return
            if status.error:
                await self._running.update(job, receipt=receipt.or_else(job.receipt))
                raise status.error
            if status.state not in (job.state, State.COMPLETED):
                changes: dict[str, Any] = {"state": status.state, "error": None}
                # Users want to see that it is being drawn now, but this need not be saved.
                job = await self._running.update(job, **changes) if job.error else self._running.show(job, **changes)
        generation = await self._client.result(request_id)
        await self._saver.save(job, generation.pictures, generation.receipt.or_else(receipt))

    async def _save(self, job: Job, status: Status) -> bool:
        """Save the pictures in a status. Returns whether there were any: a status may only announce them."""
        if not status.pictures:
            return False
        try:
            await self._saver.save(job, status.pictures, status.receipt)
        except VegaError as error:
            logger.info("The pictures in the status of job %s could not be kept: %s", job.request_id, error.code)
            return False
        return True

    async def _statuses(self, job: Job, ready: float, age: float) -> AsyncIterator[Status]:
        """The statuses of a job until it has finished, probably in `ready` seconds. Raises the errors of `watch`."""
        early = self._config.early_look
        if ready > LONG_SECONDS * self._config.pace:
            await anyio.sleep(early)
            answer = await self._early_look(job.request_id, ready - early)
            if isinstance(answer, Status):
                yield answer
                if answer.state.finished:
                    return
            wait = answer.wait.total_seconds() if isinstance(answer, SegmindError) and answer.wait else 0
            ready, age = max(ready - early, wait, 0), age + early
        longest = LONGEST_FREE_PAUSE if job.is_free else LONGEST_POLL_PAUSE
        async for status in self._client.watch(job.request_id, expected=ready, age=age, longest_pause=longest):
            yield status

    async def _early_look(self, request_id: str, seconds: float) -> Status | SegmindError | None:
        """The status of a job or the error of the request, which is repeated anyway; None if nothing came in time."""
        with anyio.move_on_after(seconds):
            try:
                return await self._client.status(request_id)
            except SegmindError as error:
                return error
        return None
