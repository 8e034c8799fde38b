"""The jobs that this server works on, and their current states."""

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import anyio

from mcp_vega.errors import Charged, LedgerError, OutcomeUnknown, VegaError
from mcp_vega.job import Job, JobImage, State
from mcp_vega.jobs.changes import Change, Changes
from mcp_vega.jobs.instrumentation import report_change, report_end
from mcp_vega.jobs.polling.drawing_times import DrawingTimes
from mcp_vega.storage.ledger.job_store import JobStore

logger = logging.getLogger(__name__)

# Seconds between two looks at a job that another server works on, if that server cannot report its changes.
POLL_SECONDS = 0.25


@dataclass(eq=False)
class RunningJob:
    """A job in memory, because this server works on it, or because the store has less of it.

    Attributes:
        job: Its current state.
        begun_here: Whether this server began it. If not, it continues another server's job.
        may_send: Whether it already has a slot for its call.
        answer_lost: Whether its call was sent, and only the request history can tell whether it ran.
        active: Whether this server is working on it.
        saved: Whether the store has its current state.
        released: Whether the store knows that nobody works on it any more.
        note: What to tell users if the store does not have its current state.
        before: Its state before a change that is being saved. Until then, others see this state.
        added: Its state when the work on it began.
    """

    job: Job
    begun_here: bool = False
    may_send: bool = False
    answer_lost: bool = False
    active: bool = True
    saved: bool = True
    released: bool = False
    note: str = ""
    before: Job | None = None
    added: Job = field(init=False)

    def __post_init__(self) -> None:
        self.added = self.job

    @property
    def local_id(self) -> str:
        """The job's local id."""
        return self.job.local_id

    @property
    def request_id(self) -> str:
        """The job's id that users see."""
        return self.job.request_id

    @property
    def shown(self) -> Job:
        """The job as others see it."""
        job = self.before or self.job
        if job.error and job.sent is None and not self.saved:
            # In the store, the job may still wait to be sent, and another server may find it there.
            unsaved = "this could not be saved, so another server may still send the call"
            step = f"Call check_job with the request_id {job.request_id} in about two minutes. Do not repeat the call"
            error = OutcomeUnknown(f"{job.error.what}; {unsaved}", next_step=step)
            error.public = job.error.public and f"{job.error.public}; {unsaved}"
            job = replace(job, error=error)
        return replace(job, notes=(*job.notes, self.note)) if self.note else job


class ClaimedElsewhereError(Exception):
    """Another server works on the job."""


class RunningJobs:
    """Saves every change of a job. If a call is paid for already, it continues even if the store fails.

    A method that only looks up a job raises a `LedgerError` if the job is not in memory and the store cannot be read.
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.changes = Changes(store.notices)
        self.times = DrawingTimes(store.accounts)
        self._jobs: dict[str, RunningJob] = {}

    @property
    def active(self) -> list[RunningJob]:
        """The jobs that this server is working on."""
        return [running for running in self._jobs.values() if running.active]

    @property
    def in_memory(self) -> set[str]:
        """The local ids of the jobs that this server works on, or will save later."""
        return {local_id for local_id, running in self._jobs.items() if running.active or not running.saved}

    @property
    def only_here(self) -> list[RunningJob]:
        """The jobs of which only this server's memory has a picture or the current state."""
        return [each for each in self._jobs.values() if each.before or not each.saved or each.job.in_memory]

    def add(self, job: Job, *, begun_here: bool = False, may_send: bool = False) -> RunningJob:
        """Add a job that this server now works on. The store has the job already."""
        if earlier := self._jobs.get(job.local_id):
            job = earlier.job  # memory still has it, because the store has less of it
            begun_here = begun_here or earlier.begun_here
        saved = earlier is None or earlier.saved
        running = RunningJob(replace(job, held=True, next_try=None), begun_here, may_send, saved=saved)
        self._jobs[job.local_id] = running
        return running

    def get_active(self, job: Job) -> RunningJob | None:
        """The `RunningJob` of a job; None if this server does not work on it."""
        running = self._jobs.get(job.local_id)
        return running if running and running.active else None

    def newest(self, job: Job) -> Job:
        """The current state of a job that this server works on, for the code that works on it."""
        return self._jobs[job.local_id].job

    async def update(self, job: Job, **changes: Any) -> Job:
        """Save a change of a job, and report it to all that follow the job. Returns the changed job.

        Raises:
            ClaimedElsewhereError: Another server works on the job.
        """
        running = self._jobs[job.local_id]
        before, running.job = running.job, replace(job, **changes)
        running.before = before
        try:
            if not await self._save(running, release=not running.job.open):
                raise ClaimedElsewhereError
            running.saved, running.released, running.note = True, not running.job.open, ""
        except LedgerError as error:
            if running.saved:
                logger.warning("%s; the job goes on, and will be saved as soon as possible", error.what)
            running.saved, running.note = False, _unsaved(error)
        finally:
            running.before = None
        report_change(before, running.job)
        self.times.learn(before, running.job)
        kept = len(running.job.images) > len(before.images)
        self.changes.announce(Change.of(running.job, kept=kept), stored=running.saved)
        return running.job

    async def _save(self, running: RunningJob, *, release: bool) -> bool:
        """Save a job, which may get its remote id then. Returns False if it is another server's.

        That server gets the remote id, if it is known here: the answer with the id came to this server only.
        """
        job = running.job
        saved = await self.store.save(job, release=release)
        if saved:
            # While this was written, the job may have got an id that is not written yet.
            running.job = replace(running.job, remote_id=running.job.remote_id or saved.remote_id)
        elif job.remote_id:
            await self.store.assign(job, job.remote_id)
        return saved is not None

    def show(self, job: Job, *, stored: bool = False, **changes: Any) -> Job:
        """Report a change of a job without saving it: it need not be saved, or is `stored`. Returns the changed job."""
        running = self._jobs[job.local_id]
        before, running.job = running.job, replace(job, **changes)
        report_change(before, running.job)
        self.changes.announce(Change.of(running.job), stored=stored)
        return running.job

    async def fail(self, error: VegaError, job: Job, now: datetime) -> Job:
        """Record the error of a job, unless more than that is known already. Returns the changed job."""
        job = self.newest(job)
        paid = job.error is not None and job.error.charged is Charged.YES
        if job.images or (paid and error.charged is Charged.UNKNOWN):
            return job
        state = State.UNKNOWN if error.charged is Charged.UNKNOWN else State.FAILED
        is_open = error.charged is not Charged.NO
        return await self.update(job, state=state, error=error, open=is_open, ended=now)

    async def remove(self, running: RunningJob, next_try: datetime | None = None) -> None:
        """Stop the work on a job. It stays in memory only if the store does not have all of it.

        A job that is still open is tried again at `next_try` (UTC).
        """
        is_news = not (running.saved and running.released)
        try:
            if is_news:
                running.job = replace(running.job, next_try=next_try if running.job.open else None)
                await self._save(running, release=True)
                running.saved, running.released, running.note = True, True, ""
        except LedgerError as error:
            running.saved, running.note = False, _unsaved(error)
        finally:
            # Until here the job counts as active, so that nothing else in this server starts to work on it.
            if running.active:
                report_end(running.added, running.job)
            running.active, running.job = False, replace(running.job, held=False)
        if running.saved and not running.job.in_memory:
            self._forget(running)
        self.changes.announce_to_followers(Change.of(running.job), stored=is_news and running.saved)

    def drop(self, running: RunningJob) -> None:
        """Forget a job that another server works on."""
        logger.info("Another server works on job %s", running.local_id)
        running.active = False
        self._forget(running)
        self.changes.announce_to_followers(Change.of(running.job), stored=False)

    def _forget(self, running: RunningJob) -> None:
        """Remove it from memory, unless the work on its job has started again meanwhile."""
        if self._jobs.get(running.job.local_id) is running:
            del self._jobs[running.job.local_id]

    # ---- what the store lacks ----

    async def save_again(self) -> None:
        """Save what the store could not save before. Raises the last `LedgerError` if that fails again."""
        problem: LedgerError | None = None
        for running in [*self._jobs.values()]:
            try:
                if not running.saved and self._jobs.get(running.job.local_id) is running:
                    await self._save_again(running)
            except LedgerError as error:
                problem = error
        if problem:
            raise problem

    async def _save_again(self, running: RunningJob) -> None:
        release = not (running.active and running.job.open)
        if not await self._save(running, release=release) and not running.active:
            self.drop(running)
            return
        running.saved, running.released, running.note = True, release, ""
        # Listeners here know it already.
        self.changes.announce_to_followers(Change.of(running.job, kept=bool(running.job.images)), stored=True)
        if not running.active:
            await self.remove(running, running.job.next_try)

    async def require_saved(self, running: RunningJob) -> None:
        """Save a job that the store could not save before. Raises a `LedgerError` if that fails again."""
        if not running.saved:
            await self._save(running, release=False)
            running.saved, running.note = True, ""

    async def forget_if_kept(self, job: Job) -> None:
        """Forget a job that is only in memory, if another server has saved all its pictures."""
        running = self._jobs.get(job.local_id)
        if running and not running.active:
            known = await self.store.get(job.local_id)
            if known and known.complete and not running.active:
                self._forget(running)

    # ---- looking ----

    async def get(self, request_id: str) -> Job | None:
        """The job with this id (the API's or the local one), from memory or from the store."""
        running = self._jobs.get(request_id)
        running = running or next((each for each in self._jobs.values() if each.job.remote_id == request_id), None)
        return running.shown if running else await self.store.get(request_id)

    async def current(self, job: Job) -> Job:
        """The current state of a job; the state as given if the store cannot be read."""
        try:
            return await self.get(job.local_id) or job
        except LedgerError as error:
            logger.warning(error.what)
            return job

    async def get_image(self, image_id: str) -> JobImage | None:
        """The picture with this id and its job; from memory only if the store does not have it.

        Stars, deletions and moves are recorded only in the store.
        """
        every = (JobImage(running.shown, image) for running in self._jobs.values() for image in running.job.images)
        here = next((each for each in every if each.image.id == image_id), None)
        try:
            return await self.store.search.image(image_id) or here
        except LedgerError:
            if here is None:
                raise
            return here

    async def until_changed(self, job: Job, changed: anyio.Event) -> None:
        """Wait until a job has changed, or nobody may wait any longer. `changed` is the event of its next change."""
        if self.changes.reach_others or self.get_active(job):
            await changed.wait()
            return
        # Another server works on the job, and cannot report its changes.
        while not self.changes.waits_ended and await self.current(job) == job:  # noqa: ASYNC110  there is no event
            await anyio.sleep(POLL_SECONDS)


def _unsaved(error: LedgerError) -> str:
    return f"{error.public or error.what}, so this job is not saved"  # the log names the database
