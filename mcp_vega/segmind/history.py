"""The vendor's request history: every call of an account, failed and unfinished ones included."""

import json
from ast import literal_eval
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega import errors
from mcp_vega.redaction import quoted
from mcp_vega.segmind.parsing import as_cost, is_request_id
from mcp_vega.segmind.response import ApiResponse, as_moment, as_object, refusal

# Longer than any body that is sent: to read it could take all the time and memory there is.
INPUTS_LENGTH = 100_000


@dataclass(frozen=True)
class HistoryRow:
    """One call in the vendor's request history.

    `inputs` is the body as it was sent, `created` when it arrived (UTC), `urls` where its pictures are.
    """

    request_id: str
    model: str
    state: str
    cost: Decimal | None
    created: datetime | None = None
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])
    urls: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class HistoryPage:
    """A page of the history, newest call first.

    `full` is whether another page may follow, `asked` the API's own time when it answered (UTC).
    """

    rows: tuple[HistoryRow, ...]
    full: bool
    asked: datetime | None


def read_history(answer: ApiResponse, per_page: int) -> HistoryPage:
    """Read a page of the request history: one row per call, where the API sends one per picture.

    Raises:
        SegmindError: The history could not be read.
    """
    if not answer.ok:
        raise refusal(answer)
    body: Any = answer.json
    rows = as_object(body).get("data", body)
    if not isinstance(rows, list):
        raise errors.ServiceUnavailable("The API's request history came in an unknown form")
    calls: dict[str, HistoryRow] = {}
    for number, row in enumerate(as_object(each) for each in rows):  # pyright: ignore[reportUnknownVariableType]
        call = _history_row(row)
        name = call.request_id or f"#{number}"
        earlier = calls.get(name)
        calls[name] = joined(earlier, call) if earlier else call
    full = len(rows) >= per_page  # pyright: ignore[reportUnknownArgumentType]
    return HistoryPage(tuple(calls.values()), full, as_moment(answer.headers.get("date")))


def read_history_entry(answer: ApiResponse) -> HistoryRow | None:
    """Read one call from the request history; None where it has no such call.

    Raises:
        SegmindError: The history could not be read.
    """
    if answer.status == 404:
        return None
    if not answer.ok:
        raise refusal(answer)
    body = answer.fields
    row = as_object(body.get("data")) or body
    if not _request_id(row.get("request_id")):
        raise errors.ServiceUnavailable("The API's request history came in an unknown form")
    return _history_row(row)


def joined(first: HistoryRow, second: HistoryRow) -> HistoryRow:
    """Two rows of one call as one, with the pictures of both."""
    return replace(first, urls=tuple(dict.fromkeys((*first.urls, *second.urls))))


def _history_row(row: dict[str, Any]) -> HistoryRow:
    url = row.get("generation_url")
    return HistoryRow(
        request_id=_request_id(row.get("request_id")),
        model=str(row.get("model_name", "")),
        state=str(row.get("model_status", "")),
        cost=as_cost(row.get("credits_deduction")),
        created=as_moment(row.get("model_created")),
        inputs=_literal(row.get("request_body")),
        urls=(url,) if isinstance(url, str) and url else (),
        error=quoted(str(row["error"])) if row.get("error") else "",
    )


def _request_id(value: Any) -> str:
    """A call's id; empty where it has none that can be asked for. `null` is none, and no call's name."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if is_request_id(text) else ""


def _literal(text: Any) -> dict[str, Any]:
    """A call's inputs from the history: an object, its JSON, or the text of a Python dictionary."""
    if not isinstance(text, str):
        return as_object(text)
    if len(text) > INPUTS_LENGTH:
        return {}
    try:
        return as_object(json.loads(text))
    except (ValueError, RecursionError):
        try:
            inputs = as_object(literal_eval(text))
            str(inputs)  # a number in another notation may be too long to be shown or compared
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return {}
        return inputs
