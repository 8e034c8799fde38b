"""Measure the delay from "done there" to "known here", compared with the vendor's SDK: 100 jobs of about 2.4 s.

    python benchmarks/delay.py [--jobs 100] [--at-once 10]

Both submit the same jobs to sandboxes of realistic speed and wait for the results, alternately in one process: the
SDK with its `run()`, this package as its server watches a job. For each, it prints the median delay from the moment
when the job was done in the sandbox to the moment when its result was here, and the number of status requests per
job.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import httpx
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr
from segmind import SegmindClient as VendorClient  # pyright: ignore[reportMissingTypeStubs]

from mcp_vega.jobs.polling import QUEUE_SECONDS
from mcp_vega.parameters import VegaParameters
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.serving import serving
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.parsing import Submission

KEY = "SG_benchmark"
SLUG = VegaParameters.slug
Arrivals = dict[str, float]
Run = Callable[[str, int, int], Arrivals]


def with_sdk(url: str, jobs: int, at_once: int) -> Arrivals:
    """Run the jobs with the SDK's `run()`, this many at the same time in threads."""
    vendor = VendorClient(api_key=KEY, base_url=f"{url}/v1")
    arrivals: Arrivals = {}
    numbers = iter(range(jobs))

    def work() -> None:
        for number in numbers:
            result: dict[str, Any] = vendor.run(SLUG, prompt=f"sdk {number}", seed=number)  # pyright: ignore[reportUnknownVariableType]
            arrivals[result["request_id"]] = time.time()

    workers = [threading.Thread(target=work) for _ in range(at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    vendor._client.close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  there is no other way to close it
    return arrivals


def with_vega(url: str, jobs: int, at_once: int) -> Arrivals:
    """Run the jobs as this package's server does, this many at the same time in tasks."""
    arrivals: Arrivals = {}

    async def work(client: SegmindClient, number: int, limiter: anyio.CapacityLimiter) -> None:
        parameters = VegaParameters(prompt=f"vega {number}", seed=number)  # pyright: ignore[reportUnknownVariableType]
        async with limiter:
            submission = await client.submit(SLUG, parameters.body(base64=False))
            assert isinstance(submission, Submission)
            request_id = submission.request_id
            async for _ in client.watch(request_id, expected=parameters.expected_seconds + QUEUE_SECONDS):
                pass
            await client.result(request_id)
            arrivals[request_id] = time.time()

    async def run() -> None:
        async with httpx.AsyncClient(trust_env=False) as http, anyio.create_task_group() as tasks:
            client = SegmindClient(http, SecretStr(KEY), Endpoints(url, url))
            limiter = anyio.CapacityLimiter(at_once)
            for number in range(jobs):
                tasks.start_soon(work, client, number, limiter)

    anyio.run(run)
    return arrivals


def measured(run: Run, jobs: int, at_once: int) -> tuple[float, float]:
    """The median delay in seconds, and the status requests per job."""
    account = Account(credits=Decimal(1000))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(build_sandbox(account))) as url,
    ):
        arrivals = run(url, jobs, at_once)
    delays = [arrivals[call.id] - call.done for call in account.calls.values()]
    assert len(delays) == jobs
    return statistics.median(delays), account.requests["GET status"] / jobs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=10)
    options = parser.parse_args()
    sdk_delay, sdk_looks = measured(with_sdk, options.jobs, options.at_once)
    delay, looks = measured(with_vega, options.jobs, options.at_once)
    print(f"{'':22} median delay  status requests a job")
    print(f"{'vendor SDK, run()':22} {sdk_delay * 1000:9.0f} ms {sdk_looks:22.2f}")
    print(f"{'mcp-vega':22} {delay * 1000:9.0f} ms {looks:22.2f}")
    print(f"{'ratio':22} {delay / sdk_delay:12.2f} {looks / sdk_looks:22.2f}")


if __name__ == "__main__":
    main()
