"""A replica dies or is cut off while it has jobs: the others continue them, and nothing is paid for twice.

    python benchmarks/replicas/partition.py [--waiting 6] [--speed 8]

The replica is in a network namespace of its own (Linux, root). It has two links: one to PostgreSQL and the bucket, one
to the API. A link is cut without a FIN or an error: both ends send to a MAC address that nobody has. There are three
parts, each with 16 calls under way and some that wait for their turn:

- `killed`: the replica is killed (SIGKILL), and started again.
- `machine`: both links are cut, as if the machine had vanished.
- `ledger`: only the link to PostgreSQL and the bucket is cut, and the API's request history answers with 503. So only
  this replica gets the pictures of its calls. They must arrive when the link is back.

The program prints after how many seconds the other replicas have taken over the jobs, and exits with 1 if a prompt was
paid for twice, or if a picture is not in the bucket exactly once.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import agents
import anyio
import anyio.abc
import httpx2
import relay
import team
import verdict
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from replica import Replica
from team import Team

NAMESPACE = "vega-partition"
# For each link: the names of its ends here and in the namespace, and its addresses there.
LEDGER, API = ("vega-a0", "vega-a1", "10.213.77.1", "10.213.77.2"), ("vega-b0", "vega-b1", "10.213.78.1", "10.213.78.2")
Link = tuple[str, str, str, str]
# The links that are cut in each part.
PARTS: dict[str, Sequence[Link]] = {"killed": (), "machine": (LEDGER, API), "ledger": (LEDGER,)}
NOBODY = "02:00:00:00:00:99"
# The limit of paid calls under way at the same time.
UNDER_WAY = 16
# Seconds until the jobs must have been taken over, and seconds for which a link stays cut at least.
LONGEST, CUT_SECONDS = 120, 40
UP_FOR_LONG = "SELECT 1 WHERE clock_timestamp() > pg_postmaster_start_time() + interval '6 s'"
INSIDE = ("ip", "netns", "exec", NAMESPACE)


def run(*command: str) -> None:
    """Run a command as root."""
    subprocess.run(command, check=True)


@contextmanager
def namespace() -> Generator[None]:
    """A network namespace with its links while the block runs."""
    with ExitStack() as stack:
        run("ip", "netns", "add", NAMESPACE)
        stack.callback(run, "ip", "netns", "delete", NAMESPACE)
        run(*INSIDE, "ip", "link", "set", "lo", "up")
        for here, there, our_address, its_address in (LEDGER, API):
            run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", NAMESPACE)
            # Connections that were cut off would keep it for minutes.
            stack.callback(run, "ip", "link", "delete", here)
            run("ip", "address", "add", f"{our_address}/30", "dev", here)
            run("ip", "link", "set", here, "up")
            run(*INSIDE, "ip", "address", "add", f"{its_address}/30", "dev", there)
            run(*INSIDE, "ip", "link", "set", there, "up")
        yield


def cut(link: Link) -> None:
    """Drop all packets of a link, in both directions."""
    here, there, our_address, its_address = link
    run("ip", "neighbour", "replace", its_address, "lladdr", NOBODY, "dev", here, "nud", "permanent")
    run(*INSIDE, "ip", "neighbour", "replace", our_address, "lladdr", NOBODY, "dev", there, "nud", "permanent")


def restore(link: Link) -> None:
    """Let the packets of a link arrive again."""
    here, there, our_address, its_address = link
    run("ip", "neighbour", "delete", its_address, "dev", here)
    run(*INSIDE, "ip", "neighbour", "delete", our_address, "dev", there)


def begin_outage(distant: Replica, part: str) -> None:
    """Cut the replica off, or kill it."""
    if not PARTS[part]:
        distant.kill()
    for link in PARTS[part]:
        cut(link)


def end_outage(distant: Replica, part: str) -> None:
    """Undo what `begin_outage` did."""
    if not PARTS[part]:
        distant.start()
        distant.wait()
    for link in PARTS[part]:
        restore(link)


@contextmanager
def relayed(set_up: Team) -> Generator[None]:
    """Give the namespace the API and the bucket on its loopback while the block runs."""
    api, s3 = (str(urlsplit(url).port) for url in (set_up.vendor.url, set_up.nginx.bucket_url))
    program = (sys.executable, relay.__file__)
    with ExitStack() as stack:
        for (_, _, our_address, _), port in ((API, api), (LEDGER, s3)):
            for command in (
                [*program, our_address, "127.0.0.1", port],
                [*INSIDE, *program, "127.0.0.1", our_address, port],
            ):
                process = stack.enter_context(subprocess.Popen(command))
                stack.callback(process.kill)
        yield


def distant_replica(folder: Path, set_up: Team) -> Replica:
    """A replica in the namespace."""
    assert set_up.postgres
    ledger = set_up.postgres.url.replace("127.0.0.1", LEDGER[2])
    settings = {**set_up.settings, "MCP_VEGA_LEDGER": ledger}
    # It must be reachable when the link to the ledger is cut.
    replica = Replica(folder / "distant", (API[3], 8000), settings, INSIDE)
    replica.start()
    replica.wait()
    return replica


async def generate(url: str, token: str, prompts: Sequence[str], task_status: anyio.abc.TaskStatus[None]) -> None:
    """Make calls at the same time. Their answers may never come."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=None, verify=agents.TLS, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
        anyio.create_task_group() as tasks,
    ):

        async def call(prompt: str) -> None:
            with suppress(MCPError):  # the replica was killed
                await client.call_tool(agents.GENERATE, {"prompt": prompt})

        for prompt in prompts:
            tasks.start_soon(call, prompt)
        task_status.started()


async def until(what: str, condition: Callable[[], Any]) -> float:
    """Wait until something is true; returns the seconds that it took."""
    began = time.monotonic()
    while not await anyio.to_thread.run_sync(condition):
        if time.monotonic() - began > LONGEST:
            raise SystemExit(f"after {LONGEST} s it is still not true that {what}")
        await anyio.sleep(0.1)
    return time.monotonic() - began


async def lose(set_up: Team, distant: Replica, part: str, waiting: int) -> dict[str, str]:
    """Make calls, begin the outage, wait for the others, and end the outage; returns what to print."""
    postgres = set_up.postgres
    assert postgres
    prompts = [f"{part}: picture {number}" for number in range(UNDER_WAY + waiting)]
    figures: dict[str, str] = {}

    def jobs(condition: str) -> int:
        return postgres.rows(f"SELECT count(*) AS number FROM jobs WHERE {condition}")[0]["number"]  # noqa: S608

    async with anyio.create_task_group() as tasks:
        await tasks.start(generate, distant.url, next(iter(team.CALLERS.values())), prompts)
        await until("the calls are under way", lambda: jobs("sent IS NOT NULL") == UNDER_WAY)
        await until("the others wait", lambda: jobs("true") == len(prompts))
        # In the first seconds after the database's own start, no server counts as dead.
        await until("the database has been up for a while", lambda: postgres.rows(UP_FOR_LONG))
        (holder,) = {row["holder"] for row in postgres.rows("SELECT holder FROM jobs")}
        await anyio.to_thread.run_sync(begin_outage, distant, part)
        began = time.monotonic()
        mine = f"holder = '{holder}'"
        first = await until("a job was taken over", lambda: jobs(mine) < len(prompts))
        figures["seconds until the first job was taken over"] = f"{first:.1f}"
        await until("all jobs were taken over", lambda: not jobs(mine))
        figures["seconds until all jobs were taken over"] = f"{time.monotonic() - began:.1f}"
        await until("the waiting calls were sent", lambda: len(set_up.vendor.calls()) == len(prompts))
        figures["seconds until the waiting calls were sent"] = f"{time.monotonic() - began:.1f}"
        if part != "ledger":
            await until("all pictures are there", lambda: jobs("state = 'COMPLETED'") == len(prompts))
            figures["seconds until all pictures were in the bucket"] = f"{time.monotonic() - began:.1f}"
        if PARTS[part]:
            await anyio.sleep(max(CUT_SECONDS - (time.monotonic() - began), 0))
        figures["unknown outcomes by then"] = str(jobs("state <> 'COMPLETED'"))
        figures["pictures only on the replica's disk by then"] = str(len(distant.spare_files()))
        await anyio.to_thread.run_sync(end_outage, distant, part)
        began = time.monotonic()
        await until("all pictures are there", lambda: jobs("state = 'COMPLETED'") == len(prompts))
        figures["seconds until all pictures arrived after that"] = f"{time.monotonic() - began:.1f}"
        tasks.cancel_scope.cancel()
    return figures


def measure(part: str, waiting: int, speed: float) -> bool:
    """Run one part; returns whether the promises were kept."""
    print(f"\n{part}: {UNDER_WAY} calls under way, {waiting} waiting", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        namespace(),
        team.running(Path(name), 2, speed=speed, address=LEDGER[2]) as set_up,
        relayed(set_up),
    ):
        distant = distant_replica(Path(name), set_up)
        set_up.replicas.append(distant)
        if part == "ledger":
            set_up.vendor.change(history_status=503)
        for what, figure in anyio.run(lose, set_up, distant, part, waiting).items():
            print(f"  {what:50} {figure:>6}")
        settled = verdict.settle(set_up)
        counts, broken = verdict.counts_of(set_up, {})
        for row, count in {"seconds until settled": round(settled), **counts}.items():
            print(f"  {row:50} {count:6}")
        for line in broken:
            print(f"  BROKEN: {line}")
        if broken:
            print(distant.log[-3000:])
    return not broken


def main() -> int:
    """Cut, wait, restore, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=6, help="calls that wait for their turn when a link is cut")
    parser.add_argument("--speed", type=float, default=8, help="the API's documented times are multiplied by this")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options = parser.parse_args()
    kept = [measure(part, options.waiting, options.speed) for part in options.only]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
