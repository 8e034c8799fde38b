"""A response of the API, and the error that an unsuccessful response stands for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from mcp_vega import errors
from mcp_vega.imaging.formats import recognise
from mcp_vega.redaction import printable, quoted
from mcp_vega.segmind.values import LONGEST, as_object, message_of, parse_moment, parse_number, parse_seconds

# A picture as a list of its bytes has fewer values than this.
MOST_VALUES = 1_500_000
# The longest reason of an engine that is shown, in characters.
ENGINE_TEXT = 1000
# How many bytes of a plain text are read.
TEXT_BYTES = 2000
# The longest wait that an API gets; and a number of seconds that is too large to be a wait.
LONGEST_WAIT, UNLIKELY_SECONDS = timedelta(days=1), 10**8
# With this header, an engine of the user's own says that a call was free. No other cost of 0 is believed. The other
# header says what draws there, such as a graphics card.
FREE_HEADER, ENGINE_HEADER = "x-mcp-vega-free", "x-mcp-vega-engine"
LONGEST_ENGINE = 100


@dataclass(frozen=True)
class ApiResponse:
    """A response, independent of the HTTP library. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the API reports success."""
        return 200 <= self.status < 300

    @cached_property
    def json(self) -> Any:
        """The body as JSON; None if it is not JSON."""
        if recognise(self.body):
            return None
        # To parse very many values takes seconds. Nothing else runs meanwhile, even if a thread does it.
        if sum(self.body.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
            return None
        text = self.body.decode(json.detect_encoding(self.body), "replace").strip()
        try:
            value, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        return value if end == len(text) or text[0] in "{[" else None  # a second value may follow it

    @property
    def content(self) -> Any:
        """The body as JSON or, if it is not JSON, as text."""
        return self.body.decode(errors="replace") if self.json is None else self.json

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is not one."""
        return as_object(self.json)

    @property
    def free(self) -> bool:
        """Whether the API says that it costs nothing."""
        return self.headers.get(FREE_HEADER) == "1"

    @property
    def engine(self) -> str | None:
        """What draws, in words that are safe to show; None if the API is not the user's own, or does not say it."""
        return printable(self.headers.get(ENGINE_HEADER, "")[:LONGEST_ENGINE]) or None if self.free else None

    @property
    def content_type(self) -> str:
        """The content type that the API names, in lower case and without parameters."""
        return self.headers.get("content-type", "")[:LONGEST].partition(";")[0].strip().lower()


@dataclass(frozen=True)
class Exchange:
    """A request and its response, or the part of the response that arrived. Neither contains the key."""

    method: str
    url: str
    response: ApiResponse
    seconds: float  # from the request to the end of the response
    ended: datetime = field(default_factory=lambda: datetime.now(UTC))  # by this machine's clock (UTC)


def _parse_int(digits: str) -> int | float:
    # Python refuses a number of more than 4,300 digits, and then the complete text.
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
# A gateway sends these if the client left or the call took too long. The call itself may run.
_AMBIGUOUS = {408, 444, 460, 498, 499}
# These are temporary, and the call did not cause them.
_TEMPORARY = {409, 421, 423, 425}
# The API has another address, so nobody has processed the call. After other redirects, the call may have run.
_MOVED = {301, 302, 307, 308}


def error_from(response: ApiResponse, *, paid: bool = False) -> errors.SegmindError:
    """The error that an unsuccessful response stands for. After a 5xx, the outcome of a paid call is unknown.

    It is also unknown after a 4xx that says only that the connection was bad.
    """
    text = error_text(response)
    message = f"The API answered with HTTP {response.status}" + (f": {text}" if text else "")
    wait = wait_of(response)
    match response.status:
        case 429:
            step = f"Call again after {datetime.now(UTC) + wait:%H:%M:%S} UTC" if wait else None
            error: errors.SegmindError = errors.RateLimited(message, next_step=step)
        case 402 | 406:
            error = _credits_or_value(response.status, message, text)
        case 400 | 403 | 422 if is_about_content(text):
            error = errors.ContentBlocked(message)
        case 400 | 403 if _names_credits(text):
            error = errors.InsufficientCredits(message)
        case status if status in _TEMPORARY:
            error = errors.ServiceUnavailable(message)
        case status if 300 <= status < 400:
            error = _redirect(response, message, paid=paid)
        case status if 400 <= status < 500 and status not in _AMBIGUOUS:
            kind = _REFUSALS.get(status, errors.Refused)
            is_clear = text or kind.next_step != errors.Refused.next_step
            step = None if is_clear else "The API gave no reason. Check the call and SEGMIND_BASE_URL"
            error = kind(message, next_step=step)
        case _:
            error = errors.OutcomeUnknown(message) if paid else errors.ServiceUnavailable(message)
    error.wait = wait
    return error


def _redirect(response: ApiResponse, message: str, *, paid: bool) -> errors.SegmindError:
    """The error of a redirect. The client does not follow it, because it would send the key there."""
    place = response.headers.get("location", "")
    message += f", a redirect to {quoted(place)}" if place else ", a redirect"
    message += "; SEGMIND_BASE_URL must be the API's own address"
    if paid and response.status not in _MOVED:
        return errors.OutcomeUnknown(message)
    return errors.Refused(message, next_step="Check SEGMIND_BASE_URL and start the server again")


def require_success(response: ApiResponse, *, paid: bool = False) -> dict[str, Any]:
    """The fields of a successful response. Raises the error that an unsuccessful one stands for."""
    if not response.ok:
        raise error_from(response, paid=paid)
    return response.fields


def generation_error(text: str, charged: errors.Charged) -> errors.GenerationFailed:
    """The error of a call that ran and failed, with the API's message."""
    if is_about_content(text):
        return errors.ContentBlocked(f"The API refused to draw this: {text}", charged=charged)
    return errors.GenerationFailed(f"The API could not draw this: {text or 'no reason given'}", charged=charged)


def engine_error(response: ApiResponse) -> errors.GenerationFailed:
    """The error of a call that an engine of the user's own could not draw. Its message ends with what to do."""
    text = quoted(message_of(response.json), ENGINE_TEXT) if message_of(response.json) else "no reason given"
    step = "Call again when you have done what the engine says: nothing was charged"
    return errors.GenerationFailed(f"The engine could not draw this: {text}", next_step=step, charged=errors.Charged.NO)


def _credits_or_value(status: int, message: str, text: str) -> errors.Refused:
    """402 always means credits. v1 uses 406 for credits, for a value and for a content type."""
    if re.search(r"spend(ing)? limit", text, re.IGNORECASE):
        return errors.InsufficientCredits(message, next_step="Raise the spending limit of the team, then call again")
    if status == 402 or _names_credits(text) or "insufficient" in text.lower():
        return errors.InsufficientCredits(message)
    return errors.NotAcceptable(message)


def _names_credits(text: str) -> bool:
    return re.search(r"\bcredits?\b|\bbalance\b", text, re.IGNORECASE) is not None


def is_about_content(text: str) -> bool:
    """Whether an error message says that the API refuses the content. Only the message shows that."""
    words = r"nsfw|\bmoderat(ion|ed)\b|safety|content policy|\brai\b|\bflagged\b|\bblocked\b|\bprohibited\b"
    network = r"\b(ip|waf|firewall|country|region)\b"
    return bool(re.search(words, text, re.IGNORECASE)) and not re.search(network, text, re.IGNORECASE)


def error_text(response: ApiResponse) -> str:
    """The API's own message about an error, safe to show; empty if there is none. An HTML page has none."""
    message = message_of(response.json)
    if not message and response.json is None:
        message = _plain_text(response)
    return quoted(message) if message.strip() else ""


def _plain_text(response: ApiResponse) -> str:
    """The message in a body that is not JSON; empty if that is a web page, or is not text."""
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
    """How long the API asks the client to wait, at most a day; None if it does not say.

    Of several times the longest counts. A date is compared with the response's own date, if it has one, because this
    machine's clock may be wrong.
    """
    now = parse_moment(response.headers.get("date")) or datetime.now(UTC)
    waits: list[timedelta] = []
    for name in ("retry-after", "x-rate-limit-reset-at-utc"):
        # Headers that were sent twice are joined by a comma, and a date contains a comma, too.
        for value in re.split(r",\s*(?![0-9]{2}[ -][A-Z])", response.headers.get(name, "")[:500]):
            if moment := parse_moment(value):
                waits.append(moment - now)
            elif (seconds := parse_seconds(value)) is not None and seconds < UNLIKELY_SECONDS:
                waits.append(timedelta(seconds=float(seconds)))
            elif (number := parse_number(value)) is not None and number < 0:
                waits.append(timedelta())
    return min(max(*waits, timedelta()), LONGEST_WAIT) if waits else None
