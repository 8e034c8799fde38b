"""The calls of an engine: the queue, the work on them, and how long they are kept.

All calls wait in one queue, first come, first drawn. The painter says how many it draws at the same time.
"""

import logging
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from mcp_vega.engine.drawing import Drawing
from mcp_vega.engine.errors import DeviceLostError, EngineError
from mcp_vega.engine.painter import Cancelled, Painter
from mcp_vega.imaging.formats import recognise
from mcp_vega.parameters import Parameters

logger = logging.getLogger(__name__)

# How long a call is kept after its end (s), as long as the API keeps the result of a job.
KEPT_SECONDS = 3600
# What the ended calls may take in memory, in bytes: about 250 pictures. The oldest are forgotten first.
KEPT_BYTES = 256 * 2**20
# How many calls may wait or be drawn. Further ones are told to come later.
MOST_CALLS = 200
LARGEST_SEED = 10**15

CANCELLED = "The call was cancelled before its picture was ready"


class QueueFullError(Exception):
    """Too many calls wait already."""


class EndingError(Exception):
    """No more calls are taken, because the engine ends."""


class _Load:
    """One attempt of the painter to make ready."""

    def __init__(self) -> None:
        self.over = anyio.Event()
        self.error: EngineError | None = None


class Drawings:
    """The calls of an engine, from their arrival until they are forgotten. It must be open to take calls.

    Attributes:
        device_lost: Set once the painter's device works only in a new process.
    """

    def __init__(
        self, painter: Painter, *, clock: Callable[[], float] = time.monotonic, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._painter = painter
        self._clock = clock
        self._kept_bytes = kept_bytes
        self._under_way: dict[str, Drawing] = {}
        self._ended: dict[str, Drawing] = {}  # those that ended first come first
        self._ended_bytes = 0
        self._load: _Load | None = None
        self._ending = False
        self._last_used = clock()
        self.device_lost = anyio.Event()

    @property
    def name(self) -> str:
        """What draws, for people; empty while it is not known."""
        return self._painter.name

    @property
    def is_busy(self) -> bool:
        """Whether a call waits or is being drawn."""
        return bool(self._under_way)

    @property
    def unused_seconds(self) -> float:
        """How long ago a call came, was asked for or ended last; 0 while one waits or is being drawn."""
        return 0.0 if self.is_busy else self._clock() - self._last_used

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Load the painter in the background, and draw until the block ends. The end cancels what is under way."""
        self._turns = anyio.CapacityLimiter(self._painter.at_once)
        try:
            async with anyio.create_task_group() as self._tasks:
                self._begin_load()
                yield
                self._ending = True
                for each in list(self._under_way.values()):
                    self.cancel(each)
                self._tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._painter.close()

    # ---- calls ----

    def add(self, parameters: Parameters, caller: str = "") -> Drawing:
        """Queue a call of a caller. A seed of -1 is drawn here.

        Raises:
            QueueFullError: Too many calls wait already.
            EndingError: The engine ends.
        """
        if self._ending:
            raise EndingError
        if len(self._under_way) >= MOST_CALLS:
            raise QueueFullError
        if parameters.seed == -1:
            parameters = parameters.model_copy(update={"seed": random.randrange(LARGEST_SEED)})  # noqa: S311
        drawing = Drawing(parameters, caller, self._clock)
        self._under_way[drawing.id] = drawing
        self._last_used = self._clock()
        self._tasks.start_soon(self._work, drawing)
        return drawing

    def find(self, request_id: str) -> Drawing | None:
        """A call by its id; None if it is not known, or not any more."""
        self._forget()
        self._last_used = self._clock()
        return self._under_way.get(request_id) or self._ended.get(request_id)

    def made_by(self, caller: str) -> list[Drawing]:
        """The calls of a caller that are kept, newest first."""
        self._forget()
        own = [each for calls in (self._ended, self._under_way) for each in calls.values() if each.caller == caller]
        return sorted(own, key=lambda each: each.created, reverse=True)

    def cancel(self, drawing: Drawing) -> None:
        """End a call. If it is being drawn, the painter stops after the present step, and only then draws the next."""
        drawing.fail(CANCELLED)
        drawing.scope.cancel()
        self._keep(drawing)

    def _keep(self, drawing: Drawing) -> None:
        """Keep a call that has ended."""
        if self._under_way.pop(drawing.id, None):
            self._ended[drawing.id] = drawing
            self._ended_bytes += drawing.size
            self._forget()

    def _forget(self) -> None:
        """Forget the calls that ended long ago, and those that ended first if all take too much memory."""
        while self._ended:
            each = next(iter(self._ended.values()))
            if each.age <= KEPT_SECONDS and self._ended_bytes <= self._kept_bytes:
                break
            del self._ended[each.id]
            self._ended_bytes -= each.size

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
                if isinstance(error, DeviceLostError):
                    self.device_lost.set()
            except Exception as error:
                logger.exception("The call %s failed", drawing.id)
                drawing.fail(str(_unexpected(error)))
        self._keep(drawing)
        self._last_used = self._clock()

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
            logger.exception("The painter cannot be loaded")
            load.error = _unexpected(error)
        if load.error:
            logger.warning("The engine cannot draw: %s", load.error)
            self._load = None
        load.over.set()


def _unexpected(error: Exception) -> EngineError:
    what = f"The engine failed ({type(error).__name__}: {error})"
    return EngineError(what, "Call again; if it fails again, the engine's log has the details")
