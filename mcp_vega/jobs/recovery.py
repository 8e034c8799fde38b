"""Takes up the jobs that another server left behind, and keeps this server's jobs its own."""

import logging
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.job import Job
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.database.server_lease import RENEWAL_SECONDS

logger = logging.getLogger(__name__)

# Seconds until a job that was tried in vain is tried again by itself; the pause doubles each time.
FIRST_PAUSE, LONGEST_PAUSE = 300.0, 3600.0


class _Retry(NamedTuple):
    """When a job that was taken up in vain is due again, and the pause after that, in seconds."""

    due: float = 0.0
    pause: float = FIRST_PAUSE


class Recovery:
    """Has each open job of an API worked on by one server at a time.

    `api` is what the ledger calls the API: only its jobs are taken up.
    """

    def __init__(self, client: SegmindClient, running: RunningJobs, worker: Worker, api: str) -> None:
        self._client = client
        self._running = running
        self._store = running.store
        self._worker = worker
        self._api = api
        self._retries: dict[str, _Retry] = {}
        self._recovering = False
        self._leaving = False
        # How many calls wait for jobs, whoever works on them.
        self.callers = 0

    def open(self, tasks: TaskGroup) -> None:
        """Work in these tasks from now on."""
        self._tasks = tasks
        tasks.start_soon(self._keep_lease)

    async def take_up(self, job: Job) -> Job:
        """Have a job carried on if there is more to do and nobody does it. Returns it as it now stands.

        Raises:
            VegaError: There is no usable key, or the store cannot be written.
        """
        if not job.open or job.held or job.base_url != self._api or self._leaving:
            return job
        self._client.require_key()
        if claimed := await self._claim(job.local_id):
            return claimed
        await self._running.forget_if_kept(job)
        return await self._running.current(job)

    async def _claim(self, local_id: str) -> Job | None:
        """Have a job carried on, unless someone does that already."""
        job = await self._store.claim(local_id)
        # Whoever asked at the same time in this server may have been quicker.
        return self._worker.resume(job) if job and job.open and not self._running.get_active(job) else None

    def take_up_orphans(self) -> None:
        """Take up, from now on, the open jobs that no living server works on, each again after ever longer pauses.

        Whoever asks for one of them with `take_up` has it tried at once.
        """
        if not self._recovering:
            self._recovering = True
            self._tasks.start_soon(self._take_up_orphans)

    async def _take_up_orphans(self) -> None:
        while not self._leaving:
            try:
                self._client.require_key()
                orphans = await self._store.orphans(self._api)
                # Those that were due and are open no more are forgotten.
                now, retries = anyio.current_time(), self._retries.items()
                self._retries = {each: retry for each, retry in retries if each in orphans or now < retry.due}
                for local_id in orphans:
                    await self._take_up_orphan(local_id)
            except errors.InvalidSettings:
                pass  # without a key nothing can be asked; whoever calls a tool is told
            except errors.LedgerError as error:
                logger.warning(error.what)
            await anyio.sleep(RENEWAL_SECONDS)

    async def _take_up_orphan(self, local_id: str) -> None:
        retry, now = self._retries.get(local_id, _Retry()), anyio.current_time()
        if now < retry.due:
            return
        try:
            if await self._claim(local_id):
                self._retries[local_id] = _Retry(now + retry.pause, min(retry.pause * 2, LONGEST_PAUSE))
        except errors.LedgerError as error:  # such as a row that cannot be read; the others can
            logger.warning(error.what)
            self._retries[local_id] = _Retry(now + retry.pause, retry.pause)

    async def _keep_lease(self) -> None:
        """Keep this server's jobs its own, and let go of those that another one has taken up meanwhile."""
        while not self._leaving:
            await anyio.sleep(RENEWAL_SECONDS)
            if self._leaving or not (self.callers or self._running.active or not self._running.all_saved):
                continue
            active = self._running.active  # before the store is asked: those that begin meanwhile are this server's
            try:
                await self._running.save_again()
                held = await self._store.renew()
            except errors.LedgerError as error:
                logger.warning(error.what)
                continue
            except Exception:
                logger.exception("The server's jobs could not be looked after")
                continue
            for running in active:
                # A call whose answer is on its way is not broken off: the answer may be all there is.
                in_flight = running.job.sent is not None and running.job.remote_id is None
                if running.job.local_id not in held and not in_flight:
                    running.scope.cancel()

    async def finish(self, deadline: float) -> list[Job]:
        """Take up nothing more, wait for the jobs begun here until the deadline, and leave the rest to others.

        Returns those begun here that had not ended, as they stand now.
        """
        self._leaving = True
        under_way = await self._worker.finish(deadline)
        self._store.shorten_waits()
        await self.leave()
        return [await self._running.current(each.job) for each in under_way]

    async def leave(self) -> None:
        """Leave what is under way to other servers."""
        self._leaving = True
        try:
            await self._store.leave()
        except errors.LedgerError as error:
            logger.warning(error.what)
