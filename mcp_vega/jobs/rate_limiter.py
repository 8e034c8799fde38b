"""The turns: each paid call is sent when the user's limits and the API's rate limit let it, fairly between callers.

The limits hold for all servers on a ledger together, so it is there that turns are taken.
"""

import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

import anyio

from mcp_vega import errors
from mcp_vega.job import Job, Limits, State, new_id
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.storage.database.job_store import JobStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that a call waits for its turn; a later one is the user's to decide on.
LONGEST_TURN = 300.0
# How many calls of one caller may wait.
MOST_WAITING = 1000
# Seconds after which a job says that it waits.
PATIENCE = 1.0
# How often the ledger is asked whether another server's turn is over, and for how long when it cannot say.
GLANCE = 0.25
LEDGER_SECONDS = 30.0
# Seconds after the first refusal by the API's rate limit, at least; twice as many after each further one. Where the API
# does not say when to come again, a pause up to the third figure is tried, and the rest left to the user.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_GUESS = 1.0, 60.0, 4.0


@dataclass(eq=False)
class _Waiting:
    """A job that waits for its turn: `called` is set once it has come, or `problem` keeps it from coming."""

    job: Job
    turn: str = field(default_factory=new_id)
    called: anyio.Event = field(default_factory=anyio.Event)
    problem: errors.VegaError | None = None


class RateLimiter:
    """Sends the calls of this server's jobs.

    Args:
        ledger: Where turns are taken.
        board: Hears of every change of a job.
        clock: The time (UTC).
        limits: What the user lets be spent.
    """

    def __init__(self, store: JobStore, running: RunningJobs, clock: Callable[[], datetime], limits: Limits) -> None:
        self._store = store
        self._running = running
        self._clock = clock
        self._limits = limits
        self._beginning = Counter[str]()
        self._waiting: list[_Waiting] = []
        self._over: list[str] = []
        self._news = anyio.Event()
        self._broken_since: float | None = None
        self._closing = anyio.Event()
        self._closed = False

    @contextmanager
    def room(self, owner: str) -> Generator[None]:
        """Have room for another call of a caller; it counts from here on.

        Raises:
            TooManyCalls: So many wait already that its turn would not come in time.
        """
        unsent = sum(job.owner == owner and job.sent is None for job in self._running.live)
        count = unsent + self._beginning[owner]
        a_minute = self._limits.calls_a_minute
        most = MOST_WAITING if a_minute is None else min(MOST_WAITING, a_minute * round(LONGEST_TURN / 60))
        if count >= most:
            raise errors.TooManyCalls(f"{count} calls wait for their turn already")
        self._beginning[owner] += 1
        try:
            yield
        finally:
            self._beginning[owner] -= 1

    def close(self) -> None:
        """Send only those whose turn it is now, because the process is about to end; what waits on is told so."""
        self._closing.set()
        self._news.set()

    async def send(self, job: Job, state: State, call: Callable[[], Awaitable[T]]) -> tuple[Job, T]:
        """Send a job's call when it is its turn; refused by the API's rate limit, which costs nothing, it waits again.

        Args:
            job: The job.
            state: What it is in while the call is under way.
            call: Sends it.

        Returns:
            The job as it now is, and what the call gave.

        Raises:
            TooManyCalls: Its turn did not come.
            LedgerError: The ledger cannot be asked whose turn it is.
            ServerClosing: The process ends, or another server has taken the job up.
            SegmindError: The call failed.
        """
        give_up = anyio.current_time() + LONGEST_TURN
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._turn(job, give_up):
                    job = await self._running.change(job, state=state, sent=self._clock(), notes=())
                    return job, await call()
            except errors.RateLimited as error:
                job = await self._refused(job, error, pause, give_up)
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _refused(self, job: Job, error: errors.RateLimited, pause: float, give_up: float) -> Job:
        """Wait until the API takes calls again. Its clock and this machine's may differ."""
        if error.until:
            pause = max((error.until - self._clock()).total_seconds(), pause)
        elif pause > LONGEST_GUESS:
            raise error
        if anyio.current_time() + pause > give_up:
            raise error
        again = self._clock() + timedelta(seconds=pause)
        note = f"the API's rate limit lets it be sent at {again:%H:%M:%S} UTC"
        job = await self._running.change(job, state=State.QUEUED, sent=None, notes=(note,))
        with anyio.move_on_after(pause):
            await self._closing.wait()
            raise _closing()
        await self._require_held(job)
        return job

    async def _require_held(self, job: Job) -> None:
        """Check that a job which has waited is still this server's."""
        if job.local_id not in await self._held():
            step = f"Call check_job with the request_id {job.request_id}"
            raise errors.ServerClosing("Another server has taken the job up", next_step=step)

    async def _held(self) -> set[str]:
        """The local ids of this server's jobs; another program may have locked the ledger for a while."""
        give_up = anyio.current_time() + LEDGER_SECONDS
        while True:
            try:
                return await self._store.renew()
            except errors.LedgerError:
                if anyio.current_time() > give_up:
                    raise
                await anyio.sleep(GLANCE)

    @asynccontextmanager
    async def _turn(self, job: Job, give_up: float) -> AsyncGenerator[None]:
        if self._closed:
            raise _closing()
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        self._news.set()
        try:
            await self._until_called(waiting, give_up)
            yield
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            self._over.append(waiting.turn)
            self._news.set()

    async def _until_called(self, waiting: _Waiting, give_up: float) -> None:
        with anyio.move_on_after(PATIENCE):
            await waiting.called.wait()
        at_once = waiting.called.is_set()
        if not at_once:
            await self._running.change(waiting.job, notes=(f"it waits for its turn: {self._rule}",))
            with anyio.move_on_after(give_up - anyio.current_time()):
                await waiting.called.wait()
        if waiting.problem:
            raise waiting.problem
        if not waiting.called.is_set():
            raise errors.TooManyCalls(f"Its turn did not come in {LONGEST_TURN / 60:.0f} minutes: {self._rule}")
        if not at_once:
            await self._require_held(waiting.job)

    @property
    def _rule(self) -> str:
        a_minute = self._limits.calls_a_minute
        rate = f" and {a_minute} a minute" if a_minute is not None else ""
        return f"{self._limits.calls_at_once} paid calls at once{rate} are allowed"

    # ---- whose turn it is ----

    async def run(self) -> None:
        """Call one waiting job after the other, until the server ends."""
        while not self._closing.is_set():
            await self._news.wait()
            await self._call()
            while (self._waiting or self._over) and not self._closing.is_set():
                with anyio.move_on_after(GLANCE):
                    await self._news.wait()
                await self._call()
        await self._call()
        self._closed = True
        self._dismiss(_closing())
        while True:  # what is over is given back to other servers
            await self._news.wait()
            await self._call()

    async def _call(self) -> None:
        """Call those whose turn it is."""
        self._news = anyio.Event()
        if not (self._waiting or self._over):
            return  # a server that drew nothing leaves the ledger alone
        over = self._over[:]
        try:
            came = await self._store.take_turns(self._foremost(), over, self._limits)
        except errors.LedgerError as error:
            self._lose_patience(error)
            return
        except Exception as error:
            logger.exception("It cannot be told whose turn it is")  # and takes no call under way with it
            self._lose_patience(errors.LedgerError(f"The ledger cannot be asked ({type(error).__name__})"))
            return
        self._broken_since = None
        del self._over[: len(over)]
        for waiting in [each for each in self._waiting if each.turn in came]:
            self._waiting.remove(waiting)
            waiting.called.set()
            came.remove(waiting.turn)
        self._over += came  # nobody waits for these any more

    def _lose_patience(self, error: errors.LedgerError) -> None:
        """Fail the waiting jobs once the ledger could not be asked for a while: another program may have locked it."""
        now = anyio.current_time()
        if self._broken_since is None:
            logger.warning(error.what)
            self._broken_since = now
        if now - self._broken_since > LEDGER_SECONDS:
            self._dismiss(error)

    def _dismiss(self, problem: errors.VegaError) -> None:
        for waiting in self._waiting:
            waiting.problem = problem
            waiting.called.set()
        self._waiting.clear()

    def _foremost(self) -> dict[str, str]:
        """The turns waited for the longest, of each caller as many as may be under way at once; and his name."""
        owners = Counter[str]()
        foremost: dict[str, str] = {}
        for waiting in self._waiting:
            owner = waiting.job.owner
            if owners[owner] < self._limits.calls_at_once:
                owners[owner] += 1
                foremost[waiting.turn] = owner
        return foremost


def _closing() -> errors.ServerClosing:
    return errors.ServerClosing("The server is about to exit, so the call was not sent")
