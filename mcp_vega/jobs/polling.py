"""Watches a job in the API's queue, and fetches its pictures when it is done."""

import logging

from mcp_vega.errors import VegaError
from mcp_vega.job import Job, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import SegmindClient

logger = logging.getLogger(__name__)

# What a job usually spends in the API's queue before it is drawn.
QUEUE_SECONDS = 0.2


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
        async for status in self._client.watch(request_id, expected=max(ready, 0), age=age):
            receipt = status.receipt
            if status.error:
                await self._running.update(job, receipt=receipt.or_else(job.receipt))
                raise status.error
            if len(status.pictures) >= job.parameters.pictures:
                try:
                    await self._saver.save(job, status.pictures, receipt)
                except VegaError as error:  # they may be only announced; what is in the result counts
                    logger.info("The pictures in the status of job %s: %s", request_id, error.what)
                else:
                    return
            if status.state not in (job.state, State.COMPLETED):
                changes = {"state": status.state, "error": None}
                # That it is drawn now is worth telling, but not worth writing down.
                job = await self._running.update(job, **changes) if job.error else self._running.show(job, **changes)
        generation = await self._client.result(request_id)
        await self._saver.save(job, generation.pictures, generation.receipt.or_else(receipt))
