"""A stand-in for the Segmind API in a process of its own: the sandbox, with pictures that take little time to paint.

It counts the paid calls by prompt, keeps its pictures, and has a request history whose status can be changed.
"""

import argparse
import asyncio
import hashlib
import io
import json
import random
import sys
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))
from processes import Served, stand_in

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox

# Pixels. The rest of a picture is one colour.
SIDE, NOISE = 1024, 96


def one_picture(_prompt: str, _seed: int, index: int) -> bytes:
    """The same picture for all calls. It takes no time."""
    return cached(index)


def paint(prompt: str, seed: int, index: int) -> bytes:
    """A picture (JPEG) that only these arguments give."""
    rng = random.Random(hashlib.sha256(f"{index}:{seed}:{prompt}".encode()).digest())  # noqa: S311  no secret
    red, green, blue = rng.randbytes(3)
    picture = Image.new("RGB", (SIDE, SIDE), (red, green, blue))
    picture.paste(Image.frombytes("RGB", (NOISE, NOISE), rng.randbytes(NOISE * NOISE * 3)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


@cache
def cached(index: int) -> bytes:
    """A picture that is painted once."""
    return paint("a fox", 7, index)


@contextmanager
def running(speed: float) -> Generator["Vendor"]:
    """Run the stand-in while the block runs. The documented times are multiplied by `speed`.

    With a speed of 0, all calls get the same picture, so that painting costs nothing.
    """
    with stand_in(__file__, "--speed", str(speed)) as served:
        yield Vendor(served)


class Vendor:
    """The stand-in, and what it says about its calls."""

    def __init__(self, served: Served) -> None:
        self.url = served.url
        self.pid = served.pid

    def calls(self) -> list[dict[str, Any]]:
        """The paid calls that it accepted."""
        return httpx.get(f"{self.url}/_sandbox", trust_env=False, timeout=60).json()["calls"]

    def change(self, **settings: Any) -> None:
        """Change settings of the sandbox, for instance `history_status`."""
        httpx.post(f"{self.url}/_sandbox", json=settings, trust_env=False, timeout=60).raise_for_status()


async def serve(speed: float) -> None:
    """Serve until stdin ends."""
    account = Account(speed=speed, credits=Decimal(10_000))
    async with serving(build_sandbox(account, paint=paint if speed else one_picture)) as url:
        print(json.dumps(url), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=1, help="the documented times are multiplied by this")
    asyncio.run(serve(parser.parse_args().speed))


if __name__ == "__main__":
    main()
