"""What is not drawing in a picture of one's own GPU: the time from the tool call to the result, less the drawing's.

    python benchmarks/engine_share.py [--rounds 20] [--drawing 1]

The server runs with --local, the engine in a process of its own. Its painter is a stub: a picture of 1024 × 1024 takes
it exactly so many seconds, in the steps of a drawing. The result has a preview. The ways are: one picture (v1), two
pictures of one call (v2), and a job that is asked for (submit_job, then check_job).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import api
from figures import print_target
from host import Host, environment
from processes import http_server

from mcp_vega.cli.engine.command import Service, serve
from mcp_vega.cli.engine.registration import registered
from mcp_vega.engine.painter import OnStep
from mcp_vega.parameters import Parameters

WARM_UP = 2
# The most that may be added to a drawing of one picture (ms).
SHARE = 150


class StubPainter:
    """Takes `seconds` for each call, and draws always the same picture."""

    at_once, name = 1, "stub"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def load(self) -> None:
        """Make the picture."""
        api.picture("jpeg")

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """Wait, and report the steps."""
        begun = anyio.current_time()
        steps = parameters.num_inference_steps
        for step in range(1, steps + 1):
            await anyio.sleep_until(begun + self._seconds * step / steps)
            on_step(step / steps)
        # Equal pictures count once, so each has bytes of its own after its end.
        return [api.picture("jpeg") + str(seed + number).encode() for number in range(parameters.pictures)]

    async def close(self) -> None:
        """Do nothing."""


def run_engine(home: Path, seconds: float) -> None:
    """Serve as the engine of a home folder until SIGTERM."""
    with registered(home) as publish:
        anyio.run(serve, Service(StubPainter(seconds), "with a stub"), publish)


def result_of(host: Host, tool: str, **arguments: Any) -> dict[str, Any]:
    """The job in a tool's result."""
    host.call(tool, **arguments)
    answer = host.receive()
    if not answer or answer["result"].get("isError"):
        raise SystemExit(f"no picture: {answer}")
    return answer["result"]


def job_of(result: dict[str, Any]) -> dict[str, Any]:
    """The job of a result."""
    return result["_meta"]["mcp-vega/job"]


def one_picture(host: Host, prompt: str) -> dict[str, Any]:
    """Draw one picture by the quickest way."""
    return result_of(host, "generate_image_vegart", prompt=prompt)


def two_pictures(host: Host, prompt: str) -> dict[str, Any]:
    """Draw two pictures by one call."""
    return result_of(host, "generate_image_vega", prompt=prompt, samples=2)


def submitted(host: Host, prompt: str) -> dict[str, Any]:
    """Submit a job, and wait for it."""
    job = job_of(result_of(host, "submit_job", prompt=prompt))
    return result_of(host, "check_job", request_id=job["request_id"], wait_seconds=45)


WAYS: dict[str, Callable[[Host, str], dict[str, Any]]] = {
    "one picture": one_picture,
    "two pictures of a call": two_pictures,
    "a submitted job": submitted,
}


def measured(folder: Path, rounds: int, drawing: float) -> dict[str, list[float]]:
    """By way: what each result took besides the drawing (ms)."""
    home = folder / "home"
    engine = (__file__, "--engine", str(home), "--drawing", str(drawing))
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    with (
        http_server(engine, folder / "engine.txt", environment(folder, "")),
        Host(folder, "", MCP_VEGA_LOCAL="1") as host,
    ):
        host.shake_hands()
        for number in range(WARM_UP + rounds):
            for way, draw in WAYS.items():
                begun = time.perf_counter()
                result = draw(host, f"{way} {number}")
                seconds = time.perf_counter() - begun
                if job_of(result)["state"] != "COMPLETED" or result["content"][-1]["type"] != "image":
                    raise SystemExit(f"no picture with a preview: {job_of(result)}")
                if number >= WARM_UP:
                    shares[way].append((seconds - drawing) * 1000)
    return shares


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--drawing", type=float, default=1, metavar="SECONDS", help="how long the stub takes")
    parser.add_argument("--engine", type=Path, metavar="HOME", help=argparse.SUPPRESS)  # how it starts its engine
    options = parser.parse_args()
    if options.engine:
        run_engine(options.engine, options.drawing)
        return
    with tempfile.TemporaryDirectory() as folder:
        shares = measured(Path(folder).resolve(), options.rounds, options.drawing)
    print(f"What a result takes besides a drawing of {options.drawing:g} s (ms), rounds: {options.rounds}")
    for way, each in shares.items():
        print(f"  {way:24} {statistics.median(each):6.0f} ({min(each):.0f} to {max(each):.0f})")
    print_target("one picture, with its preview, besides the drawing, ms", SHARE, *shares["one picture"])


if __name__ == "__main__":
    main()
