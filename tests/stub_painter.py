"""An engine without a GPU: its painters draw pictures that follow from prompt and seed, and a test rules their time."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from conftest import HANG_SECONDS, LOOK_SECONDS, paint_small

from mcp_vega.engine.app import build_engine
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.painter import OnStep, Painter
from mcp_vega.network.serving import serving
from mcp_vega.parameters import Parameters

NAME = "NVIDIA Stub 9000"


def pictures_of(parameters: Parameters, seed: int) -> list[bytes]:
    """The pictures that the painters here draw."""
    return [paint_small(parameters.prompt, seed + number, 0) for number in range(parameters.pictures)]


@dataclass
class StubPainter:
    """Draws each call in steps of `step_seconds`, as many as the call asks for.

    Attributes:
        at_once: As `Painter.at_once`.
        name: As `Painter.name`.
        step_seconds: How long a step takes.
        before_load: Called each time it is to load; what it raises fails the attempt.
        before_step: Called with each call before each of its steps; what it raises fails the call.
        begun: The prompts of the calls that were begun, in order.
        drawn: The prompts of the calls that were drawn, in order.
        most_at_once: The largest number of calls that were drawn at the same time.
    """

    at_once: int = 1
    name: str = NAME
    step_seconds: float = 0
    before_load: Callable[[], None] = lambda: None
    before_step: Callable[[Parameters, int], None] = lambda _parameters, _step: None
    begun: list[str] = field(default_factory=list[str])
    drawn: list[str] = field(default_factory=list[str])
    loads: int = 0
    drawing: int = 0
    most_at_once: int = 0
    closed: bool = False
    _paused_at: int | None = None
    _load_paused: bool = False

    def pause(self, step: int = 1) -> None:
        """Let all calls stay after so many steps until `go_on`."""
        self._paused_at = step

    def pause_load(self) -> None:
        """Let it stay unready until `go_on`."""
        self._load_paused = True

    def go_on(self) -> None:
        """End the pauses."""
        self._paused_at, self._load_paused = None, False

    async def load(self) -> None:
        self.loads += 1
        while self._load_paused:  # noqa: ASYNC110  it may be set in another thread
            await anyio.sleep(LOOK_SECONDS)
        self.before_load()

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        self.begun.append(parameters.prompt)
        self.drawing += 1
        self.most_at_once = max(self.most_at_once, self.drawing)
        try:
            for step in range(parameters.num_inference_steps):
                while step == self._paused_at:  # noqa: ASYNC110  it may be set in another thread
                    await anyio.sleep(LOOK_SECONDS)
                self.before_step(parameters, step)
                await anyio.sleep(self.step_seconds)
                on_step((step + 1) / parameters.num_inference_steps)
        finally:
            self.drawing -= 1
        self.drawn.append(parameters.prompt)
        return pictures_of(parameters, seed)

    async def close(self) -> None:
        self.closed = True


class BlockingStub:
    """Draws in its thread until a test lets it do the next step, as a GPU does."""

    name = NAME

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.begun = 0
        self.done = 0

    def load(self) -> None:
        pass

    def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        self.begun += 1
        for step in range(parameters.num_inference_steps):
            assert self.steps.acquire(timeout=60)
            self.done += 1
            on_step((step + 1) / parameters.num_inference_steps)
        return pictures_of(parameters, seed)

    def close(self) -> None:
        pass


@dataclass
class RunningEngine:
    """An engine that is running."""

    url: str
    drawings: Drawings


@asynccontextmanager
async def serving_engine(
    painter: Painter, *, key: str | None = None, hold_seconds: float = HANG_SECONDS, **options: Any
) -> AsyncGenerator[RunningEngine]:
    """An engine over a painter, with options of `Drawings`."""
    drawings = Drawings(painter, **options)
    app = build_engine(drawings, key, hold_seconds=hold_seconds)
    async with app.router.lifespan_context(app), serving(app) as url:
        yield RunningEngine(url, drawings)
