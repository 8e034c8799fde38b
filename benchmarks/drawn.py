"""Make random lines of a host and random answers of the API, right and wrong ones, and check what happens to each.

    python benchmarks/drawn.py [--lines 100000] [--answers 100000] [--seed 1] [--served 50]

The lines (tests/lines.py) go through the reader of the server over stdio, and one line of 50 through a real server.
The answers (tests/test_properties.py) go through every reader of the API's answers. The program prints how many there
were of each kind, and the slowest. It exits with 1 if something breaks, if a line or an answer takes more than a
second, if a request does not get exactly one answer, or if an answer is read wrongly.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
from host import Host
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from mcp.shared.message import SessionMessage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import lines
import test_properties as properties

from mcp_vega.segmind.response import ApiResponse
from mcp_vega.server.stdio.messages import Outcome, read_line
from mcp_vega.server.stdio.streams import LineReader

SLOW_SECONDS = 1.0
# How many examples one process makes before it takes the next seed.
AT_ONCE = 2000
# Seconds after which a server that has not answered is given up.
HANG_SECONDS = 300
# This provider does not look for variants of earlier examples, which takes longer than to make new ones.
AVAILABLE_PROVIDERS["straight"] = HypothesisProvider
HEADS = st.tuples(properties.STATUSES, properties.HEADERS)
# Each body is read with this many statuses and headers, because making one takes longer than reading it.
HEADS_FOR_BODY = 4


@dataclass
class Tally:
    """What happened to some of the examples."""

    kinds: Counter[str] = field(default_factory=Counter[str])
    slowest: tuple[float, str] = (0, "")  # seconds, and the example
    failures: list[str] = field(default_factory=list[str])
    for_server: list[bytes] = field(default_factory=list[bytes])

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.kinds += other.kinds
        self.slowest = max(self.slowest, other.slowest)
        self.failures += other.failures
        self.for_server += other.for_server

    def look(self, what: object, check: Callable[[], str]) -> None:
        """Check one example; `check` returns its kind."""
        started = time.thread_time()
        try:
            self.kinds[check()] += 1
        except Exception as error:  # noqa: BLE001  any error is a finding
            self.kinds["failures"] += 1
            self.failures.append(f"{what!r:.2000}: {type(error).__name__} {error!s:.500}")
        self.note_time(time.thread_time() - started, what)

    def note_time(self, seconds: float, what: object) -> None:
        """Record how long one example took."""
        if seconds > self.slowest[0]:
            self.slowest = (seconds, f"{what!r:.200}")
        if seconds > SLOW_SECONDS:
            self.failures.append(f"{what!r:.2000}: {seconds:.1f} s")


def drawn(strategy: st.SearchStrategy[Any], count: int, number: int) -> list[Any]:
    """This many values of a strategy; the same number always gives the same values."""
    values: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        backend="straight",
        derandomize=False,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def keep(value: Any) -> None:
        values.append(value)

    keep()
    gc.freeze()  # so that garbage collection does not look through all the values
    return values


# ---- lines ----


def look_at_lines(count: int, number: int, every: int) -> Tally:
    """Make lines and read them, one by one and as a stream; keeps some of them for a server."""
    tally = Tally()
    found: list[Outcome] = []
    read = drawn(lines.LINES, count, number)

    def check(line: bytes) -> str:
        outcomes = list(read_line(line.decode(errors="replace")))
        found.extend(outcomes)
        lines.check_line(line, outcomes)
        return "lines refused" if any(not isinstance(each, str) for each in outcomes) else "lines read"

    for line in read:
        tally.look(line, partial(check, line))
    if shown(anyio.run(stream_of, read)) != shown(found):
        tally.failures.append(f"seed {number}: a stream of these lines is not read as each line is")
    tally.for_server = read[::every]
    return tally


async def stream_of(read: Sequence[bytes]) -> list[Outcome]:
    """The outcomes of lines that come through a pipe."""
    ends = os.pipe()
    found: list[Outcome] = []

    def write() -> None:
        with os.fdopen(ends[1], "wb") as pipe:
            pipe.write(b"\n".join(read))

    async def take(answer: SessionMessage) -> None:
        found.append(cast("Outcome", answer.message))

    reader = LineReader(ends[0])
    reader.send = take
    writer = threading.Thread(target=write)
    writer.start()
    async for line in reader:
        found.append(line)  # noqa: PERF401  in order with the errors
    writer.join()
    os.close(ends[0])
    return found


def shown(outcomes: Sequence[Outcome]) -> list[str]:
    """Outcomes in a form that can be compared."""
    return [each if isinstance(each, str) else each.model_dump_json() for each in outcomes]


def serve_lines(sent: Sequence[bytes]) -> Tally:
    """Send lines to a real server, each with a ping after it, and check that every answer comes."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), "https://api.example", MCP_VEGA_SANDBOX="1")
        host.shake_hands()
        killer = threading.Timer(HANG_SECONDS, host.process.kill)
        killer.start()
        missing: Counter[lines.Answer] = Counter()
        for number, line in enumerate(sent):
            started = time.perf_counter()
            ping = f"the ping after line {number}"
            served, refused = lines.answers(read_line(line.decode(errors="replace")))
            missing.update([*served, *refused, ping])
            host.send_line(line)
            host.send_line(json.dumps({"jsonrpc": "2.0", "id": ping, "method": "ping"}).encode())
            while missing[ping] > 0 and (answer := host.receive()):
                missing[answer["id"]] -= 1
            tally.note_time(time.perf_counter() - started, line)
        while +missing and (answer := host.receive()):
            missing[answer["id"]] -= 1
        killer.cancel()
        host.leave()
    tally.kinds["lines served"] = len(sent)
    for id_, times in missing.items():
        if times:
            tally.failures.append(f"{abs(times)} answers too {'few' if times > 0 else 'many'} with the id {id_!r:.200}")
    return tally


# ---- answers ----


def look_at_answers(count: int, number: int) -> Tally:
    """Make answers of the API, and let every reader of answers read each of them."""
    tally = Tally()

    def check(response: ApiResponse) -> str:
        properties.check_response(response)
        return "answers read"

    fewer = -(-count // HEADS_FOR_BODY)
    bodies, heads = drawn(properties.BODIES, fewer, number), drawn(HEADS, fewer, number)
    for place in range(count):
        body, (status, headers) = bodies[place % len(bodies)], heads[(place + place // fewer) % len(heads)]
        response = ApiResponse(status, headers, body)
        tally.look(response, partial(check, response))
    return tally


# ---- everything ----


def in_processes(look: Callable[[int, int], Tally], count: int, first: int) -> Tally:
    """Check this many in total, on all processors. Each process takes the next number as its seed."""
    counts = [min(AT_ONCE, count - done) for done in range(0, count, AT_ONCE)]
    tally = Tally()
    with ProcessPoolExecutor() as pool:
        for each in pool.map(look, counts, range(first, first + len(counts))):
            tally.add(each)
    return tally


def report(name: str, tally: Tally, started: float) -> None:
    """Print what happened to them."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.kinds.items()))
    seconds, what = tally.slowest
    print(f"{name}: {kinds or 'none'} in {time.perf_counter() - started:.0f} s")
    print(f"  the slowest took {seconds * 1000:.1f} ms: {what}")
    for failure in tally.failures[:20]:
        print(f"  FAILED {failure}")


def main() -> None:
    """Make, check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000, help="number of lines; default: %(default)s")
    parser.add_argument("--answers", type=int, default=100_000, help="number of answers; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--served", type=int, default=50, help="a real server gets one line of this many")
    options = parser.parse_args()
    started = time.perf_counter()
    read = in_processes(partial(look_at_lines, every=options.served), options.lines, options.seed)
    report("lines", read, started)
    started = time.perf_counter()
    served = serve_lines(read.for_server)
    report("a server", served, started)
    started = time.perf_counter()
    answers = in_processes(look_at_answers, options.answers, options.seed)
    report("answers", answers, started)
    if read.failures or served.failures or answers.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
