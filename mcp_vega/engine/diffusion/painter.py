"""The painter of an engine that draws with the open weights."""

import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mcp_vega.engine.diffusion.failures import explain, first_line, is_out_of_memory, out_of_memory
from mcp_vega.engine.diffusion.memory import MemoryPlan, plan_memory
from mcp_vega.engine.diffusion.packages import PACKAGES
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.jpeg import jpeg_of
from mcp_vega.engine.painter import Cancelled, OnStep
from mcp_vega.engine.weights.catalog import COMPONENTS, FP16, LORA, weights_file
from mcp_vega.engine.weights.located import Weights
from mcp_vega.parameters import Parameters

if TYPE_CHECKING:
    from mcp_vega.engine.diffusion.device import Device
    from mcp_vega.engine.diffusion.pipeline import VegaPipeline

logger = logging.getLogger(__name__)
T = TypeVar("T")

# The libraries read these when they are imported. They then keep remarks and progress bars out of the engine's log, and
# never ask the hub for anything.
_ENVIRONMENT = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
# An installation by force would also want mcp-vega itself from an index, and may take versions that do not fit.
_REINSTALL = (
    f"Install the packages again: `pip uninstall -y {' '.join(PACKAGES)}`, then "
    "`pip install 'mcp-vega[local]'`, both in the environment of mcp-vega"
)


class DiffusionPainter:
    """A `BlockingPainter` over the open weights of both models. It imports torch in `load`, which takes seconds."""

    def __init__(self, weights: Weights, device: str = "auto") -> None:
        """Prepare to draw.

        Args:
            weights: Those that `find_weights` found.
            device: `auto`, `cuda`, `mps` or `cpu`.
        """
        self._weights = weights
        self._wanted = device
        self._device: Device | None = None
        self._pipeline: VegaPipeline | None = None

    @property
    def name(self) -> str:
        """The name of the device; empty before `load` has found it."""
        return self._device.name if self._device else ""

    @property
    def plan(self) -> MemoryPlan | None:
        """What it does to need less memory; None before `load`."""
        return self._pipeline.plan if self._pipeline else None

    def load(self) -> None:
        """Bring the model to the device. After a failure it may be called again.

        Raises:
            EngineError: A package, the device or the weights do not work, or there is too little memory.
        """
        if self._pipeline:
            return
        os.environ.update(_ENVIRONMENT)
        with warnings.catch_warnings(action="ignore"):
            pipeline = self._loaded()
        self._in_memory(pipeline, pipeline.prepare)
        self._pipeline = pipeline
        logger.info("Drawing on %s, memory plan %s", self.name, pipeline.plan.name)

    def _loaded(self) -> "VegaPipeline":
        """The model, not yet on the device."""
        try:
            from mcp_vega.engine.diffusion.device import find_device
            from mcp_vega.engine.diffusion.pipeline import VegaPipeline
        except Exception as error:  # diffusers turns an ImportError into a RuntimeError
            what = f"A package that the engine needs does not work ({first_line(error)})"
            raise EngineError(what, _REINSTALL) from error
        try:
            self._device = device = find_device(self._wanted)
            plan = plan_memory(device.free_bytes(), self._weights_bytes(device), on_cpu=device.kind == "cpu")
            return VegaPipeline(self._weights, device, plan)
        except Exception as error:
            raise explain(error, self.name) or self._unusable(error) from error

    def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """The pictures of a call as JPEG, which is what the API sends. They are drawn one after the other.

        Raises:
            EngineError: A picture could not be drawn.
            Cancelled: `on_step` has raised it.
        """
        pipeline = self._pipeline
        if not pipeline:
            raise EngineError("The weights are not loaded", "Call again")
        count = parameters.pictures

        def picture(index: int) -> bytes:
            image = pipeline.draw(parameters, seed + index, lambda share: on_step((index + share) / count))
            return jpeg_of(image)

        return [self._in_memory(pipeline, partial(picture, index)) for index in range(count)]

    def close(self) -> None:
        """Free the memory of the device."""
        self._pipeline = None
        if self._device:
            self._device.free_unused()

    def _in_memory(self, pipeline: "VegaPipeline", work: Callable[[], T]) -> T:
        """What `work` returns. While the memory is too small for it, it is done again by the next memory plan.

        Raises:
            EngineError: It failed for another reason, or there is no such plan.
        """
        while True:
            try:
                # The libraries' warnings are for programmers.
                with warnings.catch_warnings(action="ignore"):
                    return work()
            except Cancelled:
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise explain(error, self.name) or _failed(error) from error
            # Not before: as long as the error is handled, it keeps what the drawing has in memory.
            if not pipeline.save_memory():
                raise out_of_memory(self.name)
            logger.warning("Too little free memory on %s: going on with memory plan %s", self.name, pipeline.plan.name)

    def _weights_bytes(self, device: "Device") -> int:
        """What the weights take on a device. Files without a variant count as if their numbers had 32 bits."""
        weights = self._weights
        files = [*(weights.vega / weights_file(each, weights.variant) for each in COMPONENTS), weights.vega_rt / LORA]
        number_bytes = 2 if weights.variant == FP16 else 4
        return sum(file.stat().st_size for file in files) * device.number_bytes // number_bytes

    def _unusable(self, error: Exception) -> EngineError:
        return EngineError(
            f"The weights in {self._weights.vega} and {self._weights.vega_rt} cannot be loaded ({first_line(error)})",
            "If they are in your Hugging Face cache, run `mcp-vega weights`, which fetches what is damaged; otherwise "
            f"copy them again. Then call again. If it fails again: {_REINSTALL}",
        )


def _failed(error: Exception) -> EngineError:
    what = f"The picture could not be drawn ({first_line(error)})"
    return EngineError(what, "Call again; if it fails again, start the engine again")
