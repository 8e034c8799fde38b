"""The time from the start to the first answers over stdio: mcp-vega and a bare MCPServer with one tool.

    python benchmarks/startup.py [--rounds 15]

A round starts three servers, one after the other, with this interpreter and its packages: the bare MCPServer; mcp-vega
for the first time, which has no answers of an earlier start; mcp-vega again. The host shakes hands, lists the tools,
and then lists the prompts, which needs the SDK. The program prints for each answer how long after the start it came,
and the ratios to the bare MCPServer in the same round.

After the last answer it also looks at the memory of the process, and at the processor time of its main thread, which
loads the SDK and answers (Linux). On a busy machine the processor time says more than the clock. The memory of a later
start is compared with that of a first one, which does the same without early answers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
REQUESTS = {"initialize": HELLO, "tools/list": {}, "prompts/list": {}}
SERVERS = {"bare MCPServer": RUN_BARE, "first start": RUN_VEGA, "later start": RUN_VEGA}
MEMORY, PROCESSOR = "memory", "processor time"
TARGETS = [
    ("initialize", "later start", "bare MCPServer", 0.10),
    ("prompts/list", "later start", "bare MCPServer", 1.05),
    (PROCESSOR, "later start", "bare MCPServer", 1.05),
    (MEMORY, "later start", "first start", 1.06),
]


def measure(program: str, modules: str, home: str) -> dict[str, float]:
    """Start a server, send the requests one after the other, and end it by closing stdin.

    Returns:
        The seconds from the start to each answer, by method, the memory (kB) and the processor time (s). The last two
        are 0 if they are not known.
    """
    environment = {**os.environ, "PYTHONPATH": modules, "MCP_VEGA_GALLERY": home, "MCP_VEGA_HOME": home}
    found: dict[str, float] = {}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        assert process.stdin
        assert process.stdout
        for number, (method, params) in enumerate(REQUESTS.items()):
            if method == "prompts/list":  # differs in each start, so it has no stored answer and needs the SDK
                params = {"_meta": {"benchmark/start": time.time_ns()}}  # noqa: PLW2901
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            found[method] = time.perf_counter() - started
            if answer.get("id") != number or "result" not in answer:
                raise SystemExit(f"no answer to {method}: {answer}")
        found[MEMORY], found[PROCESSOR] = memory_of(process.pid), processor_time_of(process.pid)
        process.stdin.close()
    return found


def memory_of(process: int) -> float:
    """The resident memory of a process (kB); 0 where there is no /proc."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    return float(status.partition("VmRSS:")[2].split()[0])


def processor_time_of(process: int) -> float:
    """The processor time of a process's main thread (s); 0 where there is no /proc."""
    try:
        return int(Path(f"/proc/{process}/task/{process}/schedstat").read_text(encoding="utf-8").split()[0]) / 1e9
    except FileNotFoundError:
        return 0


def ratios_of(rounds: list[dict[str, dict[str, float]]], what: str, server: str, other: str) -> list[float]:
    """The ratios of two servers, one for each round."""
    return [each[server][what] / each[other][what] for each in rounds if each[other][what]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    count = parser.parse_args().rounds
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare.py").write_text(BARE, encoding="utf-8")
        for number in range(count + 1):
            home = Path(folder, f"home {number}")
            rounds.append({server: measure(program, folder, str(home)) for server, program in SERVERS.items()})
    del rounds[0]  # it compiles
    print(f"{'median of ' + str(count):16}" + "".join(f"{what:>16}" for what in (*REQUESTS, PROCESSOR, MEMORY)))
    for server in SERVERS:
        medians = {what: statistics.median(each[server][what] for each in rounds) for what in rounds[0][server]}
        times = "".join(f"{medians[what] * 1000:13.1f} ms" for what in (*REQUESTS, PROCESSOR))
        print(f"{server:16}{times}{medians[MEMORY] / 1000:13.1f} MB")
    for server in ("first start", "later start"):
        for method in REQUESTS:
            found = ratios_of(rounds, method, server, "bare MCPServer")
            print(
                f"{server} / bare, {method:14}{statistics.median(found):6.3f}  ({min(found):.3f} to {max(found):.3f})"
            )
    for what, server, other, limit in TARGETS:
        if found := ratios_of(rounds, what, server, other):
            ratio = statistics.median(found)
            reached = "reached" if ratio <= limit else "missed"
            print(f"target: {what}, {server} / {other}: ratio <= {limit:.2f}: {reached} {ratio:.3f}")


if __name__ == "__main__":
    main()
