"""Reads the request history page by page, and knows whether it has seen all of it.

A history that is believed too soon is expensive: whoever is told that a call never ran pays for it again. So a page
that is shorter than asked is no end, nor is one that repeats another; an end is an empty page, as long as the total
does not speak of more, or rows in order that reach back far enough.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from mcp_vega.errors import BadRequest, NotFound, ServiceUnavailable
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryPage, HistoryRow

# More calls of a model than anyone makes in the days that are asked about.
PAGES = 50
# Times may be in any time zone without saying so, and no two are further apart than this.
ANY_TIME_ZONE = timedelta(days=1)


@dataclass(frozen=True)
class HistoryQuery:
    """What is read: the calls of some days, newest first, as far as those that are older than `back_to` (UTC).

    Only those of a `model`, where one is given; the API may spell it otherwise. With `thorough`, page 0 as well: it is
    the first one where pages are counted from 0.
    """

    since: date
    until: date
    back_to: datetime
    model: str | None = None
    thorough: bool = False


class HistoryReader:
    """One reading of the history.

    Attributes:
        query: What is read.
        rows: What was read so far.
        asked: The API's own time when it answered first (UTC).
        gap: Why there may be more than was read; empty where there is not.
    """

    def __init__(self, client: SegmindClient, query: HistoryQuery) -> None:
        self._client = client
        self.query = query
        self._known: set[str] = set()
        self._total: int | None = None
        self.rows: list[HistoryRow] = []
        self.asked: datetime | None = None
        self.gap = "it was not read to its end"

    async def read(self) -> AsyncGenerator[HistoryRow]:
        """Each call, some of them in several rows; raises a `SegmindError` where the history could not be read."""
        for number in range(1, PAGES + 1):
            page = await self._page(number)
            new = self._new_rows(page)
            for row in new:
                yield row
            if self._ends(page, new):
                break
        else:
            self.gap = f"it is longer than {PAGES} pages"
        if self.query.thorough:
            for row in self._new_rows(await self._page_0()):
                yield row
        if not self.gap and not self._reaches_back() and self._total is not None and len(self._known) < self._total:
            self.gap = f"it shows {len(self._known)} of {self._total} calls"

    async def _page(self, number: int) -> HistoryPage:
        query = self.query
        try:
            page = await self._client.history(model=query.model, since=query.since, until=query.until, page=number)
        except (BadRequest, NotFound):
            if self._total is None or len(self._known) < self._total:
                raise
            return HistoryPage()  # there is no such page, and none is missing
        self.asked = self.asked or page.asked
        self._total = page.total if self._total is None else max(self._total, page.total or 0)
        return page

    async def _page_0(self) -> HistoryPage:
        """What may stand before the first page; an API that counts from 1 has no such page, and may break on it."""
        try:
            return await self._page(0)
        except (BadRequest, NotFound, ServiceUnavailable):
            return HistoryPage()

    def _new_rows(self, page: HistoryPage) -> list[HistoryRow]:
        new = [row for row in page.rows if row.text not in self._known]
        self._known.update(row.text for row in new)
        self.rows += new
        return new

    def _ends(self, page: HistoryPage, new: list[HistoryRow]) -> bool:
        """Whether nothing follows a page, or nothing that matters."""
        if not page.rows:
            self.gap = "it ends although it says that there is more" if page.more else ""
            return True
        if not new:
            whole = self._total is not None and len(self._known) >= self._total
            self.gap = "" if whole else "its pages repeat"
            return True
        if self._reaches_back():
            self.gap = ""
        return not self.gap

    def _reaches_back(self) -> bool:
        """Whether the rows are seen to be in order, newest first, and go back to before what is looked for."""
        times = [row.created for row in self.rows]
        known = [time for time in times if time]
        in_order = len(known) == len(times) and known == sorted(known, reverse=True)
        return in_order and len(known) > 1 and known[0] > known[-1] and known[-1] + ANY_TIME_ZONE < self.query.back_to
