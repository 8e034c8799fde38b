"""What a caller hears while it waits for a job: what is being done, and how long that usually takes."""

from typing import NamedTuple

from mcp_vega.errors import Charged
from mcp_vega.job import Job, State
from mcp_vega.jobs.service import JobService


class Progress(NamedTuple):
    """How far a job is, in seconds since it was begun; `total` is None where its end cannot be told."""

    elapsed: float
    total: float | None
    message: str


def progress_of(service: JobService, job: Job) -> Progress:
    """How far a job is now."""
    elapsed, usual = service.elapsed_seconds(job), service.expected_seconds(job)
    notes = f" ({'; '.join(job.notes)})" if job.notes else ""
    if job.state.finished and not job.open:
        return Progress(elapsed, elapsed, "Finished" if job.state is State.COMPLETED else "Failed")
    if job.sent is None:
        return Progress(elapsed, None, f"Waiting{notes}" if notes else "Sending the call")
    total, message = None, _doing(job)
    if not job.has_outcome:
        waited = max((job.sent - job.created).total_seconds(), 0)
        seconds = max(elapsed - waited, 0)
        if seconds < usual:
            total, message = waited + usual, f"{message}: {seconds:.0f} s of about {usual:.0f} s"
        else:
            message = f"{message}: {seconds:.0f} s, longer than the usual {usual:.0f} s"
    return Progress(elapsed, total, message + notes)


def _doing(job: Job) -> str:
    """What is being done about a job whose call was sent."""
    if job.error and job.error.charged is Charged.UNKNOWN:
        return "The answer was lost; asking the API whether the call ran"
    if job.has_outcome:
        return "Fetching the picture"
    if job.state is State.QUEUED:
        # The API is not asked before the picture is likely to be there.
        return "Queued or being drawn" if job.remote_id else "Sending the call"
    return "Drawing"
