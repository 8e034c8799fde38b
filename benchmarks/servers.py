"""Several servers with one ledger and one gallery: one server works on each job, and each picture is kept once.

    python benchmarks/servers.py [--servers 2] [--jobs 500]

Half of the jobs are generated (v1), half submitted (v2), spread over the servers. Then each job is checked at another
server than the one that began it. The program exits with 1 if a call was sent twice, if a result or a picture was
downloaded twice, or if a picture is missing, kept twice or unknown to the other server.
"""

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from host import Host

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox

AT_ONCE = 25
CheckJobArguments = tuple[str, dict[str, Any]]


def ask(host: Host, questions: Sequence[CheckJobArguments]) -> list[dict[str, Any]]:
    """Call tools of one server, some at a time; returns the jobs in the results."""
    waiting = list(reversed(questions))
    jobs: list[dict[str, Any]] = []
    for _ in range(min(AT_ONCE, len(waiting))):
        tool, arguments = waiting.pop()
        host.call(tool, **arguments)
    while len(jobs) < len(questions):
        answer = host.receive()
        try:
            jobs.append(answer["result"]["_meta"]["mcp-vega/job"])
        except KeyError:
            raise SystemExit(f"no job: {answer}") from None
        if waiting:
            tool, arguments = waiting.pop()
            host.call(tool, **arguments)
    return jobs


def at_each(hosts: Sequence[Host], questions: Callable[[int], list[CheckJobArguments]]) -> list[list[dict[str, Any]]]:
    """Ask every server its questions, all at the same time."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(ask, hosts, [questions(number) for number in range(len(hosts))]))


def main() -> int:
    """Draw, check, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=500)
    options = parser.parse_args()
    account = Account(speed=0.2, credits=Decimal(1000))
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(build_sandbox(account))) as url,
    ):
        folder = Path(name)
        hosts = [Host(folder, url, MCP_VEGA_PREVIEW="off") for _ in range(options.servers)]
        for host in hosts:
            host.shake_hands()

        def beginnings(number: int) -> list[CheckJobArguments]:
            mine = range(number, options.jobs, len(hosts))
            tools = ("generate_image_vegart", "submit_job")
            return [(tools[each // len(hosts) % 2], {"prompt": f"picture {each}"}) for each in mine]

        started = time.monotonic()
        begun = at_each(hosts, beginnings)

        def others(number: int) -> list[CheckJobArguments]:
            ids = [job["request_id"] for job in begun[(number + 1) % len(hosts)]]
            return [("check_job", {"request_id": request_id, "wait_seconds": 45}) for request_id in ids]

        finished = [job for jobs in at_each(hosts, others) for job in jobs]
        seconds = time.monotonic() - started
        for host in hosts:
            host.leave()
        return report(folder, account, finished, options.jobs, seconds)


def report(folder: Path, account: Account, finished: list[dict[str, Any]], jobs: int, seconds: float) -> int:
    """Print the counts; returns the exit code."""
    queued = sum(call.route == "v2" for call in account.calls.values())
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        (images,) = database.execute("SELECT count(*) FROM images").fetchone()
        (completed,) = database.execute("SELECT count(*) FROM jobs WHERE state = 'COMPLETED'").fetchone()
    counts = {
        "calls that reached the sandbox": (len(account.calls), jobs),
        "jobs completed in the ledger": (completed, jobs),
        "pictures in the ledger": (images, jobs),
        "files in the gallery": (sum(path.is_file() for path in (folder / "gallery").rglob("*")), jobs),
        "pictures told by another server": (sum(len(job["images"]) for job in finished), jobs),
        "results fetched (v2)": (account.requests["GET result"], queued),
        "pictures fetched (v2)": (account.requests["GET media"], queued),
    }
    for name, (count, wanted) in counts.items():
        print(f"{name:33} {count:5} of {wanted}")
    print(f"status requests a queued job      {account.requests['GET status'] / queued:5.2f}")
    print(f"seconds                           {seconds:5.1f}")
    return 0 if all(count == wanted for count, wanted in counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
