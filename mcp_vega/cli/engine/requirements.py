"""What an engine of this machine needs: its settings, and what must be there before it is worth a start."""

from importlib.util import find_spec
from pathlib import Path

from mcp_vega.cli.output import install_step
from mcp_vega.engine.diffusion.packages import PACKAGES
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.located import Weights, find_weights

# The settings that an engine has.
SETTINGS = {
    "MCP_VEGA_HOME",
    "MCP_VEGA_WEIGHTS",
    "MCP_VEGA_ENGINE_KEY",
    "MCP_VEGA_LOG_LEVEL",
    "MCP_VEGA_LOG_FORMAT",
}


def require_weights(folder: Path | None) -> Weights:
    """The weights to draw with; `folder` is that of `find_weights`. Nothing is loaded.

    Raises:
        EngineError: A package or weights are missing.
    """
    missing = [each for each in PACKAGES if find_spec(each) is None]
    if missing:
        what = f"Drawing on this machine needs the extra `local` of this package; missing: {', '.join(missing)}"
        raise EngineError(what, install_step("local"))
    return find_weights(folder)
