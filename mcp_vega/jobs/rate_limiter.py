"""Sends each paid call when the user's limits and the API's rate limit let it, fairly between callers.

The limits hold for all servers on a ledger together, so slots for calls are taken there.
"""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import anyio

from mcp_vega import errors
from mcp_vega.job import Job, State, new_id
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.running import RunningJobs

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How many calls of one caller may wait.
MOST_WAITING = 1000
# Seconds between questions whether another server's slot has become free.
POLL_SECONDS = 0.25
# Seconds after the first refusal by the API's rate limit, at least; twice as many after each further one. Where the API
# does not say when to come again, a pause up to the third figure is tried, and the rest left to the user.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_GUESS = 1.0, 60.0, 4.0


@dataclass(eq=False)
class _Waiting:
    """A job that waits for a slot: `granted` is set once it has one, or a `problem` keeps it from getting any."""

    job: Job
    slot: str = field(default_factory=new_id)
    granted: anyio.Event = field(default_factory=anyio.Event)
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
        self._released: list[str] = []
        self._wake = anyio.Event()
        self._store_fails_since: float | None = None
        self._closing = anyio.Event()
        self._closed = False

    @contextmanager
    def admitted(self, owner: str) -> Generator[None]:
        """Admit another call of a caller; it counts from here on.

        Raises:
            TooManyCalls: So many wait already that it would not be sent in time.
        """
        unsent = sum(each.job.owner == owner and each.job.sent is None for each in self._running.active)
        count = unsent + self._starting[owner]
        a_minute = self._limits.calls_a_minute
        minutes = round(self._config.longest_wait / 60)
        most = MOST_WAITING if a_minute is None else min(MOST_WAITING, a_minute * minutes)
        if count >= most:
            raise errors.TooManyCalls(f"{count} calls wait for their turn already")
        self._starting[owner] += 1
        try:
            yield
        finally:
            self._starting[owner] -= 1

    def close(self) -> None:
        """Send only those that have a slot now, because the process is about to end; the others are told so."""
        self._closing.set()
        self._wake.set()

    async def send(self, job: Job, state: State, call: Callable[[], Awaitable[T]]) -> tuple[Job, T]:
        """Send a job's call when the limits let it. Refused by the API's rate limit, which is free, it waits again.

        Returns:
            The job as it now is, in `state` while the call is under way, and what the call gave.

        Raises:
            VegaError: The call failed, or it was not sent: not in time, the process ends, the store does not answer,
                another server has taken the job up.
        """
        give_up = anyio.current_time() + self._config.longest_wait
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._slot(job, give_up):
                    job = await self._running.update(job, state=state, sent=self._config.clock(), notes=())
                    return job, await call()
            except errors.RateLimited as error:
                job = await self._wait_after_refusal(job, error, pause, give_up)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _wait_after_refusal(self, job: Job, error: errors.RateLimited, pause: float, give_up: float) -> Job:
        """Wait until the API takes calls again. Its clock and this machine's may differ."""
        now = self._config.clock()
        if error.until:
            pause = max((error.until - now).total_seconds(), pause)
        elif pause > LONGEST_GUESS:
            raise error
        if anyio.current_time() + pause > give_up:
            raise error
        note = f"the API's rate limit lets it be sent at {now + timedelta(seconds=pause):%H:%M:%S} UTC"
        job = await self._running.update(job, state=State.QUEUED, sent=None, notes=(note,))
        with anyio.move_on_after(pause):
            await self._closing.wait()
            raise _closing()
        await self._require_held(job)
        return job

    async def _require_held(self, job: Job) -> None:
        """Check that a job which has waited is still this server's; another program may have locked the store."""
        give_up = anyio.current_time() + self._config.store_retries
        while True:
            try:
                held = await self._store.renew()
            except errors.LedgerError:
                if anyio.current_time() > give_up:
                    raise
                await anyio.sleep(POLL_SECONDS)
            else:
                break
        if job.local_id not in held:
            step = f"Call check_job with the request_id {job.request_id}"
            raise errors.ServerClosing("Another server has taken the job up", next_step=step)

    @asynccontextmanager
    async def _slot(self, job: Job, give_up: float) -> AsyncGenerator[None]:
        if self._closed:
            raise _closing()
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        self._wake.set()
        try:
            await self._until_granted(waiting, give_up)
            yield
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            self._released.append(waiting.slot)
            self._wake.set()

    async def _until_granted(self, waiting: _Waiting, give_up: float) -> None:
        with anyio.move_on_after(self._config.note_wait_after):
            await waiting.granted.wait()
        at_once = waiting.granted.is_set()
        if not at_once:
            await self._running.update(waiting.job, notes=(f"it waits for its turn: {self._rule}",))
            with anyio.move_on_after(give_up - anyio.current_time()):
                await waiting.granted.wait()
        if waiting.problem:
            raise waiting.problem
        if not waiting.granted.is_set():
            minutes = self._config.longest_wait / 60
            raise errors.TooManyCalls(f"Its turn did not come in {minutes:.0f} minutes: {self._rule}")
        if not at_once:
            await self._require_held(waiting.job)

    @property
    def _rule(self) -> str:
        a_minute = self._limits.calls_a_minute
        rate = f" and {a_minute} a minute" if a_minute is not None else ""
        return f"{self._limits.calls_at_once} paid calls at once{rate} are allowed"

    # ---- granting ----

    async def run(self) -> None:
        """Grant slots to the waiting jobs until the server ends."""
        while not self._closing.is_set():
            await self._wake.wait()
            await self._grant()
            while (self._waiting or self._released) and not self._closing.is_set():
                with anyio.move_on_after(POLL_SECONDS):
                    await self._wake.wait()
                await self._grant()
        await self._grant()
        self._closed = True
        self._refuse_all(_closing())
        while True:  # what is released is given back to other servers
            await self._wake.wait()
            await self._grant()

    async def _grant(self) -> None:
        """Give the slots that are free to those who come first."""
        self._wake = anyio.Event()
        if not (self._waiting or self._released):
            return  # a server that drew nothing leaves the store alone
        released = self._released[:]
        try:
            granted = await self._store.take_slots(self._first_of_each(), released, self._limits)
        except errors.LedgerError as error:
            self._give_up_in_time(error)
            return
        except Exception as error:
            logger.exception("No slot can be taken")  # and takes no call under way with it
            self._give_up_in_time(errors.LedgerError(f"The ledger cannot be asked ({type(error).__name__})"))
            return
        self._store_fails_since = None
        del self._released[: len(released)]
        for waiting in [each for each in self._waiting if each.slot in granted]:
            self._waiting.remove(waiting)
            waiting.granted.set()
            granted.remove(waiting.slot)
        self._released += granted  # nobody waits for these any more

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
            waiting.granted.set()
        self._waiting.clear()

    def _first_of_each(self) -> dict[str, str]:
        """The slots waited for the longest, of each caller as many as may be under way at once; and the caller."""
        count = Counter[str]()
        first: dict[str, str] = {}
        for waiting in self._waiting:
            owner = waiting.job.owner
            if count[owner] < self._limits.calls_at_once:
                count[owner] += 1
                first[waiting.slot] = owner
        return first


def _closing() -> errors.ServerClosing:
    return errors.ServerClosing("The server is about to exit, so the call was not sent")
