"""What was seen of the API: every answer as it came, and what became of each call."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from mcp_vega.errors import Charged, SegmindError, VegaError
from mcp_vega.job import Job, Route
from mcp_vega.parameters import Parameters
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.response import Exchange
from mcp_vega.segmind.values import as_object

# What is being done while an answer comes, beside the drawing of a picture; the last is for what was asked too often.
BALANCE, LOOKS, AGAIN, FILTER, ENTRY, PICTURE, UNKNOWN_ID, TOO_MANY = (
    "balance",
    "history",
    "history again",
    "history of a model",
    "history of one call",
    "picture of the history",
    "unknown id",
    "too many requests",
)
# The pages of one row each that the history is asked for.
PAGES = {number: f"history, page {number} of one row" for number in (0, 1, 2)}


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn, and by which way."""

    parameters: Parameters
    route: Route

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.parameters.title.removeprefix('Segmind-')} by {self.route}"


@dataclass
class Drawn:
    """A picture for which a call was begun, or refused here.

    Attributes:
        picture: What was to be drawn.
        begun: When that was begun (UTC).
        seconds: How long it took.
        job: How its job ended; None where none could be begun.
        error: Why there is no picture.
        rows: The rows of its call in the request history, at the first look that showed it.
        shown_after: How many seconds after its end that look was.
        again: Its rows at the last look.
        of_model: Whether the history shows it among the calls of its model; None where it could not be asked.
        entry: What the history told when it was asked for this call alone.
        fetched: Whether a picture could be fetched from the address in the history.
        same_picture: Whether it was the one that is kept, to the byte; None where there is none to compare.
    """

    picture: Picture
    begun: datetime
    seconds: float = 0
    job: Job | None = None
    error: VegaError | None = None
    rows: list[HistoryRow] = field(default_factory=list[HistoryRow])
    shown_after: float | None = None
    again: list[HistoryRow] = field(default_factory=list[HistoryRow])
    of_model: bool | None = None
    entry: HistoryRow | None = None
    fetched: bool = False
    same_picture: bool | None = None

    @property
    def cost(self) -> Decimal:
        """What it cost, as far as that is known, else the estimate (US dollars)."""
        if self.job is None or self.job.charged is Charged.NO:
            return Decimal(0)
        told = self.job.receipt.cost
        return self.picture.parameters.expected_cost if told is None else told


# Answers, each with the picture that was being drawn.
Answers = list[tuple[Drawn, Exchange]]


@dataclass
class Observations:
    """All that was seen.

    Attributes:
        base_url: The API's address.
        history_url: The request history's.
        wait_seconds: How long a call of an agent waits for its picture.
        drawn: The pictures that were begun.
        left_out: Why others were not, by name.
        exchanges: The answers, by what was being done while they came.
        problems: What questions ended with that were answered otherwise than hoped, or not at all.
        listing: The rows of the history at the last look; None where it could not be read.
        gap: Why there may be more of them.
        may_fetch: The addresses of pictures that were named, and whether the settings allow them.
    """

    base_url: str
    history_url: str
    wait_seconds: float
    doing: str = ""
    drawn: list[Drawn] = field(default_factory=list[Drawn])
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    exchanges: dict[str, list[Exchange]] = field(default_factory=lambda: defaultdict(list))
    problems: dict[str, SegmindError] = field(default_factory=dict[str, SegmindError])
    listing: list[HistoryRow] | None = None
    gap: str = ""
    may_fetch: dict[str, bool] = field(default_factory=dict[str, bool])

    def record(self, exchange: Exchange) -> None:
        """Note an answer."""
        self.exchanges[TOO_MANY if exchange.response.status == 429 else self.doing].append(exchange)

    @property
    def cost(self) -> Decimal:
        """What all pictures cost, as far as that is known (US dollars)."""
        return sum((each.cost for each in self.drawn), Decimal(0))

    # ---- answers ----

    def while_drawing(self) -> Iterator[tuple[Drawn, Exchange]]:
        """The answers that came while pictures were drawn."""
        for drawn in self.drawn:
            for exchange in self.exchanges.get(drawn.picture.name, ()):
                yield drawn, exchange

    def posts(self, route: Route) -> Answers:
        """The answers to paid calls."""
        return [
            (drawn, each) for drawn, each in self.while_drawing() if each.method == "POST" and f"/{route}/" in each.url
        ]

    def looks(self) -> Answers:
        """The answers to looks at queued jobs."""
        return [(drawn, each) for drawn, each in self.while_drawing() if _is(each, "/status")]

    def results(self) -> Answers:
        """The results of queued jobs."""
        found = [(drawn, each) for drawn, each in self.while_drawing() if _is(each, "")]
        return [(drawn, each) for drawn, each in found if each.response.ok]

    def media(self) -> Answers:
        """The answers at the addresses of pictures."""
        found = ((drawn, each) for drawn, each in self.while_drawing() if each.method == "GET")
        return [(drawn, each) for drawn, each in found if not self.is_of_api(each)]

    def of_history(self, *doing: str) -> list[Exchange]:
        """The answers of the request history to some questions."""
        found = (each for name in doing for each in self.exchanges.get(name, ()))
        return [each for each in found if each.url.startswith(self.history_url)]

    def all_answers(self) -> list[Exchange]:
        """Every answer, in the order in which they came."""
        found = (each for exchanges in self.exchanges.values() for each in exchanges)
        return sorted(found, key=lambda each: each.ended)

    def is_of_api(self, exchange: Exchange) -> bool:
        """Whether an answer is the API's or its history's, and not one at the address of a picture."""
        return exchange.url.startswith((f"{self.base_url}/v1/", f"{self.base_url}/v2/", self.history_url))


def _is(exchange: Exchange, ending: str) -> bool:
    return re.search(rf"/v2/requests/[^/?]+{ending}$", exchange.url) is not None


def media_urls(result: dict[str, Any]) -> list[str]:
    """The addresses of pictures in a result, as documented: `output`, `images[].url`."""
    images = result.get("images")
    entries = cast("list[Any]", images) if isinstance(images, list) else []
    urls = [result.get("output"), *(as_object(each).get("url") for each in entries)]
    return list(dict.fromkeys(each for each in urls if isinstance(each, str) and "://" in each))
