"""Takes up the jobs that another server left behind, and saves later what the store would not take."""

import logging

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.job import Job
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_mover import ImageMover
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.segmind.client import SegmindClient

logger = logging.getLogger(__name__)

# Seconds between two looks for jobs that nobody works on, or that could not be saved.
LOOK_SECONDS = 5.0


class Recovery:
    """Has each open job of an API worked on by one server at a time, and pictures moved to where they belong."""

    def __init__(
        self, client: SegmindClient, running: RunningJobs, worker: Worker, mover: ImageMover, config: JobConfig
    ) -> None:
        self._client = client
        self._running = running
        self._store = running.store
        self._worker = worker
        self._mover = mover
        self._config = config
        self._recovering = False
        self._leaving = False

    def open(self, tasks: TaskGroup) -> None:
        """Work in these tasks from now on."""
        self._tasks = tasks
        tasks.start_soon(self._save_again)

    async def account(self) -> str:
        """What stands for the account that pays for this server's calls.

        Raises:
            VegaError: There is no usable key, or the store cannot be used.
        """
        return await self._store.accounts.of_key(self._client.require_key())

    async def why_left_alone(self, job: Job) -> str:
        """Why this server cannot settle a job, where another one must; raises as `account` does."""
        if job.base_url != self._config.api:
            return f"begun with another API, {job.base_url}; only a server with that SEGMIND_BASE_URL can finish it"
        if job.account != await self.account():
            return "begun with another API key; only a server with that SEGMIND_API_KEY can finish it"
        return ""

    async def take_up(self, job: Job) -> Job:
        """Have a job carried on if there is more to do and nobody does it. Returns it as it now stands.

        Raises:
            VegaError: There is no usable key, or the store cannot be written.
        """
        if not job.open or job.held or self._leaving or await self.why_left_alone(job):
            return job
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
        moment = None  # at first all are tried: since the last server ended, much may have changed
        warned = False
        while not self._leaving:
            try:
                account = await self.account()
                if not warned:
                    await self._warn_of_other_accounts(account)
                    warned = True
                for local_id in await self._store.accounts.orphans(self._config.api, account, moment):
                    await self._take_up_orphan(local_id)
                moment = self._config.clock()
            except errors.InvalidSettings:
                pass  # without a key nothing can be asked; whoever calls a tool is told
            except errors.LedgerError as error:
                logger.warning(error.what)
            except Exception:
                logger.exception("The jobs that nobody works on could not be taken up")
            await self._mover.move_back()
            await anyio.sleep(LOOK_SECONDS)

    async def _warn_of_other_accounts(self, account: str) -> None:
        if count := await self._store.accounts.count_of_others(self._config.api, account):
            logger.warning(
                "Unfinished jobs that were begun with another API key: %s. Only a server with that SEGMIND_API_KEY can "
                "find out how they ended; until then they count as spent, and check_job shows what is known of them",
                count,
            )

    async def _take_up_orphan(self, local_id: str) -> None:
        try:
            await self._claim(local_id)
        except errors.LedgerError as error:  # such as a row that cannot be read; the others can
            logger.warning(error.what)

    async def _save_again(self) -> None:
        """Save from time to time what the store would not take before."""
        while not self._leaving:
            await anyio.sleep(LOOK_SECONDS)
            try:
                await self._running.save_again()
            except errors.LedgerError as error:
                logger.warning(error.what)
            except Exception:
                logger.exception("The server's jobs could not be looked after")

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
