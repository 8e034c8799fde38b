"""Finds out how a call ended whose answer never came, from the API's request history.

It is looked up after seconds, minutes, hours and a day. That it never ran is said only with proof: two looks at the
whole history, a day after the call and an hour apart, while this machine's clock agrees with the API's; each shows a
call of this account from before and one from after, and no row that might be this one. Until then how it ended is
unknown.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import anyio

from mcp_vega import errors
from mcp_vega.errors import Charged, SegmindError, VegaError
from mcp_vega.job import Job, Receipt, Route, Search, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.polling import Poller
from mcp_vega.jobs.reconciliation.call_finder import LISTED, CallFinder, Finding
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import RECORD_SECONDS, SegmindClient
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.response import generation_error

# Seconds between looks into the history: a minute in all, then on while the call is said to be running.
LOOKS = (1, 3, 6, 10, 15, 25)
PENDING_LOOKS = (30,) * 18
SHORTEST_PAUSE = 0.05
# What was sent this many seconds ago, or earlier, is looked up once, and thoroughly.
SOON = 60
# For how long the pictures can be fetched.
MEDIA = timedelta(days=7)
# How long after a look another one confirms that there is no such call.
CONFIRMED = timedelta(hours=1)


@dataclass(frozen=True)
class _Look:
    """What one look into the history came to.

    Attributes:
        found: Whether it shows the call.
        reason: Why the job is not at its end.
        ran: Whether the call ran, but its pictures could not be had.
        over: Whether nothing more can be learnt later.
    """

    found: bool = False
    reason: str = ""
    ran: bool = False
    over: bool = False


class Reconciler:
    """Brings jobs to the end that the history tells, a few at a time, however many are to be looked up."""

    def __init__(
        self, client: SegmindClient, running: RunningJobs, saver: ImageSaver, poller: Poller, config: JobConfig
    ) -> None:
        self._finder = CallFinder(client, running.store, config)
        self._running = running
        self._saver = saver
        self._poller = poller
        self._config = config
        self._at_once = anyio.Semaphore(4)

    async def settle(self, job: Job) -> None:
        """Look up how a job ended whose answer never came, or came without its pictures."""
        if kept := await self._saver.unrecorded(job):
            await self._saver.save(job, kept, job.receipt)
            await self._complete_receipt(job)
            return
        looks = LOOKS if job.age(self._config.clock()) < SOON else (0,)
        look, in_vain = _Look(), 0
        for number, pause in enumerate((*looks, *PENDING_LOOKS), 1):
            if in_vain > 1 or (number > len(looks) and not look.found):
                break
            await anyio.sleep(max(pause * self._config.pace, SHORTEST_PAUSE) if pause else 0)
            look = await self._look(job, thorough=number >= len(looks))
            job = self._running.newest(job)
            if not job.open or job.complete:
                return
            in_vain += look.ran
        await self._leave_open(job, look)

    async def _complete_receipt(self, job: Job) -> None:
        """Look up what a call cost whose pictures are here, if that can be had."""
        with suppress(VegaError):
            await self._finder.find(job, found := Finding(job.search), thorough=False)
            if row := found.row:
                job = self._running.newest(job)
                receipt = job.receipt.or_else(Receipt(request_id=row.request_id or None, cost=row.cost))
                await self._running.update(job, receipt=receipt, remote_id=row.request_id or job.remote_id)

    async def _look(self, job: Job, *, thorough: bool) -> _Look:
        """Look once, and bring the job to the end that the history tells."""
        finding = Finding(job.search)
        try:
            async with self._at_once:
                await self._finder.find(job, finding, thorough=thorough)
        except SegmindError as error:
            finding.doubts.append(f"the request history could not be asked: {error.what}")
        except VegaError as error:
            finding.doubts.append(error.what)
        job, asked = self._running.newest(job), finding.asked
        if finding.search != job.search:
            job = await self._running.update(job, search=finding.search)
        look = await (self._follow(job, finding.row) if finding.row else self._note_absence(job, finding, thorough))
        return replace(look, over=asked is not None and self._is_over(self._running.newest(job).search, asked))

    def _is_over(self, search: Search, asked: datetime) -> bool:
        """Whether a call's pictures are gone, and nothing is to be confirmed any more."""
        gone = search.latest is not None and asked > search.latest + MEDIA and self._finder.is_right(asked)
        return gone and (search.absent is None or asked > search.absent + LISTED)

    # ---- what is found ----

    async def _follow(self, job: Job, row: HistoryRow) -> _Look:
        """Bring a job to the end that its call came to."""
        try:
            await self._end(job, row)
        except errors.GenerationFailed:
            raise
        except VegaError as broken:
            error = await self._saver.keep_received(job, broken)
            await self._running.fail(error, job, self._config.clock())
            return _Look(found=True, reason=error.what, ran=True)
        return _Look(found=True, reason="the request history says that it is still running")

    async def _end(self, job: Job, row: HistoryRow) -> None:
        if row.request_id and row.request_id != job.remote_id:
            job = await self._running.update(job, remote_id=row.request_id)
        receipt = job.receipt.or_else(Receipt(request_id=row.request_id or None, cost=row.cost))
        if row.urls:
            await self._saver.save(job, row.urls, receipt)
        elif row.state == State.FAILED:
            error = generation_error(row.error, Charged.YES if row.cost else Charged.NO)
            await self._close(job, error, receipt=receipt)
        elif job.route is Route.V2 and job.age(self._config.clock()) < RECORD_SECONDS:
            # Its submission arrived: from here on it is a job like any other.
            await self._poller.fetch(await self._running.update(job, error=None, notes=()))
        elif row.state == State.COMPLETED:
            raise errors.MediaError("The call ran, but the request history names no picture of it")

    # ---- what is not ----

    async def _note_absence(self, job: Job, finding: Finding, thorough: bool) -> _Look:  # noqa: FBT001  private
        """Note that a call was not found; end its job where that is proof that it never ran."""
        reason = "; ".join(finding.doubts) or "the request history does not show the call"
        asked, search = finding.asked, job.search
        if asked and not self._finder.is_right(asked):
            now = self._config.clock()
            clocks = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC and the API's {asked:%Y-%m-%d %H:%M}"
            return _Look(reason=f"{reason}; {clocks}, so set the one that is wrong right")
        whole = thorough and not finding.doubts and not _has_trace(job)
        if whole and asked and search.latest and asked >= search.latest + LISTED:
            if search.absent is None:
                await self._running.update(job, search=replace(search, absent=asked))
            elif asked >= search.absent + CONFIRMED:
                said = f"{_missing(job).what}, and a day later the API's request history had no such call"
                await self._close(job, errors.NeverRan(said))
        return _Look(reason=reason)

    async def _close(self, job: Job, error: VegaError, **changes: Any) -> None:
        ends = {"state": State.FAILED, "error": error, "open": False, "notes": (), "ended": self._config.clock()}
        await self._running.update(job, **ends, **changes)

    async def _leave_open(self, job: Job, look: _Look) -> None:
        """Note why it is not known how a job ended; later there may be nothing left to fetch."""
        job = self._running.newest(job)
        changes: dict[str, Any] = {"open": not look.over}
        if not job.images:  # what is kept says more
            error = _missing(job)
            state = State.UNKNOWN if error.charged is Charged.UNKNOWN else job.state
            changes |= {"state": state, "error": error, "notes": (look.reason,)}
        if any(getattr(job, name) != value for name, value in changes.items()):
            await self._running.update(job, **changes)


def _has_trace(job: Job) -> bool:
    """Whether there is a sign that a job's call arrived, whatever the history shows."""
    accepted = isinstance(job.error, errors.UnreadableAnswer)  # the API said so, whatever else it said
    return accepted or bool(job.remote_id or job.images) or job.charged is not Charged.UNKNOWN


def _missing(job: Job) -> VegaError:
    """What stands between a job and its pictures."""
    sent = "The call was sent" if job.sent else "The server ended that was to send the call"
    return job.error or errors.OutcomeUnknown(f"{sent}, and no picture has come of it yet")
