"""What grows with the ledger: compare 100 pictures with very many. Starts, calls, pages, searches, bytes on the disk.

    python benchmarks/growth.py [--pictures 100000] [--runs 15]

The program makes a ledger of 100 pictures and one of `--pictures`, each spread over 500 days. The prompts have 8 to
41 words (144 characters), with frequencies as in a real language. Then it asks both ledgers as an agent does, through a
client in memory, and as the page in a browser does. It alternates between them, so that a change in the machine's speed
affects both. For each question, it prints the median time with both ledgers in milliseconds, and their ratio: the
median of the pairs' ratios, with the lowest and the highest. The last lines are the targets, and the bytes that each
table and each index needs for a picture.

A start opens the ledger, continues jobs that other servers left behind (there are none), and answers the first call.
Pictures are drawn without previews, by an API that answers immediately. While one client searches without a pause,
another client's calls are timed, with and without the searches.
"""

import argparse
import itertools
import json
import math
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import anyio
import httpx
from ledgers import FIRST_DAY, RARE, UNUSED, WORDS, drawn, fill
from mcp.client import Client
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents
from pydantic import SecretStr
from services import app_in, one_picture

from mcp_vega.job import OPERATOR, Job
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.app import build_page
from mcp_vega.storage.ledger.search import PAGE

FEW = 100
# The targets: the ratio of the large ledger's time to the small one's, a search's milliseconds, the bytes a picture.
MOST_TIMES, MOST_MILLISECONDS, MOST_BYTES = 1.5, 50.0, 1600
ADMIN = Caller(OPERATOR, SecretStr("the-token-of-the-page"))
HEADERS = {"authorization": f"Bearer {ADMIN.token.get_secret_value()}", "x-mcp-vega": "1"}
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Ledger:
    """A ledger with its pictures, and two who ask: an agent, and the page in a browser."""

    folder: Path
    jobs: Sequence[Job]
    agent: Client
    browser: httpx.AsyncClient

    @property
    def middle(self) -> Job:
        """A job in the middle, so each ledger has its own."""
        return self.jobs[len(self.jobs) // 2]

    def page(self, share: float) -> str:
        """The query of the first page (0), the last one (1), or one between them."""
        before = int((len(self.jobs) - PAGE) * share)  # how many pictures are newer than the page's
        return f"?after={self.jobs[-before].images[0].id}" if before else ""


Ask = Callable[[Ledger], Awaitable[int]]


@dataclass(frozen=True)
class Question:
    """A question, which returns how many things it found; and its targets.

    `most_times` limits the ratio of the times, `most_milliseconds` the time with the large ledger. `finds` is how many
    things both find, if that is known.
    """

    name: str
    ask: Ask
    most_times: float = math.inf
    most_milliseconds: float = math.inf
    finds: int | None = None


# ---- the questions ----


def server_in(folder: Path) -> Any:
    """The context of a server whose API answers immediately with a picture."""
    picture = httpx.Response(200, content=one_picture("", 0, 0), headers={"content-type": "image/jpeg"})
    return app_in(folder, httpx.MockTransport(lambda _: picture), preview="off")


async def start(ledger: Ledger) -> int:
    """Start a server and ask it once."""
    async with server_in(ledger.folder) as app, Client(build_server(app), cache=None) as agent:
        return len((await agent.call_tool("check_job", {})).content)


async def call(ledger: Ledger) -> int:
    """Draw a picture."""
    result = await ledger.agent.call_tool("generate_image_vegart", {"prompt": f"a fox {next(NUMBERS)}"})
    assert not result.is_error, result
    return len(result.content)


async def check_job(ledger: Ledger) -> int:
    """Look a job up by its id."""
    result = await ledger.agent.call_tool("check_job", {"request_id": ledger.middle.request_id})
    assert not result.is_error, result
    return len(result.content)


async def check_jobs(ledger: Ledger) -> int:
    """List the latest jobs."""
    return len((await ledger.agent.call_tool("check_job", {})).content)


async def list_resources(ledger: Ledger) -> int:
    """List the resources."""
    return len((await ledger.agent.list_resources()).resources)


async def read(ledger: Ledger, query: str) -> int:
    """Read the gallery; returns the number of pictures in the answer."""
    (content,) = (await ledger.agent.read_resource(f"vega://gallery{query}")).contents
    assert isinstance(content, TextResourceContents)
    return len(json.loads(content.text)["pictures"])


async def browse(ledger: Ledger, path: str) -> int:
    """Ask what the page asks; returns the number of pictures in the answer."""
    answer = (await ledger.browser.get(f"/gallery/{path}")).raise_for_status()
    return len(answer.json().get("pictures", []))


def complete(argument: str, beginning: Callable[[Job], str], template: str) -> Ask:
    """Complete an argument of a resource template, or of a prompt; returns how many values are offered."""
    resource = ResourceTemplateReference(type="ref/resource", uri=template)
    reference = resource if ":" in template else PromptReference(type="ref/prompt", name=template)

    async def ask(ledger: Ledger) -> int:
        completed = await ledger.agent.complete(reference, {"name": argument, "value": beginning(ledger.middle)})
        return len(completed.completion.values)

    return ask


def search(name: str, words: str | Callable[[Job], str], finds: int | None = None) -> list[Question]:
    """Search for words, as an agent and as the page."""

    def query(ledger: Ledger) -> str:
        return f"?q={quote_plus(words(ledger.middle) if callable(words) else words)}"

    limits: dict[str, Any] = {"most_milliseconds": MOST_MILLISECONDS, "finds": finds}
    return [
        Question(f"search: {name}", lambda ledger: read(ledger, query(ledger)), **limits),
        Question("  … on the page", lambda ledger: browse(ledger, f"pictures{query(ledger)}"), **limits),
    ]


def questions() -> list[Question]:
    """The questions, in the order of the targets."""
    images, requests = "vega://images/{id}", "vega://jobs/{request_id}"
    places = {"first": 0.0, "middle": 0.5, "last": 1.0}
    return [
        Question("a start", start, MOST_TIMES),
        Question("a call", call, MOST_TIMES),
        Question("check_job", check_job, MOST_TIMES),
        Question("check_job without an id", check_jobs, MOST_TIMES),
        *(
            Question(f"{name} page: resource", lambda ledger, at=at: read(ledger, ledger.page(at)), MOST_TIMES)
            for name, at in places.items()
        ),
        *(
            Question(
                f"{name} page: browser", lambda ledger, at=at: browse(ledger, f"pictures{ledger.page(at)}"), MOST_TIMES
            )
            for name, at in places.items()
        ),
        Question("starred: browser", lambda ledger: browse(ledger, "pictures?starred=1"), MOST_TIMES, finds=PAGE // 2),
        Question("state: browser", lambda ledger: browse(ledger, "state?latest=x"), MOST_TIMES),
        Question("resources/list", list_resources, MOST_TIMES),
        *search("a rare word", RARE, 1),
        *search("a word nobody used", UNUSED, 0),
        *search("a common word", WORDS[0]),
        *search("two common words", f"{WORDS[2]} {WORDS[4]}"),
        *search("two words seldom together", f"{WORDS[200]} {WORDS[400]}"),
        *search("six words, and their beginnings", " ".join(each[:4] for each in WORDS[20:26])),
        *search("the middle of a word", RARE[2:6], 1),
        *search("Chinese, the middle", "雪地里", 1),
        *search("Cyrillic, capitals", "ЛИСИЦА", 1),
        *search("without its accents", "brule", 1),
        *search("a seed", lambda job: str(job.seed), 1),
        *search("the first day", FIRST_DAY.date().isoformat()),
        *search("a month", f"{FIRST_DAY:%Y-%m}"),
        Question("completion: image id", complete("id", lambda job: job.images[0].id[:4], images)),
        Question("completion: image id, all", complete("id", lambda _: "", images)),
        Question("completion: request id", complete("request_id", lambda job: job.request_id[:4], requests)),
        Question("completion: request id, all", complete("request_id", lambda _: "", requests)),
        Question("completion: words", complete("image", lambda _: RARE, "vary"), most_milliseconds=MOST_MILLISECONDS),
        Question("completion: file name", complete("image", _file_name, "vary"), most_milliseconds=MOST_MILLISECONDS),
        Question("completion: pictures, all", complete("image", lambda _: "", "vary")),
    ]


def _file_name(job: Job) -> str:
    return job.images[0].name[:12]


# ---- measuring ----


async def timed(ask: Ask, ledger: Ledger) -> tuple[float, int]:
    """The milliseconds of one answer, and how many things it had."""
    started = time.perf_counter()
    count = await ask(ledger)
    return (time.perf_counter() - started) * 1000, count


async def measure(question: Question, ledgers: Sequence[Ledger], runs: int) -> tuple[float, float]:
    """Ask both ledgers alternately and print a line; returns the ratio, and the time with the large ledger."""
    found = [(await timed(question.ask, each))[1] for each in ledgers]  # not counted: it reads from the disk
    if question.finds is not None and set(found) != {question.finds}:
        raise SystemExit(f"{question.name}: found {found}, and not {question.finds}")
    times = [[(await timed(question.ask, each))[0] for each in ledgers] for _ in range(runs)]
    few, many = map(statistics.median, zip(*times, strict=True))
    ratios = [large / small for small, large in times]
    ratio = statistics.median(ratios)
    print(
        f"{question.name:34} {few:7.2f} {many:7.2f} {ratio:7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
        f" {found[0]:5} {found[1]:5}"
    )
    return ratio, many


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
            times[searching].append((await timed(check_job, ledger))[0])
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
        print(f"{'pictures':34} {FEW:7,} {pictures:7,} {'ratio':>7} {'':16} {FEW:5,} {pictures:7,}")
        measured = [(question, *await measure(question, ledgers, runs)) for question in questions()]
        await beside_searches(ledgers[-1], runs)
    for question, ratio, _ in measured:
        if question.most_times < math.inf:
            target(f"{question.name}: ratio", question.most_times, ratio)
    searches = [each[2] for each in measured if each[0].most_milliseconds < math.inf]
    target("the slowest search: milliseconds", MOST_MILLISECONDS, max(searches))
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
