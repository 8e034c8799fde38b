"""What draws the pictures of an engine: the interface, and how a painter that blocks gets a thread."""

from collections.abc import Callable
from typing import Protocol

import anyio.to_thread

from mcp_vega.parameters import Parameters

# Hears after each step which share of the call is done, from 0 to 1. What it raises ends the drawing.
OnStep = Callable[[float], None]


class Cancelled(Exception):  # noqa: N818  it is no error: nobody wants the picture any more
    """The drawing was cancelled."""


class Painter(Protocol):
    """Draws pictures.

    Attributes:
        at_once: How many calls it draws at the same time. The others wait in the engine's queue.
    """

    at_once: int

    @property
    def name(self) -> str:
        """What draws, for people, such as `NVIDIA GeForce RTX 4090`; empty if it is not known before `load`."""
        ...

    async def load(self) -> None:
        """Make ready to draw. This may take a minute.

        Raises:
            EngineError: It cannot draw: a package, weights, a device or a server is missing or does not work.
        """
        ...

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """The pictures of a call, each a complete JPEG or PNG; picture k is drawn with `seed` + k.

        Raises:
            EngineError: The pictures cannot be drawn.
            Cancelled: `on_step` has raised it.
        """
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


class BlockingPainter(Protocol):
    """Draws as a `Painter` does, one call at a time, and blocks the thread that it is called in."""

    @property
    def name(self) -> str:
        """As `Painter.name`."""
        ...

    def load(self) -> None:
        """As `Painter.load`."""
        ...

    def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """As `Painter.draw`. `on_step` is called in the same thread."""
        ...

    def close(self) -> None:
        """As `Painter.close`."""
        ...


class InThread:
    """The `Painter` over one that blocks: each step of its work runs in a worker thread.

    A cancellation waits for the thread. `on_step` ends its work before that.
    """

    at_once = 1

    def __init__(self, painter: BlockingPainter) -> None:
        self._painter = painter

    @property
    def name(self) -> str:
        """As `Painter.name`."""
        return self._painter.name

    async def load(self) -> None:
        """As `Painter.load`."""
        await anyio.to_thread.run_sync(self._painter.load)

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """As `Painter.draw`. `on_step` is called in another thread."""
        return await anyio.to_thread.run_sync(self._painter.draw, parameters, seed, on_step)

    async def close(self) -> None:
        """As `Painter.close`."""
        await anyio.to_thread.run_sync(self._painter.close)
