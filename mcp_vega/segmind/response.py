"""A response of the API, readers of its values, and the error that a response other than success stands for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

from mcp_vega import errors
from mcp_vega.redaction import quoted


@dataclass(frozen=True)
class ApiResponse:
    """A response, free of the HTTP library. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the API reports success."""
        return 200 <= self.status < 300

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none."""
        return as_object(self.json)


@dataclass(frozen=True)
class Exchange:
    """A request and the response to it, or as much of that as came. The key is in neither."""

    method: str
    url: str
    response: ApiResponse
    seconds: float  # from the request to the end of the response
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))  # by this machine's clock (UTC)


# ---- values ----


def as_object(value: Any) -> dict[str, Any]:
    """`value` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def as_moment(text: Any) -> datetime | None:
    """A time (UTC) from ISO 8601 with or without a zone, or from an HTTP date; None where it is neither."""
    if not isinstance(text, str):  # the parser of HTTP dates raises other errors for a number
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def as_decimal(value: Any) -> Decimal | None:
    """A finite decimal from a number or its text, also in brackets (`[2.1]`, one entry per picture: the first)."""
    if isinstance(value, list):
        value = value[0] if value else None  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    text = str(value).strip().strip("[]").split(",")[0].strip()
    # Longer than any figure of the API: nothing to convert, and a huge exponent would be slow.
    if not re.fullmatch(r"[+-]?[0-9]{0,20}\.?[0-9]{0,20}([eE][+-]?[0-9]{1,2})?", text):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if abs(number) < 10**15 else None


def as_cost(value: Any) -> Decimal | None:
    """A price in US dollars; a negative one is None, or a spending limit would grow by it."""
    cost = as_decimal(value)
    return None if cost is None or cost < 0 else abs(cost)


# ---- errors ----

_REFUSALS: dict[int, type[errors.Refused]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    410: errors.Retired,
    422: errors.BadRequest,
}


# 408 and the last four are a gateway's: the client left, or took too long. The others come of a state that may pass.
_NO_REFUSALS = {408, 409, 421, 423, 425, 444, 460, 498, 499}


def error_from(response: ApiResponse, *, paid: bool = False) -> errors.SegmindError:
    """The error that a response other than success stands for; a 5xx leaves the outcome of a paid call open.

    So does a 4xx that says no more than that the connection or the moment was bad.
    """
    text = error_text(response)
    said = f"The API answered with HTTP {response.status}" + (f": {text}" if text else "")
    match response.status:
        case 429:
            return errors.RateLimited(said, until=as_moment(response.headers.get("x-rate-limit-reset-at-utc")))
        case 402 | 406:
            return _credits_or_value(response.status, said, text)
        case 400 | 422 if _is_about_content(text):
            return errors.ContentBlocked(said)
        case status if 400 <= status < 500 and not (paid and status in _NO_REFUSALS):
            return _REFUSALS.get(status, errors.Refused)(said)
        case _:
            return errors.OutcomeUnknown(said) if paid else errors.ServiceUnavailable(said)


def require_success(response: ApiResponse, *, paid: bool = False) -> dict[str, Any]:
    """The fields of a response; raises the error that one other than success stands for."""
    if not response.ok:
        raise error_from(response, paid=paid)
    return response.fields


def generation_error(text: str, charged: errors.Charged) -> errors.GenerationFailed:
    """The error of a call that ran and failed, from the API's words."""
    if _is_about_content(text):
        return errors.ContentBlocked(f"The API would not draw this: {text}", charged=charged)
    return errors.GenerationFailed(f"The API could not draw this: {text or 'no reason given'}", charged=charged)


def _credits_or_value(status: int, said: str, text: str) -> errors.Refused:
    """402 always means credits; v1 says 406 for credits as well as for a value or a content type."""
    if re.search(r"spend(ing)? limit", text, re.IGNORECASE):
        return errors.InsufficientCredits(said, next_step="Have the team's spending limit raised, then call again")
    if status == 402 or re.search(r"credit|balance|insufficient", text, re.IGNORECASE):
        return errors.InsufficientCredits(said)
    return errors.NotAcceptable(said)


def _is_about_content(text: str) -> bool:
    """Whether an error's words say that the API will not draw this. There is no other sign of it."""
    words = r"nsfw|moderat|safety|content policy|\brai\b|flagged|blocked|prohibited"
    return re.search(words, text, re.IGNORECASE) is not None


def error_text(response: ApiResponse) -> str:
    """The API's own words about an error, made harmless; empty where it has none (an HTML page has none)."""
    for name in ("error", "message", "detail", "error_description"):
        value = response.fields.get(name)
        if isinstance(value, dict):
            value = as_object(value).get("message")
        if value:
            return quoted(value if isinstance(value, str) else json.dumps(value))
    return ""
