"""A soak test over Streamable HTTP: thousands of calls, every tenth with a fault, and what happens to each.

    python benchmarks/soak.py [--calls 2000] [--at-once 50]

The sandbox, the server, the clients that draw and a client that only pings are processes of their own. All of them
except the server and the pinging client have a low priority, because in reality the API and the agents are on other
machines. A ping is due 20 times a second, even if the last one was slow, and its time counts from when it was due.
How late the pinging process itself woke up is reported separately.

The program prints its figures as JSON. It exits with 1 if a call was not answered, failed without a fault or was sent
twice; if a paid picture is lost; if the median of the server's memory in the last fifth of the time is more than 10 %
above that in the second fifth; or if the 99th percentile of the pings is above 50 ms.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import AsyncExitStack, closing, contextmanager
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import httpx
from host import environment
from mcp.client.client import Client
from mcp_types import ImageContent
from processes import Served, http_server, memory_of

SESSIONS, NICE, PATIENCE = 10, 10, 180.0
PING_SECONDS, PING_LIMIT, GROWTH_LIMIT = 0.05, 50.0, 0.1
# Each of them refuses, loses, delays or damages something. Faults that take minutes are only in the tests.
FAULTS = (
    *("500", "429*1", "failed", "cut", "truncated", "500-after", "moderation", "empty", "html", "error-200"),
    *("not-image", "no-cost", "envelope", "poll-502", "late", "output-base64", "media-403", "status-word"),
)
# With these, by one of the routes at least, there is no picture. The result must say that it was paid for.
SPOILT = ("truncated", "empty", "not-image", "media-403")
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("generate_image_vega", {}),
    ("generate_image_vegart", {}),
    ("generate_image_vega", {"samples": 2}),
    ("submit_job", {"model": "segmind-vega-rt-v1"}),
)


@contextmanager
def started(folder: Path, *arguments: str, api: str = "https://api.example", nice: int = 0) -> Generator[Served]:
    """Run a command of this package as a process that serves."""
    log = folder / f"{arguments[0].strip('-')}.txt"
    with http_server(("-m", "mcp_vega", *arguments), log, environment(folder, api)) as served:
        os.setpriority(os.PRIO_PROCESS, served.pid, nice)
        yield served


@contextmanager
def pinging(url: str, times: list[list[float]]) -> Generator[None]:
    """Run a process that pings until the block ends; then its milliseconds are in the lists."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=ping, args=(url, theirs), daemon=True).start()
    yield
    ours.send("over")
    times += ours.recv()


def ping(url: str, pipe: "Connection[Any, Any]") -> None:
    """Ping until told to stop; then send the round trips, and the delays of waking up, which they do not contain."""
    address = httpx.URL(url)
    connection = http.client.HTTPConnection(address.host, address.port)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    times: tuple[list[float], list[float]] = ([], [])
    due = time.monotonic()
    while not pipe.poll(max(due - (asked := time.monotonic()), 0)):
        begun = due
        if asked < due:  # it was asleep, and waking up late is not the server's fault
            begun = time.monotonic()
            times[1].append((begun - due) * 1000)
        connection.request("POST", address.path, body, headers)
        assert b'"result"' in connection.getresponse().read()
        times[0].append((time.monotonic() - begun) * 1000)
        due += PING_SECONDS
    pipe.send(times)


async def soak(url: str, server: int, calls: int, at_once: int) -> tuple[Counter[str], list[float]]:
    """Make the calls over several connections, half of them with an older protocol; returns answers and memory."""
    answers: Counter[str] = Counter()
    memory: list[float] = []
    numbers = iter(range(calls))

    async def work(client: Client) -> None:
        for number in numbers:
            try:
                with anyio.fail_after(PATIENCE):
                    answers[await answer(client, number, answers)] += 1
            except Exception as error:  # noqa: BLE001  any failure means that there is no answer
                answers[f"NONE to {number}: {error!r}"] += 1

    async with anyio.create_task_group() as samples, AsyncExitStack() as stack:
        modes = ("auto", "legacy") * (SESSIONS // 2)
        clients = [await stack.enter_async_context(Client(url, mode=mode)) for mode in modes]
        samples.start_soon(sample, server, memory)
        async with anyio.create_task_group() as tasks:
            for number in range(at_once):
                tasks.start_soon(work, clients[number % SESSIONS])
        samples.cancel_scope.cancel()
    return answers, memory


async def sample(process: int, memory: list[float]) -> None:
    """Record a process's resident megabytes every second."""
    while True:
        memory.append(memory_of(process))
        await anyio.sleep(1)


def fault_of(number: int) -> str:
    """The fault of every tenth call. The places vary, so that every tool gets every fault."""
    tenth, place = divmod(number, 10)
    return FAULTS[tenth % len(FAULTS)] if place == tenth % 10 else ""


async def answer(client: Client, number: int, answers: Counter[str]) -> str:
    """Make a call, and check it until it ends; returns the end, in capitals if it is wrong."""
    tool, arguments = KINDS[number % len(KINDS)]
    fault = fault_of(number)
    prompt = f"soak {number}" + (f" [fault:{fault}]" if fault else "")
    result = await client.call_tool(tool, {"prompt": prompt, **arguments})
    while not result.is_error and (job := (result.meta or {})["mcp-vega/job"])["state"] != "COMPLETED":
        answers["(checked with check_job)"] += 1
        result = await client.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
    pictures = sum(isinstance(each, ImageContent) for each in result.content)
    if result.is_error and fault:
        text = getattr(result.content[0], "text", "")
        return f"error, {fault}, {next(line for line in text.splitlines() if line.startswith('Charged'))}"
    if result.is_error or pictures != arguments.get("samples", 1):
        return f"WRONG to {number}: {pictures} pictures, {result.content[0]}"[:500]
    return "pictures"


def settle(folder: Path) -> None:
    """Let the server look for the calls whose answers were lost."""
    give_up = time.monotonic() + PATIENCE
    waiting = "SELECT 1 FROM jobs WHERE open AND (state IN ('QUEUED', 'PROCESSING') OR holder IS NOT NULL) LIMIT 1"
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        while database.execute(waiting).fetchone() and time.monotonic() < give_up:
            time.sleep(0.5)


def end_of(job: dict[str, Any], call: dict[str, Any] | None) -> str:
    """What happened to a job, by the ledger and by the call that the sandbox accepted."""
    if call is None or call["state"] == "FAILED":
        return f"{'not taken' if call is None else 'failed there'}, charged: {job['charged']}"
    if job["state"] == "COMPLETED" and whole(job) == job["parameters"].get("samples", 1):
        return "kept"
    prompt = job["parameters"]["prompt"]
    if job["error"] and job["charged"] == "yes" and any(f"[fault:{name}]" in prompt for name in SPOILT):
        return "spoilt there, charged: yes"
    return f"LOST: {prompt}"


def whole(job: dict[str, Any]) -> int:
    """How many of a job's files are those in the ledger."""
    return sum(sha256(Path(image["path"]).read_bytes()).hexdigest() == image["sha256"] for image in job["images"])


def spending(folder: Path, api: str, calls: int) -> tuple[dict[str, Any], dict[str, bool]]:
    """What the sandbox and the ledger say about the calls, and which promises were kept."""
    state = httpx.get(f"{api}/_sandbox", trust_env=False, timeout=60).json()
    command = [sys.executable, "-m", "mcp_vega", "jobs", "--json", "--limit", "100000"]
    told = subprocess.run(command, env=environment(folder, api), check=True, capture_output=True).stdout
    jobs = {job["parameters"]["prompt"]: job for job in json.loads(told)}
    taken = {call["body"]["prompt"]: call for call in state["calls"]}
    ends = Counter(end_of(job, taken.get(prompt)) for prompt, job in jobs.items())
    posts = state["requests"]["POST generate"] + state["requests"]["POST submit"]
    refused = sum(fault_of(number) == "429*1" for number in range(calls))  # these are retried
    promises = {
        "none is sent twice": posts == calls + refused and len(taken) == len(state["calls"]),
        "none is lost": len(jobs) == calls and jobs.keys() >= taken.keys() and not any("LOST" in end for end in ends),
    }
    counts = {"jobs in the ledger": len(jobs), "paid POSTs": posts, "calls taken": len(taken)}
    return {
        **counts,
        "what happened to them": ends,
        "pictures kept": sum(whole(job) for job in jobs.values()),
    }, promises


def spread(values: list[float]) -> dict[str, float]:
    """The median, the 99th percentile and the maximum."""
    cuts = statistics.quantiles(values, n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "max": round(max(values), 1)}


def main() -> int:
    """Draw, ping, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=50)
    calls, at_once = vars(parser.parse_args()).values()
    times: list[list[float]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        started(folder := Path(name), "sandbox", "--port", "0", "--credits", "1000", nice=NICE) as sandbox,
        started(folder, "--transport", "http", "--port", "0", api=sandbox.url) as server,
    ):
        with pinging(server.url, times):
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
            answers, memory = anyio.run(soak, server.url, server.pid, calls, at_once)
        settle(folder)
        figures, promises = spending(folder, sandbox.url, calls)
    fifth = len(memory) // 5
    pings, wakings = (spread(each) for each in times)
    medians = [round(statistics.median(memory[part * fifth : (part + 1) * fifth]), 1) for part in range(5)]
    promises |= {
        "all are answered": not any(each.startswith(("NONE", "WRONG")) for each in answers),
        "memory does not grow": medians[4] <= medians[1] * (1 + GROWTH_LIMIT),
        "pings are answered immediately": pings["p99"] <= PING_LIMIT,
    }
    seen = {"calls": calls, "seconds": len(memory), "answers": answers, **figures, "memory in MB, by fifths": medians}
    seen |= {"pings": len(times[0]), "ping in ms": pings, "the pinging process's waking": wakings}
    print(json.dumps({**seen, "promises": promises}, indent=2))
    return 0 if all(promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
