"""Continues the jobs that another server left behind, and saves later what the store could not save."""

import logging
from datetime import datetime

import anyio
from anyio.abc import TaskGroup

from mcp_vega import errors
from mcp_vega.job import LOCAL, Job
from mcp_vega.jobs.changes import Change
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.images.mover import ImageMover
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.worker import Worker
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.telemetry.log_context import working_on
from mcp_vega.telemetry.spans import detached

logger = logging.getLogger(__name__)

# Seconds between two searches for jobs that nobody works on, or that could not be saved; and for pictures to move.
LOOK_SECONDS = 5.0
# The same for the jobs, if the servers can report changes to each other: then many people wait for these servers.
REPORTED_LOOK_SECONDS = 1.0
# Seconds between two tries, at the end, to save what only this server has.
FINAL_LOOK_SECONDS = 0.25


class _Problem:
    """Logs that the store fails, with one warning for each outage."""

    def __init__(self) -> None:
        self._level = logging.WARNING

    def log(self, error: errors.LedgerError) -> None:
        """Log why the store fails now."""
        logger.log(self._level, error.what)
        self._level = logging.DEBUG

    def end(self) -> None:
        """Note that the store works again."""
        self._level = logging.WARNING


class Recovery:
    """Has one server at a time work on each open job of an API, and has pictures moved to the first store."""

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
        # Whether it continues no more jobs; and whether it has left the open jobs to other servers.
        self._leaving = self._left = False
        self._finishing = anyio.Event()
        # The jobs that this server held at the last look, although it did not work on them.
        self._idle = set[str]()

    def open(self, tasks: TaskGroup) -> None:
        """Use this task group for the work from now on."""
        self._tasks = tasks
        tasks.start_soon(self._save_again)

    async def account(self) -> str:
        """The ledger's id of the account that pays for this server's calls.

        Raises:
            VegaError: There is no usable key, or the store cannot be used.
        """
        return await self._store.accounts.of_key(self._client.require_key())

    async def why_not_resumable(self, job: Job) -> str:
        """Why only another server can finish a job; empty if this one can. Raises the errors of `account`."""
        if job.base_url == LOCAL != self._config.api:
            return "begun for the engine on this machine; only a server with --local can finish it"
        if job.base_url != LOCAL == self._config.api:
            return f"begun with the API at {job.base_url}; only a server without --local can finish it"
        if job.base_url != self._config.api:
            return f"begun with another API, {job.base_url}; only a server with that SEGMIND_BASE_URL can finish it"
        if job.account != await self.account():
            return "begun with another API key; only a server with that SEGMIND_API_KEY can finish it"
        return ""

    async def resume(self, job: Job) -> Job:
        """Continue a job if there is more to do and nobody works on it. Returns its current state.

        Raises:
            VegaError: There is no usable key, or the store cannot be written.
        """
        job = await self._after_last_save(job)
        if not job.open or job.held or self._leaving:
            return job
        with self._client.keeping_key():
            if await self.why_not_resumable(job):
                return job
            if claimed := await self._claim(job.local_id):
                return claimed
        await self._running.forget_if_kept(job)
        return await self._running.current(job)

    async def _after_last_save(self, job: Job) -> Job:
        """The job, once the work that left its pictures only in memory has ended: only then can it be continued."""
        changes = self._running.changes
        while (running := self._running.get_active(job)) and not changes.waits_ended:
            if not running.job.in_memory:
                break
            await changes.next_of(job).wait()
            job = running.shown
        return job

    async def _claim(self, local_id: str, *, may_send: bool = False) -> Job | None:
        """Continue a job, unless somebody works on it already. Returns its current state, or None."""
        job = await self._store.claim(local_id)
        # Another call in this server may have been quicker.
        if not job or not job.open or self._running.get_active(job):
            return None
        job = self._worker.resume(job, may_send=may_send)
        with working_on(job):
            logger.info("This server continues job %s, which nobody works on: %s", job.local_id, job.state)
        self._running.changes.announce_to_followers(Change.of(job), stored=True)
        return job

    def resume_orphans(self) -> None:
        """From now on, continue the open jobs that no running server works on, each after longer and longer pauses.

        `resume` tries a job immediately.
        """
        if not self._recovering:
            self._recovering = True
            self._running.changes.open()
            with detached():  # a request may have called this
                self._tasks.start_soon(self._resume_orphans)
                self._tasks.start_soon(self._move_pictures)

    async def _resume_orphans(self) -> None:
        moment = None  # at first, all are tried: much may have changed since the last server ended
        warned, problem = "", _Problem()
        while not self._leaving:
            try:
                with self._client.keeping_key():
                    account = await self.account()
                    if warned != account:
                        await self._warn_of_other_accounts(account)
                        warned = account
                    for local_id in await self._orphans(account, moment):
                        await self._resume_orphan(local_id)
                moment = self._config.clock()
                problem.end()
            except errors.InvalidSettings:
                pass  # without a key the API cannot be asked; the tools report that
            except errors.LedgerError as error:
                problem.log(error)
            except Exception:
                logger.exception("The jobs that nobody works on could not be continued")
            await anyio.sleep(self._pause)

    async def _orphans(self, account: str, moment: datetime | None) -> list[str]:
        """The local ids of the jobs that no running server works on.

        Among them are jobs that this server holds without its knowledge, because the answer to a claim was lost. Such a
        job must be found by two looks in a row: it may just have been begun or claimed.
        """
        here = self._running.in_memory
        orphans = await self._store.accounts.orphans(self._config.api, account, moment, working_on=here)
        before, self._idle = self._idle, {*orphans.mine}
        return [*orphans.left, *(each for each in orphans.mine if each in before)]

    async def _move_pictures(self) -> None:
        while not self._left:
            await self._mover.move_back()
            await anyio.sleep(LOOK_SECONDS)

    @property
    def _pause(self) -> float:
        return REPORTED_LOOK_SECONDS if self._running.changes.reach_others else LOOK_SECONDS

    async def _warn_of_other_accounts(self, account: str) -> None:
        if count := await self._store.accounts.count_of_others(self._config.api, account):
            logger.warning(
                "Unfinished jobs that were begun with another API key: %s. Only a server with that SEGMIND_API_KEY can "
                "find out how they ended. Until then they count as spent, and check_job shows what is known of them",
                count,
            )

    async def _resume_orphan(self, local_id: str) -> None:
        try:
            # A job that this server has held all the time may have a slot, and then it gets no other turn.
            await self._claim(local_id, may_send=local_id in self._idle)
        except errors.LedgerError as error:  # for example if its row cannot be read; others can
            logger.warning(error.what)

    async def _save_again(self) -> None:
        """Save from time to time what only this server has, because the store or the gallery failed before."""
        problem = _Problem()
        while not self._left:
            with anyio.move_on_after(self._pause):
                await self._finishing.wait()
            if self._leaving:
                await anyio.sleep(FINAL_LOOK_SECONDS)
            try:
                await self._running.save_again()
                await self._keep_pictures()
                problem.end()
            except errors.LedgerError as error:
                problem.log(error)
            except Exception:
                logger.exception("The server's unsaved jobs could not be saved")

    async def _keep_pictures(self) -> None:
        """Keep the pictures that are only in memory, if the gallery takes pictures again. This needs no API key."""
        waiting = [each for each in self._running.only_here if each.saved and not each.active]
        if waiting and await self._mover.can_move():
            for each in waiting:
                if not await self._claim(each.local_id):
                    await self._running.forget_if_kept(each.job)

    async def finish(self, deadline: float, *, save: bool) -> list[Job]:
        """Continue no more jobs, and wait until the deadline for the jobs begun here. Then call `leave`.

        With `save`, also wait until everything that only this server has is saved. Returns the jobs that it waited for,
        in their current state.
        """
        self._leaving = True
        self._finishing.set()
        under_way = await self._worker.finish(deadline, save=save)
        self._store.shorten_waits()
        return [each.shown for each in under_way]

    async def leave(self) -> None:
        """Leave the jobs in progress to other servers."""
        self._leaving = self._left = True
        try:
            await self._store.leave()
        except errors.LedgerError as error:
            logger.warning(error.what)
