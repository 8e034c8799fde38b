"""The carrier: does a job's work to its end, whichever way it travels, and looks up how it ended where no answer came.

A call is sent again only after a refusal. What is repeated freely are questions: how a queued job stands, what the
request history says, where a picture is.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import anyio

from mcp_vega import errors
from mcp_vega.errors import Charged, VegaError
from mcp_vega.job import Job, Receipt, Route, State
from mcp_vega.jobs.image_saver import ImageSaver
from mcp_vega.jobs.rate_limiter import RateLimiter
from mcp_vega.jobs.reconciliation import find_row
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import RECORD_SECONDS, SegmindClient
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.http import DRAWING_SECONDS
from mcp_vega.segmind.parsing import Submission
from mcp_vega.segmind.response import generation_error
from mcp_vega.storage.database.job_store import JobStore

logger = logging.getLogger(__name__)

# What a job usually spends in the API's queue before it is drawn.
QUEUE_SECONDS = 0.2
# Seconds between looks into the history: a minute in all, then on while the call is said to be running.
LOOKS = (1, 3, 6, 10, 15, 25)
PENDING_LOOKS = (30,) * 18
BREATH = 0.05
# For how long the pictures can be fetched.
MEDIA_SECONDS = 7 * 24 * 3600
# A call that was sent this long ago stands in the history, if it ever will.
QUIET = timedelta(minutes=1)


class Worker:
    """Carries the jobs that stand on the board.

    Args:
        client: Speaks to the API.
        keeper: Puts pictures into the gallery.
        ledger: Knows all jobs.
        board: Hears of every change.
        turns: Sends the calls.
        clock: The time (UTC).
        pace: What documented times and waits are multiplied by.
    """

    def __init__(  # noqa: PLR0913, PLR0917  a carrier stands between all of these
        self,
        client: SegmindClient,
        saver: ImageSaver,
        store: JobStore,
        running: RunningJobs,
        turns: RateLimiter,
        clock: Callable[[], datetime],
        pace: float,
    ) -> None:
        self._client = client
        self._saver = saver
        self._store = store
        self._running = running
        self._limiter = turns
        self._clock = clock
        self._pace = pace
        # The history is asked for a few jobs at a time, however many are to be settled.
        self._settling = anyio.Semaphore(4)
        # The local ids of the jobs whose calls this server sends.
        self.begun: set[str] = set()

    async def draw(self, job: Job) -> None:
        """Send a new job's call and carry it to its end; whatever happens ends on the board."""
        await self._carry(job, self._generate if job.route is Route.V1 else self._queue)

    async def resume(self, job: Job) -> None:
        """Carry on with a job whose call was sent by a server that is gone, or earlier by this one."""
        if job.sent is None and job.notes:
            job = await self._running.change(job, notes=())  # it does not wait for its turn any more
        if any(image.data for image in job.images):
            await self._carry(job, self._keep_again)
        elif job.route is Route.V2 and job.remote_id and self._age(job) < RECORD_SECONDS:
            await self._carry(job, self._fetch)
        else:
            await self._carry(job, self._settle)

    async def _carry(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        try:
            job = await self._attempted(job, work)
            if job.open and not job.complete and work != self._settle:
                await self._attempted(job, self._settle)
        finally:
            await self._running.unpin(job.local_id)

    async def _attempted(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> Job:
        """Do a piece of work; what it fails with is the job's error. Returns the job as it now stands."""
        try:
            await work(job)
        except VegaError as error:
            return await self._fail(job, await self._saver.with_received_kept(job, error))
        except Exception as error:
            logger.exception("Job %s broke", job.local_id)
            said = f"The server broke while it drew ({type(error).__name__})"
            return await self._fail(job, errors.InternalError(said))
        return await self._now(job)

    async def _fail(self, job: Job, error: VegaError) -> Job:
        job = await self._now(job)
        paid = job.error is not None and job.error.charged is Charged.YES
        if job.images or (paid and error.charged is Charged.UNKNOWN):
            return job  # what is known already says more
        state = State.UNKNOWN if error.charged is Charged.UNKNOWN else State.FAILED
        is_open = error.charged is not Charged.NO
        return await self._running.change(job, state=state, error=error, open=is_open, ended=self._clock())

    async def _now(self, job: Job) -> Job:
        return await self._running.find(job.local_id) or job

    # ---- sending ----

    async def _generate(self, job: Job) -> None:
        several = job.parameters.pictures > 1  # only as base64 can v1 answer with more than one picture
        body = job.parameters.body(base64=several)
        job, answer = await self._limiter.send(job, State.PROCESSING, lambda: self._client.generate(job.model, body))
        if isinstance(answer, Submission):
            changes = {"remote_id": answer.request_id, "state": State.QUEUED, "route": Route.V2}
            await self._fetch(await self._running.change(job, **changes))
        else:
            await self._keep(job, answer.pictures, answer.receipt)

    async def _queue(self, job: Job) -> None:
        body = job.parameters.body(base64=False)
        try:
            job, submission = await self._limiter.send(job, State.QUEUED, lambda: self._client.submit(job.model, body))
        except (errors.NotFound, errors.MethodNotAllowed, errors.Retired):
            # Documented for v1 only, VegaRT may be missing from v2; such a refusal costs nothing.
            await self._generate(await self._running.change(await self._now(job), route=Route.V1))
        else:
            await self._fetch(await self._running.change(job, remote_id=submission.request_id))

    # ---- fetching ----

    async def _fetch(self, job: Job) -> None:
        """Watch a queued job, then fetch its pictures."""
        request_id, age = job.request_id, self._age(job)
        ready = (job.parameters.expected_seconds + QUEUE_SECONDS) * self._pace - age
        receipt = job.receipt
        async for status in self._client.watch(request_id, expected=max(ready, 0), age=age):
            receipt = status.receipt
            if status.error:
                job = await self._running.change(job, receipt=receipt.filled(job.receipt))
                raise status.error
            if status.state not in (job.state, State.COMPLETED):
                job = await self._running.change(job, state=status.state, error=None)
        generation = await self._client.result(request_id)
        await self._keep(job, generation.pictures, generation.receipt.filled(receipt))

    async def _keep(self, job: Job, drawn: Sequence[bytes | str], receipt: Receipt) -> None:
        """Put the pictures into the gallery; that ends the job, or leaves it open where some are missing."""
        job = replace(job, receipt=receipt.filled(job.receipt), remote_id=job.remote_id or receipt.request_id)
        images, notes, problem = await self._saver.keep(job, drawn)
        if problem and not images:
            await self._running.change(job)
            raise problem
        is_open = bool(problem) or len(images) < job.parameters.pictures or any(not image.path for image in images)
        ends = {"state": State.COMPLETED, "error": None, "ended": self._clock(), "open": is_open}
        await self._running.change(job, images=images, notes=notes, **ends)

    async def _keep_again(self, job: Job) -> None:
        """Put the pictures into the gallery that no disk would take before."""
        here = {image.id: image.data for image in job.images if image.data}
        numbers = range(max(job.parameters.pictures, len(job.images)))
        await self._keep(job, [here.get(job.image_id(index), b"") for index in numbers], job.receipt)

    # ---- settling ----

    async def _settle(self, job: Job) -> None:
        """Look into the request history how a job ended whose answer never came, or came without its pictures."""
        row: HistoryRow | None = None
        reason = ""
        in_vain = 0
        for number, pause in enumerate((*LOOKS, *PENDING_LOOKS)):
            if number >= len(LOOKS) and row is None:
                break
            if number > 0 or not self._quiet(job):
                await anyio.sleep(max(pause * self._pace, BREATH))
            row, reason, ran = await self._look(job)
            job = await self._now(job)
            if not job.open or job.complete:
                return
            in_vain += ran
            absent = row is None and not reason
            if in_vain > 1 or (absent and number > 0 and self._quiet(job)):
                break
        if kept := await self._saver.find(job):
            await self._keep(job, kept, job.receipt)
        elif row is not None or reason or not await self._never_ran(job):
            await self._leave_open(job, reason or "the request history has no such call")

    async def _look(self, job: Job) -> tuple[HistoryRow | None, str, bool]:
        """Look once, and bring the job to the end that the history tells.

        Returns:
            What the history has, why it tells no end, and whether the call ran but its pictures could not be had.
        """
        try:
            async with self._settling:
                row = await find_row(self._client, self._store, job, self._clock())
        except VegaError as error:
            reason = f"the request history could not be asked: {error.what}"
            await self._leave_open(job, reason)
            return None, reason, False
        if row is None:
            return None, "", False
        try:
            await self._end(await self._now(job), row)
        except errors.GenerationFailed:
            raise
        except VegaError as broken:
            error = await self._saver.with_received_kept(job, broken)
            await self._fail(job, error)
            await self._leave_open(job, error.what)
            return None, error.what, True
        return row, "the request history says that it is still running", False

    async def _end(self, job: Job, row: HistoryRow) -> None:
        if row.request_id and row.request_id != job.remote_id:
            job = await self._running.change(job, remote_id=row.request_id)
        receipt = job.receipt.filled(Receipt(request_id=row.request_id or None, cost=row.cost))
        if row.state == State.COMPLETED:
            if not row.urls:
                raise errors.MediaError("The call ran, but the request history names no picture of it")
            await self._keep(job, row.urls, receipt)
        elif row.state == State.FAILED:
            error = generation_error(row.error, Charged.YES if row.cost else Charged.NO)
            changes = {"state": State.FAILED, "error": error, "open": False, "notes": ()}
            await self._running.change(job, receipt=receipt, ended=self._clock(), **changes)
        elif job.route is Route.V2 and self._age(job) < RECORD_SECONDS:
            # Its submission arrived: from here on it is a job like any other.
            await self._fetch(await self._running.change(job, error=None, notes=()))

    async def _never_ran(self, job: Job) -> bool:
        """End a job that the API has no record of, unless there is proof that it had one."""
        job = await self._now(job)
        # Whoever sent it elsewhere may still be waiting for its answer, for as long as a call may take.
        over = job.local_id in self.begun or self._age(job) > DRAWING_SECONDS
        taken = isinstance(job.error, errors.UnreadableAnswer)  # the API said so, whatever else it said
        if not over or taken or job.remote_id or job.charged is not Charged.UNKNOWN:
            return False
        said = f"{_obstacle(job).what}, and the API's request history has no such call"
        changes = {"state": State.FAILED, "error": errors.NeverRan(said), "open": False, "notes": ()}
        await self._running.change(job, ended=self._clock(), **changes)
        return True

    async def _leave_open(self, job: Job, reason: str) -> None:
        """Note why it is not known how a job ended."""
        job = await self._now(job)
        is_open = self._age(job) < MEDIA_SECONDS  # later there is nothing left to fetch
        if job.images:  # what is kept says more
            if job.open != is_open:
                await self._running.change(job, open=is_open)
            return
        error = _obstacle(job)
        state = State.UNKNOWN if error.charged is Charged.UNKNOWN else job.state
        changes = {"state": state, "error": error, "notes": (reason,), "open": is_open}
        if any(getattr(job, name) != value for name, value in changes.items()):
            await self._running.change(job, **changes)

    def _quiet(self, job: Job) -> bool:
        return self._clock() - (job.sent or job.created) > QUIET

    def _age(self, job: Job) -> float:
        return max((self._clock() - (job.sent or job.created)).total_seconds(), 0)


def _obstacle(job: Job) -> VegaError:
    """What stands between a job and its pictures."""
    sent = "The call was sent" if job.sent else "The server ended that was to send the call"
    return job.error or errors.OutcomeUnknown(f"{sent}, and no picture has come of it yet")
