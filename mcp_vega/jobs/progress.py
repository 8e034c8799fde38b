"""The progress that a caller sees while a job is under way: what is being done, and how long that usually takes."""

from typing import NamedTuple

from mcp_vega.errors import Charged
from mcp_vega.job import Job, State
from mcp_vega.jobs.reconciliation.reconciler import LOOKS, PENDING_LOOKS
from mcp_vega.jobs.service import JobService

# How long the server asks the request history after a lost answer, in seconds: first until the call should be listed,
# then on while it is listed as running.
FIRST_LOOKS = sum(LOOKS)
ALL_LOOKS = FIRST_LOOKS + sum(PENDING_LOOKS)
# From so many times the usual time on, a job takes longer than usual: before that, it may be the rounding.
LATE = 1.5


class Progress(NamedTuple):
    """The progress of a job, in seconds since it was begun; `total` is None if its end is not known."""

    elapsed: float
    total: float | None
    message: str


def progress_of(service: JobService, job: Job) -> Progress:
    """The progress of a job now."""
    elapsed = max((service.config.clock() - job.created).total_seconds(), 0)
    if (job.state.finished and not job.open) or (job.has_outcome and not job.held):
        return Progress(elapsed, elapsed, _ended(job))
    notes = f" ({'; '.join(job.notes)})" if job.notes else ""
    if other := _besides_drawing(service, job):
        return Progress(elapsed, None, f"{other}{notes}")
    # The API is not asked before the picture is likely to be there.
    doing = "Queued or drawing" if job.state is State.QUEUED else "Drawing"
    usual, seconds = service.expected_seconds(job), service.sent_seconds(job)
    if usual is None:
        return Progress(elapsed, None, f"{doing}: {seconds:.0f} s{notes}")
    if seconds < LATE * usual:
        total = max(elapsed - seconds + usual, elapsed)
        return Progress(elapsed, total, f"{doing}: {seconds:.0f} s of about {usual:.0f} s{notes}")
    return Progress(elapsed, None, f"{doing}: {seconds:.0f} s, longer than usual (about {usual:.0f} s){notes}")


def _besides_drawing(service: JobService, job: Job) -> str:
    """What is done for a job while the API does not draw it; empty if the API may be drawing it."""
    if job.sent is None:
        return "Waiting to be sent" if job.notes else "Sending the call"
    if job.has_outcome:
        return _after_outcome(service, job)
    if service.is_answer_lost(job):
        return _asking(job)
    return "Sending the call" if job.state is State.QUEUED and job.remote_id is None else ""


def _after_outcome(service: JobService, job: Job) -> str:
    """What the server still does for a job that has an outcome."""
    if job.error is None or job.error.charged is not Charged.UNKNOWN:
        return "Fetching the picture"
    asked = (service.config.clock() - (job.ended or job.created)).total_seconds()
    limits = (seconds * service.config.pace for seconds in (FIRST_LOOKS, ALL_LOOKS))
    limit = next((f" (up to {_in_words(limit)})" for limit in limits if asked < limit), "")
    return f"{_asking(job)}{limit}"


def _asking(job: Job) -> str:
    return f"The answer was lost; asking {'the engine' if job.is_free else 'Segmind'} whether it ran"


def _ended(job: Job) -> str:
    if job.state is State.COMPLETED:
        return "Finished"
    if job.state is State.UNKNOWN:
        return "The answer was lost; it is not known yet whether the call ran"
    return "Failed"


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
