"""The request history is read to its end. A page that may not be the end does not count as the end."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest
from test_client import client_over

from mcp_vega.errors import SegmindError
from mcp_vega.segmind.history_reader import HistoryQuery, HistoryReader

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
Page = Callable[[int], httpx.Response]


def rows(count: int, hours: float = 1.0) -> list[dict[str, Any]]:
    """Calls with this many hours between them, the newest first."""
    return [
        {"request_id": f"r{number}", "model_created": (NOW - number * timedelta(hours=hours)).isoformat()}
        for number in range(count)
    ]


def paged(every: list[dict[str, Any]], size: int, first: int = 1, **body: Any) -> Page:
    def page(number: int) -> httpx.Response:
        start = (number - first) * size
        found = every[start : start + size] if start >= 0 else []
        return httpx.Response(200, json={"data": found, **body})

    return page


def bare(every: list[dict[str, Any]]) -> Page:
    """A history of one page, which is only a list of rows."""

    def page(number: int) -> httpx.Response:
        return httpx.Response(200, json=every if number == 1 else [])

    return page


def repeated(body: Any) -> Page:
    """Pages that are all the same."""

    def page(_: int) -> httpx.Response:
        return httpx.Response(200, json=body)

    return page


async def read(page: Page, *, thorough: bool = True, back_to: datetime = NOW - timedelta(days=20)) -> HistoryReader:
    """Read the history of an API that answers with these pages."""

    def answer(request: httpx.Request) -> httpx.Response:
        return page(int(request.url.params["page"]))

    query = HistoryQuery(date(2026, 11, 1), date(2026, 11, 21), back_to, thorough=thorough)
    reader = HistoryReader(client_over(answer), query)
    read_rows = [row async for row in reader.read()]
    assert read_rows == reader.rows
    return reader


@pytest.mark.parametrize(
    ("page", "count"),
    [
        (paged(rows(0), 20), 0),
        (paged(rows(45), 20), 45),
        (paged(rows(45), 20, total=45), 45),
        (paged(rows(40), 20, total=40), 40),
        (paged(rows(45), 1), 45),
        (paged(rows(45), 20, first=0), 45),
        (paged(rows(15), 20, first=0, total=15), 15),
        (paged(rows(45), 20, pagination={"total": 45}), 45),
        (paged(rows(45), 20, meta={"total_count": "45"}), 45),
        (paged(rows(45)[::-1], 20), 45),
        (bare(rows(3)), 3),
    ],
)
async def test_the_complete_history_is_read(page: Page, count: int) -> None:
    reader = await read(page)
    assert len({row.request_id for row in reader.rows}) == count
    assert reader.gap == ""


def refusing(page: Page, numbers: set[int], status: int) -> Page:
    return lambda number: httpx.Response(status, json={}) if number in numbers else page(number)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_page_after_the_end_may_be_refused(status: int) -> None:
    reader = await read(refusing(paged(rows(40), 20, total=40), {0, 3}, status))
    assert (len(reader.rows), reader.gap) == (40, "")
    with pytest.raises(SegmindError):
        await read(refusing(paged(rows(40), 20, total=41), {3}, status))
    with pytest.raises(SegmindError):
        await read(refusing(paged(rows(40), 20), {3}, status))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("status", [401, 403, 429, 500])
async def test_a_history_that_cannot_be_read_to_its_end_is_an_error(number: int, status: int) -> None:
    with pytest.raises(SegmindError):
        await read(refusing(paged(rows(40), 20, total=40), {number}, status))


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_api_without_a_page_0_may_fail_on_it(status: int) -> None:
    reader = await read(refusing(paged(rows(40), 20), {0}, status))
    assert (len(reader.rows), reader.gap) == (40, "")
    with pytest.raises(SegmindError):
        await read(refusing(paged(rows(40), 20), {0}, 429))


@pytest.mark.parametrize(
    ("page", "gap"),
    [
        (paged(rows(45), 20, total=46), "it shows 45 of 46 calls"),
        (paged(rows(0), 20, total=3), "it shows 0 of 3 calls"),
        (paged(rows(45), 20, has_more=True), "it ends although it says that there is more"),
        (repeated(rows(20)), "its pages repeat"),
        (repeated({"data": rows(20), "total": 21}), "its pages repeat"),
        (paged(rows(51), 1), "it is longer than 50 pages"),
    ],
)
async def test_an_end_that_may_not_be_the_end_is_a_gap(page: Page, gap: str) -> None:
    assert gap in (await read(page)).gap


async def test_reading_ends_at_ordered_rows_that_are_older_than_needed() -> None:
    asked: list[int] = []

    def page(number: int) -> httpx.Response:
        asked.append(number)
        return paged(rows(1000), 20, total=1000)(number)

    reader = await read(page, thorough=False, back_to=NOW - timedelta(hours=10))
    assert (asked, reader.gap) == ([1, 2], ""), "one day more, because the times may be in any zone"


@pytest.mark.parametrize(
    "every",
    [
        rows(60)[::-1],
        [*rows(30)[::-1], *rows(60)[30:]],
        [{**row, "model_created": (NOW - timedelta(days=9)).isoformat()} for row in rows(60)],
        [{**row, "model_created": None} for row in rows(60)],
    ],
)
async def test_rows_that_may_not_be_in_order_do_not_end_the_reading(every: list[dict[str, Any]]) -> None:
    reader = await read(paged(every, 20), thorough=False, back_to=NOW - timedelta(hours=10))
    assert len(reader.rows) == 60
