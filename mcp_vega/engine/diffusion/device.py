# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# Pyright also runs where the extra `local` is not installed.
"""Which device draws, and how much memory it has free."""

import gc
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from mcp_vega.engine.diffusion.failures import INSTALL_BUILD, ON_CPU
from mcp_vega.engine.errors import EngineError

logger = logging.getLogger(__name__)

Kind = Literal["cuda", "mps", "cpu"]


@dataclass(frozen=True)
class Device:
    """A device that works.

    Attributes:
        kind: As torch names it. `cuda` is also an AMD card, with torch's build for ROCm.
        name: For people.
    """

    kind: Kind
    name: str

    @property
    def dtype(self) -> torch.dtype:
        """The numbers to compute with. A CPU is slow with 16 bits."""
        return torch.float32 if self.kind == "cpu" else torch.float16

    @property
    def number_bytes(self) -> int:
        """What one of these numbers takes."""
        return self.dtype.itemsize

    def free_bytes(self) -> int:
        """The memory that is free now."""
        if self.kind == "cuda":
            return torch.cuda.mem_get_info()[0]
        if self.kind == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return psutil.virtual_memory().available + psutil.swap_memory().free

    def free_unused(self) -> None:
        """Give back the memory that torch keeps for later."""
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.kind == "mps":
            torch.mps.empty_cache()


def find_device(wanted: str) -> Device:
    """The device of a kind, or with `auto` the fastest one that works. Of several cards, the first.

    Raises:
        EngineError: There is none of this kind, or it does not work.
    """
    # torch says only in a warning why a card does not work.
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    reason = "".join(f" ({str(each.message).splitlines()[0]})" for each in said[:1])
    if wanted in ("cuda", "auto") and has_cuda:
        return Device("cuda", torch.cuda.get_device_name())
    if wanted == "cuda":
        raise _no_cuda(reason)
    if wanted in ("mps", "auto") and torch.backends.mps.is_available():
        return Device("mps", "Apple GPU")
    if wanted == "mps":
        raise EngineError("This machine has no GPU that torch can use by MPS", "Start the engine with --device auto")
    if wanted == "auto" and _has_nvidia_driver():
        logger.warning("Drawing on the CPU, which is slow: %s", _no_cuda(reason))
    return Device("cpu", "CPU")


def _no_cuda(reason: str) -> EngineError:
    otherwise = f", or {ON_CPU}"
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return EngineError(f"The installed build of torch ({torch.__version__}) uses no GPU", INSTALL_BUILD + otherwise)
    if reason or _has_nvidia_driver():
        return EngineError(f"torch {torch.__version__} cannot use the GPU{reason}", f"Update the driver{otherwise}")
    return EngineError("There is no GPU, or its driver is not installed", f"Install the driver{otherwise}")


def _has_nvidia_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()
