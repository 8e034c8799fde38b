"""Prints, as a line of JSON, what torch would draw on. Torch takes seconds to load, so this is a process of its own."""

import json
import sys
from importlib.metadata import version
from typing import Any

from mcp_vega.engine.errors import EngineError


def probed() -> dict[str, Any]:
    """What was found.

    Returns:
        `torch`, its version; `device`, `kind` (`cuda`, `mps` or `cpu`), `free_bytes`, and `number_bytes`, the size of a
        number there. `no_gpu` says why it is the CPU. Or only `problem`: why nothing was found.
    """
    try:
        from mcp_vega.engine.diffusion.device import find_device

        device = find_device("auto")
        found: dict[str, Any] = {
            "torch": version("torch"),
            "device": device.name,
            "kind": device.kind,
            "free_bytes": device.free_bytes(),
            "number_bytes": device.dtype.itemsize,
        }
        return {**found, "no_gpu": _reason(lambda: find_device("cuda"))} if device.kind == "cpu" else found
    except Exception as error:  # noqa: BLE001  a broken installation or driver fails in many ways
        return {"problem": " ".join(f"{type(error).__name__}: {error}".split())}


def _reason(find: Any) -> str:
    try:
        find()
    except EngineError as error:
        return error.what
    return ""


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(probed())}\n")
