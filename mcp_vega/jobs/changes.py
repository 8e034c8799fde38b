"""Changes of jobs: those of this server, and those of the other servers on its ledger."""

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self
from weakref import WeakValueDictionary

import anyio

from mcp_vega.job import OPERATOR, Job, State
from mcp_vega.storage.database.notices import Notices
from mcp_vega.storage.ledger.spending import BILLION, billionths
from mcp_vega.telemetry.log_context import working_on
from mcp_vega.telemetry.recorder import recorder

logger = logging.getLogger(__name__)

# The topic of the notices that report a change to other servers.
TOPIC = "change"


@dataclass(frozen=True)
class Change:
    """A change of a job.

    Attributes:
        job: The job's local id.
        owner: The job's owner.
        uris: The job's addresses as MCP resources.
        kept: Whether pictures of the job were saved.
    """

    job: str
    owner: str
    uris: tuple[str, ...]
    kept: bool = False

    @classmethod
    def of(cls, job: Job, *, kept: bool = False) -> Self:
        """A change of this job."""
        return cls(job.local_id, job.owner, job.uris, kept)

    @classmethod
    def read(cls, notice: Mapping[str, Any] | None) -> Self | None:
        """The change in a notice; None if there is none that this version understands."""
        match notice:
            case {"job": str(job), "owner": str(owner), "uris": [*uris], "kept": bool(kept)}:
                return cls(job, owner, tuple(str(each) for each in uris), kept)
            case _:
                return None

    def is_shown_to(self, owner: str) -> bool:
        """Whether this owner may know of the change."""
        return owner in (OPERATOR, self.owner)


# Called with a change; with None if changes by other servers may have been missed. It must not block.
Listener = Callable[[Change | None], None]


class Changes:
    """Reports the changes of jobs to everything in this server that listens, and to the other servers."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._listeners: list[Listener] = []
        # An event stays here only as long as something waits for it.
        self._next = WeakValueDictionary[str, anyio.Event]()
        # Whether nobody may wait for a change any longer, because the process is about to exit.
        self.waits_ended = False

    @property
    def reach_others(self) -> bool:
        """Whether the servers on the ledger learn of each other's changes. If not, they must look for them."""
        return self._notices.reach_others

    def open(self) -> None:
        """Learn of the changes by other servers from now on."""
        self._notices.open()

    def receiving(self) -> AbstractContextManager[None]:
        """Report the changes by other servers, for as long as the block runs."""
        return self._notices.listening(TOPIC, self._receive)

    def _receive(self, notice: Mapping[str, Any] | None) -> None:
        change = Change.read(notice)
        for job in [change.job] if change else [*self._next]:
            self._wake(job)
        self._report(change)

    def announce(self, change: Change, *, stored: bool) -> None:
        """Report a change to the listeners, and to all that follow the job; to other servers if it is `stored`."""
        self._report(change)
        self.announce_to_followers(change, stored=stored)

    def announce_to_followers(self, change: Change, *, stored: bool) -> None:
        """Wake all that follow the job here, and report the change to other servers if it is `stored`."""
        self._wake(change.job)
        if stored:
            self._notices.send(TOPIC, asdict(change))

    def _report(self, change: Change | None) -> None:
        for listener in [*self._listeners]:
            listener(change)

    def _wake(self, job: str) -> None:
        if event := self._next.pop(job, None):
            event.set()

    def end_waits(self) -> None:
        """Wake all that follow a job. From now on, nobody may wait for a change."""
        self.waits_ended = True
        for job in [*self._next]:
            self._wake(job)

    @contextmanager
    def listening(self, listener: Listener) -> Generator[None]:
        """Call `listener` at every change of a job, for as long as the block runs."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def next_of(self, job: Job) -> anyio.Event:
        """The event that is set at the next change of a job, or if changes may have been missed."""
        event = self._next.get(job.local_id) or anyio.Event()
        self._next[job.local_id] = event
        return event


def log_change(before: Job, job: Job) -> None:
    """Log what a change means in the life of a job, without its prompt."""
    with working_on(job):
        if job.sent and not before.sent:
            logger.info("The call of job %s is sent", job.local_id)
        earlier = {image.id for image in before.images}
        for image in job.images:
            if image.id not in earlier:  # not the name of its file, which has words of the prompt
                logger.info("The picture %s of job %s is kept in %s", image.uri, job.local_id, image.location.store)
        if job.has_outcome and _state(job) != _state(before):
            logger.info("Job %s ended: %s", job.local_id, ", ".join(_outcome(job)))


def _state(job: Job) -> str:
    return f"{job.state} ({job.error.code})" if job.error else str(job.state)


def _outcome(job: Job) -> Generator[str]:
    yield _state(job)
    if job.ended:
        yield f"{(job.ended - job.created).total_seconds():.1f} s"
    if job.receipt.cost is not None:
        yield f"${job.receipt.cost:f}"
    else:
        yield f"charged: {job.charged}"


def report_end(added: Job, job: Job) -> None:
    """Report for the figures how a job ended, unless it had this outcome already when the work on it began.

    Its cost counts once: a job that had an outcome before, such as unknown, has counted with its cost or estimate.
    """
    if not job.has_outcome or (added.has_outcome and added.state is job.state):
        return
    outcome = {State.COMPLETED: "done", State.FAILED: "failed"}.get(job.state, "unknown")
    seconds = ((job.ended or job.created) - job.created).total_seconds()
    recorder().job_ended(job.model, outcome, max(seconds, 0))
    counted = billionths(added) if added.has_outcome else 0
    recorder().spent(job.model, max(billionths(job) - counted, 0) / BILLION)
