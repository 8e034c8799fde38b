"""The crew: the tasks in which jobs are carried, those begun here and those that another server left behind."""

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.job import Job
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.database.server_lease import RENEWAL_SECONDS

logger = logging.getLogger(__name__)

# Seconds until a job that was tried in vain is tried again by itself; the pause doubles each time.
FIRST_PAUSE, LONGEST_PAUSE = 300.0, 3600.0


class Recovery:
    """Has jobs carried, each by one server at a time.

    Args:
        client: Speaks to the API.
        ledger: Knows which server works on what.
        board: Where the jobs stand that this server works on.
        carrier: Does the work.
        api: What the ledger calls the API: only its jobs are taken up.
    """

    def __init__(
        self,
        client: SegmindClient,
        store: JobStore,
        running: RunningJobs,
        worker: Worker,
        api: str,
    ) -> None:
        self._client = client
        self._store = store
        self._running = running
        self._worker = worker
        self._api = api
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._due: dict[str, tuple[float, float]] = {}
        self._resuming = False
        self._leaving = False
        # How many calls wait for jobs, whoever works on them.
        self.callers = 0

    def start(self, tasks: TaskGroup) -> None:
        """Work in these tasks from now on."""
        self._tasks = tasks
        tasks.start_soon(self._stay_alive)

    def draw(self, job: Job) -> Job:
        """Have a new job drawn; the ledger has it. Returns it as it now stands."""
        self._worker.begun.add(job.local_id)
        return self._assign(job, self._worker.draw)

    def resume(self, job: Job) -> Job:
        """Have a job carried on that the ledger says is this server's. Returns it as it now stands."""
        return self._assign(job, self._worker.resume)

    def _assign(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> Job:
        job = self._running.pin(job)
        self._tasks.start_soon(self._work, job, work)
        return job

    async def _work(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        with anyio.CancelScope() as scope:
            self._scopes[job.local_id] = scope
            try:
                await work(job)
            except Exception:
                logger.exception("Job %s broke", job.local_id)  # and takes no other job with it
            finally:
                if self._scopes.get(job.local_id) is scope:
                    del self._scopes[job.local_id]

    # ---- what others left ----

    async def take_up(self, job: Job) -> Job:
        """Have a job carried on if there is more to do and nobody does it. Returns it as it now stands.

        Raises:
            InvalidSettings: There is no usable key to ask the API with.
            LedgerError: The ledger cannot be written.
        """
        if not job.open or job.held or job.base_url != self._api or self._leaving:
            return job
        self._client.require_key()
        if claimed := await self._claimed(job.local_id):
            return claimed
        await self._running.forget_if_kept(job)
        return await self._running.seen(job)

    async def _claimed(self, local_id: str) -> Job | None:
        """Have a job carried on, unless someone does that already."""
        job = await self._store.claim(local_id)
        # Whoever asked at the same time in this server may have been quicker.
        return self.resume(job) if job and job.open and not self._running.bell(job) else None

    def take_up_orphans(self) -> None:
        """Take up, from now on, the open jobs that no living server works on, each again after ever longer pauses.

        Whoever asks for one of them with `take_up` has it tried at once.
        """
        if not self._resuming:
            self._resuming = True
            self._tasks.start_soon(self._take_up_orphans)

    async def _take_up_orphans(self) -> None:
        while not self._leaving:
            try:
                self._client.require_key()
                for local_id in await self._store.orphans(self._api):
                    await self._take_up_orphan(local_id)
            except errors.InvalidSettings:
                pass  # without a key nothing can be asked; whoever calls a tool is told
            except errors.LedgerError as error:
                logger.warning(error.what)
            await anyio.sleep(RENEWAL_SECONDS)

    async def _take_up_orphan(self, local_id: str) -> None:
        due, pause = self._due.get(local_id, (0.0, FIRST_PAUSE))
        if anyio.current_time() < due:
            return
        try:
            if await self._claimed(local_id):
                self._due[local_id] = (anyio.current_time() + pause, min(pause * 2, LONGEST_PAUSE))
        except errors.LedgerError as error:  # such as a row that cannot be read; the others can
            logger.warning(error.what)
            self._due[local_id] = (anyio.current_time() + pause, pause)

    async def _stay_alive(self) -> None:
        """Keep this server's jobs its own, and let go of those that another one has taken up meanwhile."""
        while not self._leaving:
            await anyio.sleep(RENEWAL_SECONDS)
            if self._leaving or not (self.callers or self._running.live or self._running.unsaved):
                continue
            live = self._running.live  # before the ledger is asked: those that begin meanwhile are this server's
            try:
                await self._running.save_again()
                mine = await self._store.renew()
            except errors.LedgerError as error:
                logger.warning(error.what)
                continue
            except Exception:
                logger.exception("The server's jobs could not be looked after")
                continue
            for job in live:
                # A call whose answer is on its way is not broken off: the answer may be all there is.
                in_flight = job.sent is not None and job.remote_id is None
                if job.local_id not in mine and not in_flight and (scope := self._scopes.get(job.local_id)):
                    scope.cancel()

    # ---- the end ----

    async def finish(self, deadline: float) -> list[Job]:
        """Take up nothing more, wait for the jobs begun here until the deadline, and leave the rest to others.

        Returns:
            The jobs begun here that had not ended, as they stand now.
        """
        self._leaving = True
        under_way = [job for job in self._running.live if job.local_id in self._worker.begun and not job.answered]
        with anyio.CancelScope(deadline=deadline, shield=True):
            for job in under_way:
                await self._running.until_answered(job)
        self._store.hurry()
        await self.leave()
        return [await self._running.seen(job) for job in under_way]

    async def leave(self) -> None:
        """Leave what is under way to other servers."""
        self._leaving = True
        try:
            await self._store.leave()
        except errors.LedgerError as error:
            logger.warning(error.what)
