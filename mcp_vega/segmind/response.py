"""A response of the API, and the error that it stands for when it is no success."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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


def refusal(answer: ApiResponse, *, paid: bool = False) -> errors.SegmindError:
    """The error that a response other than success stands for.

    Args:
        answer: The response.
        paid: Whether it answers a call that is charged when it runs: a 5xx then leaves the outcome open.
    """
    text = error_text(answer)
    said = f"The API answered with HTTP {answer.status}" + (f": {text}" if text else "")
    match answer.status:
        case 429:
            return errors.RateLimited(said, until=rate_limit_reset(answer))
        case 402 | 406:
            return _credits_or_value(answer.status, said, text)
        case 400 | 422 if is_about_content(text):
            return errors.ContentBlocked(said)
        case status if 400 <= status < 500:
            return _REFUSALS.get(status, errors.Refused)(said)
        case _:
            return errors.OutcomeUnknown(said) if paid else errors.ServiceUnavailable(said)


def passing_failure(answer: ApiResponse, *, paid: bool) -> errors.SegmindError | None:
    """The error of an answer that may be another one later (429, 5xx); None for every other answer."""
    passing = answer.status == 429 or answer.status >= 500
    return refusal(answer, paid=paid) if passing else None


_REFUSALS: dict[int, type[errors.Refused]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    410: errors.Retired,
    422: errors.BadRequest,
}


def _credits_or_value(status: int, said: str, text: str) -> errors.Refused:
    """402 always means credits; v1 says 406 for credits as well as for a value or a content type."""
    if re.search(r"spend(ing)? limit", text, re.IGNORECASE):
        return errors.InsufficientCredits(said, next_step="Have the team's spending limit raised, then call again")
    if status == 402 or re.search(r"credit|balance|insufficient", text, re.IGNORECASE):
        return errors.InsufficientCredits(said)
    return errors.NotAcceptable(said)


def is_about_content(text: str) -> bool:
    """Whether an error's words say that the API will not draw this. There is no other sign of it."""
    words = r"nsfw|moderat|safety|content policy|\brai\b|flagged|blocked|prohibited"
    return re.search(words, text, re.IGNORECASE) is not None


def error_text(answer: ApiResponse) -> str:
    """The API's own words about an error, made harmless; empty where it has none (an HTML page has none)."""
    body = answer.fields
    for name in ("error", "message", "detail", "error_description"):
        value = body.get(name)
        if isinstance(value, dict):
            value = as_object(value).get("message")
        if value:
            return quoted(value if isinstance(value, str) else json.dumps(value))
    return ""


def rate_limit_reset(answer: ApiResponse) -> datetime | None:
    """When the API takes requests again (UTC), where it says so."""
    return as_moment(answer.headers.get("x-rate-limit-reset-at-utc"))


def as_moment(text: Any) -> datetime | None:
    """A time (UTC) from ISO 8601 with or without a zone, or from an HTTP date; None where it is neither."""
    if not isinstance(text, str):  # the parser of HTTP dates trips over a number
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def as_object(value: Any) -> dict[str, Any]:
    """`value` where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
