"""The doctor's checks of what draws on this machine.

What is bad only counts if no engine runs: the one that runs may draw through another server, and needs nothing here.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from typing import Any

import anyio

from mcp_vega import __version__
from mcp_vega.cli.doctor.api import ask_credits
from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.cli.doctor.installation import versions_of_needed
from mcp_vega.cli.engine.registration import running_engine
from mcp_vega.cli.output import command_line, install_step, pip_line
from mcp_vega.engine.diffusion.memory import GIB, MemoryPlan, plan_memory
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.catalog import REPOSITORIES
from mcp_vega.engine.weights.located import find_weights, folder_of
from mcp_vega.errors import SegmindError
from mcp_vega.redaction import quoted
from mcp_vega.segmind.values import as_object
from mcp_vega.settings import Settings

# `-P`: nothing is imported from the current folder.
PROBE = (sys.executable, "-P", "-m", "mcp_vega.cli.engine.probe")
DRIVER = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
# All end before the doctor gives them up, and say more. Torch takes longest when it is loaded for the first time.
PROBE_SECONDS, DRIVER_SECONDS, ENGINE_SECONDS = 20.0, 15.0, 22.0
BUILDS = "https://pytorch.org/get-started"
REINSTALL = (
    f"Install it again: run `{pip_line('uninstall', '-y', 'torch')}`, then `{pip_line('install', 'mcp-vega[local]')}`"
)
CLOSE_OTHERS = "Close other programs that use this memory"


def check_engine(settings: Settings) -> list[Check]:
    """Whether this user's engine runs, and answers: the check engine.

    Raises:
        InvalidSettings: The file of an engine cannot be used.
    """
    engine = running_engine(settings.home_folder)
    if engine is None:
        draw = command_line("draw", "--local")
        return [Check("engine", State.GOOD, f"none runs; a server with --local, or `{draw}`, starts one when it draws")]
    where = f"runs at {engine.url} (process {engine.pid})"
    end = f"End process {engine.pid}; the next picture starts another engine"
    try:
        # As a server with --local asks: by no proxy, which would see the key of an engine with an address in a network.
        found = anyio.run(ask_credits, settings.model_copy(update={"local": True}), ENGINE_SECONDS)
    except SegmindError as error:
        return [Check("engine", State.BAD, f"{where}, but {error.what[0].lower()}{error.what[1:]}", end)]
    said = f"{where} and draws on {found.engine}" if found.engine else f"{where}, and has not yet loaded what draws"
    if engine.version != __version__:
        return [Check("engine", State.NOTE, f"{said}; its version is {engine.version}, and not {__version__}", end)]
    return [Check("engine", State.GOOD, said)]


def check_weights(settings: Settings, environment: Mapping[str, str]) -> list[Check]:
    """Whether the weights are complete: the check weights.

    Raises:
        InvalidSettings: The file of an engine cannot be used.
    """
    try:
        find_weights(settings.weights, environment)
    except EngineError as error:
        return _lenient(settings, [Check("weights", State.BAD, error.what, error.next_step)])
    places = [str(folder_of(each, settings.weights, environment)) for each in REPOSITORIES]
    return [Check("weights", State.GOOD, f"complete, in {places[0]} and {places[1]}")]


def check_device(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    command: Sequence[str] = PROBE,
    seconds: float = PROBE_SECONDS,
) -> list[Check]:
    """What torch would draw on: the checks torch, driver, device and memory.

    Args:
        settings: The settings.
        environment: The environment variables.
        command: The command that prints what `probe.probed` returns.
        seconds: How long that may take.

    Raises:
        InvalidSettings: The file of an engine cannot be used.
    """
    torch = _missing_packages()
    found = {} if torch else _probed(environment, command, seconds)
    if isinstance(found, Check):
        torch, found = found, {}
    if torch:
        return _lenient(
            settings, [torch, _driver(environment, {}), unknown("device", "torch"), unknown("memory", "torch")]
        )
    device = Check("device", State.GOOD, found["device"])
    if found["kind"] == "cpu":
        device = Check("device", State.NOTE, f"the CPU, where a picture takes minutes. {found['no_gpu']}", _gpu_fix())
    return _lenient(
        settings,
        [
            Check("torch", State.GOOD, found["torch"]),
            _driver(environment, found),
            device,
            _memory(found, runs=running_engine(settings.home_folder) is not None),
        ],
    )


def _lenient(settings: Settings, checks: Sequence[Check]) -> list[Check]:
    """The checks; if an engine runs, what is bad becomes a note."""
    if running_engine(settings.home_folder) is None:
        return [*checks]
    return [
        replace(each, state=State.NOTE, detail=f"{each.detail}; the engine that runs draws all the same")
        if each.state is State.BAD
        else each
        for each in checks
    ]


# ---- torch ----


def _missing_packages() -> Check | None:
    try:
        versions, wrong = versions_of_needed(extra="local")
    except PackageNotFoundError:  # the check of the packages says so
        return None
    if wrong and "torch" in versions:
        return Check("torch", State.BAD, "; ".join(wrong), install_step("local"))
    said = "not installed, and neither is what else the extra `local` of this package has"
    return Check("torch", State.BAD, said, install_step("local")) if wrong else None


def _probed(environment: Mapping[str, str], command: Sequence[str], seconds: float) -> dict[str, Any] | Check:
    """What `probe.probed` returns; a check if there is no answer."""
    try:
        done = _run(command, environment, seconds)
    except subprocess.TimeoutExpired:
        said = f"was not loaded within {seconds:.0f} s"
        return Check("torch", State.NOTE, said, "Try again: the first time after an installation takes longest")
    try:
        found = as_object(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        reason = f": {quoted(said[-1])}" if said else ""
        return Check("torch", State.BAD, f"its process ended with exit code {done.returncode}{reason}", REINSTALL)
    if "problem" in found:
        return Check("torch", State.BAD, f"cannot be used: {quoted(found['problem'])}", REINSTALL)
    return found


def _run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603  the commands are those of this module
        command, env={**environment}, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
    )


# ---- the device ----


def _driver(environment: Mapping[str, str], found: Mapping[str, Any]) -> Check:
    """The check of NVIDIA's driver; `found` is what `probe.probed` returns, or empty."""
    try:
        done = _run(DRIVER, environment, DRIVER_SECONDS)
    except FileNotFoundError:
        if found.get("kind") in ("cuda", "mps"):
            return Check("driver", State.GOOD, "none of NVIDIA's is installed, and none is needed")
        fix = "If this machine has an NVIDIA card, install its driver (https://www.nvidia.com/drivers)"
        return Check("driver", State.NOTE, "none of NVIDIA's is installed", fix)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("driver", State.BAD, f"nvidia-smi does not answer ({type(error).__name__})", _DRIVER_FIX)
    cards = [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode or not cards:
        said = (done.stdout + done.stderr).decode(errors="replace").split()
        return Check("driver", State.BAD, quoted(" ".join(said)) if said else "nvidia-smi names no card", _DRIVER_FIX)
    name, _, version = cards[0].rpartition(", ")
    more = f", and {len(cards) - 1} more" if len(cards) > 1 else ""
    return Check("driver", State.GOOD, f"{version} ({name}{more})")


_DRIVER_FIX = "Restart the machine; if that does not help, install the driver again (https://www.nvidia.com/drivers)"


def _gpu_fix() -> str:
    if sys.platform == "win32":
        return (
            "PyPI's torch for Windows draws on the CPU. With an NVIDIA card, install the build for CUDA in the "
            f"environment of mcp-vega, by the command that {BUILDS} shows for Windows, Pip and CUDA"
        )
    return f"If this machine has a GPU, update its driver, and install the build of torch for it ({BUILDS})"


def _memory(found: Mapping[str, Any], *, runs: bool) -> Check:
    """The check of the free memory. An engine that `runs` has its part already."""
    free, on_cpu = found["free_bytes"], found["kind"] == "cpu"
    # The weights as they are published have 16 bits a number.
    weights = sum(each.bytes for each in REPOSITORIES) * found["number_bytes"] // 2
    said = f"{free / GIB:.1f} GiB are free"
    if runs:
        return Check("memory", State.GOOD, f"{said}, beside what the engine uses")
    try:
        plan = plan_memory(free, weights, on_cpu=on_cpu)
    except EngineError as error:
        return Check("memory", State.BAD, error.what, error.next_step)
    if plan is MemoryPlan.OFFLOAD:
        slow = f"{said}, so each part of the model is on the device only while it works, which is slow"
        return Check("memory", State.NOTE, slow, CLOSE_OTHERS)
    return Check("memory", State.GOOD, said if plan is MemoryPlan.WHOLE else f"{said}: pictures are decoded in tiles")
