"""Reads the lines of a host. A line that the SDK can read is passed on unchanged; others are repaired or refused.

The SDK drops a line that it cannot read. It treats a request as a notification if the id is neither text nor a whole
number. In both cases the host would wait forever. Here every request that a host may wait for gets an answer. Some
faults are repaired: a byte order mark, half a surrogate pair (Node writes it for an emoji that was cut in two), or
several messages on a line. For other faults the host gets an error, with the id of its request if that can be read.
Notifications and responses need no answer.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, cast

from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from mcp_vega.errors import VegaError
from mcp_vega.segmind.values import as_object
from mcp_vega.server.results.records import error_data

# No real message has more values. A line could contain 450,000 lists. To parse them takes half a second, and meanwhile
# nothing else runs, not even in other threads.
MOST_VALUES = 10_000
# In a line that is not JSON, the id is searched in so many characters at each end. Hosts write it first, or last.
END_CHARS = 64_000
# The longest whole number. Both parsers refuse longer ones; read as a float, such a number would be infinite.
MOST_DIGITS = 4300

SHORTER = "Send a shorter message"
TOO_DEEP = "it is nested too deeply"

BLANK = "\ufeff \t\r\n"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# These patterns never backtrack: for any text, the time is proportional to its length. They are rarely needed, so they
# are not compiled at the start.
STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
SCALAR = rf'(?:{STRING}|[^\s"{{}}\[\]:,]++)'
TOKEN = rf"{SCALAR}|[{{}}\[\]:]"
LAST_ID = rf',\s*+"id"\s*+:\s*+({SCALAR})\s*+(?:,\s*+{STRING}\s*+:\s*+{SCALAR}\s*+){{0,3}}+}}\s*+\Z'


class InvalidMessage(VegaError):  # noqa: N818  says what happened
    """The host sent something that is not a message of the protocol. Nothing was sent to the API."""

    next_step = "Send each message separately, as one JSON object with an id that is text or a whole number"


class Refusal(JSONRPCError):  # noqa: N818  a message, not an exception
    """An error for the host. Its id may be a number such as 2.5, which JSON-RPC allows but the SDK's model does not."""

    id: Any


# A message for the SDK, or an error for the host.
Outcome = str | Refusal


# ---- reading a line ----


def read_line(line: str) -> Iterator[Outcome]:
    """Yield the messages of a line for the SDK, each as JSON that the SDK can read, and the errors for the host.

    Args:
        line: The text between two newlines, decoded as UTF-8.
    """
    text = line.strip(BLANK)
    if _has_too_many_values(text):
        yield refused(INVALID_REQUEST, f"The message has more than {MOST_VALUES:,} values", _id_in(text), SHORTER)
    elif _is_right(line):
        yield line
    else:
        yield from _read_in_detail(text)


def _has_too_many_values(text: str) -> bool:
    def values(text: str) -> int:
        return sum(map(text.count, ",[{"))

    return (
        len(text) > MOST_VALUES
        and values(text) > MOST_VALUES
        and values(re.sub(STRING, "", text, flags=re.DOTALL)) > MOST_VALUES
    )


def _is_right(line: str) -> bool:
    """Whether the SDK certainly reads a line correctly. False if only a closer look can show it."""
    match parsed(line):
        case None:
            return False
        case JSONRPCRequest():
            return True
        case JSONRPCNotification(params={"requestId": float()}):
            return False
        case JSONRPCNotification():
            unexpected = '"id"'
        case _:
            unexpected = '"method"'
    return unexpected not in line and "\\u00" not in line  # an escape may hide the letters of a name


def parsed(text: str) -> JSONRPCMessage | None:
    """Return a message as the SDK reads it; None if the SDK cannot read it."""
    try:
        return jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError:
        return None


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= MOST_DIGITS else math.inf


DECODER = json.JSONDecoder(parse_int=_whole_number)


def _read_in_detail(text: str) -> Iterator[Outcome]:
    """As `read_line`, for lines that cannot be passed on unchanged; `text` neither begins nor ends with blanks."""
    start = 0
    while start < len(text):
        try:
            message, end = _decoded(text, start)
        except (ValueError, RecursionError) as error:
            why = f"invalid JSON at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else TOO_DEEP
            yield refused(PARSE_ERROR, f"The message cannot be read: {why}", _id_in(text[start:]))
            return
        yield from _read_value(text[start:end], message)
        start = end


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """Return the value that begins at `start`, and where the next value begins. Only objects may be one of several.

    Raises:
        ValueError: There is no such value.
        RecursionError: The value is nested too deeply.
    """
    value, end = DECODER.raw_decode(text, start)
    while end < len(text) and text[end] in BLANK:
        end += 1
    if text[start] != "{" and (start > 0 or end < len(text)):
        raise json.JSONDecodeError("Extra data", text, start)
    return value, end


def _read_value(text: str, value: Any) -> Iterator[Outcome]:
    if isinstance(value, dict):
        yield from _read_object(text, cast("dict[str, Any]", value))
    elif isinstance(value, list):
        members = [cast("dict[str, Any]", each) for each in cast("list[Any]", value) if isinstance(each, dict)]
        ids = [each["id"] for each in members if "id" in each and not _is_response(each)]
        for id_ in ids or [None]:
            yield refused(INVALID_REQUEST, "Batches are not supported", id_)
    else:
        yield refused(INVALID_REQUEST, "The message is not an object", None)


def _is_response(message: dict[str, Any]) -> bool:
    return "method" not in message and not message.keys().isdisjoint({"result", "error"})


def _read_object(text: str, message: dict[str, Any]) -> Iterator[Outcome]:
    if _is_response(message):
        kind = JSONRPCResponse | JSONRPCError
    elif "method" in message and "id" not in message:
        kind = JSONRPCNotification
    else:
        kind = JSONRPCRequest
    spellings = [text]
    for fields, name in ((message, "id"), (as_object(message.get("params")), "requestId")):
        if isinstance(value := fields.get(name), float) and value.is_integer():
            fields[name] = int(value)  # 1.0 is a whole number
            spellings = []
    for spelling in (*spellings, _repaired(message)):
        if isinstance(parsed(spelling), kind):
            yield spelling
            return
    if kind is JSONRPCRequest:
        yield refused(INVALID_REQUEST, _fault_of(message), message.get("id"))


def _repaired(message: dict[str, Any]) -> str:
    try:
        return LONE_SURROGATE.sub("\ufffd", json.dumps(message, ensure_ascii=False))
    except RecursionError:
        return ""


def _fault_of(request: dict[str, Any]) -> str:
    """Return why a message is not a valid request."""
    if request.get("jsonrpc") != "2.0":
        return 'The message has no "jsonrpc": "2.0"'
    if not isinstance(request.get("method"), str):
        return "The method must be text"
    if not isinstance(request.get("params", {}), dict):
        return "The params must be an object"
    if isinstance(request.get("id"), bool) or not isinstance(request.get("id"), str | int):
        return "The id must be text or a whole number"
    if "error" in request:
        return "The message has both a method and an error"
    return f"The message cannot be read: {TOO_DEEP}"


def refused(code: int, what: str, id_: object, next_step: str | None = None) -> Refusal:
    """Return an error for the host, with the id of its request if that is a possible id."""
    error = InvalidMessage(what, next_step=next_step)
    data = ErrorData(code=code, message=error.text, data=error_data(error))
    return Refusal(jsonrpc="2.0", id=_echoed(id_), error=data)


def _echoed(id_: object) -> str | float | None:
    match id_:
        case str():
            return LONE_SURROGATE.sub("\ufffd", id_)
        case bool():
            return None
        case int():
            return id_
        case float() if math.isfinite(id_):
            return id_
        case _:
            return None


# ---- the id in what is not JSON ----


def _id_in(text: str) -> object:
    return id_between(text[:END_CHARS], text[-END_CHARS:])


def id_between(start: str, end: str) -> object:
    """Return the id of a request that is not valid JSON, from its beginning and its end; None if it cannot be read."""
    top: dict[str, str] = {}  # the members of the outermost object, up to the fault
    depth, name, before = 0, "", ""
    for found in re.finditer(TOKEN, start, re.DOTALL):
        sign = found[0]
        if sign in ("{", "["):
            depth += 1
        elif sign in ("}", "]"):
            depth = max(depth - 1, 0)
        elif depth == 1 and sign == ":":
            name = before
            top.setdefault(name, "")
        elif depth == 1 and before == ":":
            top[name] = top[name] or sign
        before = sign
    if '"method"' not in top and not top.keys().isdisjoint({'"result"', '"error"'}):
        return None
    last = re.search(LAST_ID, end, re.DOTALL)
    try:
        return json.loads(top.get('"id"') or (last[1] if last else "null"))
    except ValueError:
        return None
