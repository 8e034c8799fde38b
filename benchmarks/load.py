"""Many calls at the same time over Streamable HTTP, compared with the floor: a bare MCPServer with the necessary work.

    python benchmarks/load.py [--at-once 200] [--rounds 4] [--seconds 4] [--picture png]
    python benchmarks/load.py --minutes 10 --at-once 32 [--picture png]

In each round, the calls go for some seconds to the floor (`floor.py`), to mcp-vega without previews, and to mcp-vega
with previews. Each answer is followed by the next call. A stand-in for Segmind that answers immediately (`api.py`)
sends a PNG of 1.4 MB, or a JPEG of 0.36 MB. A slower API would measure a limit: mcp-vega sends at most 16 paid calls at
the same time. Therefore there are two floors, one without this limit and one with it. The floor without the limit is
slower, because httpx looks at all its connections at each request.

The API, the servers and the client are processes of their own. The program prints how much of a core the API and the
client need. The kept files are deleted after each round.

With `--minutes`, only mcp-vega with previews runs, and the program prints its memory, threads and open files over time.
The program needs Linux. It exits with 1 if a call has no picture.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import api
import floor
from api import PICTURES, Picture
from figures import print_target, ratios
from host import PREVIEWS, environment
from http_client import TOKENS, calls
from processes import http_server, memory_of, processor_seconds, status

from mcp_vega.storage.ledger.spending import Limits

# The target: the throughput, compared with the floor's.
LEAST = 0.75
CONNECTIONS = Limits().calls_at_once
FLOOR, LIMITED = "floor", f"floor ({CONNECTIONS} connections)"


@dataclass
class Server:
    """A server process, and the figures of its rounds. Memory is in MB."""

    url: str
    folder: Path
    pid: int
    at_rest: float
    peaks: list[float] = field(default_factory=list[float])
    calls_a_second: list[float] = field(default_factory=list[float])
    busy_ms: list[float] = field(default_factory=list[float])
    times: list[float] = field(default_factory=list[float])

    def forget_peak(self) -> None:
        """Set the peak of the memory to what the process has now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="utf-8")

    def clear(self) -> None:
        """Delete the kept pictures."""
        for path in [*self.folder.glob("gallery/*/*"), *self.folder.glob("*-*")]:
            path.unlink()


@contextmanager
def running(root: Path, name: str, api_url: str) -> Generator[Server]:
    """A server over HTTP while the block runs, after its first calls."""
    folder = root / name
    folder.mkdir()
    if name in PREVIEWS:
        program = ("-m", "mcp_vega", "--transport", "http", "--port", "0")
    else:
        limit = ("--connections", str(CONNECTIONS)) if name == LIMITED else ()
        program = (floor.__file__, str(folder), api_url, "--http", *limit)
    tokens = ",".join(f"caller{number}:{token}" for number, token in enumerate(TOKENS))
    variables = {"MCP_VEGA_PREVIEW": PREVIEWS.get(name, ""), "MCP_VEGA_AUTH_TOKENS": tokens}
    with http_server(program, folder / "stderr.txt", environment(folder, api_url, **variables)) as served:
        asyncio.run(calls(served.url, 1, 0))
        yield Server(served.url, folder, served.pid, memory_of(served.pid))


def measure_round(server: Server, api_pid: int, at_once: int, seconds: float) -> dict[str, float]:
    """Make calls to a server for some seconds; returns how much of a core the client and the API needed."""
    server.forget_peak()
    pids = (server.pid, os.getpid(), api_pid)
    before, began = [processor_seconds(pid) for pid in pids], time.monotonic()
    times = asyncio.run(calls(server.url, at_once, seconds))
    took = time.monotonic() - began
    ours, client, theirs = (processor_seconds(pid) - earlier for pid, earlier in zip(pids, before, strict=True))
    server.calls_a_second.append(len(times) / took)
    server.busy_ms.append(ours / len(times) * 1000)
    server.peaks.append(memory_of(server.pid, "VmHWM"))
    server.times += times
    server.clear()
    return {"client": client / took, "API": theirs / took}


def compare(kind: Picture, at_once: int, rounds: int, seconds: float) -> None:
    """Measure all servers alternately, and print."""
    with (
        tempfile.TemporaryDirectory() as name,
        api.running(kind) as segmind,
        ExitStack() as stack,
    ):
        servers = {
            each: stack.enter_context(running(Path(name), each, segmind.url)) for each in (FLOOR, LIMITED, *PREVIEWS)
        }
        shares = [
            measure_round(server, segmind.pid, at_once, seconds) for _ in range(rounds) for server in servers.values()
        ]
    size = len(api.picture(kind)) / 1e6
    print(f"\n{at_once} calls at the same time, {kind} of {size:.2f} MB, rounds of {seconds:g} s: {rounds}")
    print_servers(servers)
    busy = ", ".join(f"{each} {statistics.median(share[each] for share in shares) * 100:.0f} %" for each in shares[0])
    print(f"  of one core: {busy}")
    throughput = servers["without previews"].calls_a_second
    for base in (FLOOR, LIMITED):
        title = f"{at_once} calls, {kind}, throughput without previews / {base}"
        print_target(title, LEAST, *ratios(throughput, servers[base].calls_a_second), at_least=True)


def print_servers(servers: Mapping[str, Server]) -> None:
    """Print a line for each server."""
    columns = ("calls/s", "CPU ms/call", "median s", "longest s", "MB at rest", "MB at most")
    print(f"  {'':22}" + "".join(f"{column:>12}" for column in columns))
    for name, server in servers.items():
        rate, busy = statistics.median(server.calls_a_second), statistics.median(server.busy_ms)
        median, longest = statistics.median(server.times), max(server.times)
        print(
            f"  {name:22}{rate:12.1f}{busy:12.1f}{median:12.2f}{longest:12.2f}{server.at_rest:12.0f}"
            f"{max(server.peaks):12.0f}"
        )


def watch_memory(kind: Picture, at_once: int, minutes: float) -> None:
    """Let mcp-vega with previews work for long, and print its memory meanwhile."""
    with (
        tempfile.TemporaryDirectory() as name,
        api.running(kind) as segmind,
        running(Path(name), "with previews", segmind.url) as server,
    ):
        print(f"\n{at_once} calls at the same time, {kind}, {minutes:g} minutes; at rest {server.at_rest:.0f} MB")
        seen: list[tuple[float, float]] = []
        began, done = time.monotonic(), 0
        while (time.monotonic() - began) / 60 < minutes:
            server.forget_peak()
            done += len(asyncio.run(calls(server.url, at_once, min(15.0, minutes * 60 / 8))))
            minute, memory, peak = (
                (time.monotonic() - began) / 60,
                memory_of(server.pid),
                memory_of(server.pid, "VmHWM"),
            )
            seen.append((minute, memory))
            threads, files = status(server.pid, "Threads"), len([*Path(f"/proc/{server.pid}/fd").iterdir()])
            print(
                f"  {minute:5.2f} min  {done:6} calls  {memory:5.0f} MB (at most {peak:.0f})  {threads:3} threads  "
                f"{files:3} files",
                flush=True,
            )
            server.clear()
        later = [each for each in seen if each[0] >= min(1, minutes / 4)]
        slope = statistics.linear_regression(*zip(*later, strict=True)).slope
        print(f"  after a minute {later[0][1]:.0f} MB, at the end {later[-1][1]:.0f} MB: {slope:+.2f} MB a minute")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=200, help="calls at the same time")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4, help="how long a round is for each server")
    parser.add_argument("--minutes", type=float, help="watch the memory for this long instead")
    parser.add_argument("--picture", choices=PICTURES, nargs="+", default=PICTURES)
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("This needs Linux: it reads memory and processor time from /proc")
    for kind in options.picture:
        if options.minutes:
            watch_memory(kind, options.at_once, options.minutes)
        else:
            compare(kind, options.at_once, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
