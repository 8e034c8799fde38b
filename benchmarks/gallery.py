"""Compare the gallery with few and with very many pictures: pages, searches and completions, alternately.

    python benchmarks/gallery.py [--pictures 100000] [--runs 15]

The program makes a ledger of 100 pictures and one of `--pictures`, each spread over 500 days. The prompts have 8 to
40 words, with frequencies as in a real language. Then it asks both ledgers through a client in memory, as an agent
does. It alternates between them, so that a change in the machine's speed affects both. For each question, it prints
the median time of both ledgers in milliseconds, and their ratio. It exits with 1 if the first page takes more than
twice the time in the large ledger, or if a search takes more than 50 ms in either. The time of the last page is only
printed: to number a page, the pages before it must be counted.
"""

import argparse
import itertools
import json
import math
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote_plus

import anyio
import httpx
from mcp.client import Client
from mcp_types import ResourceTemplateReference, TextResourceContents
from services import API, app_in

from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.parameters import VegaParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.ledger import queries, rows
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.search import PAGE

FEW = 100
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 500
MOST_TIMES = 2.0
MOST_MILLISECONDS = 50.0
# Invented words of two or three syllables, the most frequent first. They contain no x and no q.
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = ["".join(random.Random(rank).choices(SYLLABLES, k=2 + rank % 2)) for rank in range(3000)]  # noqa: S311
RARE, UNUSED = "xylophone", "quixotry"

Ask = Callable[[Client], Awaitable[int]]


@dataclass(frozen=True)
class Question:
    """A question in the words for each ledger, and how long the answer may take.

    `most_times` limits the ratio of the large ledger's time to the small one's, `most_milliseconds` the time of each.
    `finds` is how many things both find, if that is known.
    """

    name: str
    ask: Sequence[Ask]
    most_times: float = math.inf
    most_milliseconds: float = math.inf
    finds: int | None = None


# ---- the ledgers ----


def drawn(count: int) -> Iterator[Job]:
    """Finished jobs with one picture each, the oldest first. The very first prompt has the rare word."""
    rng = random.Random(count)  # noqa: S311  no secret
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(WORDS) + 1)))
    for number in range(count):
        words = rng.choices(WORDS, cum_weights=weights, k=rng.randint(8, 40))
        if number == 0:
            words[-1] = RARE
        parameters = VegaParameters(prompt=" ".join(words), seed=rng.randrange(10**15))  # pyright: ignore[reportUnknownVariableType]
        local_id = f"local-{rng.randbytes(16).hex()}"
        begun = FIRST_DAY + timedelta(days=DAYS) * number / count
        job = Job(
            parameters=parameters,
            arguments=parameters.model_dump(mode="json", exclude_unset=True),
            route=Route.V2,
            base_url=API,
            created=begun,
            sent=begun,
            ended=begun + timedelta(seconds=3),
            local_id=local_id,
            remote_id=rng.randbytes(16).hex(),
            state=State.COMPLETED,
            open=False,
            receipt=Receipt(cost=Decimal("0.00225"), credits_left=Decimal(10), seconds=Decimal("2.36")),
        )
        image = Image(
            id=job.image_id(0),
            location=ImageLocation("/gallery", f"{begun.date().isoformat()}/{words[0]}-{parameters.seed}.jpg"),
            mime_type="image/jpeg",
            width=1024,
            height=1024,
            bytes=rng.randint(80_000, 400_000),
            sha256=rng.randbytes(32).hex(),
        )
        yield replace(job, images=(image,))


async def fill(folder: Path, jobs: Sequence[Job]) -> None:
    """Create the ledger's file, and write all jobs in one transaction: one by one, they would take an hour."""
    file = folder / "home" / "ledger.sqlite3"
    store = JobStore.in_file(file)
    await store.latest(1)
    await store.close()
    # The servers that drew them ended long ago.
    fixed = {"me": None, "awaited_by": None, "delivered": True, "arrived": 0.0}
    with closing(sqlite3.connect(file)) as database, database:
        database.executemany(
            queries.ADD, ({**rows.as_row(job), **fixed, "wanted_until": rows.moment(job.created)} for job in jobs)
        )
        database.executemany(queries.SAVE_IMAGE, (row for job in jobs for row in rows.as_image_rows(job)))


# ---- the questions ----


def read(query: str) -> Ask:
    """Read the gallery; returns the number of pictures in the answer."""

    async def ask(agent: Client) -> int:
        (content,) = (await agent.read_resource(f"vega://gallery{query}")).contents
        assert isinstance(content, TextResourceContents)
        return len(json.loads(content.text)["pictures"])

    return ask


async def list_resources(agent: Client) -> int:
    """List the resources; returns their number."""
    return len((await agent.list_resources()).resources)


def complete(template: str, argument: str, beginning: str) -> Ask:
    """Complete an id; returns how many are offered."""

    async def ask(agent: Client) -> int:
        reference = ResourceTemplateReference(type="ref/resource", uri=template)
        completed = await agent.complete(reference, {"name": argument, "value": beginning})
        return len(completed.completion.values)

    return ask


def search(name: str, *words: str, finds: int | None = None) -> Question:
    """Search for words, with one query for each ledger or the same one for both."""
    asks = [read(f"?q={quote_plus(each)}") for each in words]
    asks *= 2 if len(asks) == 1 else 1
    return Question(f"search: {name}", asks, most_milliseconds=MOST_MILLISECONDS, finds=finds)


def questions(ledgers: Sequence[Sequence[Job]]) -> list[Question]:
    """The questions. Seeds and ids are those of a picture in the middle, so each ledger has its own."""
    middles = [jobs[len(jobs) // 2] for jobs in ledgers]
    images, requests = "vega://images/{id}", "vega://jobs/{request_id}"
    return [
        Question("first page", [read("")] * 2, MOST_TIMES, finds=PAGE),
        Question("last page", [read(f"?page={math.ceil(len(jobs) / PAGE)}") for jobs in ledgers]),
        Question("resources/list", [list_resources] * 2),
        search("a rare word", RARE, finds=1),
        search("a word nobody used", UNUSED, finds=0),
        search("two common words", f"{WORDS[2]} {WORDS[4]}"),
        search("two words seldom together", f"{WORDS[200]} {WORDS[400]}"),
        search("a seed", *(str(job.seed) for job in middles), finds=1),
        search("the first day", FIRST_DAY.date().isoformat()),
        search("a month", f"{FIRST_DAY:%Y-%m}"),
        Question("image id, 4 digits", [complete(images, "id", job.images[0].id[:4]) for job in middles]),
        Question("request id, 4 digits", [complete(requests, "request_id", job.request_id[:4]) for job in middles]),
    ]


# ---- measuring ----


async def timed(ask: Ask, agent: Client) -> tuple[float, int]:
    """The milliseconds of one answer, and how many things it had."""
    started = time.perf_counter()
    count = await ask(agent)
    return (time.perf_counter() - started) * 1000, count


async def measure(question: Question, agents: Sequence[Client], runs: int) -> bool:
    """Ask both ledgers alternately and print a line; returns whether the limits hold."""
    pairs = list(zip(question.ask, agents, strict=True))
    found = [(await timed(*pair))[1] for pair in pairs]  # not counted: the first question reads from the disk
    if question.finds is not None and set(found) != {question.finds}:
        raise SystemExit(f"{question.name}: found {found}, and not {question.finds}")
    times: list[list[float]] = [[], []]
    for _ in range(runs):
        for mine, pair in zip(times, pairs, strict=True):
            mine.append((await timed(*pair))[0])
    few, many = map(statistics.median, times)
    kept = many / few <= question.most_times and max(few, many) <= question.most_milliseconds
    print(
        f"{question.name:34} {few:8.1f} {many:8.1f} {many / few:6.2f} {found[0]:7} {found[1]:6}"
        f"{'' if kept else '  TOO SLOW'}"
    )
    return kept


async def run(pictures: int, runs: int) -> bool:
    """Make the ledgers, and ask all questions."""
    ledgers = [list(drawn(count)) for count in (FEW, pictures)]
    async with AsyncExitStack() as stack:
        agents: list[Client] = []
        name = stack.enter_context(tempfile.TemporaryDirectory())
        nowhere = httpx.MockTransport(lambda _: httpx.Response(503))
        for number, jobs in enumerate(ledgers):
            folder = Path(name, str(number))
            await fill(folder, jobs)
            app = await stack.enter_async_context(app_in(folder, nowhere))
            # No answer may come from the client's own cache.
            agents.append(await stack.enter_async_context(Client(build_server(app), cache=None)))
        print(f"{'':34} {'milliseconds':>17} {'':6} {'things found':>14}")
        print(f"{'pictures':34} {FEW:8,} {pictures:8,} {'ratio':>6} {FEW:7,} {pictures:6,}")
        return all([await measure(question, agents, runs) for question in questions(ledgers)])


def main() -> int:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    return 0 if anyio.run(run, options.pictures, options.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
