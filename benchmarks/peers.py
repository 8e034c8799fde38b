"""Start, calls, memory and tokens, compared with other image servers that the package registries have.

    python benchmarks/peers.py [--rounds 20] [--cache FOLDER] [--peers mcp-image minimax-mcp] [--picture png]

The program installs the other servers into the cache folder, by default a temporary one. It needs pip, npm and a
network. A stand-in on this machine (`api.py`) sends all servers the same picture, in the form of each one's API. In
each round, every server is measured once, one after the other: first one call, with an API that answers immediately,
then eight calls at the same time, with an API that takes 0.3 s. All times are medians. A ratio is mcp-vega's time
divided by the other server's: the median of the rounds' ratios, with the lowest and the highest.

A server that only writes a file is compared with mcp-vega without previews. A server whose result has a preview is
compared with mcp-vega with previews. The floor (`floor.py`) is measured as well, and has no target. The memory is that
of the process (Linux). The tokens are those of `tools/list`, as `tokens.py` counts them.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import api
from api import PICTURES, SEVERAL, SLOW_SECONDS, Picture
from figures import milliseconds_since, print_target, ratios
from peer_servers import PEERS, NotAvailableError, PeerHost, Server, draw, own_servers, run
from processes import memory_of, processor_seconds
from tokens import Count, counter, read_by_models

OWN, FLOOR = "mcp-vega", "floor"
DOES = {"file": "without previews", "preview": "with previews"}
WARM_UP = 3
# The memory is read when the process has used no processor time for this long, or at the latest after the other time.
REST_SECONDS, RESTLESS_SECONDS = 0.5, 10

Times = dict[Server, list[float]]
Tools = list[dict[str, Any]]
# The rows of the last table: the text of each server, by its name.
Rows = dict[str, dict[str, str]]
NUMBERS = itertools.count(1)


def prompts(count: int) -> list[str]:
    """New prompts. The number is first: minimax-mcp names a file after the second and the prompt's first characters."""
    return [f"{next(NUMBERS)} a fox" for _ in range(count)]


# ---- what is measured ----


def available(cache: Path, names: Sequence[str]) -> list[Server]:
    """The servers that can be installed and draw a picture; prints why the others are left out."""
    found = own_servers()
    for name in names:
        try:
            servers = PEERS[name](cache)
            with (
                tempfile.TemporaryDirectory() as folder,
                api.running("png") as stand_in,
                hosts(servers, Path(folder).resolve(), stand_in.url, len(api.picture("png"))),
            ):
                pass
        except (NotAvailableError, OSError, KeyError) as error:
            print(f"{name} is left out: {error}")
        else:
            found.extend(servers)
    return found


def started(server: Server, root: Path, url: str) -> tuple[float, float, Tools, PeerHost]:
    """Start a server: the milliseconds to `initialize` and to `tools/list`, its tools, and its host."""
    began = time.perf_counter()
    host = server.start(root, url)
    host.shake_hands()
    hello = milliseconds_since(began)
    host.send("tools/list")
    tools = host.receive()["result"]["tools"]
    return hello, milliseconds_since(began), tools, host


def memory_at_rest(pid: int) -> float:
    """The memory of a process in MB when it has come to rest; NaN if the system does not show it."""
    if sys.platform == "linux":
        until = time.monotonic() + RESTLESS_SECONDS
        before = processor_seconds(pid)
        while time.monotonic() < until:
            time.sleep(REST_SECONDS)
            if (now := processor_seconds(pid)) == before:
                break
            before = now
    return memory_of(pid)


@contextmanager
def hosts(servers: Sequence[Server], root: Path, url: str, size: int) -> Generator[dict[Server, PeerHost]]:
    """The servers after their first calls. Each must have written a file that is at least as large as the picture."""
    found: dict[Server, PeerHost] = {}
    with ExitStack() as stack:
        for server in servers:
            host = found[server] = stack.enter_context(server.start(root, url))
            host.shake_hands()
            for _ in range(WARM_UP):
                draw(host, server, prompts(1))
            if not any(file.is_file() and file.stat().st_size >= size for file in server.folder(root).rglob("*")):
                raise NotAvailableError(f"{server.name} has written no picture")
        yield found


def called(
    servers: Sequence[Server], kind: Picture, delay: float, calls: int, rounds: int
) -> tuple[Times, dict[Server, float]]:
    """The milliseconds of each round, `calls` at the same time to each server; then the memory in MB."""
    times: Times = {server: [] for server in servers}
    with (
        tempfile.TemporaryDirectory() as folder,
        api.running(kind, delay) as stand_in,
        hosts(servers, Path(folder).resolve(), stand_in.url, len(api.picture(kind))) as running,
    ):
        for _ in range(rounds):
            for server, host in running.items():
                new = prompts(calls)
                began = time.perf_counter()
                draw(host, server, new)
                times[server].append(milliseconds_since(began))
        return times, {server: memory_at_rest(host.process.pid) for server, host in running.items()}


def tokenizer(cache: Path) -> Count:
    """The function that counts tokens. Raises NotAvailableError if the tokenizer cannot be installed."""
    folder = cache / "bpe-openai"
    if not folder.exists():
        run(sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "bpe-openai")
    sys.path.append(str(folder))
    return counter()


# ---- what is printed ----


def own(servers: Sequence[Server], peer: Server) -> Server:
    """The mcp-vega that does what the peer does, if that makes a difference here."""
    return min((each for each in servers if each.name == OWN), key=lambda each: each.does != peer.does)


def print_ratios(title: str, times: Times) -> None:
    """Print the target for each peer; `{does}` in the title is what its calls leave."""
    print()
    for server, each in times.items():
        if server.name not in (OWN, FLOOR):
            mine = times[own(list(times), server)]
            name = f"{title.format(does=DOES[server.does])}, mcp-vega / {server.name}"
            print_target(name, 1, *ratios(mine, each))


def print_calls(title: str, times: Times, memory: dict[Server, float]) -> Rows:
    """Print the medians and the memory, and a target for each peer; returns the rows of the last table."""
    rows: Rows = {}
    print(f"\n{title}\n\n| server | a call leaves | ms | MB after the calls |\n|---|---|---|---|")
    for server, each in times.items():
        print(f"| {server.name} | {server.leaves} | {statistics.median(each):.1f} | {memory[server]:.0f} |")
        rows.setdefault(f"{title}, {DOES[server.does]}, ms", {})[server.name] = f"{statistics.median(each):.1f}"
    print_ratios(f"{title}, {{does}}", times)
    return rows


def print_starts(servers: Sequence[Server], cache: Path, rounds: int) -> Rows:
    """Measure and print the start, the memory and the tokens; returns the rows of the last table.

    The settings of a server make no difference here.
    """
    once = list({server.name: server for server in servers}.values())
    hello: Times = {server: [] for server in once}
    listed: Times = {server: [] for server in once}
    tools: dict[Server, Tools] = {}
    memory: dict[Server, float] = {}
    with tempfile.TemporaryDirectory() as folder, api.running("png") as stand_in:
        for number in range(rounds + 1):
            for server in once:
                first, second, tools[server], host = started(server, Path(folder).resolve(), stand_in.url)
                if number:
                    hello[server].append(first)
                    listed[server].append(second)
                else:  # The first start compiles: it is not counted.
                    memory[server] = memory_at_rest(host.process.pid)
                host.leave()
    rows: Rows = {
        "start to initialize, ms": {each.name: f"{statistics.median(hello[each]):.1f}" for each in once},
        "start to tools/list, ms": {each.name: f"{statistics.median(listed[each]):.1f}" for each in once},
        "memory at rest, MB": {each.name: f"{memory[each]:.0f}" for each in once},
        "tools": {each.name: str(len(tools[each])) for each in once},
    }
    sizes = token_counts(cache, tools)
    if sizes:
        rows["tokens of tools/list"] = {each.name: f"{sizes[each]:,}" for each in once}
    print_table(once, rows)
    print_ratios("start to initialize", hello)
    print_ratios("start to tools/list", listed)
    for name, values in (("memory at rest", memory), ("tokens of tools/list", sizes)):
        print_ratios(name, {server: [value] for server, value in values.items()})
    return rows


def token_counts(cache: Path, tools: dict[Server, Tools]) -> dict[Server, float]:
    """The tokens of each server's tools. Prints the reason and returns nothing if they cannot be counted."""
    try:
        count = tokenizer(cache)
    except NotAvailableError as error:
        print(f"the tokens are not counted: {error}")
        return {}
    return {server: count(read_by_models(listed)) for server, listed in tools.items()}


def print_table(servers: Sequence[Server], rows: Rows) -> None:
    """Print a table with a column for each server."""
    versions = {server.name: server.version for server in servers}
    print("\n| | " + " | ".join(f"{name} {version}" for name, version in versions.items()) + " |")
    print("|---" * (len(versions) + 1) + "|")
    for title, texts in rows.items():
        print(f"| {title} | " + " | ".join(texts.get(name, "–") for name in versions) + " |")


def main() -> None:
    """Install, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of single calls; the others have half of them")
    parser.add_argument("--cache", type=Path, help="where the peers are installed, and kept for the next run")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--picture", choices=PICTURES, nargs="+", default=PICTURES)
    options = parser.parse_args()
    rounds: int = options.rounds
    with tempfile.TemporaryDirectory() as temporary:
        cache = (options.cache or Path(temporary)).resolve()
        servers = available(cache, options.peers)
        rows = print_starts(servers, cache, max(rounds // 2, 2))
        for kind in options.picture:
            rows |= print_calls(f"a call, {kind}", *called(servers, kind, 0, 1, rounds))
            several = called(servers, kind, SLOW_SECONDS, SEVERAL, max(rounds // 2, 2))
            rows |= print_calls(f"{SEVERAL} calls, {kind}", *several)
        print_table(servers, rows)


if __name__ == "__main__":
    main()
