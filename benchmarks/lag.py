"""How long the server's event loop is blocked, while it answers several calls at the same time with previews.

    python benchmarks/lag.py [--rounds 10] [--picture png]

Eight calls at the same time go to mcp-vega with previews, with an API that takes 0.3 s (`api.py`), in several rounds.
First each answer of the API is a picture, then four pictures as base64 in JSON. In the server, a timer that is due
every millisecond measures the loop's delay. The processor time of each callback of the loop is measured, too (POSIX).
On a busy machine the delay grows, because the loop does not always get a core. The processor time does not grow.
"""

import argparse
import asyncio
import asyncio.events
import json
import runpy
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import api
from api import PICTURES, SEVERAL, SLOW_SECONDS, Picture
from figures import print_target
from host import Host

# The targets: the delay at the 99th percentile, and the processor time of the longest callback (ms).
DELAY, CALLBACK = 10.0, 1.0
SECOND = 1000  # milliseconds
# How many of the longest callbacks are printed.
PRINTED = 5


class MeasuringPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes event loops that measure themselves. SIGUSR1 forgets the figures so far; `save` writes them to a file."""

    def __init__(self) -> None:
        super().__init__()
        self._delays: list[float] = []
        self._callbacks: dict[str, list[float]] = {}
        run: Any = asyncio.events.Handle._run  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

        def timed(handle: Any) -> None:
            task = getattr(handle._callback, "__self__", None)  # noqa: SLF001
            started = time.thread_time()
            run(handle)
            if (taken := (time.thread_time() - started) * SECOND) > CALLBACK / 2:
                name = task.get_name() if isinstance(task, asyncio.Task) else repr(handle)
                self._callbacks.setdefault(name, []).append(taken)

        asyncio.events.Handle._run = timed  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
        signal.signal(signal.SIGUSR1, self._clear)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop with a timer."""
        loop = super().new_event_loop()

        def tick(due: float) -> None:
            self._delays.append((loop.time() - due) * SECOND)
            loop.call_later(1 / SECOND, tick, loop.time() + 1 / SECOND)

        loop.call_soon(tick, loop.time())
        return loop

    def _clear(self, *_: object) -> None:
        self._delays.clear()
        self._callbacks.clear()

    def save(self, file: Path) -> None:
        """Write the figures."""
        file.write_text(json.dumps([self._delays, self._callbacks]), encoding="utf-8")


def serve(file: Path) -> None:
    """Run the server, and measure its loop."""
    policy = MeasuringPolicy()
    asyncio.set_event_loop_policy(policy)  # pyright: ignore[reportDeprecated]  anyio's runner has no other place for it
    sys.argv = ["mcp-vega"]
    try:
        runpy.run_module("mcp_vega", run_name="__main__")
    finally:
        policy.save(file)


def measured(kind: Picture, pictures: int, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """The loop's delays, and the times of the long callbacks by name (ms)."""
    with tempfile.TemporaryDirectory() as name, api.running(kind, SLOW_SECONDS, pictures) as segmind:
        folder = Path(name).resolve()
        program = (str(Path(__file__).resolve()), "--serve", str(folder / "figures.json"))
        with Host(folder, segmind.url, program=program, MCP_VEGA_PREVIEW="auto") as host:
            host.shake_hands()
            host.draw(SEVERAL)
            host.process.send_signal(signal.SIGUSR1)
            for _ in range(rounds):
                host.draw(SEVERAL)
        delays, callbacks = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        return delays, callbacks


def print_measured(title: str, delays: list[float], callbacks: dict[str, list[float]]) -> None:
    """Print the delays and the longest callbacks."""
    print(f"\n{title}")
    *_, late = statistics.quantiles(delays, n=100)
    print(f"  delay of the loop: median {statistics.median(delays):.2f} ms, longest {max(delays):.1f} ms")
    for name, times in sorted(callbacks.items(), key=lambda each: -max(each[1]))[:PRINTED]:
        print(f"  {max(times):6.2f} ms at most, {len(times):3} times {CALLBACK / 2} ms or more: {name[:90]}")
    print_target(f"{title}: delay at the 99th percentile, ms", DELAY, late)
    longest = max((max(times) for times in callbacks.values()), default=0)
    print_target(f"{title}: processor time of the longest callback, ms", CALLBACK, longest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--picture", choices=PICTURES, nargs="+", default=PICTURES)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    for kind in options.picture:
        for form, pictures in (("a picture", 1), ("four pictures as base64", 4)):
            print_measured(f"{SEVERAL} calls, {kind}, {form}", *measured(kind, pictures, options.rounds))


if __name__ == "__main__":
    main()
