"""The engine on Ray Serve (packaging/ray): replicas draw for two MCP servers, and one is killed meanwhile (Linux).

    pip install -e . 'ray[serve]==2.60.0'
    python benchmarks/ray_cluster.py [--calls 40] [--seconds 1] [--replicas 2] [--kills 1] [--rounds 5]

The replicas paint one colour in the time that a picture takes, so no GPU is needed. First, single calls to the cluster
and to an engine in one process, alternately. Then all calls at the same time, without and with replicas that are
killed. The program exits with 1 if a call does not get its pictures, or gets wrong ones.
"""
# The type checks run without Ray.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import argparse
import itertools
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from figures import milliseconds_since, print_target
from host import Host
from PIL import Image

from mcp_vega.engine.app import build_engine
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.painter import InThread
from mcp_vega.network.serving import serving

CLUSTER = Path(__file__).parents[1] / "packaging" / "ray"
HOSTS = 2
# What is called, in turn.
KINDS: Sequence[tuple[str, dict[str, Any]]] = (
    ("generate_image_vegart", {}),
    ("generate_image_vega", {}),
    ("generate_image_vega", {"samples": 2}),
    ("submit_job", {"model": "segmind-vega-rt-v1"}),
)
NUMBERS = itertools.count(1)
# For the pictures on their way from a replica to the front. Ray would take a third of the machine's memory.
OBJECTS_BYTES = 10**8


@contextmanager
def cluster(folder: Path, replicas: int, seconds: float) -> Generator[str]:
    """A cluster on this machine, at the URL that is yielded. It ends with the block."""
    sys.path.insert(0, str(CLUSTER))
    # The replicas import the same modules.
    paths = (str(CLUSTER), str(CLUSTER.parents[1]), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # No report to Ray's authors, and no token in the home folder.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from engine_cluster import Options, build
    from ray import serve
    from ray.serve.config import HTTPOptions

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port()
    try:
        ray.init(
            address="local",  # else it joins a cluster that runs here
            num_cpus=replicas,
            object_store_memory=OBJECTS_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _temp_dir=str(folder),
        )
        serve.start(http_options=HTTPOptions(port=port))
        serve.run(build(Options(replicas=replicas, gpus_each=0, stub_seconds=seconds)), name="vega")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(Exception):
            serve.shutdown()
        ray.shutdown()


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@asynccontextmanager
async def one_process(seconds: float) -> AsyncGenerator[str]:
    """An engine without Ray that paints the same, at the URL that is yielded."""
    from engine_cluster import Stub

    drawings = Drawings(InThread(Stub(seconds)))
    async with drawings.open(), serving(build_engine(drawings)) as url:
        yield url


# ---- calls ----


def ended(host: Host, count: int, on_end: Callable[[], None]) -> list[dict[str, Any]]:
    """Make so many calls at the same time, and wait for their ends; returns the jobs."""
    for number in range(count):
        tool, arguments = KINDS[number % len(KINDS)]
        name = next(NUMBERS)
        host.call(tool, prompt=f"picture {name}", seed=name, **arguments)
    jobs: list[dict[str, Any]] = []
    while len(jobs) < count:
        result = host.receive()["result"]
        job = result.get("_meta", {}).get("mcp-vega/job")
        if job is None:
            raise SystemExit(f"no job: {result}")
        if job["state"] in ("COMPLETED", "FAILED"):
            jobs.append(job)
            on_end()
        else:
            host.call("check_job", request_id=job["request_id"], wait_seconds=45)
    return jobs


def wrong(job: dict[str, Any]) -> str:
    """What is wrong with a job's pictures; empty if nothing is."""
    from engine_cluster import colour_of

    parameters = job["parameters"]
    wanted = parameters.get("samples", 1)
    if job["state"] != "COMPLETED" or len(job["images"]) != wanted:
        return f"{job['state']}, {len(job['images'])} of {wanted} pictures: {job}"
    for number, each in enumerate(job["images"]):
        with Image.open(each["path"]) as picture:
            found: Any = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
        colour = colour_of(parameters["prompt"], job["seed"] + number)
        # JPEG changes a colour a little.
        if max(abs(one - other) for one, other in zip(found, colour, strict=True)) > 4:
            return f"{each['path']} is {found} instead of {colour}"
    return ""


def drawn(hosts: Sequence[Host], calls: int, kills: int) -> tuple[float, list[str]]:
    """Make all calls at the same time, and kill replicas meanwhile; returns the seconds, and what is wrong."""
    marks = {calls * (kill + 1) // (kills + 2) for kill in range(kills)}
    count, lock = itertools.count(1), threading.Lock()

    def on_end() -> None:
        with lock:
            if next(count) in marks:
                kill_replica()

    began = time.monotonic()
    shares = [calls // len(hosts) + (number < calls % len(hosts)) for number in range(len(hosts))]
    with ThreadPoolExecutor(len(hosts)) as pool:
        jobs = [job for each in pool.map(ended, hosts, shares, itertools.repeat(on_end)) for job in each]
    seconds = time.monotonic() - began
    return seconds, [what for job in jobs if (what := wrong(job))]


def kill_replica() -> None:
    """Kill one of the replicas that draw, as a machine does that loses its power."""
    while not (pids := replicas_here()):
        time.sleep(0.05)
    os.kill(pids[0], signal.SIGKILL)


def replicas_here() -> list[int]:
    """The processes of the replicas that this program has started."""
    parents, titles = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()

    def is_own(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and is_own(parents[pid]))

    own = {pid for pid, title in titles.items() if title.startswith("ray::ServeReplica:vega:Gpu") and is_own(pid)}
    return sorted(own)


def repeated(folder: Path) -> int:
    """How many drawings the front has repeated because their replica ended, as its log says."""
    logs = folder.glob("session_2*/logs/serve/replica_vega_Front_*.log")
    return sum(path.read_text(encoding="utf-8").count("A replica ended while it drew") for path in logs)


def single_calls(hosts: Sequence[Host], rounds: int, seconds: float) -> list[list[float]]:
    """The milliseconds of a call besides the painting, of each host in each round."""
    shares: list[list[float]] = [[] for _ in hosts]
    for _ in range(rounds):
        for host, own in zip(hosts, shares, strict=True):
            began = time.perf_counter()
            if what := [what for job in ended(host, 1, lambda: None) if (what := wrong(job))]:
                raise SystemExit(what[0])
            own.append(milliseconds_since(began) - seconds * 1000)
    return shares


def host_in(folder: Path, url: str) -> Host:
    """A server that has already drawn a picture."""
    folder.mkdir()
    host = Host(folder, url, MCP_VEGA_PREVIEW="off")
    host.shake_hands()
    ended(host, 1, lambda: None)
    return host


def main() -> int:
    """Measure, draw, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1, help="of a picture")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, cluster(Path(name) / "ray", options.replicas, options.seconds) as url:
        hosts = [host_in(Path(name) / f"server-{number}", url) for number in range(HOSTS)]
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(one_process(options.seconds)) as other,
            host_in(Path(name) / "one-process", other) as beside,
        ):
            ray, one = single_calls((hosts[0], beside), options.rounds, options.seconds)
        print_target("a call over Ray Serve besides the painting, ms", 150, *ray)
        print_target("a call over an engine in one process besides the painting, ms", 150, *one)
        floor = options.calls * options.seconds / options.replicas
        failures: list[str] = []
        for kills in (0, options.kills):
            seconds, found = drawn(hosts, options.calls, kills)
            failures += found
            right = f"{options.calls - len(found)} of {options.calls} calls have the right pictures"
            print(f"{right}; {kills} replicas killed, {repeated(Path(name) / 'ray')} drawings repeated")
            print_target(f"{options.calls} calls, {kills} killed: time / that of the painting", 1.5, seconds / floor)
        for host in hosts:
            host.leave()
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
