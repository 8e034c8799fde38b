"""The time of a call over stdio, compared with the floor: a bare MCPServer that does only the necessary work.

    python benchmarks/call.py [--rounds 30] [--picture png] [--slow-ms 50]

An API that answers immediately (`api.py`) sends a PNG of 1.4 MB, then a JPEG of 0.35 MB. In each round, one call goes
to the floor (`floor.py`), one to mcp-vega without previews, one to mcp-vega with previews, and one picture is decoded,
resized and encoded as a preview is. Then an API that takes 0.3 s gets eight calls at the same time, in fewer rounds.
All times are medians in milliseconds; a ratio is the median of the rounds' ratios, with the lowest and the highest.
With `--slow-ms`, every flush of the disk takes this much longer, for the floor as well (Linux, a C compiler).
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import api
from api import Picture
from host import Host
from PIL import Image
from shim import compiled

AT_ONCE, SLOW_SECONDS = 8, 0.3
# The longest side and the quality of a preview.
SIDE, QUALITY = 768, 80
# How many times the floor a call may take without a preview, and how many times one preview's work a preview may add.
WITHOUT: Mapping[Picture, float] = {"png": 1.75, "jpeg": 2.0}
PREVIEW = 1.1
# The same for eight calls at the same time, without and with previews.
SEVERAL, SEVERAL_WITH_PREVIEWS = 1.12, 1.6

Times = dict[str, list[float]]


def preview(data: bytes) -> None:
    """The least work for a preview: decode, resize, encode."""
    with Image.open(io.BytesIO(data)) as picture:
        smaller = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.HAMMING)
        smaller.save(io.BytesIO(), "JPEG", quality=QUALITY)


def drawn(host: Host, calls: int) -> None:
    """Make calls at the same time, and wait for all answers."""
    for _ in range(calls):
        host.call("generate_image_vega", prompt=f"a fox {next(NUMBERS)}")
    for _ in range(calls):
        answer = host.receive()
        if not answer or answer["result"].get("isError"):
            raise SystemExit(f"no picture: {answer}")


NUMBERS = itertools.count()


@contextmanager
def hosts(folder: Path, url: str, slow_ms: int) -> Generator[dict[str, Host]]:
    """The servers that are compared, each with a folder of its own, after their first call."""
    found: dict[str, Host] = {}
    disk = {"LD_PRELOAD": str(compiled(folder)), "SHIM_SLOW_MS": str(slow_ms)} if slow_ms else {}
    for name, preview_mode in (("floor", ""), ("without", "off"), ("with", "auto")):
        place = folder / name
        place.mkdir(parents=True)
        if preview_mode:
            host = Host(place, url, MCP_VEGA_PREVIEW=preview_mode, **disk)
        else:
            host = Host(place, url, program=(str(Path(__file__).with_name("floor.py")), str(place), url), **disk)
        host.shake_hands()
        for _ in range(3):
            drawn(host, 1)
        found[name] = host
    try:
        yield found
    finally:
        for host in found.values():
            host.leave()


def timed(work: Callable[[], object]) -> float:
    """How long work takes, in milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def measured(kind: Picture, delay: float, calls: int, rounds: int, slow_ms: int) -> Times:
    """The times of each round: `calls` at the same time to each server."""
    times: Times = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        api.running(kind, delay) as url,
        hosts(Path(folder).resolve(), url, slow_ms) as servers,
    ):
        for _ in range(rounds):
            for name, host in servers.items():
                times.setdefault(name, []).append(timed(lambda host=host: drawn(host, calls)))
            times.setdefault("preview", []).append(timed(lambda: preview(api.picture(kind))))
    return times


def target(name: str, ratios: list[float], most: float) -> None:
    """Print what a ratio is and what it should be."""
    reached = statistics.median(ratios)
    verdict = "reached" if reached <= most else "missed"
    print(f"  target: {name} <= {most:.2f}: {verdict} {reached:.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def over(times: Times, name: str, base: Callable[[float, float], float]) -> list[float]:
    """The ratio of a time to what it should be, which follows from the floor and a preview's work, in each round."""
    rounds = zip(times[name], times["floor"], times["preview"], strict=True)
    return [mine / base(floor, preview) for mine, floor, preview in rounds]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--picture", choices=get_args(Picture))
    parser.add_argument("--slow-ms", type=int, default=0, help="how many milliseconds longer a flush takes")
    options = parser.parse_args()
    for kind in [options.picture] if options.picture else get_args(Picture):
        for delay, calls, rounds in ((0, 1, options.rounds), (SLOW_SECONDS, AT_ONCE, max(options.rounds // 3, 3))):
            times = measured(kind, delay, calls, rounds, options.slow_ms)
            size = len(api.picture(kind)) / 1e6
            print(f"{kind}, {size:.2f} MB, {calls} at the same time, an API that takes {delay} s, {rounds} rounds")
            for name, each in times.items():
                print(f"  {name:8} {statistics.median(each):7.1f} ms")
            alone = calls == 1
            most = WITHOUT[kind] if alone else SEVERAL
            target("without a preview / floor", over(times, "without", lambda floor, _: floor), most)
            if alone:
                name = f"with a preview / ({most} floors + {PREVIEW} previews)"
                target(name, over(times, "with", lambda floor, work: most * floor + PREVIEW * work), 1)  # noqa: B023
            else:
                target("with previews / floor", over(times, "with", lambda floor, _: floor), SEVERAL_WITH_PREVIEWS)


if __name__ == "__main__":
    main()
