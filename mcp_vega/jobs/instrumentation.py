"""What operators learn of each job: lines of the log, without its prompt, and figures."""

import logging
from collections.abc import Iterator

from mcp_vega.job import Job, State
from mcp_vega.storage.ledger.spending import BILLION, billionths
from mcp_vega.telemetry.recorder import JobOutcome, recorder

logger = logging.getLogger(__name__)

OUTCOMES = {State.COMPLETED: JobOutcome.DONE, State.FAILED: JobOutcome.FAILED}


def report_change(before: Job, job: Job) -> None:
    """Report that a job's call was sent, or that pictures of the job were kept."""
    if job.sent and not before.sent:
        logger.info("The call of job %s is sent", job.local_id)
    earlier = {image.id for image in before.images}
    kept = [image for image in job.images if image.id not in earlier]
    for image in kept:  # not the name of its file, which has words of the prompt
        logger.info("The picture %s of job %s is kept in %s", image.uri, job.local_id, image.location.store)
    if kept:
        recorder().pictures_kept(job.model, len(kept))


def report_end(added: Job, job: Job) -> None:
    """Report how a job ended, unless it had this outcome already when the work on it began.

    Its cost counts once: a job that had an outcome before, such as unknown, has counted with its cost or estimate.
    """
    if not job.has_outcome or (added.has_outcome and added.state is job.state):
        return
    logger.info("Job %s ended: %s", job.local_id, ", ".join(_outcome(job)))
    seconds = max(_seconds(job), 0)
    recorder().job_ended(job.model, OUTCOMES.get(job.state, JobOutcome.UNKNOWN), seconds)
    counted = billionths(added) if added.has_outcome else 0
    recorder().spent(job.model, max(billionths(job) - counted, 0) / BILLION)


def _seconds(job: Job) -> float:
    """How long a job took, by the clock."""
    return ((job.ended or job.created) - job.created).total_seconds()


def _outcome(job: Job) -> Iterator[str]:
    yield f"{job.state} ({job.error.code})" if job.error else job.state
    if job.ended:
        yield f"{_seconds(job):.1f} s"
    yield f"charged: {job.charged}" if job.cost is None else f"${job.cost:f}"
