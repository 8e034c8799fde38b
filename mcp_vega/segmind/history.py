"""The vendor's request history: every call of an account, failed and unfinished ones included.

Both parsers raise a `SegmindError` if the history cannot be read.
"""

import json
import re
from ast import literal_eval
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega import errors
from mcp_vega.job import State
from mcp_vega.parameters import MODELS
from mcp_vega.redaction import quoted
from mcp_vega.segmind.pictures import find_pictures
from mcp_vega.segmind.response import ApiResponse, error_text, require_success
from mcp_vega.segmind.values import (
    as_list,
    as_object,
    error_of,
    message_of,
    parse_cost,
    parse_moment,
    parse_number,
    parse_past,
    parse_request_id,
    parse_state,
    state_of,
)

# In characters, longer than any body that is sent. Parsing more could take too much time and memory.
INPUTS_LENGTH = 100_000
# How deep in a row the inputs may be nested.
INPUTS_DEPTH = 5
# The fields that may contain the rows, the documented one first; and the fields that are about the page itself.
ROW_FIELDS = ("data", "items", "rows", "results", "requests", "records", "history")
PAGE_FIELDS = ("error", "errors", "status", "state", "success", "ok")
PARAMETERS = {name for model in MODELS.values() for name in model.model_fields}


@dataclass(frozen=True)
class HistoryRow:
    """A row of the vendor's request history: one call, or one picture of a call."""

    request_id: str
    model: str
    state: State | None  # None if it is not a known state
    cost: Decimal | None  # US dollars
    created: datetime | None = None  # when the call arrived (UTC)
    names_zone: bool = False  # whether the row names the zone of that time; if not, it may not be UTC
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])  # the parameters that the row shows
    urls: tuple[str, ...] = ()  # of its pictures
    error: str = ""
    text: str = ""  # the complete row as JSON


@dataclass(frozen=True)
class HistoryPage:
    """A page of the history."""

    rows: tuple[HistoryRow, ...] = ()
    total: int | None = None  # how many rows there are in all
    more: bool = False  # whether the API says that there are more pages
    server_time: datetime | None = None  # the API's time when it answered (UTC)


def parse_history(response: ApiResponse) -> HistoryPage:
    """Parse a page of the request history."""
    fields = require_success(response)
    rows = _rows_of(response.json)
    of_page = {name: fields[name] for name in PAGE_FIELDS if name in fields}
    if rows is None or error_of(of_page) or state_of(of_page) is State.FAILED:
        raise _unknown_form(error_text(response))
    data = as_object(fields.get("data"))
    paging = {**data, **as_object(fields.get("meta")), **as_object(fields.get("pagination")), **fields}
    total = parse_number(next((paging[name] for name in ("total", "total_count") if name in paging), None))
    return HistoryPage(
        rows=tuple(_parse_row(as_object(each), free=response.free) for each in rows),
        total=None if total is None else int(total),
        more=paging.get("has_more") is True or paging.get("has_next") is True,
        server_time=parse_moment(response.headers.get("date")),
    )


def _rows_of(json: Any) -> list[Any] | None:
    """The rows of a page. None if no known field has them: an unknown form must not count as an empty history."""
    if isinstance(json, list):
        return as_list(json)
    fields = as_object(json)
    places = [place[name] for place in (fields, as_object(fields.get("data"))) for name in ROW_FIELDS if name in place]
    return next((as_list(each) for each in places if isinstance(each, list)), None)


def parse_history_entry(response: ApiResponse) -> HistoryRow | None:
    """Parse one call of the request history; None if it has no such call."""
    if response.status == 404:
        return None
    fields = require_success(response)
    row = _parse_row(as_object(fields.get("data")) or fields, free=response.free)
    if not row.request_id:
        raise _unknown_form(error_text(response))
    return row


def merge_rows(first: HistoryRow, second: HistoryRow) -> HistoryRow:
    """Two rows of one call as one row, with the pictures of both and the outcome that one of them shows."""
    ends = (State.COMPLETED, State.FAILED)
    ended = second if first.state not in ends or (second.state in ends and not first.urls) else first
    urls = tuple(dict.fromkeys((*first.urls, *second.urls)))
    cost = second.cost if first.cost is None else first.cost
    return replace(first, state=ended.state, error=ended.error, cost=cost, urls=urls)


def _unknown_form(text: str) -> errors.ServiceUnavailable:
    details = f" ({text})" if text else ""
    return errors.ServiceUnavailable(f"The API's request history came in an unknown form{details}")


def _parse_row(row: dict[str, Any], *, free: bool) -> HistoryRow:
    """A row. Its request id is empty if the row has no usable id; `null` is not an id."""
    request_id, created = parse_request_id(row.get("request_id")), row.get("model_created")
    state = parse_state(row.get("model_status"))
    return HistoryRow(
        request_id=request_id or "",
        model=str(row.get("model_name") or ""),
        state=state,
        cost=parse_cost(row.get("credits_deduction"), free=free),
        created=parse_past(created),
        names_zone=re.search(r"(Z|GMT|UTC|[+-]\d\d:?\d\d|^[\d.]+)$", str(created)) is not None,
        inputs=_parse_inputs(row),
        urls=tuple(dict.fromkeys(_picture_urls(row, state))),
        error=quoted(message_of(row["error"]) or "no reason given") if row.get("error") else "",
        text=json.dumps(row, sort_keys=True),
    )


def _picture_urls(row: dict[str, Any], state: State | None) -> Iterator[str]:
    """The addresses of pictures in a row.

    In the documented field every address counts. In other fields only the address of a picture counts, and only if the
    call is complete.
    """
    value = row.get("generation_url")
    yield from _addresses(json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value or ""))
    if state is State.COMPLETED:
        others = {name: each for name, each in row.items() if name != "generation_url"}
        with suppress(errors.UnreadableAnswer):
            yield from (each for each in find_pictures(others) if isinstance(each, str))


def _addresses(text: str) -> list[str]:
    """The addresses in a text. If the text is one single address, it may contain any character."""
    several = re.findall(r"https?://[^\s\"',\[\]{}<>]+", text, re.IGNORECASE)
    if len(several) == 1 and re.fullmatch(r"https?://\S+", text, re.IGNORECASE):
        return [text]
    return several or ([text] if re.fullmatch(r"/\S+", text) else [])


def _parse_inputs(row: dict[str, Any]) -> dict[str, Any]:
    """A call's parameters, from anywhere in a row. Those in the request body come first."""
    found: dict[str, Any] = {}
    _collect_inputs(row.get("request_body"), found, INPUTS_DEPTH)
    _collect_inputs(row, found, INPUTS_DEPTH)
    return found


def _collect_inputs(value: Any, found: dict[str, Any], depth: int) -> None:
    """Add the parameters in a value to `found`. It may be an object, its JSON, or the text of a Python dictionary."""
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
            str(fields)  # raises if a number in another notation is too long to be shown or compared
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return fields
    return {}
