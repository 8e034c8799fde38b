"""A response of the API, and the error that one other than success stands for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from mcp_vega import errors
from mcp_vega.redaction import quoted
from mcp_vega.segmind.values import LONGEST, as_object, parse_moment, parse_number, parse_seconds, words_of

# More values than a picture has bytes, were it written as a list of them.
MOST_VALUES = 1_500_000
# Where nothing but a text came, so much of it is read.
TEXT_BYTES = 2000
# For how long an API is left alone at most, and what is no time to wait any more.
LONGEST_WAIT, UNLIKELY_SECONDS = timedelta(days=1), 10**8
# An engine on one's own machine says with this that a call cost nothing; no other cost of 0 is believed.
FREE_HEADER = "x-mcp-vega-free"


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
        # To read ever so many values takes seconds, in which nothing else runs, in whichever thread it is done.
        if sum(self.body.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
            return None
        text = self.body.decode(json.detect_encoding(self.body), "replace").strip()
        try:
            value, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        return value if end == len(text) or text[0] in "{[" else None  # what follows may be a second one

    @property
    def content(self) -> Any:
        """The body as JSON or, where it is none, as text."""
        return self.body.decode(errors="replace") if self.json is None else self.json

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty where it is none."""
        return as_object(self.json)

    @property
    def free(self) -> bool:
        """Whether the API says of itself that it costs nothing."""
        return self.headers.get(FREE_HEADER) == "1"

    @property
    def content_type(self) -> str:
        """The type of the body, as the API names it, in lower case and without parameters."""
        return self.headers.get("content-type", "")[:LONGEST].partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Exchange:
    """A request and the response to it, or as much of that as came. The key is in neither."""

    method: str
    url: str
    response: ApiResponse
    seconds: float  # from the request to the end of the response
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))  # by this machine's clock (UTC)


def _parse_int(digits: str) -> int | float:
    # Python refuses more than 4,300 digits, and with them the whole text.
    return int(digits) if len(digits) <= LONGEST else float(digits)


_DECODER = json.JSONDecoder(parse_int=_parse_int)


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
# A gateway says these when the client left or it took too long: the call itself may run.
_OPEN_ENDED = {408, 444, 460, 498, 499}
# These come of a moment that may pass, and are no fault of the call's.
_PASSING = {409, 421, 423, 425}
# The address is another one: nobody has looked at the call. After the other redirects it may have run.
_MOVED = {301, 302, 307, 308}


def error_from(response: ApiResponse, *, paid: bool = False) -> errors.SegmindError:
    """The error that a response other than success stands for; a 5xx leaves the outcome of a paid call open.

    So does a 4xx that says no more than that the connection was bad.
    """
    text = error_text(response)
    said = f"The API answered with HTTP {response.status}" + (f": {text}" if text else "")
    wait = wait_of(response)
    match response.status:
        case 429:
            step = f"Call again after {datetime.now(UTC) + wait:%H:%M:%S} UTC" if wait else None
            error: errors.SegmindError = errors.RateLimited(said, next_step=step)
        case 402 | 406:
            error = _credits_or_value(response.status, said, text)
        case 400 | 403 | 422 if is_about_content(text):
            error = errors.ContentBlocked(said)
        case 400 | 403 if _names_credits(text):
            error = errors.InsufficientCredits(said)
        case status if status in _PASSING:
            error = errors.ServiceUnavailable(said)
        case status if 300 <= status < 400:
            error = _redirect(response, said, paid=paid)
        case status if 400 <= status < 500 and status not in _OPEN_ENDED:
            kind = _REFUSALS.get(status, errors.Refused)
            has_words = text or kind.next_step != errors.Refused.next_step
            error = kind(
                said, next_step=None if has_words else "It gave no reason: check the call and SEGMIND_BASE_URL"
            )
        case _:
            error = errors.OutcomeUnknown(said) if paid else errors.ServiceUnavailable(said)
    error.wait = wait
    return error


def _redirect(response: ApiResponse, said: str, *, paid: bool) -> errors.SegmindError:
    """The error of a redirect, which a key is not sent after."""
    place = response.headers.get("location", "")
    said += f", a redirect to {quoted(place)}" if place else ", a redirect"
    said += "; SEGMIND_BASE_URL has to name the API's own address"
    if paid and response.status not in _MOVED:
        return errors.OutcomeUnknown(said)
    return errors.Refused(said, next_step="Check SEGMIND_BASE_URL and start the server again")


def require_success(response: ApiResponse, *, paid: bool = False) -> dict[str, Any]:
    """The fields of a response; raises the error that one other than success stands for."""
    if not response.ok:
        raise error_from(response, paid=paid)
    return response.fields


def generation_error(text: str, charged: errors.Charged) -> errors.GenerationFailed:
    """The error of a call that ran and failed, from the API's words."""
    if is_about_content(text):
        return errors.ContentBlocked(f"The API would not draw this: {text}", charged=charged)
    return errors.GenerationFailed(f"The API could not draw this: {text or 'no reason given'}", charged=charged)


def _credits_or_value(status: int, said: str, text: str) -> errors.Refused:
    """402 always means credits; v1 says 406 for credits as well as for a value or a content type."""
    if re.search(r"spend(ing)? limit", text, re.IGNORECASE):
        return errors.InsufficientCredits(said, next_step="Have the team's spending limit raised, then call again")
    if status == 402 or _names_credits(text) or "insufficient" in text.lower():
        return errors.InsufficientCredits(said)
    return errors.NotAcceptable(said)


def _names_credits(text: str) -> bool:
    return re.search(r"\bcredits?\b|\bbalance\b", text, re.IGNORECASE) is not None


def is_about_content(text: str) -> bool:
    """Whether an error's words say that the API will not draw this. There is no other sign of it."""
    words = r"nsfw|\bmoderat(ion|ed)\b|safety|content policy|\brai\b|\bflagged\b|\bblocked\b|\bprohibited\b"
    network = r"\b(ip|waf|firewall|country|region)\b"
    return bool(re.search(words, text, re.IGNORECASE)) and not re.search(network, text, re.IGNORECASE)


def error_text(response: ApiResponse) -> str:
    """The API's own words about an error, made harmless; empty where it has none (an HTML page has none)."""
    words = words_of(response.json)
    if not words and response.json is None:
        words = _plain_text(response)
    return quoted(words) if words.strip() else ""


def _plain_text(response: ApiResponse) -> str:
    """The words of a body that is none of JSON; none of a page, or of what is no text."""
    charset = re.search(r"charset=\"?([\w-]+)", response.headers.get("content-type", ""))
    body = response.body[:TEXT_BYTES]
    try:
        text = body.decode(charset[1] if charset else "utf-8", "replace")
    except LookupError:
        text = body.decode(errors="replace")
    if text.lstrip().startswith("<"):
        found = re.search(r"<(?:\w+:)?(message|error|detail|faultstring)\b[^>]*>([^<>]+)</", text, re.IGNORECASE)
        return found[2] if found else ""
    return "" if "\0" in text or text.count("\ufffd") > len(text) / 10 else text


# ---- times to wait ----


def wait_of(response: ApiResponse) -> timedelta | None:
    """For how long the API asks to be left alone, a day at most; None where it does not say.

    Of several times the longest counts. A date is compared with the API's own, where the response has one: this
    machine's clock may be wrong.
    """
    now = parse_moment(response.headers.get("date")) or datetime.now(UTC)
    waits: list[timedelta] = []
    for name in ("retry-after", "x-rate-limit-reset-at-utc"):
        # A header that was sent twice is joined by a comma, and a date has one as well.
        for value in re.split(r",\s*(?![0-9]{2}[ -][A-Z])", response.headers.get(name, "")[:500]):
            if moment := parse_moment(value):
                waits.append(moment - now)
            elif (seconds := parse_seconds(value)) is not None and seconds < UNLIKELY_SECONDS:
                waits.append(timedelta(seconds=float(seconds)))
            elif (number := parse_number(value)) is not None and number < 0:
                waits.append(timedelta())
    return min(max(*waits, timedelta()), LONGEST_WAIT) if waits else None
