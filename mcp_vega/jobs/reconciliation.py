"""Finds out how a call ended whose answer never came: by model, seed and prompt in the API's request history."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import anyio

from mcp_vega import errors
from mcp_vega.errors import Charged, ServiceUnavailable, VegaError
from mcp_vega.job import Job, Receipt, Route, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.polling import Poller
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import RECORD_SECONDS, SegmindClient
from mcp_vega.segmind.history import HistoryRow, merge_rows
from mcp_vega.segmind.http import DRAWING_SECONDS
from mcp_vega.segmind.response import as_decimal, generation_error

# Seconds between looks into the history: a minute in all, then on while the call is said to be running.
LOOKS = (1, 3, 6, 10, 15, 25)
PENDING_LOOKS = (30,) * 18
SHORTEST_PAUSE = 0.05
# For how long the pictures can be fetched.
MEDIA_SECONDS = 7 * 24 * 3600
# A call that was sent this many seconds ago stands in the history, if it ever will.
LATEST_ROW = 60
# More calls of a model than anyone makes in the days that are asked about.
PAGES = 50
# How far this machine's clock and the API's may differ.
SKEW = timedelta(minutes=10)
DAY = timedelta(days=1)
# The history is not asked about more days at once.
LONGEST_SPAN = timedelta(days=30)


class _Look(NamedTuple):
    """What one look into the history came to."""

    row: HistoryRow | None = None
    reason: str = ""  # why it tells no end
    ran: bool = False  # whether the call ran, but its pictures could not be had


class Reconciler:
    """Brings jobs to the end that the history tells, a few at a time, however many are to be looked up."""

    def __init__(
        self, client: SegmindClient, running: RunningJobs, saver: ImageSaver, poller: Poller, config: JobConfig
    ) -> None:
        self._client = client
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
        look = _Look()
        in_vain = 0
        for number, pause in enumerate((*LOOKS, *PENDING_LOOKS)):
            if number >= len(LOOKS) and look.row is None:
                break
            if number > 0 or not self._is_listed(job):
                await anyio.sleep(max(pause * self._config.pace, SHORTEST_PAUSE))
            look = await self._look(job)
            job = self._running.newest(job)
            if not job.open or job.complete:
                return
            in_vain += look.ran
            absent = look.row is None and not look.reason
            if in_vain > 1 or (absent and number > 0 and self._is_listed(job)):
                break
        if look.row is not None or look.reason or not await self._never_ran(job):
            await self._leave_open(job, look.reason or "the request history has no such call")

    async def _complete_receipt(self, job: Job) -> None:
        """Look up what a call cost whose pictures are here, if that can be had."""
        with suppress(VegaError):
            if row := await self._find_call(job):
                job = self._running.newest(job)
                receipt = job.receipt.or_else(Receipt(request_id=row.request_id or None, cost=row.cost))
                await self._running.update(job, receipt=receipt, remote_id=row.request_id or job.remote_id)

    async def _look(self, job: Job) -> _Look:
        """Look once, and bring the job to the end that the history tells."""
        try:
            async with self._at_once:
                row = await self._find_call(job)
        except VegaError as error:
            reason = f"the request history could not be asked: {error.what}"
            await self._leave_open(job, reason)
            return _Look(reason=reason)
        if row is None:
            return _Look()
        try:
            await self._end(self._running.newest(job), row)
        except errors.GenerationFailed:
            raise
        except VegaError as broken:
            error = await self._saver.keep_received(job, broken)
            await self._running.fail(error, job, self._config.clock())
            await self._leave_open(job, error.what)
            return _Look(reason=error.what, ran=True)
        return _Look(row, "the request history says that it is still running")

    async def _end(self, job: Job, row: HistoryRow) -> None:
        if row.request_id and row.request_id != job.remote_id:
            job = await self._running.update(job, remote_id=row.request_id)
        receipt = job.receipt.or_else(Receipt(request_id=row.request_id or None, cost=row.cost))
        if row.state == State.COMPLETED:
            if not row.urls:
                raise errors.MediaError("The call ran, but the request history names no picture of it")
            await self._saver.save(job, row.urls, receipt)
        elif row.state == State.FAILED:
            error = generation_error(row.error, Charged.YES if row.cost else Charged.NO)
            await self._close(job, error, receipt=receipt)
        elif job.route is Route.V2 and self._age(job) < RECORD_SECONDS:
            # Its submission arrived: from here on it is a job like any other.
            await self._poller.fetch(await self._running.update(job, error=None, notes=()))

    async def _never_ran(self, job: Job) -> bool:
        """End a job that the API has no record of, unless there is proof that it had one."""
        job = self._running.newest(job)
        running = self._running.get_active(job)
        # Whoever sent it elsewhere may still be waiting for its answer, for as long as a call may take.
        over = (running is not None and running.begun_here) or self._age(job) > DRAWING_SECONDS
        taken = isinstance(job.error, errors.UnreadableAnswer)  # the API said so, whatever else it said
        if not over or taken or job.remote_id or job.charged is not Charged.UNKNOWN:
            return False
        said = f"{_missing(job).what}, and the API's request history has no such call"
        await self._close(job, errors.NeverRan(said))
        return True

    async def _close(self, job: Job, error: VegaError, **changes: Any) -> None:
        ends = {"state": State.FAILED, "error": error, "open": False, "notes": (), "ended": self._config.clock()}
        await self._running.update(job, **ends, **changes)

    async def _leave_open(self, job: Job, reason: str) -> None:
        """Note why it is not known how a job ended."""
        job = self._running.newest(job)
        is_open = self._age(job) < MEDIA_SECONDS  # later there is nothing left to fetch
        if job.images:  # what is kept says more
            if job.open != is_open:
                await self._running.update(job, open=is_open)
            return
        error = _missing(job)
        state = State.UNKNOWN if error.charged is Charged.UNKNOWN else job.state
        changes = {"state": state, "error": error, "notes": (reason,), "open": is_open}
        if any(getattr(job, name) != value for name, value in changes.items()):
            await self._running.update(job, **changes)

    def _is_listed(self, job: Job) -> bool:
        return self._age(job) > LATEST_ROW

    def _age(self, job: Job) -> float:
        return job.age(self._config.clock())

    # ---- the call in the history ----

    async def _find_call(self, job: Job) -> HistoryRow | None:
        """The call of a job in the history, or None where it surely has none. No other job gets the same call.

        Raises:
            SegmindError: The history could not be had, or does not tell enough to be sure.
            LedgerError: The store cannot be written.
        """
        if job.remote_id:
            return await self._find_by_id(job, job.remote_id)
        store = self._running.store
        found: HistoryRow | None = None
        doubtful = False
        alike = [other for other in await store.open_with_recipe_of(job) if other.error is None]
        async for row in self._rows(job):
            if found is not None:
                found = merge_rows(found, row) if row.request_id == found.request_id else found
            elif (is_its := is_call_of(row, job)) is not False:
                if is_its and row.request_id and not alike and await store.assign(job, row.request_id):
                    found = row
                elif not is_its or alike or not row.request_id:
                    doubtful = True  # it may be this job's, or that of one with the same recipe that is under way
            if found and len(found.urls) >= job.parameters.pictures:
                break
        if found is None and doubtful:
            raise ServiceUnavailable("The request history has calls of which it does not tell enough to be sure")
        return found

    async def _find_by_id(self, job: Job, request_id: str) -> HistoryRow | None:
        found: HistoryRow | None = None
        with suppress(ServiceUnavailable):
            async for row in self._rows(job):
                if row.request_id == request_id:
                    found = merge_rows(found, row) if found else row
                    if len(found.urls) >= job.parameters.pictures:
                        break
        return found or await self._client.history_entry(request_id)

    async def _rows(self, job: Job) -> AsyncIterator[HistoryRow]:
        """The calls of a job's model in the days around it, newest first."""
        now = self._config.clock()
        last = (job.created + DAY).date()
        first = max((min(job.created, now) - DAY).date(), last - LONGEST_SPAN)
        for number in range(1, PAGES + 1):
            page = await self._client.history(model=job.model, since=first, until=last, page=number)
            if page.asked and abs(page.asked - now) > DAY / 2:
                raise ServiceUnavailable(
                    f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC and the API's {page.asked:%Y-%m-%d %H:%M}, so "
                    "the days to look at are not known",
                    next_step="Set the clock right, then call check_job again",
                )
            for row in page.rows:
                yield row
            if not page.full or _reaches_before(page.rows, job.created - SKEW):
                return
        raise ServiceUnavailable(f"The request history of those days is longer than {PAGES} pages")


def is_call_of(row: HistoryRow, job: Job) -> bool | None:
    """Whether a row of the history is a job's call, by the recipe.

    A seed that was drawn here belongs to one job alone. With one that the caller chose, the whole recipe and the time
    must fit.

    Returns:
        None where it cannot be told.
    """
    if row.model.casefold() != job.model:
        return False
    if not row.inputs:
        return None
    recipe = job.parameters.model_dump(exclude={"base64"})
    differing = [name for name, value in recipe.items() if not _same(row.inputs.get(name, value), value)]
    if "seed" in differing or "seed" not in row.inputs:
        return False
    if job.arguments.get("seed", -1) == -1:
        return True if "prompt" not in differing else None
    if differing:
        return False
    return True if row.created is None or row.created > job.created - SKEW else None


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same; the history may tell a number as its text, or a text with other spaces."""
    if one == other or str(one).split() == str(other).split():
        return True
    numbers: tuple[Decimal | None, Decimal | None] = as_decimal(one), as_decimal(other)
    return None not in numbers and numbers[0] == numbers[1]


def _reaches_before(rows: Sequence[HistoryRow], moment: datetime) -> bool:
    """Whether rows that are seen to be ordered by time, newest first, reach back before a moment."""
    times = [row.created for row in rows if row.created]
    in_order = len(times) == len(rows) and times == sorted(times, reverse=True)
    return in_order and bool(times) and times[-1] < moment


def _missing(job: Job) -> VegaError:
    """What stands between a job and its pictures."""
    sent = "The call was sent" if job.sent else "The server ended that was to send the call"
    return job.error or errors.OutcomeUnknown(f"{sent}, and no picture has come of it yet")
