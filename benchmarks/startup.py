"""The time from the start to the answer to `initialize`: mcp-vega and a bare MCPServer with one tool, in pairs.

    python benchmarks/startup.py [--pairs 15]

Both run with this interpreter and its packages, alternately, so that a change in the machine's speed affects both.
The program prints the median of each in milliseconds, and the median, lowest and highest ratio of the pairs.
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
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
}


def seconds_to_initialize(program: str, folder: str) -> float:
    """Start a server, shake hands, and end it by closing stdin; returns how long its answer took."""
    environment = {**os.environ, "PYTHONPATH": folder, "MCP_VEGA_GALLERY": folder, "MCP_VEGA_HOME": folder}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(HELLO) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        elapsed = time.perf_counter() - started
        process.stdin.close()
    if "serverInfo" not in answer["result"]:
        raise SystemExit(f"no handshake: {answer}")
    return elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare.py").write_text(BARE, encoding="utf-8")
        for program in (RUN_BARE, RUN_VEGA):  # not counted: the first run compiles
            seconds_to_initialize(program, folder)
        bare: list[float] = []
        vega: list[float] = []
        for _ in range(pairs):
            bare.append(seconds_to_initialize(RUN_BARE, folder))
            vega.append(seconds_to_initialize(RUN_VEGA, folder))
    ratios = [mine / other for mine, other in zip(vega, bare, strict=True)]
    print(f"bare MCPServer  {statistics.median(bare) * 1000:6.0f} ms")
    print(f"mcp-vega        {statistics.median(vega) * 1000:6.0f} ms")
    print(f"ratio           {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f}, {pairs} pairs)")


if __name__ == "__main__":
    main()
