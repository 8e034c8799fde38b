"""Reads the request history page by page, and knows whether it has read all of it.

To stop too early is expensive: a user who is told that a call never ran pays for it again. So a page with fewer rows
than requested is not the end, and neither is a page that repeats another. The end is an empty page, unless the total
says that there is more. The reader can also stop if the rows are sorted and reach back far enough.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from mcp_vega.errors import BadRequest, NotFound, ServiceUnavailable
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryPage, HistoryRow

# 50 pages have room for more calls than anyone makes to one model in the days of a query.
PAGES = 50
# A time without a zone may be in any time zone. No zone differs from UTC by more than this.
ANY_TIME_ZONE = timedelta(days=1)


@dataclass(frozen=True)
class HistoryQuery:
    """What to read: the calls of some days, newest first, until they are older than `back_to` (UTC).

    If `model` is given, only the calls of that model; the API may spell its name differently. With `thorough`, page 0
    is read, too, because some APIs count pages from 0.
    """

    since: date
    until: date
    back_to: datetime
    model: str | None = None
    thorough: bool = False


class HistoryReader:
    """One reading of the history.

    Attributes:
        query: What to read.
        rows: The rows that were read so far.
        server_time: The API's time when it answered first (UTC).
        gap: Why there may be more rows than were read; empty if all were read.
    """

    def __init__(self, client: SegmindClient, query: HistoryQuery) -> None:
        self._client = client
        self.query = query
        self._known: set[str] = set()
        self._total: int | None = None
        self.rows: list[HistoryRow] = []
        self.server_time: datetime | None = None
        self.gap = "it was not read to its end"

    async def read(self) -> AsyncGenerator[HistoryRow]:
        """The rows of all calls; a call may have several. Raises a `SegmindError` if the history cannot be read."""
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
            return HistoryPage()  # the page does not exist, and no row is missing
        self.server_time = self.server_time or page.server_time
        self._total = page.total if self._total is None else max(self._total, page.total or 0)
        return page

    async def _page_0(self) -> HistoryPage:
        """The first page if the API counts from 0. An API that counts from 1 has no such page, and may fail."""
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
        """Whether no page follows this one, or no page that matters. Updates `gap`."""
        if not page.rows:
            self.gap = "it ends although it says that there is more" if page.more else ""
            return True
        if not new:
            complete = self._total is not None and len(self._known) >= self._total
            self.gap = "" if complete else "its pages repeat"
            return True
        if self._reaches_back():
            self.gap = ""
        return not self.gap

    def _reaches_back(self) -> bool:
        """Whether the rows are clearly sorted, newest first, and the last one is older than the query needs."""
        times = [row.created for row in self.rows]
        known = [time for time in times if time]
        in_order = len(known) == len(times) and known == sorted(known, reverse=True)
        return in_order and len(known) > 1 and known[0] > known[-1] and known[-1] + ANY_TIME_ZONE < self.query.back_to
