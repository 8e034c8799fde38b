"""What an engine of this machine needs before it is worth a start. The checks load none of it."""

from importlib.util import find_spec
from pathlib import Path

from mcp_vega.cli.output import install_step
from mcp_vega.engine.painter import EngineError
from mcp_vega.engine.weights.located import Weights, find_weights

# The packages of the extra `local`, as they are imported.
PACKAGES = ("accelerate", "diffusers", "peft", "psutil", "scipy", "torch", "transformers")


def require_weights(folder: Path | None) -> Weights:
    """The weights to draw with; `folder` is that of `find_weights`.

    Raises:
        EngineError: A package or weights are missing.
    """
    missing = [each for each in PACKAGES if find_spec(each) is None]
    if missing:
        what = f"Drawing on this machine needs the extra `local` of this package; missing: {', '.join(missing)}"
        raise EngineError(what, install_step("local"))
    return find_weights(folder)
