"""How long drawings take, by the last receipts of the same API and model."""

import logging
from collections import defaultdict, deque
from statistics import median

from mcp_vega.errors import LedgerError
from mcp_vega.job import LOCAL, Job, State
from mcp_vega.segmind.parsing import Status
from mcp_vega.storage.ledger.accounts import Accounts

logger = logging.getLogger(__name__)

# How many of the last drawings count. Of their times the middle one is expected: one slow drawing changes nothing.
RECENT = 5
# How many seconds more than the call itself a drawing may take, because figures are rounded.
ROUNDING = 1


class DrawingTimes:
    """The times of the last drawings, in memory. The ledger is read only once, so that each look costs nothing."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._loaded = set[str]()
        # By API and model: the seconds of the last drawings for one picture with default steps, the latest first.
        self._last = defaultdict[tuple[str, str], deque[float]](lambda: deque(maxlen=RECENT))
        # By local id: when drawings under way that report their progress should be ready, in seconds since they were
        # sent.
        self._ready: dict[str, float] = {}

    async def load(self, base_url: str) -> None:
        """Read the last receipts of an API from the ledger, if this was not done before."""
        if base_url in self._loaded:
            return
        self._loaded.add(base_url)
        try:
            for job in await self._accounts.last_drawn(base_url):
                last, seconds = self._last[base_url, job.model], _seconds_of(job)
                if seconds and len(last) < RECENT:
                    last.append(seconds / job.parameters.effort)
        except LedgerError as error:
            logger.info("It is not known how long the last drawings took: %s", error.what)
            self._loaded.discard(base_url)
        except Exception:  # no job needs these times
            logger.exception("How long the last drawings took could not be read")

    def learn(self, before: Job, job: Job) -> None:
        """Remember how long a job's drawing took, if this change of the job has ended it."""
        if job.has_outcome:
            self._ready.pop(job.local_id, None)
        if job.state is State.COMPLETED is not before.state and (seconds := _seconds_of(job)):
            self._last[job.base_url, job.model].appendleft(seconds / job.parameters.effort)

    def note_progress(self, job: Job, status: Status, age: float) -> None:
        """Remember how far the drawing of a job is that was sent `age` seconds ago, if the API reports that."""
        share, drawn = status.progress, status.receipt.seconds
        if share and drawn:
            self._ready[job.local_id] = age + float(drawn) * (1 - share) / share

    def expected(self, job: Job) -> float | None:
        """In how many seconds after its call a job's pictures are expected, without the time in the queue.

        None if that is not known: there is no documented time for this machine.
        """
        if ready := self._ready.get(job.local_id):
            return ready
        if last := self._last.get((job.base_url, job.model)):
            return median(last) * job.parameters.effort
        return None if job.base_url == LOCAL else job.parameters.expected_seconds


def _seconds_of(job: Job) -> float:
    """How long a job's drawing took; 0 if that is not known, or if the API says that it took longer than the call."""
    passed = (job.ended - job.sent).total_seconds() if job.sent and job.ended else 0
    seconds = job.receipt.seconds or 0
    return float(seconds) if seconds <= passed + ROUNDING else 0
