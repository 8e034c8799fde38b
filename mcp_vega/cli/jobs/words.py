"""The state and the cost of a job, in words for people."""

from mcp_vega.errors import Charged
from mcp_vega.job import Job, State
from mcp_vega.storage.ledger.spending import dollars


def state_of(job: Job) -> str:
    """The state of a job in one word, as docs/jobs-and-money.md lists them."""
    if job.state is State.COMPLETED:
        return _of_completed(job)
    if job.state is State.FAILED:
        return "failed"
    if job.error or job.state is State.UNKNOWN:
        return "missing" if job.charged is Charged.YES else "unknown"
    if not job.held:
        return "waiting"
    return "queued" if job.state is State.QUEUED else "drawing"


def _of_completed(job: Job) -> str:
    if job.images and all(image.deleted for image in job.images):
        return "deleted"
    return "done" if job.complete else f"{len(job.images)} of {job.parameters.pictures}"


def cost_of(job: Job, *, pretend: bool = False) -> str:
    """The cost of a job; `pretend` marks that of a sandbox."""
    drew_nothing = job.charged is Charged.NO and job.state is not State.COMPLETED
    return "no charge" if drew_nothing else dollars(job.cost, pretend=pretend)
