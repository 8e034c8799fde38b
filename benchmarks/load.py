"""Many calls at the same time over Streamable HTTP, compared with the floor: a bare MCPServer with the necessary work.

    python benchmarks/load.py [--at-once 200] [--rounds 4] [--seconds 4] [--picture png]
    python benchmarks/load.py --minutes 10 --at-once 32 [--picture png]

An API that answers immediately (`api.py`) sends a PNG of 1.4 MB, or a JPEG of 0.35 MB. It is no slower API because
mcp-vega sends at most 16 paid calls at the same time: with an API that takes 0.3 s, that limit would be measured. The
floor sends 16 at the same time as well. Without that limit it is only half as fast, because httpx looks at all its
connections at each request.

In each round, the calls go for some seconds to the floor (`floor.py`), to mcp-vega without previews, and to mcp-vega
with previews; each answer is followed by the next call. The API, the servers and the client are processes of their own,
and the client is a plain socket loop: the table shows each one's share of the processor. The calls come from two
callers, each with a token, because one caller may have 192 connections. The kept files are deleted after each round.

With `--minutes`, only mcp-vega with previews runs. The program prints its memory, threads and open files over time. It
exits with 1 if a call has no picture.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import api
from api import Picture
from mcp_types.version import LATEST_MODERN_VERSION

from mcp_vega.storage.ledger.spending import Limits

TARGET = 0.75
AT_ONCE = Limits().calls_at_once
TOKENS = ("a" * 20, "b" * 20)
TICK = os.sysconf("SC_CLK_TCK")
LAST_CHUNK = b"\r\n0\r\n\r\n"
META = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
NUMBERS = itertools.count()


# ---- the client ----


class Caller(asyncio.Protocol):
    """One connection, which makes one call after the other until the time is up."""

    def __init__(self, url: str, token: str, until: float) -> None:
        address = urlsplit(url)
        head = (
            f"POST {address.path} HTTP/1.1",
            f"host: {address.netloc}",
            f"authorization: Bearer {token}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            f"mcp-protocol-version: {LATEST_MODERN_VERSION}",
            "mcp-method: tools/call",
            "mcp-name: generate_image_vega",
        )
        self._head = "\r\n".join(head)
        self._until = until
        self._answer: list[bytes] = []
        self._missing: int | None = None  # bytes of the answer; None for a stream of chunks
        self.times: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the first call."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._call()

    def _call(self) -> None:
        self._began = time.monotonic()
        arguments = {"prompt": f"a fox {next(NUMBERS)}"}
        params = {"name": "generate_image_vega", "arguments": arguments, "_meta": META}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        self._transport.write(f"{self._head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    def data_received(self, data: bytes) -> None:
        """Make the next call after a whole answer."""
        if not self._answer:
            head, _, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            self._missing = len(head) + 4 + int(length[1]) if length else None
        self._answer.append(data)
        if self._missing is not None:
            self._missing -= len(data)
        if self._missing or (self._missing is None and not b"".join(self._answer[-2:]).endswith(LAST_CHUNK)):
            return
        answer = b"".join(self._answer)
        self._answer.clear()
        if not answer.startswith(b"HTTP/1.1 200") or b'"isError":true' in answer or b'"result"' not in answer:
            self.ended.set_exception(SystemExit(f"no picture: {answer[:2000]!r}"))
            self._transport.abort()
            return
        self.times.append(time.monotonic() - self._began)
        if time.monotonic() < self._until:
            self._call()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        if not self.ended.done():
            if exc or self._answer:
                self.ended.set_exception(SystemExit(f"the connection broke: {exc}"))
            else:
                self.ended.set_result(None)


async def calls(url: str, at_once: int, seconds: float) -> list[float]:
    """Make calls at the same time for some seconds; returns how long each took."""
    address, until = urlsplit(url), time.monotonic() + seconds
    assert address.hostname
    assert address.port
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    for number in range(at_once):
        _, caller = await loop.create_connection(
            lambda number=number: Caller(url, TOKENS[number % len(TOKENS)], until), address.hostname, address.port
        )
        callers.append(caller)
    await asyncio.gather(*(caller.ended for caller in callers))
    return [each for caller in callers for each in caller.times]


# ---- the servers ----


@dataclass
class Server:
    """A server process. Memory in MB, time of the processor in seconds."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    at_rest: float = 0
    peaks: list[float] = field(default_factory=list[float])
    a_second: list[float] = field(default_factory=list[float])
    busy_ms: list[float] = field(default_factory=list[float])
    times: list[float] = field(default_factory=list[float])

    def memory(self, name: str = "VmRSS") -> float:
        """The memory that it has now (VmRSS), or had at most since `forget_peak` (VmHWM)."""
        return _number(self.process.pid, name) / 1024

    def forget_peak(self) -> None:
        """Begin anew to note the most memory."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def clear(self) -> None:
        """Delete the kept pictures."""
        for path in [*self.folder.glob("gallery/*/*"), *self.folder.glob("*-*")]:
            path.unlink()


def _number(pid: int, name: str) -> int:
    (found,) = re.findall(rf"{name}:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found)


def busy(pid: int) -> float:
    """How long a process has used the processor (s)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def running(folder: Path, api_url: str, preview: str = "", *floor_options: str) -> Generator[Server]:
    """mcp-vega with this preview, or else the floor, while the block runs."""
    folder.mkdir(parents=True)
    if preview:
        command = [sys.executable, "-m", "mcp_vega", "--transport", "http", "--port", "0"]
    else:
        program = str(Path(__file__).with_name("floor.py"))
        command = [sys.executable, program, str(folder), api_url, "--http", *floor_options]
    variables = {
        "MCP_VEGA_GALLERY": str(folder / "gallery"),
        "MCP_VEGA_HOME": str(folder / "home"),
        "MCP_VEGA_PREVIEW": preview,
        "MCP_VEGA_AUTH_TOKENS": ",".join(f"caller{number}:{token}" for number, token in enumerate(TOKENS)),
        "SEGMIND_BASE_URL": api_url,
        "SEGMIND_API_KEY": "SG_benchmark",
    }
    log = folder / "stderr.txt"
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=stderr)
    try:
        while "\n" not in (told := log.read_text(encoding="utf-8")):
            assert process.poll() is None, told
            time.sleep(0.05)
        server = Server(told.split("\n", 1)[0], folder, process)
        asyncio.run(calls(server.url, 1, 0))
        server.at_rest = server.memory()
        yield server
    finally:
        process.terminate()
        process.wait()


# ---- the measures ----


def compare(kind: Picture, at_once: int, rounds: int, seconds: float) -> None:
    """Compare the servers, and print the table."""
    shares: dict[str, list[float]] = {"client": [], "API": []}
    with (
        tempfile.TemporaryDirectory() as name,
        api.running(kind) as api_url,
        running(Path(name, "floor"), api_url) as floor,
        running(Path(name, "limited"), api_url, "", "--connections", str(AT_ONCE)) as limited,
        running(Path(name, "without"), api_url, "off") as without,
        running(Path(name, "with"), api_url, "auto") as with_previews,
    ):
        api_pid = int(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0])  # the first process
        floors = {"floor": floor, f"floor, {AT_ONCE} at once": limited}
        servers = {**floors, "without previews": without, "with previews": with_previews}
        for _ in range(rounds):
            for server in servers.values():
                server.forget_peak()
                pids = (server.process.pid, os.getpid(), api_pid)
                before, began = [busy(pid) for pid in pids], time.monotonic()
                times = asyncio.run(calls(server.url, at_once, seconds))
                took = time.monotonic() - began
                ours, client, theirs = (busy(pid) - earlier for pid, earlier in zip(pids, before, strict=True))
                server.a_second.append(len(times) / took)
                server.busy_ms.append(ours / len(times) * 1000)
                server.peaks.append(server.memory("VmHWM"))
                server.times += times
                shares["client"].append(client / took)
                shares["API"].append(theirs / took)
                server.clear()
        print(f"{kind}, {len(api.picture(kind)) / 1e6:.2f} MB, {at_once} at the same time, {rounds} × {seconds:g} s")
        print(f"  {'':18} calls/s  ms busy a call  median, longest (s)  MB at rest, at most")
        for title, server in servers.items():
            middle = statistics.median(server.a_second), statistics.median(server.busy_ms)
            print(
                f"  {title:18} {middle[0]:7.1f} {middle[1]:15.1f} {statistics.median(server.times):13.2f}, "
                f"{max(server.times):5.2f} {server.at_rest:12.0f}, {max(server.peaks):7.0f}"
            )
        said = ", ".join(f"{each} {statistics.median(share) * 100:.0f} %" for each, share in shares.items())
        print(f"  busy, of one core: {said}")
        for title, base in floors.items():
            ratios = [mine / other for mine, other in zip(without.a_second, base.a_second, strict=True)]
            middle = statistics.median(ratios)
            verdict = "reached" if middle >= TARGET else "missed"
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"  target: without previews / {title} >= {TARGET}: {verdict} {middle:.2f}  {spread}")


def grow(kind: Picture, at_once: int, minutes: float) -> None:
    """Let mcp-vega with previews work for long, and print what it holds meanwhile."""
    with (
        tempfile.TemporaryDirectory() as name,
        api.running(kind) as api_url,
        running(Path(name, "with"), api_url, "auto") as server,
    ):
        print(f"{kind}, {at_once} at the same time for {minutes:g} minutes; at rest {server.at_rest:.0f} MB")
        seen: list[tuple[float, float]] = []
        began, done = time.monotonic(), 0
        while (time.monotonic() - began) / 60 < minutes:
            server.forget_peak()
            done += len(asyncio.run(calls(server.url, at_once, min(15.0, minutes * 60 / 8))))
            pid = server.process.pid
            seen.append(((time.monotonic() - began) / 60, server.memory()))
            files = len([*Path(f"/proc/{pid}/fd").iterdir()])
            print(
                f"  {seen[-1][0]:5.2f} min  {done:6} calls  {seen[-1][1]:5.0f} MB (peak {server.memory('VmHWM'):.0f})  "
                f"{_number(pid, 'Threads'):3} threads  {files:3} files",
                flush=True,
            )
            server.clear()
        later = [each for each in seen if each[0] >= min(1, minutes / 4)]
        slope = statistics.linear_regression(*zip(*later, strict=True)).slope
        print(f"  after a minute {later[0][1]:.0f} MB, at the end {later[-1][1]:.0f} MB: {slope:+.2f} MB a minute")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--minutes", type=float, default=0, help="look for growth for so long instead")
    parser.add_argument("--picture", choices=get_args(Picture))
    options = parser.parse_args()
    for kind in [options.picture] if options.picture else get_args(Picture):
        if options.minutes:
            grow(kind, options.at_once, options.minutes)
        else:
            compare(kind, options.at_once, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
