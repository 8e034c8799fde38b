"""Finds out from the API's request history how a call ended if its answer was lost.

It looks there after seconds, minutes, hours and a day. It says that a call never ran only with proof: two looks at the
complete history, a day after the call and an hour apart, while this machine's clock agrees with the API's. Each look
must show a call of this account from before and one from after, and no row that might be this call. Until then, the
outcome is unknown.

The engine on this machine is asked at once, and its word is enough: a call that it does not know costs nothing and is
lost with the engine that took it.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import anyio

from mcp_vega import errors
from mcp_vega.errors import Charged, SegmindError, VegaError
from mcp_vega.job import LOCAL, Job, Receipt, Route, Search, State
from mcp_vega.job.free import drawing_lost
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.images.saver import ImageSaver
from mcp_vega.jobs.polling.poller import Poller
from mcp_vega.jobs.reconciliation.call_finder import LISTED_AFTER, CallFinder, Finding
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.response import generation_error

# Seconds between looks at the history: a minute in all, then more while the history says that the call is running.
LOOKS = (1, 3, 6, 10, 15, 25)
PENDING_LOOKS = (30,) * 18
SHORTEST_PAUSE = 0.05
# A call that was sent this many seconds ago, or earlier, is looked up only once, and thoroughly.
SOON = 60
# How long the pictures can be downloaded.
MEDIA = timedelta(days=7)
# How long after a look the next one can confirm that there is no such call.
CONFIRMED = timedelta(hours=1)


@dataclass(frozen=True)
class _Look:
    """The result of one look at the history.

    Attributes:
        found: Whether the history shows the call.
        reason: Why the job has not ended.
        ran: Whether the call ran, but its pictures are not available.
        over: Whether later looks can find nothing more.
    """

    found: bool = False
    reason: str = ""
    ran: bool = False
    over: bool = False


class Reconciler:
    """Ends jobs as the history shows. It looks up only a few of them at the same time."""

    def __init__(
        self, client: SegmindClient, running: RunningJobs, saver: ImageSaver, poller: Poller, config: JobConfig
    ) -> None:
        self._finder = CallFinder(client, running.store, config)
        self._record_seconds = client.record_seconds
        self._running = running
        self._saver = saver
        self._poller = poller
        self._config = config
        self._at_once = anyio.Semaphore(4)

    async def settle(self, job: Job) -> None:
        """Find out how a job ended if its answer was lost, or had no pictures."""
        if kept := await self._saver.unrecorded(job):
            await self._saver.save(job, kept, job.receipt)
            await self._complete_receipt(job)
            return
        looks = LOOKS if job.age(self._config.clock()) < SOON else (0,)
        looks = (0, *looks) if job.base_url == LOCAL else looks
        look, failures = _Look(), 0
        for number, pause in enumerate((*looks, *PENDING_LOOKS), 1):
            if failures > 1 or (number > len(looks) and not look.found):
                break
            await anyio.sleep(max(pause * self._config.pace, SHORTEST_PAUSE) if pause else 0)
            look = await self._look(job, thorough=number >= len(looks))
            job = self._running.newest(job)
            if not job.open or job.complete:
                return
            failures += look.ran
        await self._leave_open(job, look)

    async def _complete_receipt(self, job: Job) -> None:
        """Look up the cost of a call whose pictures are here, if it is available."""
        with suppress(VegaError):
            await self._finder.find(job, found := Finding(job.search), thorough=False)
            if row := found.row:
                job = self._running.newest(job)
                receipt = job.receipt.or_else(Receipt(request_id=row.request_id or None, cost=row.cost))
                await self._running.update(job, receipt=receipt, remote_id=row.request_id or job.remote_id)

    async def _look(self, job: Job, *, thorough: bool) -> _Look:
        """Look once, and end the job as the history shows."""
        finding = Finding(job.search)
        try:
            async with self._at_once:
                await self._finder.find(job, finding, thorough=thorough and job.base_url != LOCAL)
        except SegmindError as error:
            finding.doubts.append(f"the request history could not be read: {error.what}")
        except VegaError as error:
            finding.doubts.append(error.what)
        job, server_time = self._running.newest(job), finding.server_time
        if finding.search != job.search:
            job = await self._running.update(job, search=finding.search)
        look = await (self._follow(job, finding.row) if finding.row else self._note_absence(job, finding, thorough))
        search = self._running.newest(job).search
        over = server_time is not None and self._is_over(search, server_time)
        return replace(look, over=look.over or over)

    def _is_over(self, search: Search, server_time: datetime) -> bool:
        """Whether a call's pictures are gone, and there is nothing left to confirm."""
        gone = search.latest is not None and server_time > search.latest + MEDIA
        confirmed = search.absent is None or server_time > search.absent + LISTED_AFTER
        return gone and confirmed and self._finder.clock_agrees(server_time)

    # ---- the call was found ----

    async def _follow(self, job: Job, row: HistoryRow) -> _Look:
        """End a job as its call ended."""
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
        elif self._has_record(job):
            # The submission arrived. From here on, the job is like any other.
            await self._poller.fetch(await self._running.update(job, route=Route.V2, error=None, notes=()))
        elif row.state == State.COMPLETED:
            raise errors.MediaError("The call ran, but the request history shows no picture of it")

    def _has_record(self, job: Job) -> bool:
        """Whether the API still reports the status of a job. An engine does so for the calls of v1, too."""
        is_queued = job.route is Route.V2 or job.base_url == LOCAL
        return is_queued and job.age(self._config.clock()) < self._record_seconds

    # ---- the call was not found ----

    async def _note_absence(self, job: Job, finding: Finding, thorough: bool) -> _Look:  # noqa: FBT001  private
        """Note that a call was not found. If that proves that it never ran, end its job."""
        if job.base_url == LOCAL and not finding.doubts:
            if not job.images:
                await self._close(job, drawing_lost())
            return _Look(over=True)
        reason = "; ".join(finding.doubts) or "the request history does not show the call"
        server_time, search = finding.server_time, job.search
        if server_time and not self._finder.clock_agrees(server_time):
            now = self._config.clock()
            clocks = (
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC and the API's {server_time:%Y-%m-%d %H:%M} UTC"
            )
            return _Look(reason=f"{reason}; {clocks}, so correct the wrong clock")
        certain = thorough and not finding.doubts and not _has_trace(job)
        if certain and server_time and search.latest and server_time >= search.latest + LISTED_AFTER:
            if search.absent is None:
                await self._running.update(job, search=replace(search, absent=server_time))
            elif server_time >= search.absent + CONFIRMED:
                message = f"{_missing(job).what}, and a day later the API's request history had no such call"
                await self._close(job, errors.NeverRan(message))
        return _Look(reason=reason)

    async def _close(self, job: Job, error: VegaError, **changes: Any) -> None:
        ends = {"state": State.FAILED, "error": error, "open": False, "notes": (), "ended": self._config.clock()}
        await self._running.update(job, **ends, **changes)

    async def _leave_open(self, job: Job, look: _Look) -> None:
        """Note why the outcome of a job is not known. Later there may be nothing left to download."""
        job = self._running.newest(job)
        changes: dict[str, Any] = {"open": not look.over}
        if not job.images:  # kept pictures say more
            error = _missing(job)
            state = State.UNKNOWN if error.charged is Charged.UNKNOWN else job.state
            changes |= {"state": state, "error": error, "notes": (look.reason,)}
        if any(getattr(job, name) != value for name, value in changes.items()):
            await self._running.update(job, **changes)


def _has_trace(job: Job) -> bool:
    """Whether there is a sign that a job's call arrived, even if the history does not show it."""
    accepted = isinstance(job.error, errors.UnreadableAnswer)  # the API accepted it
    has_outcome = job.error is not None and job.error.charged is not Charged.UNKNOWN
    return accepted or has_outcome or bool(job.remote_id or job.images) or job.state is State.COMPLETED


def _missing(job: Job) -> VegaError:
    """Why a job has no pictures."""
    sent = "The call was sent" if job.sent else "The server that was to send the call has ended"
    return job.error or errors.OutcomeUnknown(f"{sent}, and no picture has arrived yet")
