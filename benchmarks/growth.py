"""What starts, calls, pages and searches cost with a large ledger, compared with a ledger of 100 pictures.

    python benchmarks/growth.py [--pictures 100000] [--rounds 15]

The program makes a ledger of 100 pictures and one of `--pictures`, each spread over 500 days. The prompts have 8 to
41 words (144 characters), with frequencies as in a real language. Then it asks both ledgers as an agent does, through a
client in memory, and as the page in a browser does. In each round, it asks first the small and then the large ledger.
Questions with a ratio as their target have three times as many rounds.

For each question, it prints the median times in milliseconds, and the ratio of the large ledger to the small one: the
median of the rounds' ratios, with the lowest and the highest. CPU is the median of the processor's milliseconds with
the large ledger. On a busy machine a search takes longer, but needs the same CPU. The first lines are the bytes that
each table and each index needs for a picture, the last lines the targets.

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
from figures import milliseconds_since, print_target, spread
from growth_questions import MOST_MILLISECONDS, Ask, Ledger, Question, check_job, questions, read, server_in
from ledgers import UNUSED, drawn, fill
from mcp.client import Client

from mcp_vega.job import OPERATOR
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.tokens import TokenCallers, caller_with
from mcp_vega.server.http.app import build_page
from mcp_vega.storage.ledger.search import PAGE

FEW = 100
# The target for the bytes a picture.
MOST_BYTES = 1600
TOKEN = "the-token-of-the-page"  # noqa: S105  of this benchmark only
HEADERS = {"authorization": f"Bearer {TOKEN}", "x-mcp-vega": "1"}


class Timed(NamedTuple):
    """The milliseconds of one answer, those of the processor, and how many things the answer had."""

    milliseconds: float
    cpu: float
    things: int


async def timed(ask: Ask, ledger: Ledger) -> Timed:
    """Ask once."""
    began, cpu = time.perf_counter(), time.process_time()
    count = await ask(ledger)
    return Timed(milliseconds_since(began), (time.process_time() - cpu) * 1000, count)


class Measured(NamedTuple):
    """The ratios of the times; the median time with the large ledger, and the processor's."""

    ratios: list[float]
    milliseconds: float
    cpu: float


async def measure(question: Question, ledgers: Sequence[Ledger], rounds: int) -> Measured:
    """Ask both ledgers alternately and print a line."""
    found = [(await timed(question.ask, each)).things for each in ledgers]  # not counted: it reads from the disk
    if question.finds is not None and set(found) != {question.finds}:
        raise SystemExit(f"{question.name}: found {found}, and not {question.finds}")
    pairs = [[await timed(question.ask, each) for each in ledgers] for _ in range(rounds)]
    few, many = (statistics.median(each.milliseconds for each in side) for side in zip(*pairs, strict=True))
    cpu = statistics.median(large.cpu for _, large in pairs)
    times = [large.milliseconds / small.milliseconds for small, large in pairs]
    print(
        f"{question.name:40} {few:9.2f} {many:9.2f} {cpu:9.2f}   {spread(times):24} {found[0]:7} {found[1]:9}",
        flush=True,
    )
    return Measured(times, many, cpu)


async def during_searches(ledger: Ledger, rounds: int) -> None:
    """Time calls while there are no searches, and while another client searches without a pause."""
    times: dict[bool, list[float]] = {False: [], True: []}

    async def search_on() -> None:
        while True:
            await read(ledger, f"?q={UNUSED}")

    for searching in [False, True] * rounds:
        async with anyio.create_task_group() as tasks:
            if searching:
                tasks.start_soon(search_on)
                await anyio.sleep(0.01)
            times[searching].append((await timed(check_job, ledger)).milliseconds)
            tasks.cancel_scope.cancel()
    alone, meanwhile = (statistics.median(times[each]) for each in (False, True))
    print(f"check_job: {alone:.2f} ms, while another client searches: {meanwhile:.2f} ms")


def size(folder: Path, pictures: int) -> float:
    """Print how many bytes each table and index needs for a picture; returns the sum: the file's size."""
    file = folder / "home" / "ledger.sqlite3"
    with closing(sqlite3.connect(file)) as database:
        sizes = database.execute("SELECT name, sum(pgsize) AS bytes FROM dbstat GROUP BY name ORDER BY bytes DESC")
        for name, number in sizes:
            if number >= pictures:
                print(f"{name:40} {number / pictures:7.0f}")
    return file.stat().st_size / pictures


async def run(pictures: int, rounds: int) -> None:
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
            transport = httpx.ASGITransport(build_page(app, TokenCallers([caller_with(TOKEN, OPERATOR)])))
            browser = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=HEADERS)
            ledgers.append(Ledger(folder, jobs, agent, await stack.enter_async_context(browser)))
        print("bytes for each picture")
        bytes_each = size(ledgers[-1].folder, pictures)
        print(f"\n{'':40} {'milliseconds':>29}   {'ratio':24} {'things found':>17}")
        print(f"{'pictures':40} {FEW:9,} {pictures:9,} {'CPU':>9}   {'':24} {FEW:7,} {pictures:9,}")
        measured = [
            (each, await measure(each, ledgers, rounds * 3 if each.most_times < math.inf else rounds))
            for each in questions()
        ]
        await during_searches(ledgers[-1], rounds)
    for question, found in measured:
        if question.most_times < math.inf:
            print_target(f"{question.name}, {pictures:,} / {FEW} pictures", question.most_times, *found.ratios)
    searches = [found for question, found in measured if question.most_milliseconds < math.inf]
    print_target("the slowest search, ms", MOST_MILLISECONDS, max(each.milliseconds for each in searches))
    print_target("the slowest search, ms of CPU", MOST_MILLISECONDS, max(each.cpu for each in searches))
    print_target("the ledger, bytes for each picture", MOST_BYTES, bytes_each)


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    anyio.run(run, options.pictures, options.rounds)


if __name__ == "__main__":
    main()
