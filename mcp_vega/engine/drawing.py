"""One call of an engine: its state, its times and its pictures."""

import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import anyio

from mcp_vega.engine.painter import Cancelled
from mcp_vega.parameters import Parameters

# What a call takes in memory besides its pictures and texts, in bytes (estimated).
CALL_BYTES = 2000

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]


@dataclass(eq=False)
class Drawing:
    """A call.

    Attributes:
        parameters: What to draw; its seed is never -1.
        caller: Who made it: the hash of a key.
        created: When the call came (UTC).
        progress: Which share is drawn, from 0 to 1.
        error: Why it failed.
    """

    parameters: Parameters
    caller: str = ""
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
        return (self._now if self._begun is None else self._begun) - self._queued

    @property
    def run_seconds(self) -> float:
        """How long it has been drawn, until now or until its end."""
        return 0.0 if self._begun is None else self._now - self._begun

    @property
    def age(self) -> float:
        """Seconds since its end; 0 before."""
        return 0.0 if self._ended is None else self.clock() - self._ended

    @property
    def _now(self) -> float:
        """The present time, or that of its end."""
        return self.clock() if self._ended is None else self._ended

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        texts = (self.parameters.prompt, self.parameters.negative, self.error)
        return CALL_BYTES + sum(len(each.encode(errors="replace")) for each in texts) + sum(map(len, self.pictures))

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
        """Note that it is being drawn.

        Raises:
            Cancelled: Nobody wants the picture any more.
        """
        if self.ended:
            raise Cancelled
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
