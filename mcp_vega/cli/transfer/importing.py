"""Imports: from a file to the ledger and the gallery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from mcp_vega.cli.transfer.archive import ArchiveReader, ExportFileError
from mcp_vega.cli.transfer.parallel import AT_ONCE, for_each
from mcp_vega.cli.transfer.records import ImageRecord, JobRecord, place_of
from mcp_vega.cli.transfer.report import Report
from mcp_vega.errors import GalleryError, VegaError
from mcp_vega.job import MEMORY, Image, ImageLocation, Job
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.transfer import is_of_another

STAY = "They stay in the file"


@dataclass(frozen=True)
class Changes:
    """What an import changes in the jobs.

    Attributes:
        owner: The owner that all jobs get; None leaves them unchanged.
        accounts: The accounts that have other ids in this ledger: the new ids by the old ones.
        own: Whether the ids of the other accounts are those of this ledger, because it has the same key.
    """

    owner: str | None
    accounts: Mapping[str, str]
    own: bool

    def knows(self, account: str) -> bool:
        """Whether a server on this ledger can find the jobs of an account that has this id in the file."""
        return self.own or not account or account in self.accounts


@dataclass
class Counts:
    """What an import did: how many jobs were new, and how many were there already; and what people should know."""

    new: int = 0
    known: int = 0
    pictures: int = 0
    of_other_keys: int = 0
    open_of_other_keys: int = 0
    elsewhere: int = 0  # pictures that are not in the first store
    why_elsewhere: str = ""


class Importer:
    """Writes the jobs of a file to a ledger, and their pictures to a gallery."""

    def __init__(self, archive: ArchiveReader, store: JobStore, images: FallbackImageStore, report: Report) -> None:
        self._archive = archive
        self._store = store
        self._images = images
        self._report = report
        self.counts = Counts()
        self._kept = 0  # pictures of jobs that are not written yet

    async def import_(self, changes: Changes) -> None:
        """Import all jobs. If this is interrupted, the jobs so far are complete, and it can be repeated.

        Raises:
            ExportFileError: The list of jobs is damaged.
            GalleryError: No disk can keep a picture.
            LedgerError: The ledger cannot be written.
        """
        self._archive.check_jobs()
        records, done = self._archive.jobs(), 0
        while batch := list(islice(records, AT_ONCE)):
            prepared = await for_each(batch, lambda record: self._prepare(record, changes))
            jobs = self._good(batch, prepared, changes)
            new = await self._store.transfer.add(jobs, changes.accounts)
            self.counts.new += new
            self.counts.known += len(jobs) - new
            self.counts.pictures += self._kept
            self._kept = 0
            done += len(batch)
            self._report.progress(done, self._archive.manifest.jobs)

    def _good(self, records: Sequence[JobRecord], prepared: Sequence[Job | VegaError], changes: Changes) -> list[Job]:
        """The jobs that can be written. Jobs with a damaged picture are reported, other errors are raised."""
        jobs: list[Job] = []
        for record, job in zip(records, prepared, strict=True):
            if isinstance(job, ExportFileError):
                self._report.problem(f"The job {record.local_id} was not imported. {job.what}")
                continue
            if isinstance(job, VegaError):
                raise job
            jobs.append(job)
            if job.account == record.account and not changes.knows(job.account):
                self.counts.of_other_keys += 1
                self.counts.open_of_other_keys += job.open
        return jobs

    async def _prepare(self, record: JobRecord, changes: Changes) -> Job:
        """Return a job as the ledger gets it, after its pictures are kept.

        Raises:
            ExportFileError: The job or one of its pictures is damaged.
            GalleryError: No disk can keep a picture.
        """
        try:
            job = record.job()
        except ValueError as error:
            raise self._archive.damaged(f"{error}") from None
        if changes.owner is not None:
            job = replace(job, owner=changes.owner)
        known = await self._store.get(job.local_id)
        if known is None and job.remote_id and (other := await self._store.get(job.remote_id)):
            if record.images and not other.images:
                self._report.problem(f"The ledger has the job {job.remote_id} already, but not its pictures. {STAY}")
            return job
        if known and is_of_another(known, job):
            return job
        there = {image.id: image for image in known.images} if known else {}
        job = replace(job, account=known.account if known else job.account)
        images = [await self._keep(job, image, there.get(image.id)) for image in record.images]
        return replace(job, images=job.in_order(image for image in images if image))

    async def _keep(self, job: Job, record: ImageRecord, known: Image | None) -> Image | None:
        """Keep a picture, unless it is there; returns it with its place, None if the file does not have it."""
        can_return = known and record.file and record.sha256 == known.sha256 and not known.deleted
        if known and not (can_return and await self._images.is_gone(known)):
            return replace(known, starred=record.starred)
        name, key = place_of(job, record)
        if record.deleted:
            return record.image(ImageLocation("", key))
        if record.file is None:
            self._report.problem(f"The picture {record.id} was not imported: it was missing when the file was made")
            return None
        data = self._archive.picture(record)
        location, problem = await self._images.save(data, name, record.id, job.created.date())
        if location.store == MEMORY:
            raise GalleryError(f"{problem}; no other folder could be written either")
        self._kept += 1
        if problem:
            self.counts.elsewhere += 1
            self.counts.why_elsewhere = problem
        if known is None:
            return record.image(location, fallback=bool(problem))
        if location != known.location:
            await self._store.locations.move(known, location, datetime.now(UTC))
        return replace(known, starred=record.starred)
