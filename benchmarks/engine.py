# pyright: basic, reportMissingImports=false
# Pyright also runs where torch is not installed.
"""How fast an engine draws on this machine, and how much memory it needs.

    python benchmarks/engine.py [--weights FOLDER | --full-size | --tiny] [--device auto] [--pictures 5]

It needs the packages of the extra `local`. Without an option it draws with the weights that `mcp-vega weights` has
fetched. `--full-size` writes random weights of the same size into a temporary folder (3.6 GB), which is enough for
times and memory. `--tiny` writes small ones, which checks this program on any machine, and nothing else.

It measures what `mcp-vega engine` uses, a `DiffusionPainter`. Times are medians over the pictures after a first one,
which also prepares the device:

    s              one picture, from the call to its JPEG
    steps a second evaluations of the UNet; with guidance, an evaluation is of two latents
    decode s       from the last step to the picture
    peak           the memory: of the GPU what torch took at most, else of the process (Linux)
    HTTP ms        what the same call takes more through the engine's API

The same seed must give the same bytes again. If it does not, the program exits with 1.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import anyio.to_thread
import httpx
import torch
from processes import memory_of

from mcp_vega.engine.app import build_engine
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.painter import InThread
from mcp_vega.engine.weights.located import Weights, find_weights
from mcp_vega.network.serving import serving
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # `tiny_vega`

GIB = 2**30
# Longer than any drawing takes.
HOLD_SECONDS = 36_000
PROMPT = "a lighthouse at dusk"
CALLS: dict[str, Parameters] = {
    "VegaRT, 4 steps": VegaRTParameters(prompt=PROMPT),
    "Vega, 25 steps, DPM2 Karras": VegaParameters(prompt=PROMPT),
    "Vega, 25 steps, Euler": VegaParameters(prompt=PROMPT, scheduler="Euler"),
}


@dataclass
class Drawn:
    """When a drawing began, when each of its steps was done, and when it ended (s)."""

    begun: float
    steps: list[float] = field(default_factory=list[float])
    ended: float = 0

    @property
    def seconds(self) -> float:
        """From the call to the JPEG."""
        return self.ended - self.begun

    @property
    def steps_a_second(self) -> float:
        """Without the first step, which includes the encoding of the prompt."""
        return (len(self.steps) - 2) / (self.steps[-2] - self.steps[0])

    @property
    def decode_seconds(self) -> float:
        """The last two of the steps are the last of the UNet, and the decoded picture."""
        return self.steps[-1] - self.steps[-2]


def draw(painter: DiffusionPainter, parameters: Parameters, seed: int) -> tuple[Drawn, bytes]:
    """One picture."""
    drawn = Drawn(time.perf_counter())

    def on_step(_share: float) -> None:
        if torch.cuda.is_available():  # a GPU still works when Python already prepares the next step
            torch.cuda.synchronize()
        drawn.steps.append(time.perf_counter())

    (picture,) = painter.draw(parameters, seed, on_step)
    drawn.ended = time.perf_counter()
    return drawn, picture


def peak_gib() -> float:
    """The most memory that was in use so far."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / GIB
    return memory_of(os.getpid(), "VmHWM") * 1e6 / GIB


async def added_by_http(painter: DiffusionPainter, parameters: Parameters, count: int) -> float:
    """The median of how much longer a call of v1 takes than its drawing alone, in seconds. It closes the painter."""
    app = build_engine(Drawings(InThread(painter)), hold_seconds=HOLD_SECONDS)
    added: list[float] = []
    async with (
        app.router.lifespan_context(app),
        serving(app) as url,
        httpx.AsyncClient(base_url=url, headers={"x-api-key": "SG_any"}, timeout=HOLD_SECONDS, trust_env=False) as http,
    ):
        for _ in range(count):
            begun = time.perf_counter()
            response = await http.post(f"/v1/{parameters.slug}", json={**parameters.model_dump(), "seed": 1})
            response.raise_for_status()
            seconds = time.perf_counter() - begun
            # Also in a worker thread, where the C library handles memory in another way than in the first thread.
            drawn, _ = await anyio.to_thread.run_sync(draw, painter, parameters, 1)
            added.append(seconds - drawn.seconds)
    return statistics.median(added)


def write(folder: Path, *, full_size: bool) -> None:
    """Write random weights."""
    from tiny_vega import write_weights

    write_weights(folder, full_size=full_size)


@contextmanager
def weights_of(options: argparse.Namespace) -> Iterator[Weights]:
    """The weights to draw with."""
    if not options.tiny and not options.full_size:
        yield find_weights(options.weights)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: its memory must not count.
        process = get_context("spawn").Process(
            target=write, args=(Path(folder),), kwargs={"full_size": options.full_size}
        )
        process.start()
        process.join()
        yield find_weights(Path(folder))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--weights", type=Path, help="a folder, as `mcp-vega engine --weights` takes it")
    group.add_argument("--full-size", action="store_true", help="random weights of the real size")
    group.add_argument("--tiny", action="store_true", help="small random weights: to check this program")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "mps", "cpu"])
    parser.add_argument("--pictures", type=int, default=5, help="of each kind, after a first one; 0: only that")
    parser.add_argument("--only", choices=list(CALLS), nargs="+", default=list(CALLS), help="the kinds of pictures")
    options = parser.parse_args()
    with weights_of(options) as weights:
        painter = DiffusionPainter(weights, options.device)
        begun = time.perf_counter()
        painter.load()
        print(f"{painter.name}; {platform.system()}; {torch.get_num_threads()} threads")
        print("; ".join(f"{each} {version(each)}" for each in ("torch", "diffusers", "transformers", "peft")))
        print(f"loaded in {time.perf_counter() - begun:.1f} s; memory plan {painter.plan}; peak {peak_gib():.2f} GiB")
        same = [measure(painter, name, options.pictures) for name in options.only]
        if options.pictures:
            added = anyio.run(added_by_http, painter, CALLS[options.only[0]], options.pictures)
            print(f"{options.only[0]}: HTTP ms {1000 * added:.0f}")
    return 0 if all(same) else 1


def measure(painter: DiffusionPainter, name: str, count: int) -> bool:
    """Draw and print; returns whether the same seed gave the same bytes."""
    first, picture = draw(painter, CALLS[name], 1)
    later = [draw(painter, CALLS[name], 1) for _ in range(count)]
    drawn = [each for each, _ in later] or [first]
    figures = {
        "s": statistics.median(each.seconds for each in drawn),
        "steps a second": statistics.median(each.steps_a_second for each in drawn),
        "decode s": statistics.median(each.decode_seconds for each in drawn),
        "first s": first.seconds,
        "peak GiB": peak_gib(),
    }
    same = all(each == picture for _, each in later)
    print(f"{name}: {'; '.join(f'{key} {value:.3f}' for key, value in figures.items())}", flush=True)
    if not same:
        print(f"{name}: the same seed gave other bytes")
    return same


if __name__ == "__main__":
    sys.exit(main())
