"""Exports: from the ledger and the gallery to a file."""

from collections.abc import Iterator, Sequence
from hashlib import sha256

from mcp_vega.cli.transfer.archive import ArchiveWriter
from mcp_vega.cli.transfer.parallel import AT_ONCE, for_each
from mcp_vega.cli.transfer.records import ImageRecord, JobRecord, name_in_zip
from mcp_vega.cli.transfer.report import Report
from mcp_vega.errors import GalleryError
from mcp_vega.job import OPERATOR, Image, Job
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.object_storage.problems import is_outage
from mcp_vega.storage.ledger.job_store import JobStore

JOBS_AT_ONCE = 100


class Exporter:
    """Writes jobs and their pictures to a file."""

    def __init__(self, archive: ArchiveWriter, images: FallbackImageStore, report: Report) -> None:
        self._archive = archive
        self._images = images
        self._report = report
        self.unsent = 0  # jobs that stay with the servers of their ledger

    async def export(self, store: JobStore, owner: str | None) -> None:
        """Export the jobs of an owner, which then belong to the operator; None exports all jobs unchanged.

        Raises:
            LedgerError: The ledger cannot be read.
            GalleryError: The gallery's bucket does not answer.
        """
        whose = OPERATOR if owner is None else owner
        total, done, after = await store.transfer.count(whose), 0, 0
        while (page := await store.transfer.page(after, JOBS_AT_ONCE, whose)).last:
            for local_id in page.unreadable:
                self._report.problem(f"The job {local_id} cannot be read: another version of mcp-vega wrote it")
            sent = [job for job in page.jobs if job.sent or not job.open]
            self.unsent += len(page.jobs) - len(sent)
            for jobs in batches(sent):
                await self._add(jobs, owner)
            after, done = page.last, done + len(page.jobs) + len(page.unreadable)
            self._report.progress(done, total)

    async def _add(self, jobs: Sequence[Job], owner: str | None) -> None:
        """Add jobs after their pictures."""
        kept = [image for job in jobs for image in job.images if not image.deleted]
        there: set[str] = set()
        for image, data in zip(kept, await for_each(kept, self._read), strict=True):
            if isinstance(data, bytes):
                self._archive.add_picture(name_in_zip(image.id, image.mime_type), data)
                there.add(image.id)
            elif is_outage(data):
                raise data
            else:
                self._report.problem(f"The picture {image.id} is not in the file. {data.what}")
        for job in jobs:
            images = tuple(ImageRecord.of(image, kept=image.id in there) for image in job.images)
            self._archive.add_job(JobRecord.of(job, images, job.owner if owner is None else OPERATOR))

    async def _read(self, image: Image) -> bytes:
        data = await self._images.read(image.location)
        if sha256(data).hexdigest() != image.sha256:
            raise GalleryError(f"The file {image.path or image.name} was changed since it was drawn")
        return data


def batches(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs in groups with about `AT_ONCE` pictures each, so that only a few pictures are in memory."""
    group, pictures = list[Job](), 0
    for job in jobs:
        group.append(job)
        pictures += len(job.images)
        if pictures >= AT_ONCE:
            yield group
            group, pictures = [], 0
    yield group
