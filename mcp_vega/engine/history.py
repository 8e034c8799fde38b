"""An engine's request history, in the form that Segmind documents: newest first, page by page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import formatdate
from typing import Any

from starlette.responses import Response

from mcp_vega.engine.drawing import Drawing
from mcp_vega.engine.responses import Json

USUAL_PAGE, LARGEST_PAGE = 20, 100


@dataclass(frozen=True)
class _Query:
    """Which rows are wanted."""

    page: int
    per_page: int
    since: date
    until: date
    model: str
    status: str
    oldest_first: bool

    def includes(self, drawing: Drawing) -> bool:
        """Whether a call is among those that are wanted."""
        return (
            self.model in ("", drawing.parameters.slug)
            and self.status in ("", _state(drawing))
            and self.since <= drawing.created.date() <= self.until
        )


def page(drawings: list[Drawing], query: Mapping[str, str]) -> Response:
    """The rows of those calls that match a query; the calls come newest first.

    Raises:
        ValueError: The query is not valid; the text says why.
    """
    wanted = _read(query)
    found = [each for each in drawings if wanted.includes(each)]
    if wanted.oldest_first:
        found.reverse()
    start = (wanted.page - 1) * wanted.per_page
    rows = [_row(each) for each in found[start : start + wanted.per_page]]
    return _dated({"data": rows, "page": wanted.page, "per_page": wanted.per_page, "total": len(found)})


def entry(drawing: Drawing) -> Response:
    """The row of one call."""
    return _dated(_row(drawing))


def _dated(body: Any) -> Response:
    # A client compares this date with its own clock before it believes that the history has no such call.
    return Json(body, headers={"date": formatdate(usegmt=True)})


def _read(query: Mapping[str, str]) -> _Query:
    number, size = int(query.get("page", 1)), int(query.get("per_page", USUAL_PAGE))
    if number < 1 or size < 1:
        raise ValueError("page and per_page: must be at least 1")
    return _Query(
        page=number,
        per_page=min(size, LARGEST_PAGE),
        since=date.fromisoformat(query.get("from_date") or "0001-01-01"),
        until=date.fromisoformat(query.get("to_date") or datetime.now(UTC).date().isoformat()),
        model=query.get("model_name", ""),
        status=query.get("status", ""),
        oldest_first=query.get("sort_order") == "asc",
    )


def _row(drawing: Drawing) -> dict[str, Any]:
    """A call's row. There is one for each call, because the pictures have no addresses."""
    parameters = drawing.parameters
    return {
        "request_id": drawing.id,
        "model_name": parameters.slug,
        "model_status": _state(drawing),
        "credits_deduction": 0,
        "request_body": json.dumps(parameters.body(base64=parameters.base64)),
        "latency_ms": round((drawing.queue_seconds + drawing.run_seconds) * 1000),
        "model_created": drawing.created.isoformat(),
        "generation_url": None,
        "error": drawing.error or None,
    }


def _state(drawing: Drawing) -> str:
    return drawing.state if drawing.ended else "PENDING"
