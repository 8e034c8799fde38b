"""The vendor's request history: every call of an account, failed and unfinished ones included.

Both parsers raise a `SegmindError` where the history could not be read.
"""

import json
from ast import literal_eval
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega import errors
from mcp_vega.redaction import quoted
from mcp_vega.segmind.parsing import is_request_id
from mcp_vega.segmind.response import ApiResponse, as_cost, as_moment, as_object, require_success

# Longer than any body that is sent: to read it could take all the time and memory there is.
INPUTS_LENGTH = 100_000


@dataclass(frozen=True)
class HistoryRow:
    """One call in the vendor's request history."""

    request_id: str
    model: str
    state: str
    cost: Decimal | None  # US dollars
    created: datetime | None = None  # when it arrived (UTC)
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])  # the body as it was sent
    urls: tuple[str, ...] = ()  # of its pictures
    error: str = ""


@dataclass(frozen=True)
class HistoryPage:
    """A page of the history, newest call first."""

    rows: tuple[HistoryRow, ...]
    full: bool  # whether another page may follow
    asked: datetime | None  # the API's own time when it answered (UTC)


def parse_history(response: ApiResponse, per_page: int) -> HistoryPage:
    """Parse a page of the request history: one row per call, where the API sends one per picture."""
    require_success(response)
    body: Any = response.json
    rows = as_object(body).get("data", body)
    if not isinstance(rows, list):
        raise _unknown_form()
    calls: dict[str, HistoryRow] = {}
    for number, row in enumerate(as_object(each) for each in rows):  # pyright: ignore[reportUnknownVariableType]
        call = _parse_row(row)
        name = call.request_id or f"#{number}"
        calls[name] = merge_rows(calls.get(name, call), call)
    full = len(rows) >= per_page  # pyright: ignore[reportUnknownArgumentType]
    return HistoryPage(tuple(calls.values()), full, as_moment(response.headers.get("date")))


def parse_history_entry(response: ApiResponse) -> HistoryRow | None:
    """Parse one call of the request history; None where it has no such call."""
    if response.status == 404:
        return None
    fields = require_success(response)
    row = _parse_row(as_object(fields.get("data")) or fields)
    if not row.request_id:
        raise _unknown_form()
    return row


def merge_rows(first: HistoryRow, second: HistoryRow) -> HistoryRow:
    """Two rows of one call as one, with the pictures of both."""
    return replace(first, urls=tuple(dict.fromkeys((*first.urls, *second.urls))))


def _unknown_form() -> errors.ServiceUnavailable:
    return errors.ServiceUnavailable("The API's request history came in an unknown form")


def _parse_row(row: dict[str, Any]) -> HistoryRow:
    """A row; its request id is empty where it has none that can be asked for (`null` is none, and no call's name)."""
    request_id, url = row.get("request_id"), row.get("generation_url")
    text = str(request_id) if isinstance(request_id, str | int) else ""
    return HistoryRow(
        request_id=text if is_request_id(text) else "",
        model=str(row.get("model_name", "")),
        state=str(row.get("model_status", "")),
        cost=as_cost(row.get("credits_deduction")),
        created=as_moment(row.get("model_created")),
        inputs=_parse_inputs(row.get("request_body")),
        urls=(url,) if isinstance(url, str) and url else (),
        error=quoted(str(row["error"])) if row.get("error") else "",
    )


def _parse_inputs(text: Any) -> dict[str, Any]:
    """A call's inputs from the history: an object, its JSON, or the text of a Python dictionary."""
    if not isinstance(text, str):
        return as_object(text)
    if len(text) > INPUTS_LENGTH:
        return {}
    for parse in (json.loads, literal_eval):
        try:
            inputs = as_object(parse(text))
            str(inputs)  # a number in another notation may be too long to be shown or compared
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return inputs
    return {}
