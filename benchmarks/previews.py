"""How large the pictures inside a result are, and what they cost a model: every preview mode with 1 to 4 samples.

    python benchmarks/previews.py

The program calls the tool through a client in memory. Every picture of its API has 1024 x 1024 pixels and is noise (a
JPEG of quality 95, the hardest case for any codec) or a picture that the sandbox paints. Files and previews are
counted in bytes, the base64 of the previews and the complete result in characters of its JSON. It exits with 1 if the
previews of a result exceed the limit of their mode, or if there are not as many as pictures (none in the mode `off`).

At the end, it prints the processor time that the preview of one picture takes in each mode.

The tokens are computed from the sizes of the previews, not measured. The rules are from the vendors' documentation of
image tokens, as of 2026. Other models of these vendors have other rules:

    Claude          one token for each 28 x 28 pixels begun
    GPT-4o          85, and 170 for each 512-pixel tile begun, after the picture was made to fit 2048 x 2048 and its
                    shortest side to fit 768
    Gemini 2        258 for a picture of at most 384 x 384, else 258 for each 768-pixel tile begun
"""

import argparse
import io
import json
import math
import random
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
from in_process import API, app_in
from mcp.client import Client
from PIL import Image

from mcp_vega.imaging.preview import Mode, previews
from mcp_vega.sandbox.painter import paint
from mcp_vega.server.app import build_server

SIDE = 1024
PROMPT, SEED = "a lighthouse at dusk", 7
SAMPLES = 4
# How many previews are made to measure their processor time.
PREVIEWS = 20
# The documented limits of base64 characters in a result. They are not taken from the code, which is checked here.
LIMITS: dict[Mode, int] = {"auto": 137_000, "small": 60_000, "full": 933_332, "off": 0}

Size = tuple[int, int]


def claude(size: Size) -> int:
    """The tokens of a picture for Claude."""
    return math.prod(math.ceil(pixels / 28) for pixels in size)


def gpt_4o(size: Size) -> int:
    """The tokens of a picture for GPT-4o, at high detail."""
    share = min(1, 2048 / max(size))
    share *= min(1, 768 / (min(size) * share))
    return 85 + 170 * math.prod(math.ceil(round(pixels * share) / 512) for pixels in size)


def gemini(size: Size) -> int:
    """The tokens of a picture for Gemini 2."""
    return 258 if max(size) <= 384 else 258 * math.prod(math.ceil(pixels / 768) for pixels in size)


RULES: dict[str, Callable[[Size], int]] = {"Claude": claude, "GPT-4o": gpt_4o, "Gemini 2": gemini}


@dataclass(frozen=True)
class Shown:
    """The sizes of one result: the bytes of its files, its previews as base64, and all its characters."""

    files: list[int]
    previews: list[str]
    characters: int

    @property
    def base64(self) -> int:
        """The characters of all previews together."""
        return sum(map(len, self.previews))

    @property
    def raw(self) -> int:
        """The bytes of all previews together."""
        return sum(len(b64decode(preview)) for preview in self.previews)

    @property
    def sizes(self) -> list[Size]:
        """Width and height of each preview in pixels."""
        return [Image.open(io.BytesIO(b64decode(preview))).size for preview in self.previews]


def noise(number: int) -> bytes:
    """A picture that no codec can compress well."""
    picture = Image.frombytes("RGB", (SIDE, SIDE), random.Random(number).randbytes(SIDE * SIDE * 3))  # noqa: S311
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def api_that_draws(pictures: list[bytes]) -> httpx.MockTransport:
    """A Segmind that answers immediately with these pictures, or with the first of them if fewer are requested."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/v1/"):
            return httpx.Response(200, content=pictures[0], headers={"content-type": "image/jpeg"})
        if path.endswith(".jpeg"):
            return httpx.Response(200, content=pictures[int(path[1])], headers={"content-type": "image/jpeg"})
        if request.method == "POST":
            return httpx.Response(200, json={"request_id": f"samples-{json.loads(request.content)['samples']}"})
        if path.endswith("/status"):
            return httpx.Response(200, json={"status": "COMPLETED"})
        urls = [{"url": f"{API}/{number}.jpeg"} for number in range(int(path[-1]))]
        return httpx.Response(200, json={"status": "COMPLETED", "images": urls})

    return httpx.MockTransport(answer)


async def shown(pictures: list[bytes], mode: Mode, samples: int) -> Shown:
    """Make a call, and measure the result as it would be sent."""
    arguments = {"prompt": PROMPT, "seed": SEED, "samples": samples}
    with tempfile.TemporaryDirectory() as name:
        async with (
            app_in(Path(name), api_that_draws(pictures), preview=mode) as app,
            Client(build_server(app)) as agent,
        ):
            result = await agent.call_tool("generate_image_vega", arguments)
        return read(result.model_dump_json(by_alias=True, exclude_none=True), samples)


def read(text: str, samples: int) -> Shown:
    """The sizes of the result in this JSON. Its files must still exist."""
    result: dict[str, Any] = json.loads(text)
    if result.get("isError"):
        raise SystemExit(f"no pictures: {result['content'][0]['text']}")
    images = result["_meta"]["mcp-vega/job"]["images"]
    assert len(images) == samples
    files = [Path(image["path"]).stat().st_size for image in images]
    return Shown(files, [part["data"] for part in result["content"] if part["type"] == "image"], len(text))


def print_row(mode: Mode, samples: int, seen: Shown) -> None:
    """One line of the table: the different sizes with their costs, then the cost of all of them."""
    sizes = list(dict.fromkeys(seen.sizes))
    tokens = ""
    for rule in RULES.values():
        each = "/".join(dict.fromkeys(str(rule(size)) for size in sizes)) or "0"
        tokens += f" {each:>6} {sum(map(rule, seen.sizes)):>6}"
    described = "/".join(f"{width}x{height}" for width, height in sizes) or "none"
    print(
        f"{mode:6} {samples:>7} {sum(seen.files):>10,} {described:>15} {seen.raw:>8,} {seen.base64:>8,} "
        f"{LIMITS[mode]:>8,} {seen.characters:>9,}{tokens}"
    )


def print_processor_times(pictures: Mapping[str, bytes]) -> None:
    """Print the milliseconds of processor time for one preview."""
    print("Processor time of one preview, ms" + "".join(f"{mode:>9}" for mode in LIMITS))
    for kind, data in pictures.items():
        times: list[float] = []
        for mode in LIMITS:
            previews([data], mode)  # the first one imports the decoders
            began = time.process_time()
            for _ in range(PREVIEWS):
                previews([data], mode)
            times.append((time.process_time() - began) / PREVIEWS * 1000)
        print(f"{kind:33}" + "".join(f"{each:9.1f}" for each in times))
    print()


async def measured() -> bool:
    """Print the tables; returns whether the limits are kept."""
    kinds = {
        "Noise, JPEG of quality 95": [noise(number) for number in range(SAMPLES)],
        "Painted by the sandbox": [paint(PROMPT, SEED, number) for number in range(SAMPLES)],
    }
    kept = True
    for kind, pictures in kinds.items():
        print(f"{kind}; tokens of one preview, and of all in the result")
        print(
            f"{'mode':6} {'samples':>7} {'file bytes':>10} {'pixels':>15} {'bytes':>8} {'base64':>8} {'limit':>8} "
            f"{'result':>9}" + "".join(f" {name:>13}" for name in RULES)
        )
        for mode, limit in LIMITS.items():
            for samples in range(1, SAMPLES + 1):
                seen = await shown(pictures, mode, samples)
                print_row(mode, samples, seen)
                kept &= seen.base64 <= limit and len(seen.previews) == (0 if mode == "off" else samples)
        print()
    print_processor_times({kind: pictures[0] for kind, pictures in kinds.items()})
    print("Every limit holds." if kept else "A LIMIT IS PASSED, OR A PREVIEW IS MISSING.")
    return kept


def main() -> int:
    """Draw, measure and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    return 0 if anyio.run(measured) else 1


if __name__ == "__main__":
    sys.exit(main())
