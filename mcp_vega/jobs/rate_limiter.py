"""Sends each paid call when the user's limits and the API's rate limit allow it, fairly between callers.

The limits count for all servers with the same ledger together. So the ledger decides whose turn it is.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import anyio

from mcp_vega import errors
from mcp_vega.job import LOCAL, Job, State
from mcp_vega.jobs.changes import Change
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.running import ClaimedElsewhereError, RunningJob, RunningJobs
from mcp_vega.storage.ledger.slots import Sending

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How many calls of one caller may wait.
MOST_WAITING = 1000
# Seconds between two checks whether another server has freed a slot. If the servers report their changes, only one that
# has died frees a slot without a report.
POLL_SECONDS, REPORTED_POLL_SECONDS = 0.25, 1.0
# How many seconds a free slot waits for the next job if that is another server's: that server may be suspended.
OVERTAKING_SECONDS = 2.0
# Seconds to wait after a refusal by the API's rate limit: at least the first number, twice as long after each further
# refusal, at most the second. If the API does not say how long, pauses up to the third are tried, then the call fails.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_GUESS = 1.0, 60.0, 4.0


@dataclass(eq=False)
class _Waiting:
    """A job that waits for its turn. `its_turn` is also set if a `problem` ends the wait."""

    job: Job
    its_turn: anyio.Event = field(default_factory=anyio.Event)
    problem: errors.VegaError | None = None


class RateLimiter:
    """Sends the calls of this server's jobs."""

    def __init__(self, running: RunningJobs, config: JobConfig) -> None:
        self._running = running
        self._store = running.store
        self._config = config
        self._limits = config.limits
        self._starting = Counter[str]()
        self._waiting: list[_Waiting] = []
        self.sending = 0  # how many calls are at the API now
        self._wake = anyio.Event()
        self._store_fails_since: float | None = None
        self._passed_over_since: float | None = None
        self._closing = anyio.Event()

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def starting(self, owner: str) -> Generator[errors.TooManyCalls | None]:
        """Count one more call of a caller while the block runs. Yields the error if it may not begin a new job."""
        unsent = sum(each.job.owner == owner and each.job.sent is None for each in self._running.active)
        count = unsent + self._starting[owner]
        a_minute = self._limits.calls_a_minute
        minutes = round(self._config.longest_wait / 60)
        most = MOST_WAITING if a_minute is None else min(MOST_WAITING, a_minute * minutes)
        self._starting[owner] += 1
        try:
            yield errors.TooManyCalls(f"{count} calls are already waiting to be sent") if count >= most else None
        finally:
            self._starting[owner] -= 1

    def close(self) -> None:
        """Send nothing more, because the process is about to exit. Calls that wait fail with this reason."""
        self._closing.set()
        self._refuse_all(_closing())

    # ---- sending ----

    async def send(self, running: RunningJob, state: State, call: Callable[[], Awaitable[T]]) -> tuple[Job, T]:
        """Send a job's call when the limits allow it. If the API's rate limit refuses it, which is free, wait again.

        Returns:
            The job, which has this `state` while the call is in progress, and the result of the call.

        Raises:
            VegaError: The call failed; or it was not sent, because its turn did not come in time, the process is about
                to exit, the store does not answer, or nobody wants it any more.
            ClaimedElsewhereError: Another server works on the job.
        """
        give_up = anyio.current_time() + self._config.longest_wait
        pause = FIRST_PAUSE
        while True:
            try:
                job = await self._until_sent(running, state, give_up)
                self.sending += 1
                try:
                    return job, await call()
                finally:
                    self.sending -= 1
            except errors.RateLimited as error:
                await self._wait_after_refusal(running, error, pause, give_up)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _until_sent(self, running: RunningJob, state: State, give_up: float) -> Job:
        """Mark a job as sent as soon as the limits allow it."""
        store_fails_since = None
        job: Job | None = None
        while True:
            if not running.may_send:
                await self._until_its_turn(running, give_up)
            if self._closing.is_set():
                raise _closing()
            # After a failure the moment stays the same: if the store has noted it nevertheless, it is not noted again.
            job = job or self._leaving_now(running.job, state)
            try:
                await self._running.require_saved(running)
                outcome = await self._store.mark_sent(job, self._limits, begun_here=running.begun_here)
            except errors.LedgerError:
                store_fails_since = store_fails_since or anyio.current_time()
                if anyio.current_time() - store_fails_since > self._config.store_retries:
                    raise
                await anyio.sleep(POLL_SECONDS)
                continue
            running.may_send = False
            if outcome is Sending.SENT:
                return self._running.show(job, stored=True)
            if outcome is not Sending.NO_SLOT:
                raise _not_sent(outcome)
            store_fails_since = job = None
            await anyio.sleep(POLL_SECONDS)

    def _leaving_now(self, job: Job, state: State) -> Job:
        """A job whose call leaves now."""
        now = self._config.clock()
        return replace(job, state=state, sent=max(now, job.next_try or now), notes=(), next_try=None)

    async def _wait_after_refusal(
        self, running: RunningJob, error: errors.RateLimited, pause: float, give_up: float
    ) -> None:
        """Wait until the API accepts calls again."""
        now = self._config.clock()
        if error.wait is not None:
            pause = max(error.wait.total_seconds(), pause)
        elif pause > LONGEST_GUESS:
            raise error
        if anyio.current_time() + pause > give_up:
            raise error
        logger.info("The call of job %s was refused (%s); next try in %.1f s", running.local_id, error.code, pause)
        following = now + timedelta(seconds=pause)
        note = f"the API's rate limit allows the call at {following:%H:%M:%S} UTC"
        unsent = {"state": State.QUEUED, "sent": None, "next_try": following, "notes": (note,)}
        await self._running.update(running.job, **unsent)
        with anyio.move_on_after(pause):
            await self._closing.wait()
            raise _closing()

    # ---- turns ----

    async def _until_its_turn(self, running: RunningJob, give_up: float) -> None:
        """Wait for a job's turn."""
        if self._closing.is_set():
            raise _closing()
        waiting = _Waiting(running.job)
        self._waiting.append(waiting)
        self._wake.set()
        try:
            with anyio.move_on_after(self._config.note_wait_after):
                await waiting.its_turn.wait()
            if not waiting.its_turn.is_set():
                self._running.show(running.job, notes=(f"it waits for its turn: {self._rule}",))
                with anyio.move_on_after(give_up - anyio.current_time()):
                    await waiting.its_turn.wait()
        finally:
            self._waiting.remove(waiting)
        if waiting.problem:
            raise waiting.problem
        if not waiting.its_turn.is_set():
            minutes = self._config.longest_wait / 60
            raise errors.TooManyCalls(f"The call waited {minutes:.0f} minutes, but its turn did not come: {self._rule}")

    @property
    def _rule(self) -> str:
        a_minute = self._limits.calls_a_minute
        rate = f" and {a_minute} a minute" if a_minute is not None else ""
        paid = "" if self._config.api == LOCAL else "paid "
        return f"at most {self._limits.calls_at_once} {paid}calls at the same time{rate} are allowed"

    async def run(self) -> None:
        """Find out whose turn it is while jobs wait. This runs until the server ends."""

        def wake(_: Change | None) -> None:  # a slot may have become free
            self._wake.set()

        changes = self._running.changes
        pause = REPORTED_POLL_SECONDS if changes.reach_others else POLL_SECONDS
        with changes.listening(wake):
            while True:
                await self._wake.wait()
                while self._waiting:
                    self._wake = anyio.Event()
                    await self._grant_turns()
                    with anyio.move_on_after(pause):
                        await self._wake.wait()
                self._wake = anyio.Event()
                self._store_fails_since = self._passed_over_since = None

    async def _grant_turns(self) -> None:
        """Wake the jobs whose turn it is."""
        waiting = [each for each in self._waiting if not each.its_turn.is_set()]
        if not waiting:
            return
        now = self._config.clock()
        moment = max(now, *(each.job.next_try or now for each in waiting))
        try:
            turns = await self._store.turns(self._limits, moment)
        except errors.LedgerError as error:
            self._give_up_in_time(error)
            return
        except Exception as error:
            logger.exception("No slot can be taken")  # calls in progress go on
            self._give_up_in_time(errors.LedgerError(f"The ledger cannot be read ({type(error).__name__})"))
            return
        self._store_fails_since = None
        granted = [each for each in waiting if each.job.local_id in turns.jobs]
        if granted or not turns.free:
            self._passed_over_since = None
        elif self._passed_over_since is None:
            self._passed_over_since = anyio.current_time()
        elif anyio.current_time() - self._passed_over_since > OVERTAKING_SECONDS:
            granted = waiting[:1]  # it overtakes the jobs of another server, which does not send them
        for each in granted:
            each.its_turn.set()

    def _give_up_in_time(self, error: errors.LedgerError) -> None:
        """Refuse the waiting jobs if the store has not answered for a while. Another program may have locked it."""
        now = anyio.current_time()
        if self._store_fails_since is None:
            logger.warning(error.what)
            self._store_fails_since = now
        if now - self._store_fails_since > self._config.store_retries:
            self._refuse_all(error)

    def _refuse_all(self, problem: errors.VegaError) -> None:
        for waiting in self._waiting:
            waiting.problem = problem
            waiting.its_turn.set()


def _closing() -> errors.ServerClosing:
    return errors.ServerClosing("The server is about to exit, so the call was not sent")


def _not_sent(outcome: Sending) -> Exception:
    """Why a call will never be sent."""
    if outcome is Sending.LOST:  # the same call may have begun another job since, so this one must not be sent
        said = "The ledger lost the job in a crash of its database, so the call was not sent"
        return errors.LedgerError(said, next_step="Call again")
    if outcome is Sending.UNWANTED:
        return errors.ServerClosing("The call was not sent, because its server ended before that")
    return ClaimedElsewhereError()
