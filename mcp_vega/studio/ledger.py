"""Every job of this server, by id and by picture."""

from mcp_vega.studio.jobs import Image, Job


class Ledger:
    """Holds the jobs in memory, in the order they were begun."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._local_ids: dict[str, str] = {}

    async def save(self, job: Job) -> None:
        """Write a job down as it stands now."""
        self._jobs[job.local_id] = job
        if job.remote_id:
            self._local_ids[job.remote_id] = job.local_id

    async def find(self, request_id: str) -> Job | None:
        """The job with this id, the API's or the local one."""
        return self._jobs.get(self._local_ids.get(request_id, request_id))

    async def latest(self, limit: int) -> list[Job]:
        """The jobs begun last, newest first."""
        return list(reversed(self._jobs.values()))[:limit]

    async def find_image(self, image_id: str) -> Image | None:
        """The picture with this id."""
        every = (image for job in self._jobs.values() for image in job.images)
        return next((image for image in every if image.id == image_id), None)
