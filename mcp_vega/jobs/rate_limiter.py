"""Sends each paid call when the user's limits and the API's rate limit let it, fairly between callers.

The limits hold for all servers on a ledger together, so whose turn it is stands there.
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
from mcp_vega.job import Job, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.running import RunningJob, RunningJobs, TakenUpError
from mcp_vega.storage.ledger.slots import Sending

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How many calls of one caller may wait.
MOST_WAITING = 1000
# Seconds between looks whether another server's slot has become free.
POLL_SECONDS = 0.25
# For how long a free slot is left to a job of another server whose turn it is: that server may have been stopped.
OVERTAKING_SECONDS = 2.0
# Seconds after the first refusal by the API's rate limit, at least; twice as many after each further one. Where the API
# does not say when to come again, a pause up to the third figure is tried, and the rest left to the user.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_GUESS = 1.0, 60.0, 4.0


@dataclass(eq=False)
class _Waiting:
    """A job that waits for its turn; `its_turn` is also set when a `problem` keeps it from ever coming."""

    job: Job
    its_turn: anyio.Event = field(default_factory=anyio.Event)
    out_of_turn: bool = False
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
        self._wake = anyio.Event()
        self._store_fails_since: float | None = None
        self._passed_over_since: float | None = None
        self._closing = anyio.Event()

    @contextmanager
    def starting(self, owner: str) -> Generator[errors.TooManyCalls | None]:
        """Count another call of a caller from here on; yields why it may not begin a new job, if it may not."""
        unsent = sum(each.job.owner == owner and each.job.sent is None for each in self._running.active)
        count = unsent + self._starting[owner]
        a_minute = self._limits.calls_a_minute
        minutes = round(self._config.longest_wait / 60)
        most = MOST_WAITING if a_minute is None else min(MOST_WAITING, a_minute * minutes)
        self._starting[owner] += 1
        try:
            yield errors.TooManyCalls(f"{count} calls wait for their turn already") if count >= most else None
        finally:
            self._starting[owner] -= 1

    def close(self) -> None:
        """Send nothing more, because the process is about to end; those that wait are told so."""
        self._closing.set()
        self._refuse_all(_closing())

    # ---- sending ----

    async def send(self, running: RunningJob, state: State, call: Callable[[], Awaitable[T]]) -> tuple[Job, T]:
        """Send a job's call when the limits let it. Refused by the API's rate limit, which is free, it waits again.

        Returns:
            The job as it now is, in `state` while the call is under way, and what the call gave.

        Raises:
            VegaError: The call failed, or it was not sent: not in time, the process ends, the store does not answer,
                nobody expects it any more.
            TakenUpError: Another server works on the job.
        """
        give_up = anyio.current_time() + self._config.longest_wait
        pause = FIRST_PAUSE
        while True:
            try:
                job = await self._until_sent(running, state, give_up)
                return job, await call()
            except errors.RateLimited as error:
                await self._wait_after_refusal(running, error, pause, give_up)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _until_sent(self, running: RunningJob, state: State, give_up: float) -> Job:
        """Mark a job as sent as soon as that may be."""
        out_of_turn, store_fails_since = False, None
        while True:
            if not running.may_send:
                out_of_turn = await self._until_its_turn(running, give_up)
            if self._closing.is_set():
                raise _closing()
            now, job = self._config.clock(), running.job
            job = replace(job, state=state, sent=max(now, job.next_try or now), notes=(), next_try=None)
            try:
                await self._running.require_saved(running)
                outcome = await self._store.mark_sent(
                    job, self._limits, begun_here=running.begun_here, out_of_turn=out_of_turn
                )
            except errors.LedgerError:
                store_fails_since = store_fails_since or anyio.current_time()
                if anyio.current_time() - store_fails_since > self._config.store_retries:
                    raise
                await anyio.sleep(POLL_SECONDS)
                continue
            running.may_send = False
            match outcome:
                case Sending.SENT:
                    return self._running.show(job)
                case Sending.TAKEN:
                    raise TakenUpError
                case Sending.UNWANTED:
                    raise errors.ServerClosing("The server that was to send the call has ended, so it was not sent")
                case Sending.NOT_ITS_TURN:  # another was quicker
                    store_fails_since = None
                    await anyio.sleep(POLL_SECONDS)

    async def _wait_after_refusal(
        self, running: RunningJob, error: errors.RateLimited, pause: float, give_up: float
    ) -> None:
        """Wait until the API takes calls again."""
        now = self._config.clock()
        if error.wait is not None:
            pause = max(error.wait.total_seconds(), pause)
        elif pause > LONGEST_GUESS:
            raise error
        if anyio.current_time() + pause > give_up:
            raise error
        following = now + timedelta(seconds=pause)
        note = f"the API's rate limit lets it be sent at {following:%H:%M:%S} UTC"
        unsent = {"state": State.QUEUED, "sent": None, "next_try": following, "notes": (note,)}
        await self._running.update(running.job, **unsent)
        with anyio.move_on_after(pause):
            await self._closing.wait()
            raise _closing()

    # ---- turns ----

    async def _until_its_turn(self, running: RunningJob, give_up: float) -> bool:
        """Wait for a job's turn; returns whether it comes before others that do not come."""
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
            raise errors.TooManyCalls(f"Its turn did not come in {minutes:.0f} minutes: {self._rule}")
        return waiting.out_of_turn

    @property
    def _rule(self) -> str:
        a_minute = self._limits.calls_a_minute
        rate = f" and {a_minute} a minute" if a_minute is not None else ""
        return f"{self._limits.calls_at_once} paid calls at once{rate} are allowed"

    async def run(self) -> None:
        """Look whose turn it is for as long as jobs wait, until the server ends."""

        def wake(job: Job, *, kept: bool) -> None:  # noqa: ARG001  a slot may have become free
            self._wake.set()

        with self._running.listening(wake):
            while True:
                await self._wake.wait()
                while self._waiting:
                    self._wake = anyio.Event()
                    await self._look()
                    with anyio.move_on_after(POLL_SECONDS):
                        await self._wake.wait()
                self._wake = anyio.Event()
                self._store_fails_since = self._passed_over_since = None

    async def _look(self) -> None:
        """Tell those jobs whose turn it is."""
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
            logger.exception("No slot can be taken")  # and takes no call under way with it
            self._give_up_in_time(errors.LedgerError(f"The ledger cannot be asked ({type(error).__name__})"))
            return
        self._store_fails_since = None
        granted = [each for each in waiting if each.job.local_id in turns.jobs]
        if granted or not turns.free:
            self._passed_over_since = None
        elif self._passed_over_since is None:
            self._passed_over_since = anyio.current_time()
        elif anyio.current_time() - self._passed_over_since > OVERTAKING_SECONDS:
            waiting[0].out_of_turn = True
            granted = waiting[:1]
        for each in granted:
            each.its_turn.set()

    def _give_up_in_time(self, error: errors.LedgerError) -> None:
        """Refuse the waiting jobs once the store could not be asked for a while: another program may have locked it."""
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
