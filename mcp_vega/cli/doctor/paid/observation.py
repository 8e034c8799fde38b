"""What was seen of the API: every answer, unchanged, and the result of each call."""

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

# What is done while an answer comes, besides drawing a picture. The last one is for every answer with HTTP 429.
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
    """A picture that can be drawn, and its route."""

    parameters: Parameters
    route: Route

    @property
    def name(self) -> str:
        """Its name on the page."""
        return f"{self.parameters.title.removeprefix('Segmind-')} by {self.route}"


@dataclass
class Drawn:
    """A picture for which a call was begun, or was refused on this machine.

    Attributes:
        picture: The picture.
        begun: When the call was begun (UTC).
        seconds: How long the call took.
        job: The job as it ended; None if no job could be begun.
        error: Why there is no picture.
        rows: The call's rows in the request history, at the first look that showed the call.
        shown_after: How many seconds after the end of the call that look was.
        again: The call's rows at the last look.
        of_model: Whether the history shows the call among the calls of its model; None if it could not be asked.
        entry: The history's answer when it was asked for this call alone.
        fetched: Whether a picture could be fetched from the address in the history.
        same_picture: Whether that picture has the same bytes as the kept one; None if there is none to compare.
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
        """The cost of the call or, if it is not known, the estimate (US dollars)."""
        if self.job is None or self.job.charged is Charged.NO:
            return Decimal(0)
        told = self.job.receipt.cost
        return self.picture.parameters.expected_cost if told is None else told


# Answers, each with the picture that was being drawn.
Answers = list[tuple[Drawn, Exchange]]


@dataclass
class Observations:
    """Everything that was seen.

    Attributes:
        base_url: The API's address.
        history_url: The request history's address.
        wait_seconds: How long a call of an agent waits for its picture.
        doing: What is done at the moment.
        drawn: The pictures that were begun.
        left_out: Why other pictures were not begun, by name.
        exchanges: The answers, by what was done while they came.
        problems: The errors of questions that failed, by what was done.
        listing: The rows of the history at the last look; None if it could not be read.
        gap: Why the history may have more rows.
        may_fetch: The addresses of pictures in the answers, and whether the settings allow fetching from them.
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
        """The cost of all pictures; estimates are used for costs that are not known (US dollars)."""
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
        """The answers of the request history to these questions."""
        found = (each for name in doing for each in self.exchanges.get(name, ()))
        return [each for each in found if each.url.startswith(self.history_url)]

    def all_answers(self) -> list[Exchange]:
        """Every answer, in the order in which they came."""
        found = (each for exchanges in self.exchanges.values() for each in exchanges)
        return sorted(found, key=lambda each: each.ended)

    def is_of_api(self, exchange: Exchange) -> bool:
        """Whether an answer came from the API or its history, not from the address of a picture."""
        return exchange.url.startswith((f"{self.base_url}/v1/", f"{self.base_url}/v2/", self.history_url))


def _is(exchange: Exchange, ending: str) -> bool:
    return re.search(rf"/v2/requests/[^/?]+{ending}$", exchange.url) is not None


def media_urls(result: dict[str, Any]) -> list[str]:
    """The addresses of pictures in a result, as documented: `output`, `images[].url`."""
    images = result.get("images")
    entries = cast("list[Any]", images) if isinstance(images, list) else []
    urls = [result.get("output"), *(as_object(each).get("url") for each in entries)]
    return list(dict.fromkeys(each for each in urls if isinstance(each, str) and "://" in each))
