"""An engine in a process of its own, registered as `mcp-vega engine` is. Its drawings need no time and no weights.

It takes orders by files in the home folder: while `hold` is there, its drawings do not end. `starts` has a line for each
start, and `drawn` one for each drawing.
"""

import hashlib
import io
import os
import random
import signal
from pathlib import Path

import anyio
from PIL import Image

from mcp_vega.cli.engine.registration import RunningEngine, registered
from mcp_vega.engine.app import build_engine
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.painter import OnStep
from mcp_vega.parameters import Parameters
from mcp_vega.sandbox.serving import serving

KEY = "SG_of_the_stub"
HOLD, STARTS, DRAWN, VARIABLES = "hold", "starts", "drawn", "variables"


class Painter:
    """Draws a picture that follows from prompt and seed."""

    at_once, name = 1, "Stub 9000"

    def __init__(self, home: Path) -> None:
        self._home = home

    async def load(self) -> None:
        pass

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        with (self._home / DRAWN).open("a") as file:
            file.write(f"{parameters.prompt}\n")
        on_step(0.5)
        while (self._home / HOLD).exists():  # noqa: ASYNC110  a file has no event
            await anyio.sleep(0.01)
            on_step(0.5)
        return [_picture(parameters.prompt, seed + number) for number in range(parameters.pictures)]

    async def close(self) -> None:
        pass


def _picture(prompt: str, seed: int) -> bytes:
    data = random.Random(hashlib.sha256(f"{seed}:{prompt}".encode()).digest()).randbytes(64 * 64 * 3)  # noqa: S311
    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), data).save(buffer, "JPEG")
    return buffer.getvalue()


async def serve(home: Path) -> None:
    """Serve until SIGTERM."""
    app = build_engine(Drawings(Painter(home)), KEY)
    with registered(home) as publish:
        async with app.router.lifespan_context(app), serving(app) as url:
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                publish(RunningEngine(url, KEY, os.getpid(), "0"))
                with (home / STARTS).open("a") as file:
                    file.write(f"{os.getpid()}\n")
                async for _ in signals:
                    return


if __name__ == "__main__":
    folder = Path(os.environ["MCP_VEGA_HOME"])
    (folder / VARIABLES).write_text("\n".join(sorted(os.environ)))
    anyio.run(serve, folder)
