"""The gallery's page with very many pictures in a real browser: how fast it loads and searches, and how much it needs.

    python benchmarks/page.py [--pictures 10000] [--chromium PATH]

The program makes a ledger as benchmarks/growth.py does, serves it with `mcp-vega gallery --print`, and opens the
page with Chromium (headless, 1280 × 800). playwright-core controls it; npm installs that into a temporary folder. The
previews exist already, because the page and its server are measured, not the scaling of pictures.

It prints, in milliseconds, the median and the longest of five loads, and of five searches for each of some words,
from the last key to the painted result. Then it prints the page's memory while it is scrolled to the end. It exits
with 1 if the first paint, the tiles or the previews take more than 500 ms (median), if a search takes more than 100
ms, or if the memory at any place is more than 1.5 times the memory at the top.
"""

import argparse
import asyncio
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledgers import RARE, UNUSED, WORDS, drawn, fill
from PIL import Image

from mcp_vega.job import Job

PLAYWRIGHT = "playwright-core@1.65.1"
TILES_MS, SEARCH_MS, GROWTH = 500, 100, 1.5
# Also more words than a user would type, and the first characters of a seed and of a day.
SEARCHES = [RARE, UNUSED, WORDS[2], WORDS[2][:2], f"{WORDS[200]} {WORDS[400]}", "7", "2026-03", "vega"]


def make(folder: Path, pictures: int) -> None:
    """Make a ledger of this many pictures, with a preview for each: a dozen files under many names."""
    jobs: Sequence[Job] = list(drawn(pictures))
    asyncio.run(fill(folder, jobs))
    previews = folder / "home" / "previews"
    for number in range(12):
        file = folder / f"{number}.jpg"
        noise = Image.effect_noise((384, 384), 40 + 10 * number)
        buffer = io.BytesIO()
        noise.convert("RGB").save(buffer, "JPEG", quality=80)
        file.write_bytes(buffer.getvalue())
    for number, job in enumerate(jobs):
        (image,) = job.images
        (previews / image.id[:2]).mkdir(parents=True, exist_ok=True)
        os.link(folder / f"{number % 12}.jpg", previews / image.id[:2] / f"{image.id}.jpg")


def look(folder: Path, chromium: str, pictures: int) -> dict[str, Any]:
    """Serve the page; returns the measurements of the browser."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        raise SystemExit("Node.js is needed: npm and node")
    script = shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
    subprocess.run([npm, "install", "--silent", "--prefix", folder, PLAYWRIGHT], check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "MCP_VEGA_HOME": f"{folder}/home",
        "MCP_VEGA_GALLERY": f"{folder}/pictures",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "mcp_vega", "gallery", "--print"], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            address = server.stdout.readline().strip()
            command = [node, script, address, chromium, str(pictures), *SEARCHES]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=True)
        finally:
            server.terminate()
    return json.loads(done.stdout)


def report(seen: dict[str, Any]) -> bool:
    """Print the figures; returns whether the limits are kept."""
    kept = True

    def line(name: str, values: Sequence[float], most: float, note: str = "") -> None:
        nonlocal kept
        middle = statistics.median(values)
        kept = kept and middle <= most
        print(f"{name:44} {middle:8.0f} {max(values):8.0f}  {note}{'' if middle <= most else '  TOO SLOW'}")

    print(f"{'milliseconds':44} {'median':>8} {'longest':>8}")
    for name, key in (
        ("something is painted", "first"),
        ("tiles are painted", "tiles"),
        ("previews on the screen", "previews"),
    ):
        line(name, [each[key] for each in seen["loads"]], TILES_MS)
    for each in seen["found"]:
        line(f"search: {each['words']}", each["milliseconds"], SEARCH_MS, each["count"])
    line("back to all", [back for each in seen["found"] for back in each["back"]], SEARCH_MS)
    print(f"\n{'scrolled to':44} {'heap, MB':>8} {'nodes':>8}")
    held = seen["held"]
    for each in held:
        print(f"{each['share']:<44.0%} {each['heap']:8.1f} {each['nodes']:8}")
    grown = max(max(each[key] for each in held) / held[0][key] for key in ("heap", "nodes"))
    print(f"at most {grown:.2f} times what it holds at the top{'' if grown <= GROWTH else '  TOO MUCH'}")
    return kept and grown <= GROWTH


def main() -> int:
    """Make, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    options = parser.parse_args()
    if not options.chromium:
        raise SystemExit("There is no Chromium on the PATH: name it with --chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.pictures)
        return int(not report(look(folder, options.chromium, options.pictures)))


if __name__ == "__main__":
    sys.exit(main())
