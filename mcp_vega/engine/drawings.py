"""The calls of an engine: the queue, the work on them, and how long they are kept.

All calls wait in one queue, first come, first drawn. The painter says how many it draws at the same time.
"""

import logging
import math
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import anyio

from mcp_vega.engine.painter import Cancelled, EngineError, Painter
from mcp_vega.imaging.formats import recognise
from mcp_vega.parameters import Parameters

logger = logging.getLogger(__name__)

# How long a call is kept after its end (s), as long as the API keeps the result of a job.
KEPT_SECONDS = 3600
# What the ended calls may take in memory, in bytes: about 250 pictures. The oldest are forgotten first.
KEPT_BYTES = 256 * 2**20
# What a call takes in memory besides its pictures and texts, in bytes (an estimate).
CALL_BYTES = 2000
# How many calls may wait or be drawn. A client gives up after an hour anyway.
MOST_CALLS = 200
LARGEST_SEED = 10**15

CANCELLED = "The call was cancelled before its picture was ready"

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]


class QueueFullError(Exception):
    """Too many calls wait already."""


@dataclass(eq=False)
class Drawing:
    """A call.

    Attributes:
        parameters: What to draw; its seed is never -1.
        created: When the call came (UTC).
        progress: Which share is drawn, from 0 to 1.
        error: Why it failed.
    """

    parameters: Parameters
    clock: Callable[[], float] = time.monotonic
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: State = "QUEUED"
    progress: float = 0
    pictures: list[bytes] = field(default_factory=list[bytes], repr=False)
    error: str = ""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope, repr=False)

    def __post_init__(self) -> None:
        self._queued = self.clock()
        self._begun: float | None = None
        self._ended: float | None = None
        self._changed = anyio.Event()

    @property
    def ended(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in ("COMPLETED", "FAILED")

    @property
    def queue_seconds(self) -> float:
        """How long it waited for its turn, until now or until its end."""
        return (self._begun or self._ended or self.clock()) - self._queued

    @property
    def run_seconds(self) -> float:
        """How long it has been drawn, until now or until its end."""
        return 0.0 if self._begun is None else (self._ended or self.clock()) - self._begun

    @property
    def age(self) -> float:
        """Seconds since its end; 0 before."""
        return 0.0 if self._ended is None else self.clock() - self._ended

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        texts = (self.parameters.prompt, self.parameters.negative, self.error)
        return CALL_BYTES + sum(map(len, texts)) + sum(map(len, self.pictures))

    async def wait(self, seconds: float, *, for_end: bool = False) -> None:
        """Wait at most so many seconds until its state changes or, with `for_end`, until it has ended."""
        with anyio.move_on_after(seconds):
            while not self.ended:
                await self._changed.wait()
                if not for_end:
                    return

    def note_progress(self, share: float) -> None:
        """The painter's `on_step`. It may be called in any thread.

        Raises:
            Cancelled: Nobody wants the picture any more.
        """
        if self.ended:
            raise Cancelled
        self.progress = share if math.isfinite(share) and 0 <= share <= 1 else self.progress

    def begin(self) -> None:
        """Note that it is being drawn."""
        self._begun = self.clock()
        self._become("PROCESSING")

    def complete(self, pictures: list[bytes]) -> None:
        """Keep its pictures, unless it has ended already."""
        if not self.ended:
            self.pictures, self.progress = pictures, 1
            self._end("COMPLETED")

    def fail(self, error: str) -> None:
        """Note why it has no pictures, unless it has ended already."""
        if not self.ended:
            self.error = error
            self._end("FAILED")

    def _end(self, state: State) -> None:
        self._ended = self.clock()
        self._become(state)

    def _become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = anyio.Event()


class _Load:
    """One attempt of the painter to make ready."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.error: EngineError | None = None


class Drawings:
    """The calls of an engine, from their arrival until they are forgotten. It must be open to take calls.

    Attributes:
        last_used: When a call came, was asked for or ended last, by `time.monotonic`.
    """

    def __init__(
        self, painter: Painter, *, clock: Callable[[], float] = time.monotonic, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._painter = painter
        self._clock = clock
        self._kept_bytes = kept_bytes
        self._drawings: dict[str, Drawing] = {}
        self._load: _Load | None = None
        self.last_used = clock()

    @property
    def name(self) -> str:
        """What draws, for people; empty while it is not known."""
        return self._painter.name

    @property
    def is_busy(self) -> bool:
        """Whether a call waits or is being drawn."""
        return any(not each.ended for each in self._drawings.values())

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Load the painter in the background, and draw until the block ends. The end cancels what is under way."""
        self._turns = anyio.CapacityLimiter(self._painter.at_once)
        try:
            async with anyio.create_task_group() as self._tasks:
                self._begin_load()
                yield
                for each in self._drawings.values():
                    self.cancel(each)
                self._tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._painter.close()

    # ---- calls ----

    def add(self, parameters: Parameters) -> Drawing:
        """Queue a call. A seed of -1 is drawn here.

        Raises:
            QueueFullError: Too many calls wait already.
        """
        self._forget()
        if sum(not each.ended for each in self._drawings.values()) >= MOST_CALLS:
            raise QueueFullError
        if parameters.seed == -1:
            parameters = parameters.model_copy(update={"seed": random.randrange(LARGEST_SEED)})  # noqa: S311
        drawing = Drawing(parameters, self._clock)
        self._drawings[drawing.id] = drawing
        self.last_used = self._clock()
        self._tasks.start_soon(self._work, drawing)
        return drawing

    def find(self, request_id: str) -> Drawing | None:
        """A call by its id; None if it is not known, or not any more."""
        self._forget()
        self.last_used = self._clock()
        return self._drawings.get(request_id)

    def newest_first(self) -> Iterator[Drawing]:
        """All calls that are kept."""
        self._forget()
        return reversed(self._drawings.values())

    def cancel(self, drawing: Drawing) -> None:
        """End a call. If it is being drawn, the painter stops after the present step, and only then draws the next."""
        drawing.fail(CANCELLED)
        drawing.scope.cancel()

    def _forget(self) -> None:
        """Forget the calls that ended long ago, and the oldest of those that take too much memory."""
        ended = sorted((each for each in self._drawings.values() if each.ended), key=lambda each: each.age)
        kept = 0
        for each in ended:
            kept += each.size
            if each.age > KEPT_SECONDS or kept > self._kept_bytes:
                del self._drawings[each.id]

    # ---- work ----

    async def _work(self, drawing: Drawing) -> None:
        """Draw a call when it is its turn. Whatever happens becomes its state, and never stops another call."""
        with drawing.scope:
            try:
                drawing.complete(await self._drawn(drawing))
            except Cancelled:
                drawing.fail(CANCELLED)
            except EngineError as error:
                drawing.fail(str(error))
            except Exception as error:
                logger.exception("The drawing %s failed", drawing.id)
                drawing.fail(_unexpected("The engine could not draw this", error))
        self.last_used = self._clock()

    async def _drawn(self, drawing: Drawing) -> list[bytes]:
        # All calls that came before the painter is ready wait for the same attempt, and fail with it.
        await self._loaded()
        async with self._turns:
            drawing.begin()
            parameters = drawing.parameters
            pictures = await self._painter.draw(parameters, parameters.seed, drawing.note_progress)
        count = sum(recognise(each) is not None for each in pictures)
        if count != parameters.pictures:
            raise EngineError(f"The engine drew {count} pictures instead of {parameters.pictures}", "Call again")
        return pictures

    async def _loaded(self) -> None:
        """Wait until the painter is ready. After a failure, the next call tries again.

        Raises:
            EngineError: It cannot draw.
        """
        load = self._load or self._begin_load()
        await load.over.wait()
        if load.error:
            raise load.error

    def _begin_load(self) -> _Load:
        self._load = load = _Load()
        self._tasks.start_soon(self._run_load, load)
        return load

    async def _run_load(self, load: _Load) -> None:
        try:
            await self._painter.load()
        except EngineError as error:
            load.error = error
        except Exception as error:
            logger.exception("The engine cannot draw")
            load.error = EngineError(_unexpected("The engine cannot draw", error), "Start it again")
        if load.error:
            logger.warning("The engine cannot draw: %s", load.error)
            self._load = None
        load.over.set()


def _unexpected(what: str, error: Exception) -> str:
    return f"{what} ({type(error).__name__}: {error})"
