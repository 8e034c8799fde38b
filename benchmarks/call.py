"""The time of a call over stdio, compared with the floor: a bare MCPServer that does only the necessary work.

    python benchmarks/call.py [--rounds 30] [--picture png] [--slow-ms 50]

A stand-in for Segmind that answers immediately (`api.py`) sends a PNG of 1.4 MB, then a JPEG of 0.36 MB. In each round,
one call goes to the floor (`floor.py`), one to mcp-vega without previews, one to mcp-vega with previews. Also, one
picture is decoded, resized and encoded, which is the least work for a preview. Then eight calls at the same time go to
each server, with an API that takes 0.3 s, in fewer rounds.

All times are medians. A ratio is the median of the rounds' ratios, with the lowest and the highest. With `--slow-ms`,
every flush of the disk takes this much longer, for the floor as well (Linux, a C compiler).
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import api
import floor
from api import PICTURES, SEVERAL, SLOW_SECONDS, Picture
from figures import milliseconds_since, print_target, ratios
from host import PREVIEWS, Host
from PIL import Image
from shim import compiled

# The longest side and the quality of a preview.
SIDE, QUALITY = 768, 80
WARM_UP = 3
# The targets: how many times the floor a call may take, and how many times a preview's work the preview may add.
WITHOUT: Mapping[Picture, float] = {"png": 1.75, "jpeg": 2.0}
PREVIEW = 1.1
# The same for several calls at the same time, without and with previews.
SEVERAL_WITHOUT, SEVERAL_WITH = 1.12, 1.6

# The milliseconds of each round, by name.
Times = dict[str, list[float]]


def preview(data: bytes) -> None:
    """The least work for a preview: decode, resize, encode."""
    with Image.open(io.BytesIO(data)) as picture:
        smaller = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.HAMMING)
        smaller.save(io.BytesIO(), "JPEG", quality=QUALITY)


@contextmanager
def hosts(root: Path, url: str, slow_ms: int) -> Generator[dict[str, Host]]:
    """The servers that are compared, each with a folder of its own, after their first calls."""
    found: dict[str, Host] = {}
    disk = {"LD_PRELOAD": str(compiled(root)), "SHIM_SLOW_MS": str(slow_ms)} if slow_ms else {}
    with ExitStack() as stack:
        for name in ("floor", *PREVIEWS):
            folder = root / name
            folder.mkdir()
            if name in PREVIEWS:
                host = Host(folder, url, MCP_VEGA_PREVIEW=PREVIEWS[name], **disk)
            else:
                host = Host(folder, url, program=(floor.__file__, str(folder), url), **disk)
            found[name] = stack.enter_context(host)
            host.shake_hands()
            for _ in range(WARM_UP):
                host.draw()
        yield found


def measured(kind: Picture, delay: float, calls: int, rounds: int, slow_ms: int) -> Times:
    """The times of `calls` at the same time to each server, and of the work for a preview."""
    times: Times = {}
    data = api.picture(kind)
    with (
        tempfile.TemporaryDirectory() as folder,
        api.running(kind, delay) as segmind,
        hosts(Path(folder).resolve(), segmind.url, slow_ms) as servers,
    ):
        for _ in range(rounds):
            for name, host in servers.items():
                began = time.perf_counter()
                host.draw(calls)
                times.setdefault(name, []).append(milliseconds_since(began))
            began = time.perf_counter()
            preview(data)
            times.setdefault("work for a preview", []).append(milliseconds_since(began))
    return times


def print_times(title: str, times: Times) -> None:
    """Print the medians."""
    print(f"\n{title}")
    for name, each in times.items():
        print(f"  {name:18} {statistics.median(each):7.1f} ms")


def one_call(kind: Picture, rounds: int, slow_ms: int) -> None:
    """Measure one call after the other, and print."""
    times = measured(kind, 0, 1, rounds, slow_ms)
    size = len(api.picture(kind)) / 1e6
    print_times(f"A call, {kind} of {size:.2f} MB, an API that answers immediately, rounds: {rounds}", times)
    floors, without, with_previews, work = times.values()
    most = WITHOUT[kind]
    print_target(f"a call, {kind}, without previews / floor", most, *ratios(without, floors))
    allowed = [most * floor + PREVIEW * preview for floor, preview in zip(floors, work, strict=True)]
    name = f"a call, {kind}, with previews / ({most} floor + {PREVIEW} work for a preview)"
    print_target(name, 1, *ratios(with_previews, allowed))


def several_calls(kind: Picture, rounds: int, slow_ms: int) -> None:
    """Measure calls at the same time, and print."""
    times = measured(kind, SLOW_SECONDS, SEVERAL, rounds, slow_ms)
    title = f"{SEVERAL} calls at the same time, {kind}, an API that takes {SLOW_SECONDS} s, rounds: {rounds}"
    print_times(title, times)
    floors, without, with_previews, _ = times.values()
    print_target(f"{SEVERAL} calls, {kind}, without previews / floor", SEVERAL_WITHOUT, *ratios(without, floors))
    print_target(f"{SEVERAL} calls, {kind}, with previews / floor", SEVERAL_WITH, *ratios(with_previews, floors))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of one call; the others have a third of them")
    parser.add_argument("--picture", choices=PICTURES, nargs="+", default=PICTURES)
    parser.add_argument("--slow-ms", type=int, default=0, help="how many milliseconds longer a flush takes")
    options = parser.parse_args()
    for kind in options.picture:
        one_call(kind, options.rounds, options.slow_ms)
        several_calls(kind, max(options.rounds // 3, 3), options.slow_ms)


if __name__ == "__main__":
    main()
