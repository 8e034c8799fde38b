"""What benchmarks/growth.py asks ledgers of different sizes, as an agent and as the page in a browser."""

import itertools
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
from in_process import app_in, one_picture
from ledgers import FIRST_DAY, RARE, UNUSED, WORDS
from mcp.client import Client
from mcp_types import PromptReference, ResourceTemplateReference, TextResourceContents

from mcp_vega.job import Job
from mcp_vega.server.app import build_server
from mcp_vega.storage.ledger.search import PAGE

# The targets: the ratio of the large ledger's time to the small one's, and a search's milliseconds.
MOST_TIMES, MOST_MILLISECONDS = 1.5, 50.0
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
        Question("completion: words", complete("image", lambda _: RARE, "vary")),
        Question("completion: file name", complete("image", _file_name, "vary")),
        Question("completion: pictures, all", complete("image", lambda _: "", "vary")),
    ]


def _file_name(job: Job) -> str:
    return job.images[0].name[:12]
