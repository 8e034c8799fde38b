"""The board: the jobs that this server works on, where each of them stands, and a bell for those who follow one."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import anyio

from mcp_vega.errors import LedgerError
from mcp_vega.job import Job
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.database.search import JobImage

logger = logging.getLogger(__name__)


@dataclass
class _Pinned:
    """A job on the board.

    `live` while it is worked on, `saved` while the ledger knows how it stands; `note` is what to say where it does not.
    """

    job: Job
    bell: anyio.Event = field(default_factory=anyio.Event)
    live: bool = True
    saved: bool = True
    note: str = ""

    @property
    def shown(self) -> Job:
        return replace(self.job, notes=(*self.job.notes, self.note)) if self.note else self.job


class Listener(Protocol):
    """Hears of a job that has changed; `kept` says that pictures of it were kept."""

    def __call__(self, job: Job, *, kept: bool) -> None:
        """Take the news; there is no time to wait for anything."""
        ...


class RunningJobs:
    """Has every change written into the ledger, and goes on without it where a call is paid for already.

    Args:
        ledger: The ledger.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._pinned: dict[str, _Pinned] = {}
        self._listeners: list[Listener] = []

    @property
    def live(self) -> list[Job]:
        """The jobs that are worked on here."""
        return [pinned.job for pinned in self._pinned.values() if pinned.live]

    def pin(self, job: Job) -> Job:
        """Put a job on the board that this server now works on; the ledger has it. Returns it as it now stands."""
        earlier = self._pinned.get(job.local_id)
        if earlier:
            job = earlier.job  # it is still here because it holds more than the ledger
        self._pinned[job.local_id] = _Pinned(replace(job, held=True), saved=earlier is None or earlier.saved)
        return self._pinned[job.local_id].job

    async def change(self, job: Job, **changes: Any) -> Job:
        """Write a change of a job down and tell those who follow it; returns the job as it now is."""
        pinned = self._pinned[job.local_id]
        kept = len(changes.get("images", ())) > len(pinned.job.images)
        pinned.job = replace(job, **changes)
        await self._save(pinned)
        self._ring(pinned)
        for listener in [*self._listeners]:
            listener(pinned.job, kept=kept)
        return pinned.job

    @contextmanager
    def listening(self, listener: Listener) -> Generator[None]:
        """Have every change of a job that is worked on here told, for as long as the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def _save(self, pinned: _Pinned) -> None:
        try:
            await self._store.save(pinned.job)
            pinned.saved = True
        except LedgerError as error:
            if pinned.saved:
                logger.warning("%s; the job goes on, and is written down as soon as that is possible", error.what)
            pinned.saved = False

    async def unpin(self, local_id: str) -> None:
        """Take a job down that is no longer worked on, unless it is nowhere else."""
        pinned = self._pinned[local_id]
        try:
            if not pinned.saved:
                await self._store.save(pinned.job)
                pinned.saved = True
            await self._store.release(local_id)
        except LedgerError as error:
            pinned.note = f"{error.what}, so this job is not written down"
            pinned.saved = False
        # Until here it counts as worked on, so that nobody else here begins.
        pinned.live, pinned.job = False, replace(pinned.job, held=False)
        if pinned.saved and not any(image.data for image in pinned.job.images):
            del self._pinned[local_id]
        self._ring(pinned)

    def _ring(self, pinned: _Pinned) -> None:
        bell, pinned.bell = pinned.bell, anyio.Event()
        bell.set()

    def bell(self, job: Job) -> anyio.Event | None:
        """What rings at a job's next change; None where it is not worked on here."""
        pinned = self._pinned.get(job.local_id)
        return pinned.bell if pinned and pinned.live else None

    async def until_answered(self, job: Job) -> None:
        """Wait until there is something to say about a job's outcome, or nobody works on it here."""
        while (pinned := self._pinned.get(job.local_id)) and pinned.live and not pinned.job.answered:
            await pinned.bell.wait()

    @property
    def unsaved(self) -> bool:
        """Whether the ledger lacks something that stands here."""
        return any(not pinned.saved for pinned in self._pinned.values())

    async def save_again(self) -> None:
        """Write down what the ledger would not take before.

        Raises:
            LedgerError: It still does not.
        """
        for local_id, pinned in [*self._pinned.items()]:
            if pinned.saved or self._pinned.get(local_id) is not pinned:
                continue
            await self._store.save(pinned.job)
            pinned.saved, pinned.note = True, ""
            if not pinned.live and self._pinned.get(local_id) is pinned:
                await self.unpin(local_id)

    async def forget_if_kept(self, job: Job) -> None:
        """Forget a job that is in memory alone, where another server has kept all its pictures."""
        pinned = self._pinned.get(job.local_id)
        if pinned and not pinned.live:
            known = await self._store.find(job.local_id)
            if known and known.complete and self._pinned.get(job.local_id) is pinned:
                del self._pinned[job.local_id]

    # ---- looking ----

    async def find(self, request_id: str) -> Job | None:
        """The job with this id, from here or from the ledger.

        Raises:
            LedgerError: It is not here, and the ledger cannot be read.
        """
        for pinned in self._pinned.values():
            if request_id in (pinned.job.local_id, pinned.job.remote_id):
                return pinned.shown
        return await self._store.find(request_id)

    async def seen(self, job: Job) -> Job:
        """A job as it stands now; as it was where the ledger cannot be read."""
        try:
            return await self.find(job.local_id) or job
        except LedgerError as error:
            logger.warning(error.what)
            return job

    async def find_image(self, image_id: str) -> JobImage | None:
        """The picture with this id and its job, from here or from the ledger.

        Raises:
            LedgerError: It is not here, and the ledger cannot be read.
        """
        for pinned in self._pinned.values():
            for image in pinned.job.images:
                if image.id == image_id:
                    return pinned.shown, image
        return await self._store.search.picture(image_id)
