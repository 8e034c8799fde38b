"""The turns: each paid call is sent when the user's limits and the API's rate limit let it, fairly between callers.

The limits hold for all servers on a ledger together, so it is there that turns are taken.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import anyio

from mcp_vega import errors
from mcp_vega.segmind.answers import State
from mcp_vega.studio.board import Board
from mcp_vega.studio.jobs import Job
from mcp_vega.studio.ledger import Ledger
from mcp_vega.studio.limits import Limits

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that a call waits for its turn; a later one is the user's to decide on.
LONGEST_TURN = 300.0
# How many calls of one caller may wait.
MOST_WAITING = 1000
# Seconds after which a job says that it waits.
PATIENCE = 1.0
# How often the ledger is asked whether another server's turn is over.
GLANCE = 0.25


@dataclass(eq=False)
class _Waiting:
    """A job that waits for its turn: `called` is set once it has come, or `problem` keeps it from coming."""

    job: Job
    called: anyio.Event = field(default_factory=anyio.Event)
    problem: errors.VegaError | None = None


class Turns:
    """Sends the calls of this server's jobs.

    Args:
        ledger: Where turns are taken.
        board: Hears of every change of a job.
        clock: The time (UTC).
        limits: What the user lets be spent.
    """

    def __init__(self, ledger: Ledger, board: Board, clock: Callable[[], datetime], limits: Limits) -> None:
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._limits = limits
        self._waiting: list[_Waiting] = []
        self._over: list[str] = []
        self._news = anyio.Event()

    def require_room(self, owner: str) -> None:
        """Check that another call of a caller may wait.

        Raises:
            TooManyCalls: So many wait already that its turn would not come in time.
        """
        count = sum(each.job.owner == owner for each in self._waiting)
        a_minute = self._limits.calls_a_minute
        most = MOST_WAITING if a_minute is None else min(MOST_WAITING, a_minute * round(LONGEST_TURN / 60))
        if count >= most:
            raise errors.TooManyCalls(f"{count} calls wait for their turn already")

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
            ServerClosing: Another server has taken the job up.
            SegmindError: The call failed.
        """
        give_up = anyio.current_time() + LONGEST_TURN
        while True:
            try:
                async with self._turn(job, give_up):
                    job = await self._board.change(job, state=state, sent=self._clock(), notes=())
                    return job, await call()
            except errors.RateLimited as error:
                job = await self._refused(job, error, give_up)

    async def _refused(self, job: Job, error: errors.RateLimited, give_up: float) -> Job:
        # The API's clock and this machine's may differ: it is never asked again at once, nor for ever.
        pause = max((error.until - self._clock()).total_seconds(), 1) if error.until else 0
        if error.until is None or anyio.current_time() + pause > give_up:
            raise error
        note = f"the API's rate limit lets it be sent at {error.until:%H:%M:%S} UTC"
        job = await self._board.change(job, state=State.QUEUED, sent=None, notes=(note,))
        await anyio.sleep(pause)
        await self._require_held(job)
        return job

    async def _require_held(self, job: Job) -> None:
        """Check that a job which has waited is still this server's."""
        if job.local_id not in await self._ledger.renew():
            step = f"Call check_job with the request_id {job.request_id}"
            raise errors.ServerClosing("Another server has taken the job up", next_step=step)

    @asynccontextmanager
    async def _turn(self, job: Job, give_up: float) -> AsyncGenerator[None]:
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        self._news.set()
        try:
            await self._until_called(waiting, give_up)
            yield
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            self._over.append(job.local_id)
            self._news.set()

    async def _until_called(self, waiting: _Waiting, give_up: float) -> None:
        with anyio.move_on_after(PATIENCE):
            await waiting.called.wait()
        if not waiting.called.is_set():
            await self._board.change(waiting.job, notes=(f"it waits for its turn: {self._rule}",))
            with anyio.move_on_after(give_up - anyio.current_time()):
                await waiting.called.wait()
                await self._require_held(waiting.job)
        if waiting.problem:
            raise waiting.problem
        if not waiting.called.is_set():
            raise errors.TooManyCalls(f"Its turn did not come in {LONGEST_TURN / 60:.0f} minutes: {self._rule}")

    @property
    def _rule(self) -> str:
        a_minute = self._limits.calls_a_minute
        rate = f" and {a_minute} a minute" if a_minute is not None else ""
        return f"{self._limits.calls_at_once} paid calls at once{rate} are allowed"

    # ---- whose turn it is ----

    async def run(self) -> None:
        """Call one waiting job after the other, for as long as the server runs."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            await self._call()
            while self._waiting:
                with anyio.move_on_after(GLANCE):
                    await self._news.wait()
                self._news = anyio.Event()
                await self._call()

    async def _call(self) -> None:
        """Call those whose turn it is."""
        over = self._over[:]
        try:
            called = await self._ledger.take_turns(self._foremost(), over, self._limits)
        except errors.LedgerError as error:
            for waiting in self._waiting:
                waiting.problem = error
                waiting.called.set()
            self._waiting.clear()
            return
        del self._over[: len(over)]
        for waiting in [each for each in self._waiting if each.job.local_id in called]:
            self._waiting.remove(waiting)
            waiting.called.set()
            called.remove(waiting.job.local_id)
        self._over += called  # nobody waits for these any more

    def _foremost(self) -> list[Job]:
        """The jobs that have waited the longest, of each caller as many as may be under way at once."""
        foremost: dict[str, list[Job]] = {}
        for waiting in self._waiting:
            jobs = foremost.setdefault(waiting.job.owner, [])
            if len(jobs) < self._limits.calls_at_once:
                jobs.append(waiting.job)
        return [job for jobs in foremost.values() for job in jobs]
