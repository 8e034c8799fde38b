"""Parses values as APIs really send them. Each kind has a function that returns the value, or None if it is not known.

A value is not known if it can mean two things. A text that is longer than any value of its kind is not parsed.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, cast

from mcp_vega.job import REQUEST_ID, State
from mcp_vega.redaction import redacted

# Longer than any number, word or time that an API sends (characters).
LONGEST = 64
# Every number of the API is smaller than the first of these. The cost of a call is between the other two (US dollars).
# A cost outside is a mistake. It would use up the spending limit, or would never reach it.
LARGEST, CHEAPEST_CALL, DEAREST_CALL = Decimal(10**15), Decimal("0.00001"), Decimal(100)

# ---- JSON ----

# Fields that repeat what the caller sent. They say nothing about the answer.
ECHOES = frozenset({"prompt", "negativeprompt", "requestbody", "input", "inputs", "parameters", "params", "request"})
# Fields that an answer may be wrapped in, and one more that may contain numbers.
WRAPPERS = frozenset({"data", "result", "results", "response", "body", "job", "payload", "prediction"})
FIGURES = WRAPPERS | {"metrics"}
# How deep a field is searched for, and among how many others.
FIELD_DEPTH, MOST_FIELDS = 3, 200


def as_object(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else an empty object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """`value` if it is a JSON list, else an empty list."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def plain_name(name: str) -> str:
    """A field's name for comparisons: it is the same for `requestId`, `request-id` and `Request_ID`."""
    return re.sub("[^a-z0-9]", "", name[:LONGEST].lower())


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of an object by their plain names. A list of one object counts as that object."""
    several = as_list(value)
    fields = islice(as_object(several[0] if len(several) == 1 else value).items(), MOST_FIELDS)
    return {plain_name(name): each for name, each in fields}


def field_of(json: Any, *names: str, inside: frozenset[str] = WRAPPERS) -> Any:
    """The value of the first of these fields that exists, at the top or inside of a wrapper.

    A field that is nearer to the top comes first.
    """
    level = [json]
    for _ in range(FIELD_DEPTH):
        objects = [plain_fields(each) for each in level]
        for name in map(plain_name, names):
            for each in objects:
                if each.get(name) is not None:
                    return each[name]
        level = [inner for each in objects for name, inner in each.items() if name in inside]
    return None


# ---- numbers ----

_PLAIN = re.compile(r"[+-]?([0-9]{1,20}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?")
# Digits in groups of three. The decimal mark differs from the sign between the groups.
_GROUPED = re.compile(
    r"[+-]?[0-9]{1,3}(?:([,.' \u2019\u00a0\u2009\u202f])[0-9]{3})(?:\1[0-9]{3})*(?:(?!\1)[.,][0-9]+)?"
)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_MINUS_SIGNS = str.maketrans("−", "-")  # noqa: RUF001  the mathematical minus
_DOLLARS = re.compile(r"US\$|\$|USD", re.IGNORECASE)
_SECONDS = re.compile(r"(?<=[0-9.])\s*(s|sec|secs|seconds?)$", re.IGNORECASE)


def parse_number(value: Any) -> Decimal | None:
    """A number from JSON, or from a text in any notation; None if it is not a number, or may be one of two numbers.

    A list counts if all its entries are the same number: `[2.1]`, or the same number for each picture. `1,234.50` and
    `1.234,50` are the same number, and `0,002` is clear, too. `1,234` may be one of two numbers.
    """
    if isinstance(value, list):
        return _only({None if isinstance(each, list) else parse_number(each) for each in as_list(value)[:LONGEST]})
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, int) and value.bit_length() > LONGEST:
        return None  # Python refuses to convert thousands of digits to text
    text = str(value).strip()
    if not text or len(text) > LONGEST:
        return None
    if text[0] + text[-1] == "[]" or re.search(r",\s", text):  # headers that were sent twice are joined like this
        return _only({parse_number(each) for each in text.strip("[]").split(",")})
    number = _read_number(text.translate(_MINUS_SIGNS))
    return number if number is not None and abs(number) < LARGEST else None


def _only(numbers: set[Decimal | None]) -> Decimal | None:
    return next(iter(numbers)) if len(numbers) == 1 else None


def _read_number(text: str) -> Decimal | None:
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    whole, _, part = text.lstrip("+-").partition(",")
    if _DECIMAL_COMMA.fullmatch(text):
        may_be_thousands = len(part) == 3 and len(whole) <= 3 and not whole.startswith("0")
        return None if may_be_thousands else Decimal(text.replace(",", "."))
    if found := _GROUPED.fullmatch(text):
        return Decimal(text.replace(found[1], "").replace(",", "."))
    return None


def parse_usd(value: Any) -> Decimal | None:
    """An amount of US dollars, also with `$` or `USD`; None for another currency."""
    return parse_number(_DOLLARS.sub("", value, count=1)) if _is_short(value) else parse_number(value)


def parse_cost(value: Any, *, free: bool = False) -> Decimal | None:
    """The cost of a call in US dollars; None if it is missing or cannot be true.

    A cost of 0 is believed only from an API that is `free`; otherwise a spending limit would never be reached. Several
    numbers are not believed, because nobody knows whether they must be added.
    """
    is_one = len(as_list(value)) < 2 and not (isinstance(value, str) and re.search(r",\s", value[:LONGEST]))
    cost = parse_usd(value) if is_one else None
    if cost is None:
        return None
    return cost if CHEAPEST_CALL <= cost <= DEAREST_CALL or (free and cost == 0) else None


def parse_seconds(value: Any) -> Decimal | None:
    """A duration in seconds, also with `s`; None if it is missing or negative."""
    seconds = parse_number(_SECONDS.sub("", value.strip()) if _is_short(value) else value)
    return None if seconds is None or seconds < 0 else abs(seconds)


def parse_seed(value: Any) -> int | None:
    """A seed: a whole number that is not negative."""
    seed = parse_number(value)
    return int(seed) if seed is not None and seed >= 0 and seed == seed.to_integral_value() else None


# Words that some APIs send instead of an id if there is none.
NO_IDS = ("null", "none", "nil", "undefined")


def parse_request_id(value: Any) -> str | None:
    """An id that can be used in a request. An API key is not an id."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= LONGEST:
        value = str(value)
    if not isinstance(value, str) or len(value) > LONGEST:
        return None
    is_id = re.fullmatch(REQUEST_ID, value) and value.lower() not in NO_IDS and redacted(value) == value
    return value if is_id else None


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


# ---- times ----

# Seconds since 1970, from 2001 to 2286. A number outside is not a time.
_PLAUSIBLE_SECONDS = 10**9, 10**10


def parse_moment(value: Any) -> datetime | None:
    """A time (UTC) from ISO 8601 with or without a zone, from an HTTP date, or in seconds since 1970."""
    number = parse_number(value)
    for seconds in (number, number / 1000) if number is not None else ():  # they may be milliseconds
        if _PLAUSIBLE_SECONDS[0] <= seconds < _PLAUSIBLE_SECONDS[1]:
            return datetime.fromtimestamp(float(seconds), UTC)
    if not _is_short(value):
        return None
    iso = re.sub(r"\s*(UTC|Z)$", "+00:00", value.strip(), flags=re.IGNORECASE)
    for parse, text in ((datetime.fromisoformat, iso), (parsedate_to_datetime, value)):
        try:
            moment = parse(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def parse_past(value: Any) -> datetime | None:
    """As `parse_moment`, for something that happened. A program that does not know the time may write the year 1."""
    moment = parse_moment(value)
    return moment if moment and _PLAUSIBLE_SECONDS[0] <= moment.timestamp() < _PLAUSIBLE_SECONDS[1] else None


# ---- states ----

# The words of this API and of similar ones, in capitals.
_STATES = {
    State.QUEUED: "QUEUED QUEUEING PENDING WAITING IN_QUEUE SUBMITTED ACCEPTED CREATED SCHEDULED",
    State.PROCESSING: "PROCESSING RUNNING IN_PROGRESS STARTED STARTING GENERATING",
    State.COMPLETED: "COMPLETED COMPLETE SUCCEEDED SUCCEED SUCCESS SUCCESSFUL DONE FINISHED READY OK "
    "COMPLETED_WITH_ERRORS PARTIALLY_COMPLETED",
    State.FAILED: "FAILED FAIL FAILURE ERROR ERRORED CANCELLED CANCELED REJECTED ABORTED TIMED_OUT TIMEOUT BLOCKED "
    "MODERATED CONTENT_MODERATED REQUEST_MODERATED",
}
_STATE_OF_WORD = {word: state for state, words in _STATES.items() for word in words.split()}


def parse_state(value: Any) -> State | None:
    """The state that a word means, in any case and spacing; None if the word is not known."""
    if not _is_short(value):
        return None
    word = re.sub(r"[\s-]+", "_", value.strip()).upper()
    return _STATE_OF_WORD.get(word.rpartition(".")[2])  # the name of an enumeration may come before it


def state_of(json: Any) -> State | None:
    """The state in an answer: from a known word or, without one, from whether the call was successful."""
    word = field_of(json, "status", "state")
    state = parse_state(field_of(word, "status", "state") if isinstance(word, dict) else word)
    unsuccessful = str(field_of(json, "success", "ok")).lower() == "false"
    return state or (State.FAILED if unsuccessful else None)


# ---- errors ----

# The fields in which APIs put an error message, the likeliest first. A code counts only if there is no message.
_MESSAGE_FIELDS = ("error", "errors", "message", "detail", "details", "errordescription", "errormessage", "errormsg",
                   "err", "errmsg", "msg", "reason", "description", "title", "fault", "faultstring")  # fmt: skip
_CODES = ("code", "type", "name")
# How many fields and entries are searched, how many texts are taken from one place, and how long each may be. That is
# enough to see what is wrong.
_MOST, _SEVERAL, _LONGEST_MESSAGE = 200, 3, 2000
# Values that mean that there is no message.
_NOTHING = frozenset({"", "none", "null", "nil", "false", "ok", "0", "no error", "n/a", "-", "undefined", "success"})


def error_of(json: Any) -> str:
    """The message in the field for an error; empty if there is no error, or no message."""
    error = field_of(json, "error", "errors")
    return message_of(json) if error is True else message_of(error)


def message_of(json: Any) -> str:
    """An answer's own message about an error; empty if there is none."""
    return _text(json, [_MOST])


def _text(json: Any, left: list[int]) -> str:
    """The message of an error. `left` counts down how many values may still be searched."""
    left[0] -= 1
    if left[0] < 0:
        return ""
    if isinstance(json, str):
        text = json[:_LONGEST_MESSAGE].strip()
        return "" if text.lower() in _NOTHING else text
    if isinstance(json, list):
        return _joined(_text(each, left) for each in as_list(json)[:_SEVERAL])
    if not (fields := plain_fields(json)):
        return ""
    message = _joined(_text(fields[name], left) for name in _MESSAGE_FIELDS if fields.get(name))
    where = as_list(fields.get("loc"))[-1:]  # from a validator: the field that the message is about
    if where and message:
        return f"{where[0]}: {message}"
    codes = (fields.get(name) for name in _CODES)
    return message or _of_fields(as_object(json), left) or _joined(_text(each, left) for each in codes)


def _of_fields(fields: dict[str, Any], left: list[int]) -> str:
    """The messages about single fields (`{"seed": ["too large"]}`), or inside of fields with any other name."""
    texts: list[str] = []
    for name, each in islice(fields.items(), _MOST):
        if isinstance(each, list) and all(isinstance(text, str) for text in as_list(each)):
            text = _text(each, left)
            texts += [f"{name[:LONGEST]}: {text}"] if text and "://" not in text else []
        elif isinstance(each, dict | list) and plain_name(name) not in ECHOES:
            texts.append(_text(each, left))
    return _joined(texts)


def _joined(texts: Iterable[str]) -> str:
    return "; ".join([text for text in dict.fromkeys(texts) if text][:_SEVERAL])
