"""What an engine needs to draw with the open weights. The checks are cheap: a server can make them before a start."""

from importlib.util import find_spec
from pathlib import Path

from mcp_vega.engine.painter import EngineError
from mcp_vega.engine.weights.located import Weights, find_weights
from mcp_vega.errors import InvalidSettings

# The packages of the extra `local` that are imported. An import of torch would take seconds.
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "scipy")
INSTALL_LOCAL = (
    "Run `pip install 'mcp-vega[local]'` in the environment of mcp-vega (with pipx: `pipx install --force "
    "'mcp-vega[local]'`; with uv: `uvx --from 'mcp-vega[local]' mcp-vega`). Or draw through a server that you already "
    "run: mcp-vega engine --backend URL"
)


def require_packages() -> None:
    """Check that the extra `local` is installed.

    Raises:
        InvalidSettings: Packages are missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidSettings(
            f"To draw on this machine, the extra `local` of this package is needed. Not installed: {', '.join(missing)}",
            next_step=INSTALL_LOCAL,
        )


def require_weights(folder: Path | None) -> Weights:
    """The weights in a folder, or in the user's Hugging Face cache.

    Raises:
        InvalidSettings: They are missing, incomplete, or those of another model.
    """
    try:
        return find_weights(folder)
    except EngineError as error:
        raise InvalidSettings(error.what, next_step=error.next_step) from error
