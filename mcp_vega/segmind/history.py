"""The vendor's request history: every call of an account, failed and unfinished ones included.

Both parsers raise a `SegmindError` where the history could not be read.
"""

import json
import re
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega import errors
from mcp_vega.parameters import MODELS
from mcp_vega.redaction import quoted
from mcp_vega.segmind.parsing import is_request_id
from mcp_vega.segmind.response import (
    ApiResponse,
    as_cost,
    as_decimal,
    as_moment,
    as_object,
    error_text,
    require_success,
)

# Longer than any body that is sent: to read it could take all the time and memory there is.
INPUTS_LENGTH = 100_000
# How deep in a row the inputs may lie.
INPUTS_DEPTH = 5
# States in which a call has ended.
ENDS = ("COMPLETED", "FAILED")
# Statuses in an answer that say that it failed.
FAILURES = ("error", "fail", "failed", "failure")
PARAMETERS = {name for model in MODELS.values() for name in model.model_fields}


@dataclass(frozen=True)
class HistoryRow:
    """A row of the vendor's request history: one call, or one picture of it."""

    request_id: str
    model: str
    state: str  # in capitals
    cost: Decimal | None  # US dollars
    created: datetime | None = None  # when it arrived (UTC)
    names_zone: bool = False  # whether it says in which time zone that is; else it may be another
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])  # those of its parameters that it tells
    urls: tuple[str, ...] = ()  # of its pictures
    error: str = ""
    text: str = ""  # all of the row, as JSON


@dataclass(frozen=True)
class HistoryPage:
    """A page of the history."""

    rows: tuple[HistoryRow, ...] = ()
    total: int | None = None  # how many rows there are in all
    more: bool = False  # whether it says that there are further pages
    asked: datetime | None = None  # the API's own time when it answered (UTC)


def parse_history(response: ApiResponse) -> HistoryPage:
    """Parse a page of the request history."""
    fields = require_success(response)
    rows: Any = fields.get("data", response.json)
    if not isinstance(rows, list) or _reports_error(fields):
        raise _unknown_form(error_text(response))
    parsed = tuple(_parse_row(as_object(each)) for each in rows)  # pyright: ignore[reportUnknownVariableType]
    paging = {**as_object(fields.get("meta")), **as_object(fields.get("pagination")), **fields}
    total = as_decimal(next((paging[name] for name in ("total", "total_count") if name in paging), None))
    more = paging.get("has_more") is True or paging.get("has_next") is True
    asked = as_moment(response.headers.get("date"))
    return HistoryPage(parsed, None if total is None else int(total), more, asked)


def _reports_error(fields: dict[str, Any]) -> bool:
    """Whether an answer says that it failed, whatever its HTTP status."""
    status = str(fields.get("status", "")).lower()
    return bool(fields.get("error") or fields.get("errors")) or fields.get("success") is False or status in FAILURES


def parse_history_entry(response: ApiResponse) -> HistoryRow | None:
    """Parse one call of the request history; None where it has no such call."""
    if response.status == 404:
        return None
    fields = require_success(response)
    row = _parse_row(as_object(fields.get("data")) or fields)
    if not row.request_id:
        raise _unknown_form(error_text(response))
    return row


def merge_rows(first: HistoryRow, second: HistoryRow) -> HistoryRow:
    """Two rows of one call as one, with the pictures of both, and what either knows of its end."""
    ended = second if first.state not in ENDS or (second.state in ENDS and not first.urls) else first
    urls = tuple(dict.fromkeys((*first.urls, *second.urls)))
    cost = second.cost if first.cost is None else first.cost
    return replace(first, state=ended.state, error=ended.error, cost=cost, urls=urls)


def _unknown_form(said: str) -> errors.ServiceUnavailable:
    words = f" ({said})" if said else ""
    return errors.ServiceUnavailable(f"The API's request history came in an unknown form{words}")


def _parse_row(row: dict[str, Any]) -> HistoryRow:
    """A row; its request id is empty where it has none that can be asked for (`null` is none, and no call's name)."""
    request_id = row.get("request_id")
    text = str(request_id) if isinstance(request_id, str | int) else ""
    return HistoryRow(
        request_id=text if is_request_id(text) else "",
        model=str(row.get("model_name") or ""),
        state=str(row.get("model_status", "")).strip().upper(),
        cost=as_cost(row.get("credits_deduction")),
        created=as_moment(row.get("model_created")),
        names_zone=re.search(r"(Z|GMT|[+-]\d\d:?\d\d)$", str(row.get("model_created"))) is not None,
        inputs=_parse_inputs(row),
        urls=tuple(dict.fromkeys(_picture_urls(row))),
        error=quoted(str(row["error"])) if row.get("error") else "",
        text=json.dumps(row, sort_keys=True),
    )


def _picture_urls(value: Any, depth: int = INPUTS_DEPTH) -> Iterator[str]:
    """The addresses of pictures in a row: whatever is one, wherever it stands, but in what the caller sent."""
    if isinstance(value, dict):
        for key, each in as_object(value).items():
            if depth and key not in ("request_body", "prompt", "negative_prompt"):
                yield from _picture_urls(each, depth - 1)
    elif isinstance(value, list):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            if depth:
                yield from _picture_urls(each, depth - 1)
    elif isinstance(value, str):
        # Several may be in one text; one alone may have any letter in it.
        several = re.findall(r"https?://[^\s\"',\[\]{}<>]+", value)
        urls = [value] if len(several) == 1 and re.fullmatch(r"https?://\S+", value) else several
        yield from (url for url in urls if "/requests/" not in url)


def _parse_inputs(row: dict[str, Any]) -> dict[str, Any]:
    """A call's parameters from a row, wherever they stand in it; first those of the body as it was sent."""
    found: dict[str, Any] = {}
    _collect_inputs(row.get("request_body"), found, INPUTS_DEPTH)
    _collect_inputs(row, found, INPUTS_DEPTH)
    return found


def _collect_inputs(value: Any, found: dict[str, Any], depth: int) -> None:
    """Add the parameters in a value: an object, its JSON, or the text of a Python dictionary; at any depth."""
    fields = _parse_object(value) if isinstance(value, str) else as_object(value)
    for name, each in fields.items():
        if name in PARAMETERS and isinstance(each, str | int | float):
            found.setdefault(name, each)
        elif depth and (isinstance(each, dict) or (isinstance(each, str) and each.lstrip().startswith("{"))):
            _collect_inputs(each, found, depth - 1)


def _parse_object(text: str) -> dict[str, Any]:
    if len(text) > INPUTS_LENGTH:
        return {}
    for parse in (json.loads, literal_eval):
        try:
            fields = as_object(parse(text))
            str(fields)  # a number in another notation may be too long to be shown or compared
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return fields
    return {}
