"""What becomes of a line from a host: what the SDK reads goes on as it came, anything else is repaired or refused.

The SDK drops a line that it cannot read, and takes a request whose id is neither text nor a whole number for a
notification: the host that sent it waits for ever. Here everything that a host may wait for has an answer. What can be
repaired (a byte order mark, half a surrogate pair, as Node writes an emoji that was cut, several messages on a line)
goes on repaired. For the rest the host gets an error, with the id of its request where that can be read. Notifications
and responses are owed no answer.
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

# More than any message has a reason for. A line may spell 450,000 lists: to parse them takes half a second, in which
# nothing else runs, in whichever thread it is done.
MOST_VALUES = 10_000
# Where the id is looked for in what is not JSON. Hosts write it first, or last.
END_CHARS = 64_000
# Of a whole number. Both parsers refuse longer ones; as a number that is not whole, it would be infinite.
MOST_DIGITS = 4300

SHORTER = "Send a shorter message"
TOO_DEEP = "it is nested too deeply"

BLANK = "\ufeff \t\r\n"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# These never go back over what they have read: the time is proportional to the length, whatever the text is.
STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)'
SCALAR = rf'(?:{STRING}|[^\s"{{}}\[\]:,]++)'
STRINGS = re.compile(STRING, re.DOTALL)
TOKENS = re.compile(rf"{SCALAR}|[{{}}\[\]:]", re.DOTALL)
LAST_ID = re.compile(
    rf',\s*+"id"\s*+:\s*+({SCALAR})\s*+(?:,\s*+{STRING}\s*+:\s*+{SCALAR}\s*+){{0,3}}+}}\s*+\Z', re.DOTALL
)


class InvalidMessage(VegaError):  # noqa: N818  says what happened
    """What a host sent is not a message of the protocol. Nothing was sent to the API."""

    next_step = "Send each message by itself as one JSON object, with an id that is text or a whole number"


class Refusal(JSONRPCError):  # noqa: N818  a message, no exception
    """An error for the host. Its id may be a number such as 2.5, which JSON-RPC allows and the SDK's model does not."""

    id: Any


# For the SDK, or for the host.
Outcome = str | Refusal


# ---- what becomes of a line ----


def read_line(line: str) -> Iterator[Outcome]:
    """The messages of a line for the SDK, each as JSON that it can read, and the errors for the host.

    Args:
        line: What came between two newlines, as UTF-8 decodes it.
    """
    text = line.strip(BLANK)
    if _has_too_many_values(text):
        yield refused(INVALID_REQUEST, f"The message holds more than {MOST_VALUES:,} values", _id_in(text), SHORTER)
    elif _is_right(line):
        yield line
    else:
        yield from _read_anew(text)


def _has_too_many_values(text: str) -> bool:
    def values(text: str) -> int:
        return sum(map(text.count, ",[{"))

    return len(text) > MOST_VALUES and values(text) > MOST_VALUES and values(STRINGS.sub("", text)) > MOST_VALUES


def _is_right(line: str) -> bool:
    """Whether the SDK takes a line for what it is; where only a closer look can tell, it is not."""
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
    return unexpected not in line and "\\u00" not in line  # by which any letter can be spelled


def parsed(text: str) -> JSONRPCMessage | None:
    """A message as the SDK reads it, if it can."""
    try:
        return jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError:
        return None


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= MOST_DIGITS else math.inf


DECODER = json.JSONDecoder(parse_int=_whole_number)


def _read_anew(text: str) -> Iterator[Outcome]:
    """As `read_line`, for what the SDK does not take as it came; `text` neither begins nor ends with blanks."""
    start = 0
    while start < len(text):
        try:
            message, end = _decoded(text, start)
        except (ValueError, RecursionError) as error:
            why = f"it breaks at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else TOO_DEEP
            yield refused(PARSE_ERROR, f"The message cannot be read: {why}", _id_in(text[start:]))
            return
        yield from _read_value(text[start:end], message)
        start = end


def _decoded(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at `start`, and where the next one begins. Beside another there are objects alone.

    Raises:
        ValueError: There is none.
        RecursionError: It is nested too deeply.
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
    """Why it is not a request."""
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
    """An error for the host, with the id that came if it can be one."""
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
    """The id of a request in what is not JSON, from its beginning and its end; None if none can be read."""
    top: dict[str, str] = {}  # the members of the outermost object, up to where it breaks
    depth, name, before = 0, "", ""
    for found in TOKENS.finditer(start):
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
    last = LAST_ID.search(end)
    try:
        return json.loads(top.get('"id"') or (last[1] if last else "null"))
    except ValueError:
        return None
