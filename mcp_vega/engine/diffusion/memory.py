"""How the engine fits into the memory of a device."""

from enum import IntEnum

from mcp_vega.engine.errors import EngineError

GIB = 2**30
# What a drawing takes beside the weights, if its picture is decoded whole, and if it is decoded in tiles. These are
# estimates: 3.8 GiB for a whole one in numbers of 32 bits, a quarter of that for a tile, and some reserve.
WHOLE_BYTES = int(4.5 * GIB)
TILES_BYTES = int(1.5 * GIB)


class MemoryPlan(IntEnum):
    """What the engine does to need less memory. Each plan also does what the ones before it do."""

    WHOLE = 0
    """Nothing: the weights stay on the device, and a picture is decoded in one piece."""
    TILES = 1
    """A picture is decoded in tiles of 512 x 512, which overlap. It differs a little from one that is decoded whole."""
    OFFLOAD = 2
    """Each part of the model is on the device only while it works. This is slower."""


def plan_memory(free: int, weights: int, *, on_cpu: bool = False) -> MemoryPlan:
    """The fastest plan that fits. If the estimate is wrong, a drawing fails for want of memory and needs the next plan.

    Args:
        free: The free memory of the device in bytes.
        weights: What the weights take there, in bytes.
        on_cpu: Whether this is the machine's own memory.

    Raises:
        EngineError: The machine's own memory is too small. Without this check, the system might end any process.
    """
    if free >= weights + WHOLE_BYTES:
        return MemoryPlan.WHOLE
    if free >= weights + TILES_BYTES:
        return MemoryPlan.TILES
    if on_cpu:
        what = (
            f"Drawing on the CPU needs {(weights + TILES_BYTES) / GIB:.1f} GiB of memory, and {free / GIB:.1f} are free"
        )
        raise EngineError(what, "Close other programs, or draw on a machine with a GPU")
    return MemoryPlan.OFFLOAD
