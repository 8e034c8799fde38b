"""How long the server's event loop is blocked, while it answers several calls at the same time with previews.

    python benchmarks/lag.py [--rounds 10] [--picture png]

An API that takes 0.3 s (`api.py`) gets eight calls at the same time, several times (POSIX). Then the answers are four
pictures, as base64 in JSON (`several_api.py`). In the server, a timer that is due every millisecond measures the loop's
delay, and the processor time of every callback of the loop is measured. On a busy machine the delay grows, because the
loop does not always get a core; the processor time does not.
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
from typing import Any, get_args

import api
import several_api
from api import Picture
from call import AT_ONCE, SLOW_SECONDS, drawn, target
from host import Host

# What should be reached: the delay at the 99th percentile, and the processor time of the longest callback (ms).
DELAY, CALLBACK = 10.0, 1.0
SECOND = 1000  # milliseconds
PRINTED = 5


class Watch(asyncio.DefaultEventLoopPolicy):
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

        def look(due: float) -> None:
            self._delays.append((loop.time() - due) * SECOND)
            loop.call_later(1 / SECOND, look, loop.time() + 1 / SECOND)

        loop.call_soon(look, loop.time())
        return loop

    def _clear(self, *_: object) -> None:
        self._delays.clear()
        self._callbacks.clear()

    def save(self, file: Path) -> None:
        """Write the figures."""
        file.write_text(json.dumps([self._delays, self._callbacks]), encoding="utf-8")


def serve(file: Path) -> None:
    """Run the server, and measure its loop."""
    watch = Watch()
    asyncio.set_event_loop_policy(watch)  # pyright: ignore[reportDeprecated]  anyio's runner has no other place for it
    sys.argv = ["mcp-vega"]
    try:
        runpy.run_module("mcp_vega", run_name="__main__")
    finally:
        watch.save(file)


def measured(kind: Picture, program: str, rounds: int) -> tuple[list[float], dict[str, list[float]]]:
    """The loop's delays, and the times of the long callbacks by name (ms)."""
    with tempfile.TemporaryDirectory() as name, api.running(kind, SLOW_SECONDS, program) as url:
        folder = Path(name).resolve()
        server = (str(Path(__file__).resolve()), "--serve", str(folder / "figures.json"))
        host = Host(folder, url, program=server, MCP_VEGA_PREVIEW="auto")
        host.shake_hands()
        drawn(host, AT_ONCE)
        host.process.send_signal(signal.SIGUSR1)
        for _ in range(rounds):
            drawn(host, AT_ONCE)
        host.leave()
        delays, callbacks = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        return delays, callbacks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--picture", choices=get_args(Picture))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    for kind in [options.picture] if options.picture else get_args(Picture):
        for form, program in (("as its bytes", api.__file__), ("four as base64", several_api.__file__)):
            delays, callbacks = measured(kind, program, options.rounds)
            print(f"{kind}, {form}, {AT_ONCE} calls at the same time, {options.rounds} rounds")
            *_, late = statistics.quantiles(delays, n=100)
            print(f"  delay of the loop: median {statistics.median(delays):.2f} ms, longest {max(delays):.1f} ms")
            target("delay at the 99th percentile", [late], DELAY)
            longest = sorted(callbacks.items(), key=lambda each: -max(each[1]))
            for name, times in longest[:PRINTED]:
                print(f"  {max(times):6.2f} ms at most, {len(times):3} times {CALLBACK / 2} ms or more: {name[:90]}")
            target("longest callback", [max((max(times) for times in callbacks.values()), default=0)], CALLBACK)


if __name__ == "__main__":
    main()
