"""Changes of jobs: those of this server, and those of the other servers on its ledger."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self
from weakref import WeakValueDictionary

import anyio

from mcp_vega.job import OPERATOR, Job
from mcp_vega.storage.database.notices import Notices

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
