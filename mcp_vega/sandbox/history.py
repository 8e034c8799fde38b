"""The request history: the calls that were made with the key that asks, newest first."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import formatdate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mcp_vega.sandbox.account import Account, Call, Refusal
from mcp_vega.sandbox.responses import Json, base_url, media_urls

LARGEST_PAGE = 100
DAYS = 31  # the longest span that may be asked about

HistoryRows = Callable[[Call, str, float], list[dict[str, Any]]]  # from a call, the sandbox's own address and the time


class RequestHistory:
    """The history's endpoints over one account."""

    def __init__(self, account: Account, history_rows: HistoryRows) -> None:
        self._account = account
        self._history_rows = history_rows

    async def history(self, request: Request) -> Response:
        """A page of the rows that the query asks for."""
        self._check()
        asked = _read(request.query_params, self._account.now)
        rows = [
            row
            for call in sorted(self._calls(request), key=lambda call: call.created, reverse=asked.newest_first)
            if asked.model in call.slug and asked.since <= _day(call.created) <= asked.until
            for row in self._history_rows(call, base_url(request), self._account.now)
            if asked.status in ("", row["model_status"])
        ]
        start = (asked.page - 1) * asked.per_page
        body = {
            "data": rows[start : start + asked.per_page],
            "page": asked.page,
            "per_page": asked.per_page,
            "total": len(rows),
        }
        return Json(body, headers={"date": formatdate(self._account.now, usegmt=True)})

    async def history_entry(self, request: Request) -> Response:
        """The first row of one call, of any age."""
        self._check()
        for call in self._calls(request):
            if call.id == request.path_params["id"]:
                return Json(self._history_rows(call, base_url(request), self._account.now)[0])
        raise Refusal(404, "Request not found")

    def _check(self) -> None:
        if self._account.history_status != 200:
            raise Refusal(self._account.history_status)

    def _calls(self, request: Request) -> list[Call]:
        """The calls that were made with the key of a request."""
        return [call for call in self._account.calls.values() if call.key == request.headers["x-api-key"]]


@dataclass(frozen=True)
class _Query:
    """What a page of the history is asked for."""

    page: int
    per_page: int
    since: str  # a day
    until: str
    model: str
    status: str
    newest_first: bool


def _read(query: Mapping[str, str], now: float) -> _Query:
    """What a query asks for; a `Refusal` is what the API says to a wrong one."""
    since = query.get("from_date") or _day(now - 7 * 24 * 3600)
    until = query.get("to_date") or _day(now)
    try:
        page, per_page = int(query.get("page", 1)), int(query.get("per_page", 20))
        days = (date.fromisoformat(until) - date.fromisoformat(since)).days
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    if page < 1:
        raise Refusal(400, "page: must be at least 1")
    if per_page < 1:
        raise Refusal(400, "per_page: must be at least 1")
    if days > DAYS:
        raise Refusal(400, f"The date range may span at most {DAYS} days")
    return _Query(
        page=page,
        per_page=min(per_page, LARGEST_PAGE),
        since=since,
        until=until,
        model=query.get("model_name", ""),
        status=query.get("status", ""),
        newest_first=query.get("sort_order") != "asc",
    )


def history_rows(call: Call, base: str, now: float) -> list[dict[str, Any]]:
    """A call in the request history: one row per picture, each with the whole cost."""
    state = call.state(now)
    row = {
        "request_id": call.id,
        "model_name": call.slug,
        "model_status": state if state in ("COMPLETED", "FAILED") else "PENDING",
        "credits_deduction": float(call.cost),
        # Recorded rows show both forms of the inputs: JSON and a Python literal.
        "request_body": json.dumps(call.body) if call.route == "v1" else str(call.body),
        "latency_ms": round((call.queue_seconds + call.run_seconds) * 1000),
        "model_created": datetime.fromtimestamp(call.created, UTC).isoformat(),
        "generation_url": None,
        "error": call.error or None,
    }
    return [{**row, "generation_url": url} for url in media_urls(call, base)] if state == "COMPLETED" else [row]


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
