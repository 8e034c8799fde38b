"""What grows with the ledger: compare 100 pictures with very many. Starts, calls, pages, searches, bytes on the disk.

    python benchmarks/growth.py [--pictures 100000] [--runs 15]

The program makes a ledger of 100 pictures and one of `--pictures`, each spread over 500 days. The prompts have 8 to
41 words (144 characters), with frequencies as in a real language. Then it asks both ledgers as an agent does, through a
client in memory, and as the page in a browser does. It alternates between them, so that a change in the machine's speed
affects both. For each question, it prints the median time with both ledgers in milliseconds, and their ratio: the
median of the pairs' ratios, with the lowest and the highest. CPU is the median of the processor's milliseconds with the
large ledger: on a busy machine, a search takes longer, but needs the same. Questions with a ratio as their target are
asked three times as often. The first lines are the bytes that each table and each index needs for a picture, the last
lines the targets.

A start opens the ledger, continues jobs that other servers left behind (there are none), and answers the first call.
Pictures are drawn without previews, by an API that answers immediately. While one client searches without a pause,
another client's calls are timed, with and without the searches.
"""

import argparse
import math
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx
from growth_questions import MOST_MILLISECONDS, Ask, Ledger, Question, check_job, questions, read, server_in
from ledgers import UNUSED, drawn, fill
from mcp.client import Client
from pydantic import SecretStr

from mcp_vega.job import OPERATOR
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.app import build_page
from mcp_vega.storage.ledger.search import PAGE

FEW = 100
# The target for the bytes a picture.
MOST_BYTES = 1600
ADMIN = Caller(OPERATOR, SecretStr("the-token-of-the-page"))
HEADERS = {"authorization": f"Bearer {ADMIN.token.get_secret_value()}", "x-mcp-vega": "1"}


class Timed(NamedTuple):
    """The milliseconds of one answer, those of the processor, and how many things the answer had."""

    milliseconds: float
    cpu: float
    things: int


async def timed(ask: Ask, ledger: Ledger) -> Timed:
    """Ask once."""
    started, cpu = time.perf_counter(), time.process_time()
    count = await ask(ledger)
    return Timed((time.perf_counter() - started) * 1000, (time.process_time() - cpu) * 1000, count)


class Measured(NamedTuple):
    """The median ratio of the times; the median time with the large ledger, and the processor's."""

    ratio: float
    milliseconds: float
    cpu: float


async def measure(question: Question, ledgers: Sequence[Ledger], runs: int) -> Measured:
    """Ask both ledgers alternately and print a line."""
    found = [(await timed(question.ask, each)).things for each in ledgers]  # not counted: it reads from the disk
    if question.finds is not None and set(found) != {question.finds}:
        raise SystemExit(f"{question.name}: found {found}, and not {question.finds}")
    pairs = [[await timed(question.ask, each) for each in ledgers] for _ in range(runs)]
    few, many = (statistics.median(each.milliseconds for each in side) for side in zip(*pairs, strict=True))
    cpu = statistics.median(large.cpu for _, large in pairs)
    ratios = [large.milliseconds / small.milliseconds for small, large in pairs]
    ratio = statistics.median(ratios)
    print(
        f"{question.name:34} {few:7.2f} {many:7.2f} {cpu:7.2f} {ratio:7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
        f" {found[0]:5} {found[1]:5}",
        flush=True,
    )
    return Measured(ratio, many, cpu)


async def beside_searches(ledger: Ledger, runs: int) -> None:
    """Time calls while there are no searches, and while another client searches without a pause."""
    times: dict[bool, list[float]] = {False: [], True: []}

    async def search_on() -> None:
        while True:
            await read(ledger, f"?q={UNUSED}")

    for searching in [False, True] * runs:
        async with anyio.create_task_group() as tasks:
            if searching:
                tasks.start_soon(search_on)
                await anyio.sleep(0.01)
            times[searching].append((await timed(check_job, ledger)).milliseconds)
            tasks.cancel_scope.cancel()
    alone, beside = (statistics.median(times[each]) for each in (False, True))
    print(f"check_job: {alone:.2f} ms, while another client searches: {beside:.2f} ms")


def size(folder: Path, pictures: int) -> float:
    """Print how many bytes each table and index needs for a picture; returns the sum: the file's size."""
    file = folder / "home" / "ledger.sqlite3"
    with closing(sqlite3.connect(file)) as database:
        sizes = database.execute("SELECT name, sum(pgsize) AS bytes FROM dbstat GROUP BY name ORDER BY bytes DESC")
        for name, number in sizes:
            if number >= pictures:
                print(f"{name:34} {number / pictures:7.0f}")
    return file.stat().st_size / pictures


def target(name: str, most: float, reached: float) -> None:
    """Print whether a target is reached."""
    print(f"target: {name} <= {most:g}: {'reached' if reached <= most else 'missed'} {reached:.2f}")


async def run(pictures: int, runs: int) -> None:
    """Make the ledgers, ask all questions, print."""
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        ledgers: list[Ledger] = []
        for count in (FEW, pictures):
            folder, jobs = Path(name, str(count)), list(drawn(count))
            await fill(folder, jobs)
            app: AppContext = await stack.enter_async_context(server_in(folder))
            for job in jobs[: PAGE // 2]:
                await app.gallery.star(job.images[0].id, starred=True)
            # No answer may come from the client's own cache.
            agent = await stack.enter_async_context(Client(build_server(app), cache=None))
            transport = httpx.ASGITransport(build_page(app, [ADMIN]))
            browser = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS)
            ledgers.append(Ledger(folder, jobs, agent, await stack.enter_async_context(browser)))
        print("bytes a picture")
        bytes_each = size(ledgers[-1].folder, pictures)
        print(f"\n{'':34} {'milliseconds':>15} {'':24} {'things found':>13}")
        print(f"{'pictures':34} {FEW:7,} {pictures:7,} {'CPU':>7} {'ratio':>7} {'':16} {FEW:5,} {pictures:7,}")
        measured = [
            (each, await measure(each, ledgers, runs * 3 if each.most_times < math.inf else runs))
            for each in questions()
        ]
        await beside_searches(ledgers[-1], runs)
    for question, found in measured:
        if question.most_times < math.inf:
            target(f"{question.name}: ratio", question.most_times, found.ratio)
    searches = [found for question, found in measured if question.most_milliseconds < math.inf]
    target("the slowest search: milliseconds", MOST_MILLISECONDS, max(each.milliseconds for each in searches))
    target("the slowest search: CPU milliseconds", MOST_MILLISECONDS, max(each.cpu for each in searches))
    target("bytes a picture", MOST_BYTES, bytes_each)


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    anyio.run(run, options.pictures, options.runs)


if __name__ == "__main__":
    main()
