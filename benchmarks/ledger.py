"""What a job costs in the ledger: write transactions, and flushes that wait for the disk.

    python benchmarks/ledger.py [--calls 5]
    python benchmarks/ledger.py --slow-ms 50 [--calls 15]

The first command traces a server (Linux, strace): a picture by v1, a call for four by v2, and ten seconds in which a
call waits for its turn. A write transaction is a commit in SQLite's write-ahead log: a frame whose header has the new
size of the database. Flushes are fsync and fdatasync, counted by the kind of file. One call is made before the
counting, and the figures are per call.

The second command (Linux, a C compiler) times calls by v1 while every flush takes this much longer, and calls at the
disk's own speed. The API is a sandbox that answers immediately, and no previews are made. The program exits with 1 if
a call returns no picture, or if a program that it needs is missing.
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from host import Host
from shim import compiled, compiler
from strace import SystemCall, Trace, program

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox, cached_paint

V1 = {"prompt": "a fox"}
V2 = {"prompt": "four foxes", "samples": 4, "num_inference_steps": 20}
FRAME_HEADER = 24
WAITING_SECONDS = 10.0
# What is counted, by name.
TRANSACTIONS, LEDGER, FILES, FOLDERS, OTHER = (
    "write transactions",
    "flushes of the ledger",
    "flushes of pictures",
    "flushes of their folders",
    "other flushes",
)
Counts = dict[str, float]


def is_commit(call: SystemCall) -> bool:
    """Whether the call writes the header of a frame that ends a transaction."""
    if call.name != "pwrite64" or not call.path.name.endswith("-wal") or call.result != FRAME_HEADER:
        return False
    return any(call.texts[0].data[4:8])


def kind(path: Path, folder: Path) -> str:
    """How a flush of this path is counted."""
    if path.is_relative_to(folder / "home"):
        return LEDGER if path.name.startswith("ledger.sqlite3") else OTHER
    if path.is_relative_to(folder / "gallery"):
        return FOLDERS if path.is_dir() else FILES
    return OTHER


def counted(calls: Iterable[SystemCall], folder: Path) -> Counter[str]:
    """The counts for these system calls."""
    counts: Counter[str] = Counter()
    for call in calls:
        if call.name in ("fsync", "fdatasync"):
            counts[kind(call.path, folder)] += 1
        counts[TRANSACTIONS] += is_commit(call)
    return counts


def draw(host: Host, arguments: dict[str, Any]) -> float:
    """Make a call; returns how many seconds it took."""
    started = time.perf_counter()
    host.call("generate_image_vega", **arguments)
    answer = host.receive()
    job = answer["result"].get("_meta", {}).get("mcp-vega/job", {})
    if job.get("state") != "COMPLETED":
        raise SystemExit(f"no picture: {answer}")
    return time.perf_counter() - started


def counted_calls(url: str, arguments: dict[str, Any], number: int, folder: Path) -> Counts:
    """The counts per call, for several calls one after the other."""
    trace = Trace(folder / "trace", "pwrite64,fsync,fdatasync", FRAME_HEADER)
    host = Host(folder, url, under=trace.command, MCP_VEGA_PREVIEW="off")
    host.shake_hands()
    draw(host, arguments)
    start = trace.quiet_place()
    for _ in range(number):
        draw(host, arguments)
    counts = counted(trace.read(start, trace.quiet_place()), folder)
    host.leave()
    return {name: count / number for name, count in counts.items()}


def counted_wait(url: str, folder: Path) -> Counts:
    """The counts for ten seconds in which a call waits for its turn."""
    trace = Trace(folder / "trace", "pwrite64,fsync,fdatasync", FRAME_HEADER)
    host = Host(folder, url, under=trace.command, MCP_VEGA_PREVIEW="off", MCP_VEGA_REQUESTS_PER_MINUTE="1")
    host.shake_hands()
    draw(host, V1)
    host.call("generate_image_vega", prompt="a fox that waits")
    time.sleep(3)  # after the writes at the beginning of the wait
    start = trace.place
    time.sleep(WAITING_SECONDS)
    counts = counted(trace.read(start, trace.place), folder)
    host.leave()
    return dict(counts)


def print_counts(folder: Path, url: str, number: int) -> None:
    """Count each kind of work in a folder of its own, and print."""
    work: dict[str, Callable[[Path], Counts]] = {
        "v1, a picture": partial(counted_calls, url, V1, number),
        "v2, four": partial(counted_calls, url, V2, number),
        "10 s of waiting": partial(counted_wait, url),
    }
    columns: list[Counts] = []
    for name, count in work.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        columns.append(count(place))
    print(" " * 26, *(f"{name:>16}" for name in work))
    for row in (TRANSACTIONS, LEDGER, FILES, FOLDERS, OTHER):
        print(f"{row:26}", *(f"{column.get(row, 0):16.1f}" for column in columns))


def print_times(folder: Path, url: str, number: int, slow_ms: int) -> None:
    """Time calls at two speeds of the disk, alternately, and print."""
    library = compiled(folder)
    hosts: dict[int, Host] = {}
    for delay in (0, slow_ms):
        (place := folder / str(delay)).mkdir()
        variables = {"LD_PRELOAD": str(library), "SHIM_SLOW_MS": str(delay), "MCP_VEGA_PREVIEW": "off"}
        hosts[delay] = Host(place, url, **variables)
        hosts[delay].shake_hands()
        draw(hosts[delay], V1)
    times: dict[int, list[float]] = {delay: [] for delay in hosts}
    for _ in range(number):
        for delay, host in hosts.items():
            times[delay].append(draw(host, V1))
    for host in hosts.values():
        host.leave()
    plain, slow = (statistics.median(times[delay]) * 1000 for delay in hosts)
    print(f"at the disk's own speed           {plain:7.0f} ms")
    print(f"each flush {slow_ms:4} ms longer         {slow:7.0f} ms")
    print(f"flushes that the answer waits for {(slow - plain) / slow_ms:7.1f}")


def main() -> None:
    """Count, or time, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, help="how many calls are counted (5) or timed (15)")
    parser.add_argument("--slow-ms", type=int, default=0, help="how many milliseconds longer a flush takes")
    options = parser.parse_args()
    (compiler if options.slow_ms else program)()  # ends the program if there is none
    account = Account(speed=0, credits=Decimal(1000))
    sandbox = serving(build_sandbox(account, paint=lambda _prompt, _seed, index: cached_paint("a fox", 7, index)))
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(sandbox) as url,
    ):
        folder = Path(name).resolve()
        if options.slow_ms:
            print_times(folder, url, options.calls or 15, options.slow_ms)
        else:
            print_counts(folder, url, options.calls or 5)


if __name__ == "__main__":
    main()
