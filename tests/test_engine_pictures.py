"""The pictures of an engine that draws with the open weights. The weights here are small and random, on the CPU."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from conftest import app_over, images_of, text_of
from mcp.client import Client
from PIL import Image, JpegImagePlugin
from stub_painter import RunningEngine, serving_engine

from mcp_vega.engine.diffusion.failures import explain
from mcp_vega.engine.diffusion.memory import GIB, MemoryPlan, plan_memory
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.errors import DeviceLostError, EngineError
from mcp_vega.engine.painter import Cancelled, InThread
from mcp_vega.engine.weights.catalog import LORA, weights_file
from mcp_vega.engine.weights.located import Weights, find_weights
from mcp_vega.parameters import Parameters, Scheduler, VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server

SMALL_SIDES = {"img_width": 512, "img_height": 512}
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)


@pytest.fixture(scope="module")
def weights(tiny_weights: Path) -> Weights:
    return find_weights(tiny_weights)


@pytest.fixture(scope="module")
def painter(weights: Weights) -> Iterator[DiffusionPainter]:
    painter = loaded(weights)
    yield painter
    painter.close()


def loaded(weights: Weights) -> DiffusionPainter:
    painter = DiffusionPainter(weights, "cpu")
    painter.load()
    return painter


def vega(**arguments: Any) -> VegaParameters:
    """A short call for a picture that is small, and so takes less time than one that the API has."""
    defaults = {"prompt": "a fox", "num_inference_steps": 20, "scheduler": "Euler"}
    return VegaParameters.model_validate({**defaults, **arguments}).model_copy(update=SMALL_SIDES)


def draw(painter: DiffusionPainter, parameters: Parameters, seed: int = 7) -> list[bytes]:
    return painter.draw(parameters, seed, lambda _share: None)


RT = VegaRTParameters(prompt="a fox").model_copy(update=SMALL_SIDES)


# ---- pictures ----


def test_each_scheduler_draws_its_own_picture_and_draws_it_again(painter: DiffusionPainter) -> None:
    drawn = {name: draw(painter, vega(scheduler=name)) for name in SCHEDULERS}
    assert len({pictures[0] for pictures in drawn.values()}) == len(SCHEDULERS) == 12
    # In another order: no option of a scheduler stays for the next one.
    assert {name: draw(painter, vega(scheduler=name)) for name in reversed(SCHEDULERS)} == drawn


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "a crow"},
        {"negative_prompt": "a crow"},
        {"guidance_scale": 3},
        {"num_inference_steps": 21},
        {"seed": 8},
    ],
    ids=lambda other: next(iter(other)),
)
def test_each_parameter_changes_the_picture(painter: DiffusionPainter, other: dict[str, Any]) -> None:
    assert draw(painter, vega(**other), other.get("seed", 7)) != draw(painter, vega())


def test_a_picture_is_what_the_api_sends(painter: DiffusionPainter) -> None:
    for parameters in (VegaParameters(prompt="a fox"), VegaRTParameters(prompt="a fox")):
        (data,) = draw(painter, parameters)
        picture = Image.open(io.BytesIO(data))
        assert isinstance(picture, JpegImagePlugin.JpegImageFile)
        assert (picture.size, picture.mode) == ((1024, 1024), "RGB")
        assert JpegImagePlugin.get_sampling(picture) == 0  # 4:4:4
        best = io.BytesIO()
        Image.new("RGB", (8, 8)).save(best, "JPEG", quality=95)
        reference = Image.open(best)
        assert isinstance(reference, JpegImagePlugin.JpegImageFile)
        assert picture.quantization == reference.quantization


def test_each_sample_is_the_picture_of_the_next_seed(painter: DiffusionPainter) -> None:
    pictures = draw(painter, vega(samples=3))
    assert pictures == [draw(painter, vega(), 7 + number)[0] for number in range(3)]


def test_vegart_draws_its_picture_again_and_leaves_vega_as_it_was(painter: DiffusionPainter) -> None:
    before, first = draw(painter, vega()), draw(painter, RT)
    assert draw(painter, RT) == first != draw(painter, RT, 8)
    assert draw(painter, vega()) == before
    assert draw(painter, RT) == first


def test_the_lora_changes_vegart_alone(painter: DiffusionPainter, weights: Weights, tmp_path: Path) -> None:
    from tiny_vega import scale

    folder = copy_of(weights, tmp_path)
    scale(folder / "Segmind-VegaRT" / LORA, 2)
    other = loaded(find_weights(folder))
    assert draw(other, vega()) == draw(painter, vega())
    assert draw(other, RT) != draw(painter, RT)


def test_a_new_process_draws_the_same_pictures(painter: DiffusionPainter, weights: Weights) -> None:
    calls = [VegaRTParameters(prompt="a fox"), VegaParameters(prompt="a fox")]
    assert drawn_by_a_process(weights) == [draw(painter, each)[0] for each in calls]


def test_weights_of_32_bits_are_taken_as_well(tiny_weights: Path, tmp_path: Path) -> None:
    from tiny_vega import write_weights

    found = find_weights(write_weights(tmp_path, half=False))
    assert found.variant is None
    assert draw(loaded(found), vega()) != draw(loaded(find_weights(tiny_weights)), vega())


# ---- a drawing under way ----


@pytest.mark.parametrize(
    ("parameters", "evaluations"),
    [(vega(), 20), (vega(scheduler="DPM2 Karras"), 39), (vega(samples=2), 20), (RT, 4)],
    ids=["Euler", "DPM2 Karras", "samples", "VegaRT"],
)
def test_progress_counts_the_steps(painter: DiffusionPainter, parameters: Parameters, evaluations: int) -> None:
    shares: list[float] = []
    painter.draw(parameters, 7, shares.append)
    # To decode a picture counts as a step.
    total = (evaluations + 1) * parameters.pictures
    assert shares == pytest.approx([(number + 1) / total for number in range(total)])


def test_a_drawing_ends_at_the_step_after_it_was_cancelled(painter: DiffusionPainter) -> None:
    before, shares = draw(painter, RT), list[float]()

    def on_step(share: float) -> None:
        shares.append(share)
        if len(shares) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        painter.draw(vega(), 7, on_step)
    assert len(shares) == 3
    assert draw(painter, RT) == before


def test_a_painter_that_was_closed_can_be_loaded_again(weights: Weights) -> None:
    painter = DiffusionPainter(weights)
    with pytest.raises(EngineError, match="not loaded"):
        draw(painter, RT)
    assert painter.name == ""
    painter.load()
    painter.load()
    before = draw(painter, RT)
    painter.close()
    with pytest.raises(EngineError, match="not loaded"):
        draw(painter, RT)
    painter.load()
    assert draw(painter, RT) == before


def drawn_by_a_process(weights: Weights) -> list[bytes]:
    """The pictures of both models by a process that uses no network, and that prints nothing but them."""
    program = """
import sys
from pathlib import Path
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.weights.catalog import LORA, weights_file
from mcp_vega.engine.weights.located import Weights
from mcp_vega.parameters import VegaParameters, VegaRTParameters

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments, file=sys.stderr)
sys.addaudithook(watch)
weights = Weights(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None)
painter = DiffusionPainter(weights, "cpu")
painter.load()
for parameters in (VegaRTParameters(prompt='a fox'), VegaParameters(prompt='a fox')):
    for picture in painter.draw(parameters, 7, lambda share: None):
        sys.stdout.buffer.write(len(picture).to_bytes(4) + picture)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, weights.vega, weights.vega_rt, weights.variant or ""],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    pictures, rest = list[bytes](), done.stdout
    while rest:
        end = 4 + int.from_bytes(rest[:4])
        pictures.append(rest[4:end])
        rest = rest[end:]
    return pictures


# ---- what fails ----


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_black_picture_is_an_error(weights: Weights, tmp_path: Path, part: str) -> None:
    from tiny_vega import scale

    folder = copy_of(weights, tmp_path)
    scale(folder / "Segmind-Vega" / weights_file(part, weights.variant), float("nan"))
    painter = loaded(find_weights(folder))
    for parameters in (RT, vega()):
        with pytest.raises(EngineError, match="came out black") as raised:
            draw(painter, parameters)
        assert "--device cpu" in raised.value.next_step


def test_weights_that_do_not_fit_together_are_an_error(weights: Weights, tmp_path: Path) -> None:
    folder = copy_of(weights, tmp_path)
    config = folder / "Segmind-Vega" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "block_out_channels": [16, 32, 64]}))
    with pytest.raises(EngineError, match=r"cannot be loaded \(.+Error: ") as raised:
        loaded(find_weights(folder))
    assert str(folder) in raised.value.what
    assert "mcp-vega weights" in raised.value.next_step


def test_weights_that_were_removed_since_are_an_error(weights: Weights, tmp_path: Path) -> None:
    folder = copy_of(weights, tmp_path)
    painter = DiffusionPainter(find_weights(folder), "cpu")
    shutil.rmtree(folder / "Segmind-VegaRT")
    with pytest.raises(EngineError, match=r"cannot be loaded \(FileNotFoundError"):
        painter.load()
    copy_of(weights, tmp_path)
    painter.load()
    assert draw(painter, RT)


def copy_of(weights: Weights, folder: Path) -> Path:
    for each in (weights.vega, weights.vega_rt):
        shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(("device", "said"), [("cuda", "GPU"), ("mps", "MPS")])
def test_a_device_that_is_not_there_is_an_error(weights: Weights, device: str, said: str) -> None:
    from tiny_vega import has_device

    if has_device(device):
        pytest.skip("this machine has such a device")
    with pytest.raises(EngineError, match=said) as raised:
        DiffusionPainter(weights, device).load()
    assert "tart the engine with --device" in raised.value.next_step


def test_a_package_that_is_broken_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    (tmp_path / "psutil.py").touch()
    program = """
from pathlib import Path
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.catalog import LORA, weights_file
from mcp_vega.engine.weights.located import Weights
try:
    DiffusionPainter(Weights(Path(), Path())).load()
except EngineError as error:
    print(error)
"""
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    said = subprocess.check_output([sys.executable, "-c", program], text=True, env={**os.environ, "PYTHONPATH": paths})
    assert said.startswith("A package that the engine needs does not work (OSError: libcudart.so.13: cannot open")
    assert "`pip install 'mcp-vega[local]'`" in said


@pytest.mark.parametrize(
    ("error", "what", "next_step"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "too little free memory (RTX)", "Close other"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 4 GB)"), "too little free memory", "Close other"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "too little free memory", "Close other"),
        (MemoryError(), "too little free memory", "Close other"),
        (RuntimeError("CUDA error: no kernel image is available for\nmore"), "does not support this card", "pytorch"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "launch failure", "Call again after"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "INTERNAL_ERROR", "Call again after"),
        (EngineError("Explained", "Before"), "Explained", "Before"),
        (ValueError("another"), None, None),
    ],
)
def test_errors_of_a_device_say_what_to_do(error: Exception, what: str | None, next_step: str | None) -> None:
    explained = explain(error, "RTX")
    if what is None or next_step is None:
        assert explained is None
        return
    assert explained
    assert what in explained.what
    assert next_step in explained.next_step
    assert "\n" not in str(explained)
    assert isinstance(explained, DeviceLostError) == next_step.startswith("Call again after")


# ---- memory ----


@pytest.mark.parametrize(
    ("free_gib", "plan"),
    [(24, MemoryPlan.WHOLE), (7.7, MemoryPlan.TILES), (5.5, MemoryPlan.TILES), (4, MemoryPlan.OFFLOAD)],
)
def test_the_memory_plan_follows_from_what_is_free(free_gib: float, plan: MemoryPlan) -> None:
    # What the published weights take with 16 bits.
    assert plan_memory(int(free_gib * GIB), 3_530_000_000) == plan


def test_too_little_memory_for_the_cpu_is_an_error() -> None:
    assert plan_memory(12 * GIB, 7 * GIB, on_cpu=True) == MemoryPlan.WHOLE
    assert plan_memory(9 * GIB, 7 * GIB, on_cpu=True) == MemoryPlan.TILES
    with pytest.raises(EngineError, match=r"needs 8\.5 GiB of memory, and 8\.0 are free"):
        plan_memory(8 * GIB, 7 * GIB, on_cpu=True)


# Lets the process have some more memory (in MiB), draws, and says what came of it.
IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.catalog import LORA, weights_file
from mcp_vega.engine.weights.located import find_weights
from mcp_vega.parameters import VegaRTParameters

painter = DiffusionPainter(find_weights(Path(sys.argv[1])), "cpu")
painter.load()
def draw(more=None):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + more * 2**20 if more else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        return len(painter.draw(VegaRTParameters(prompt="a fox"), 7, lambda share: None))
    except EngineError as error:
        return str(error)
draw()
for more in map(int, sys.argv[2:]):
    print(draw(more or None), painter.plan.name, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_drawing_that_needs_more_memory_goes_on_with_tiles_or_fails(tiny_weights: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, tiny_weights, "80", "1", "0"],
        capture_output=True,
        text=True,
        check=False,
        # Memory that was freed before goes back to the system.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    too_little = "There is too little free memory (CPU). Close other programs, and call again"
    assert done.stdout.splitlines() == ["1 TILES", f"{too_little} TILES", "1 TILES"], done.stderr
    assert done.stderr.splitlines() == ["Too little free memory on CPU: going on with memory plan TILES"]


# ---- behind the API ----


@asynccontextmanager
async def server_over(engine: RunningEngine, folder: Path) -> AsyncGenerator[Client]:
    """A client of a server that draws through an engine."""
    async with app_over(engine.url, folder) as app, Client(build_server(app)) as client:
        yield client


@pytest.mark.anyio
async def test_two_servers_draw_through_one_engine(weights: Weights, tmp_path: Path) -> None:
    async with (
        serving_engine(InThread(DiffusionPainter(weights, "cpu"))) as engine,
        server_over(engine, tmp_path / "one") as one,
        server_over(engine, tmp_path / "two") as two,
        anyio.create_task_group() as tasks,
    ):
        for number, client in enumerate([one, two, one]):
            tasks.start_soon(_call, client, number)


async def _call(client: Client, seed: int) -> None:
    result = await client.call_tool("generate_image_vegart", {"prompt": "a fox", "seed": seed})
    assert not result.is_error, text_of(result)
    assert len(images_of(result)) == 1
    assert f"Seed: {seed}" in text_of(result)
