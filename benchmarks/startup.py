"""The time from the start to the first answers over stdio, compared with a bare MCPServer with one tool.

    python benchmarks/startup.py [--rounds 15]

A round starts three servers, one after the other, with this interpreter and its packages: the bare MCPServer; mcp-vega
for the first time, which has no answers of an earlier start; mcp-vega again. The host shakes hands, lists the tools,
and then lists the prompts, which needs the SDK. All times are medians. A ratio is the median of the rounds' ratios,
with the lowest and the highest.

After the last answer, the program also reads the memory of the process, and the processor time of its main thread,
which loads the SDK and answers (Linux). On a busy machine the processor time says more than the clock. The memory of a
later start is compared with that of a first one, which does the same without early answers.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from figures import milliseconds_since, print_target, ratios, spread
from host import HELLO, Host
from processes import memory_of

from mcp_vega.settings import VENDOR_URL

BARE = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("bare")


@server.tool()
async def echo(text: str) -> str:
    return text


def main():
    server.run()
"""
RUN_BARE = "from bare import main; main()"
RUN_VEGA = "import sys; from mcp_vega.cli.main import main; sys.exit(main([]))"
SERVERS = {"bare MCPServer": RUN_BARE, "first start": RUN_VEGA, "later start": RUN_VEGA}
REQUESTS = ("initialize", "tools/list", "prompts/list")
MEMORY, PROCESSOR = "memory, MB", "processor, ms"
TARGETS = [
    ("initialize", "later start", "bare MCPServer", 0.10),
    ("prompts/list", "later start", "bare MCPServer", 1.05),
    (PROCESSOR, "later start", "bare MCPServer", 1.05),
    (MEMORY, "later start", "first start", 1.06),
]
# The figures of one start.
Figures = dict[str, float]


def measure(program: str, modules: Path, folder: Path) -> Figures:
    """Start a server without a key, send the requests one after the other, and close its stdin.

    Returns:
        The milliseconds from the start to each answer, by method; the processor time and the memory, NaN if the system
        does not show them.
    """
    found: Figures = {}
    began = time.perf_counter()
    with Host(folder, VENDOR_URL, program=("-c", program), PYTHONPATH=str(modules), SEGMIND_API_KEY="") as host:
        for method in REQUESTS:
            # The last request differs in each start, so that it has no stored answer and needs the SDK.
            other = {"_meta": {"benchmark/start": time.time_ns()}} if method == REQUESTS[-1] else {}
            host.send(method, **(HELLO if method == "initialize" else other))
            answer = host.receive()
            found[method] = milliseconds_since(began)
            if "result" not in answer:
                raise SystemExit(f"no answer to {method}: {answer}")
        found[PROCESSOR], found[MEMORY] = main_thread_time(host.process.pid), memory_of(host.process.pid)
    return found


def main_thread_time(pid: int) -> float:
    """The processor time of a process's main thread (ms); NaN if the system does not show it."""
    if sys.platform != "linux":
        return math.nan
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8").split()[0]) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    count = parser.parse_args().rounds
    rounds: list[dict[str, Figures]] = []
    with tempfile.TemporaryDirectory() as name:
        Path(name, "bare.py").write_text(BARE, encoding="utf-8")
        for number in range(count + 1):
            folder = Path(name, f"round {number}")
            folder.mkdir()
            rounds.append({server: measure(program, Path(name), folder) for server, program in SERVERS.items()})
    del rounds[0]  # it compiles
    columns = list(rounds[0]["bare MCPServer"])

    def of(server: str, column: str) -> list[float]:
        return [each[server][column] for each in rounds]

    print(f"{'milliseconds to':16}" + "".join(f"{column:>15}" for column in columns) + f"   rounds: {count}")
    for server in SERVERS:
        print(f"{server:16}" + "".join(f"{statistics.median(of(server, column)):15.1f}" for column in columns))
    print("\nRatios to the bare MCPServer")
    for server in ("first start", "later start"):
        for column in REQUESTS:
            print(f"{server}, {column:14}{spread(ratios(of(server, column), of('bare MCPServer', column)))}")
    print()
    for column, server, base, limit in TARGETS:
        print_target(f"{column}: {server} / {base}", limit, *ratios(of(server, column), of(base, column)))


if __name__ == "__main__":
    main()
