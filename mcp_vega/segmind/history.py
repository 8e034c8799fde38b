"""The vendor's request history: every call of an account, failed and unfinished ones included."""

import json
from ast import literal_eval
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from mcp_vega import errors
from mcp_vega.segmind.answers import as_decimal
from mcp_vega.segmind.responses import Answer, as_object, quoted, refusal


@dataclass(frozen=True)
class HistoryRow:
    """One call in the vendor's request history; `inputs` is the body as it was sent."""

    request_id: str
    model: str
    state: str
    cost: Decimal | None
    inputs: dict[str, Any] = field(default_factory=dict[str, Any])
    urls: tuple[str, ...] = ()
    error: str = ""


def read_history(answer: Answer) -> list[HistoryRow]:
    """Read a page of the request history, one row per call (the API sends one per picture).

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
    for row in (as_object(each) for each in rows):  # pyright: ignore[reportUnknownVariableType]
        call = _history_row(row)
        earlier = calls.get(call.request_id)
        calls[call.request_id] = replace(call, urls=(*earlier.urls, *call.urls)) if earlier else call
    return list(calls.values())


def _history_row(row: dict[str, Any]) -> HistoryRow:
    url = row.get("generation_url")
    return HistoryRow(
        request_id=str(row.get("request_id", "")),
        model=str(row.get("model_name", "")),
        state=str(row.get("model_status", "")),
        cost=as_decimal(row.get("credits_deduction")),
        inputs=_literal(row.get("request_body")),
        urls=(url,) if isinstance(url, str) and url else (),
        error=quoted(str(row["error"])) if row.get("error") else "",
    )


def _literal(text: Any) -> dict[str, Any]:
    """A call's inputs from the history: an object, its JSON, or the text of a Python dictionary."""
    if not isinstance(text, str):
        return as_object(text)
    try:
        return as_object(json.loads(text))
    except (ValueError, RecursionError):
        try:
            return as_object(literal_eval(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return {}
