"""The request history is read to its end, and what may be no end is not taken for one."""

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
    """Calls with so many hours between two, the newest first."""
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
    """One page, and its rows alone."""

    def page(number: int) -> httpx.Response:
        return httpx.Response(200, json=every if number == 1 else [])

    return page


def repeated(body: Any) -> Page:
    """The same for every number."""

    def page(_: int) -> httpx.Response:
        return httpx.Response(200, json=body)

    return page


async def read(page: Page, *, thorough: bool = True, back_to: datetime = NOW - timedelta(days=20)) -> HistoryReader:
    """The history of an API that answers with these pages."""

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
async def test_all_of_a_history_is_read(page: Page, count: int) -> None:
    reader = await read(page)
    assert len({row.request_id for row in reader.rows}) == count
    assert reader.gap == ""


def refusing(page: Page, numbers: set[int], status: int) -> Page:
    return lambda number: httpx.Response(status, json={}) if number in numbers else page(number)


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_page_that_does_not_exist_may_be_refused_once_all_is_read(status: int) -> None:
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
async def test_an_api_that_has_no_page_0_may_break_on_it(status: int) -> None:
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
async def test_what_may_be_no_end_is_a_gap(page: Page, gap: str) -> None:
    assert gap in (await read(page)).gap


async def test_rows_in_order_end_it_where_they_are_older_than_what_is_looked_for() -> None:
    asked: list[int] = []

    def page(number: int) -> httpx.Response:
        asked.append(number)
        return paged(rows(1000), 20, total=1000)(number)

    reader = await read(page, thorough=False, back_to=NOW - timedelta(hours=10))
    assert (asked, reader.gap) == ([1, 2], ""), "a day more, as its times may be in any time zone"


@pytest.mark.parametrize(
    "every",
    [
        rows(60)[::-1],
        [*rows(30)[::-1], *rows(60)[30:]],
        [{**row, "model_created": (NOW - timedelta(days=9)).isoformat()} for row in rows(60)],
        [{**row, "model_created": None} for row in rows(60)],
    ],
)
async def test_rows_that_are_not_seen_to_be_in_order_do_not_end_it(every: list[dict[str, Any]]) -> None:
    reader = await read(paged(every, 20), thorough=False, back_to=NOW - timedelta(hours=10))
    assert len(reader.rows) == 60
