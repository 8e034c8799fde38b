"""The request history: the calls made with a key, newest first. `HistoryBehaviour` says how it may misbehave."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import formatdate
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mcp_vega.sandbox.account import Account, Call, Refusal
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour, Inputs
from mcp_vega.sandbox.other_account import calls_of_other_account
from mcp_vega.sandbox.responses import Json, base_url, media_urls

LARGEST_PAGE = 100
DAYS = 31  # the longest range of dates that a query may have
CUT_LENGTH = 40  # the length of inputs that are cut off, in characters
TITLES = {"segmind-vega": "Segmind Vega", "segmind-vega-rt-v1": "Segmind Vega RT"}
FAILURE: dict[str, Any] = {"error": "The request history cannot be read at the moment", "data": []}

HistoryRows = Callable[[Call, str, float], list[dict[str, Any]]]  # from a call, the sandbox's own URL and the time


class RequestHistory:
    """The history's endpoints of one account."""

    def __init__(self, account: Account, history_rows: HistoryRows) -> None:
        self._account = account
        self._history_rows = history_rows

    async def history(self, request: Request) -> Response:
        """Answer with a page of the rows that match the query."""
        self._check()
        behaviour, asked = self._account.history, _read(request.query_params, self._account)
        if behaviour.error:
            return self._answer(FAILURE)
        calls = sorted(self._calls(request), key=lambda call: call.created, reverse=asked.newest_first)
        rows = [
            row
            for call in calls
            if asked.model in _model_name(call, behaviour) and asked.since <= _day(call.created) <= asked.until
            for row in self._rows(call, request)
            if asked.status in ("", row["model_status"])
        ]
        size = min(asked.per_page, behaviour.per_page)
        start = (asked.page - behaviour.first_page) * size
        body = {"data": rows[start : start + size], "page": asked.page, "per_page": asked.per_page}
        return self._answer({**body, "total": len(rows)} if behaviour.total else body)

    async def history_entry(self, request: Request) -> Response:
        """Answer with the first row of one call, of any age."""
        self._check()
        if self._account.history.error:
            return self._answer(FAILURE)
        for call in self._calls(request):
            if call.id == request.path_params["id"]:
                return self._answer(self._rows(call, request)[0])
        raise Refusal(404, "Request not found")

    def _check(self) -> None:
        if self._account.history_status != 200:
            raise Refusal(self._account.history_status)

    def _calls(self, request: Request) -> list[Call]:
        """Return the calls that the history shows to the key of a request."""
        behaviour, now = self._account.history, self._account.now
        if behaviour.account == "another":
            calls = calls_of_other_account(now)
        else:
            calls = [call for call in self._account.calls.values() if call.key == request.headers["x-api-key"]]
        return [call for call in calls if call.created + behaviour.late <= now]

    def _rows(self, call: Call, request: Request) -> list[dict[str, Any]]:
        """Return the rows of a call, changed as the history's behaviour says."""
        behaviour = self._account.history
        changes: dict[str, Any] = {}
        if behaviour.models != "slugs":
            changes["model_name"] = _model_name(call, behaviour)
        if behaviour.time_zone is not None:
            local = datetime.fromtimestamp(call.created, UTC) + timedelta(hours=behaviour.time_zone)
            changes["model_created"] = local.replace(tzinfo=None).isoformat()
        if behaviour.inputs != "full":
            changes["request_body"] = _inputs(call, behaviour.inputs)
        rows = self._history_rows(call, base_url(request), self._account.now)
        return [{**row, **changes} for row in rows]

    def _answer(self, body: dict[str, Any]) -> Response:
        """Return an answer, with or without a `Date` header as the history's behaviour says."""
        behaviour = self._account.history
        date_header = formatdate(self._account.now + behaviour.date_off, usegmt=True)
        return Json(body, headers={"date": date_header} if behaviour.date else None)


@dataclass(frozen=True)
class _Query:
    """The query for a page of the history."""

    page: int
    per_page: int
    since: str  # a day, such as 2026-11-20
    until: str  # a day
    model: str
    status: str
    newest_first: bool


def _read(query: Mapping[str, str], account: Account) -> _Query:
    """Read a query.

    Raises:
        Refusal: The query is invalid; this is the API's answer to it.
    """
    now, behaviour = account.now, account.history
    since = query.get("from_date") or _day(now - 7 * 24 * 3600)
    until = query.get("to_date") or _day(now)
    try:
        page, per_page = int(query.get("page", behaviour.first_page)), int(query.get("per_page", 20))
        days = (date.fromisoformat(until) - date.fromisoformat(since)).days
    except ValueError as error:
        raise Refusal(400, str(error)) from error
    if page < behaviour.first_page:
        raise Refusal(400, f"page: must be at least {behaviour.first_page}")
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
        newest_first=behaviour.order == "as-asked" and query.get("sort_order") != "asc",
    )


def history_rows(call: Call, base: str, now: float) -> list[dict[str, Any]]:
    """Return a call's rows in the request history: one row per picture, each with the cost of the complete call."""
    state = call.state(now)
    row = {
        "request_id": call.id,
        "model_name": call.slug,
        "model_status": state if state in ("COMPLETED", "FAILED") else "PENDING",
        "credits_deduction": float(call.cost),
        "request_body": _inputs(call, "full"),
        "latency_ms": round((call.queue_seconds + call.run_seconds) * 1000),
        "model_created": datetime.fromtimestamp(call.created, UTC).isoformat(),
        "generation_url": None,
        "error": call.error or None,
    }
    return [{**row, "generation_url": url} for url in media_urls(call, base)] if state == "COMPLETED" else [row]


def _model_name(call: Call, behaviour: HistoryBehaviour) -> str:
    return TITLES.get(call.slug, call.slug) if behaviour.models == "titles" else call.slug


def _inputs(call: Call, form: Inputs) -> str | None:
    """Return the body of a call in the form in which a row shows it."""
    body = call.body
    if form == "missing":
        return None
    if form == "nested":
        body = {"input": body}
    elif form == "no-seed":
        body = {name: value for name, value in body.items() if name != "seed"}
    elif form == "null-seed":
        body = {**body, "seed": None}
    # Recorded rows show both forms of the inputs: JSON and a Python literal.
    text = json.dumps(body) if call.route == "v1" else str(body)
    return text[:CUT_LENGTH] if form == "cut" else text


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
