"""Jobs inside a plan of 60 requests a minute, compared with the vendor's SDK: 1, 10 and 100 at the same time.

    python benchmarks/jobs.py [--quick]

Three ways draw the same pictures with sandboxes of realistic speed (about 2.4 s a picture):

- the SDK's `submit_async(…).wait()`, which is its `run()`, each job in a thread, and a download of the picture. The SDK
  gives up when the plan refuses a request, so the thread repeats that step 5 s later. (A caller of `run()` alone would
  start the job again, and pay twice.)
- `submit_job`, then `check_job` until the picture is there, all jobs at the same time, over stdio;
- `generate_image_vega`, likewise.

mcp-vega knows the plan (`MCP_VEGA_REQUESTS_PER_MINUTE`) and makes no previews, because the SDK makes none. Segmind does
not say which requests count against a plan. In the first part, paid calls count. In the second part (10 and 30 jobs),
every request to the API counts. Each way has a sandbox in a process of its own. The ways run at the same time, because
they mostly wait.

A delay is the time from the moment when the sandbox has finished a job until its picture is here. `status/job` is the
number of status requests for each job, `refused` the number of requests that the plan refused. `seconds` is the time
from the first job that the API accepts until the last picture. All parts take about five minutes, `--quick` half a
minute. The program exits with 1 if mcp-vega pays twice or has no picture of a job.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
from api import picture
from figures import print_target
from host import Host
from processes import stand_in
from segmind import SegmindClient as VendorClient  # pyright: ignore[reportMissingTypeStubs]
from segmind import SegmindError  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_vega.network.serving import serving
from mcp_vega.parameters import VegaParameters
from mcp_vega.sandbox import responses
from mcp_vega.sandbox.account import TOO_SOON, Account, Refusal
from mcp_vega.sandbox.app import build_sandbox

KEY = "SG_benchmark"
A_MINUTE = 60
AGAIN_SECONDS = 5.0
Arrivals = dict[str, float]


# ---- the API ----


class EveryRequestCounts:
    """Counts the free requests against the plan, too."""

    def __init__(self, app: ASGIApp, account: Account, refused: Counter[str]) -> None:
        self._app = app
        self._account = account
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        app = self._app
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith("/v2/"):
            try:
                self._account.admit()
            except Refusal as refusal:
                self._refused["GET"] += 1
                app = responses.error(refusal.status, refusal.text, refusal.headers, refusal.form)
        await app(scope, receive, send)


async def serve(*, every_request: bool) -> None:
    """Serve a sandbox until stdin ends; prints its URL, and at the end what has happened, both as JSON."""
    account, refused = Account(credits=Decimal(1000), rate_limit=A_MINUTE), Counter[str]()
    drawn = picture("jpeg")

    def paint(*_: object) -> bytes:
        return drawn

    app = build_sandbox(account, paint=paint)
    if every_request:
        app.add_middleware(EveryRequestCounts, account=account, refused=refused)
    async with serving(app) as url:
        print(json.dumps(url), flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        seen = {"done": {call.id: call.done for call in account.calls.values()}, "refused": refused}
        seen |= {"began": min(call.created for call in account.calls.values()), "requests": account.requests}
        print(json.dumps(seen), flush=True)


# ---- the three ways ----


def with_sdk(url: str, jobs: int) -> Arrivals:
    """Run the jobs with the SDK, each in a thread."""
    vendor = VendorClient(api_key=KEY, base_url=f"{url}/v1")
    arrivals: Arrivals = {}

    def patiently(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except SegmindError as error:  # pyright: ignore[reportUnknownVariableType]
                if error.status != 429:  # pyright: ignore[reportUnknownMemberType]
                    raise
                time.sleep(AGAIN_SECONDS)

    def work(number: int) -> None:
        job = patiently(lambda: vendor.submit_async(VegaParameters.slug, prompt=f"a fox {number}", seed=number))
        result: dict[str, Any] = patiently(job.wait)
        httpx.get(str(result["output"]), trust_env=False).raise_for_status()
        arrivals[result["request_id"]] = time.time()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vendor._client.close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  there is no other way to close it
    return arrivals


def with_tool(tool: str, url: str, jobs: int) -> Arrivals:
    """Call a tool for each job, then `check_job` until its picture is there."""
    arrivals: Arrivals = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"MCP_VEGA_PREVIEW": "off", "MCP_VEGA_REQUESTS_PER_MINUTE": str(A_MINUTE)}
        with Host(Path(folder).resolve(), url, **settings) as host:
            host.shake_hands()
            for number in range(jobs):
                host.call(tool, prompt=f"a fox {number}", seed=number)
            while len(arrivals) < jobs:
                result = host.receive().get("result", {})
                job = result.get("_meta", {}).get("mcp-vega/job", {})
                if not job or result.get("isError"):
                    raise SystemExit(f"no picture: {result}")
                if job["state"] == "COMPLETED":
                    arrivals[job["request_id"]] = time.time()
                else:
                    host.call("check_job", request_id=job["request_id"], wait_seconds=45)
    return arrivals


WAYS: dict[str, Callable[[str, int], Arrivals]] = {
    "vendor SDK": with_sdk,
    "submit_job, check_job": lambda url, jobs: with_tool("submit_job", url, jobs),
    "generate_image_vega": lambda url, jobs: with_tool("generate_image_vega", url, jobs),
}


# ---- the measures ----


@dataclass
class Measured:
    """What one way did with some jobs at the same time. Times are in seconds."""

    jobs: int
    delays: list[float]
    seconds: float
    requests: Counter[str]
    refused: int
    paid: int

    def row(self) -> str:
        """A row of the table."""
        asked, total = self.requests["GET status"], sum(self.requests.values()) - self.requests["GET media"]
        return (
            f"{statistics.median(self.delays) * 1000:13.0f}{max(self.delays) * 1000:13.0f}{asked / self.jobs:13.2f}"
            f"{total / self.jobs:13.2f}{self.refused:13}{self.seconds:13.1f}"
        )


def measured(way: str, jobs: int, *, every_request: bool) -> Measured:
    """Do the jobs in one way."""
    with stand_in(__file__, "--serve", *(["--every-request"] if every_request else [])) as sandbox:
        arrivals = WAYS[way](sandbox.url, jobs)
    seen = sandbox.report
    seconds = max(arrivals.values()) - seen["began"]
    done, requests = seen["done"], Counter[str](seen["requests"])
    posts = requests["POST submit"] + requests["POST generate"]
    delays = [arrived - done[request_id] for request_id, arrived in arrivals.items()]
    del requests[TOO_SOON]
    return Measured(jobs, delays, seconds, requests, posts - len(done) + sum(seen["refused"].values()), len(done))


def compare(jobs: int, rounds: int, *, every_request: bool) -> bool:
    """Print a table of all ways; returns whether mcp-vega paid once for each picture and has it."""
    kept = True
    title = f"{jobs} job{'s' * (jobs > 1)}, {'every request counts' if every_request else 'paid calls count'}"
    print(f"\n{title}, rounds: {rounds}")
    columns = ("delay ms", "longest ms", "status/job", "requests/job", "refused", "seconds")
    print(f"  {'':22}" + "".join(f"{column:>13}" for column in columns))
    with ThreadPoolExecutor(len(WAYS)) as pool:

        def rounds_of(way: str) -> Measured:
            seen = [measured(way, jobs, every_request=every_request) for _ in range(rounds)]
            delays = [delay for each in seen for delay in each.delays]
            requests = sum((each.requests for each in seen), Counter[str]())
            refused, paid = (sum(getattr(each, name) for each in seen) for name in ("refused", "paid"))
            seconds = statistics.median(each.seconds for each in seen)
            return Measured(jobs * rounds, delays, seconds, requests, refused, paid)

        found = dict(zip(WAYS, pool.map(rounds_of, WAYS), strict=True))
    for way, each in found.items():
        print(f"  {way:22}{each.row()}", flush=True)
        kept = kept and (way.startswith("vendor") or (each.paid == each.jobs and len(each.delays) == each.jobs))
    sdk, ours, _ = found.values()
    delay = statistics.median(ours.delays) / statistics.median(sdk.delays)
    asked = ours.requests["GET status"] / sdk.requests["GET status"]
    print_target(f"{title}: delay, submit_job / SDK", 1, delay)
    print_target(f"{title}: status requests, submit_job / SDK", 1, asked)
    return kept


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 and 10 jobs only")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--every-request", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        anyio.run(lambda: serve(every_request=options.every_request))
        return 0
    parts = [(1, 5, False), (10, 2, False)]
    parts += [] if options.quick else [(100, 1, False), (10, 1, True), (30, 1, True)]
    kept = [compare(jobs, rounds, every_request=every) for jobs, rounds, every in parts]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
