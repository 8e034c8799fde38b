"""Lines that a host may send, drawn by hypothesis: right ones, and any that a faulty program may make.

This module also says which answers a line must get. It uses none of the code under test for that.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import permutations, product
from typing import Any, TypeVar, cast

from hypothesis import strategies as st
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter

from mcp_vega.server.stdio.messages import Outcome

T = TypeVar("T")

BOM = "\ufeff"
BLANK = f"{BOM} \t\r\n"

# Lines are composed of few choices: each choice takes hypothesis 0.1 ms.
# JSON values. Long ones have a short name.
ODD_VALUES = {
    **{
        each: each
        for each in ("null", "true", "2.5", "1.0", "-1e2", "1e999", "NaN", "-0", "5", "[]", "{}", '""', '"x"')
    },
    **{each: each for each in (r'"fox \ud83e"', r'"\ud83e\udd8a"', r'"\udd8a\ud83e"', r'"\u0069d"')},
    "4,000 digits": "9" * 4000,
    "5,000 digits": "9" * 5000,
    "5,000 digits and a half": "9" * 5000 + ".5",
    "150 lists": "[" * 150 + "]" * 150,
    "300 lists": "[" * 300 + "]" * 300,
}
ORDERS = list(permutations(["jsonrpc", "id", "method", "params", "result"]))

# ---- right messages ----

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | TEXTS
JSON_VALUES = st.recursive(LEAVES, lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3))
IDS = st.sampled_from([7, 0, -1, 10**17, 10**400, "a", "7", "", 'é🦊"\\\0\u2028', "x" * 300]) | st.integers() | TEXTS
METHODS = st.sampled_from(["ping", "tools/list", "tools/call", "resources/read", "nonsense", "\0 ü"])
ASKED: list[dict[str, Any] | None] = [
    None,
    {},
    {"id": 2.5, "method": 1, "result": {}},
    {"name": "check_job", "arguments": {"request_id": "fox 🦊"}},
    {"_meta": {"progressToken": 1}},
]
PARAMS = st.sampled_from(ASKED) | JSON_VALUES.map(lambda value: {"name": value})
SEPARATORS = [(",", ":"), (", ", ": "), ("\t,\r", " :\t")]
SHAPES = st.sampled_from([*product(ORDERS, SEPARATORS, [False, True])])


def spelled(message: dict[str, Any], shape: tuple[tuple[str, ...], tuple[str, str], bool]) -> str:
    """A message as JSON."""
    order, separators, ascii_only = shape
    ordered = {name: message[name] for name in order if name in message}
    return json.dumps(ordered, separators=separators, ensure_ascii=ascii_only)


def request(id_: Any, method: str, params: Any) -> dict[str, Any]:
    """A request, or a notification if the id is `...`."""
    return {"jsonrpc": "2.0", "method": method, "params": params} | ({} if id_ is ... else {"id": id_})


def response(id_: Any, result: Any) -> dict[str, Any]:
    """A response of the host."""
    return {"jsonrpc": "2.0", "id": id_, "result": result}


REQUESTS = st.builds(request, IDS | st.just(...), METHODS, PARAMS)
RIGHT = st.builds(spelled, REQUESTS | st.builds(response, IDS, PARAMS.filter(bool)), SHAPES)

# ---- messages with a member of a wrong type ----

ODD = st.sampled_from(list(ODD_VALUES))
BESIDE = [
    '"result":{}',
    '"error":{"code":1,"message":""}',
    r'"\u0069d":2.5',
    r'"meth\u006fd":"ping"',
    r'"\ud83e":1',
    '"id":9',
]
# What is changed: a member of the message, an argument of the call, or one member that is added.
PLACES = ["id", "id", "id", "method", "params", "params", "jsonrpc", "argument", "argument", "beside"]
FAULTS = st.lists(
    st.tuples(st.sampled_from(PLACES), st.just("") | ODD.map(ODD_VALUES.__getitem__), st.sampled_from(BESIDE)),
    min_size=1,
    max_size=2,
)


def odd_message(faults: list[tuple[str, str, str]], shape: tuple[tuple[str, ...], tuple[str, str], bool]) -> str:
    """A call of a tool as JSON. One or two of its members have a wrong type, are missing, or are added."""
    values = {"jsonrpc": '"2.0"', "id": "7", "method": '"tools/call"', "argument": '"x"', "beside": ""}
    values |= {place: beside if place == "beside" else value for place, value, beside in faults}
    arguments = f'{{"name":"check_job","arguments":{{"request_id":{values["argument"] or 0}}}}}'
    values = {"params": arguments, **values}
    members = [f'"{name}":{values[name]}' for name in shape[0] if values.get(name)]
    return "{" + ",".join([*members, *([values["beside"]] if values["beside"] else [])]) + "}"


MALFORMED = st.builds(odd_message, FAULTS, SHAPES)

# ---- lines ----

SIGNS = [
    '"id":',
    '"id":9',
    "9" * 400,
    "[" * 300,
    "null",
    r"\ud83e",
    *'{}[],:"\\\0\r\u2028',
    BOM,
    "\ud83e",
    "\udcff\udcfe",
]
CUTS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9), st.sampled_from(SIGNS)), min_size=1, max_size=2)


def cut(line: bytes, cuts: list[tuple[int, int, str]]) -> bytes:
    """A line with some bytes removed and characters inserted."""
    for at, length, sign in cuts:
        place = at % (len(line) + 1)
        instead = sign.encode(errors="surrogatepass" if sign == "\ud83e" else "surrogateescape")
        line = line[:place] + instead + line[place + length :]
    return line


def often(first: st.SearchStrategy[T], times: int, *others: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """One of several strategies; the first one is chosen `times` times as often as each of the others."""
    return st.sampled_from([*[first] * times, *others]).flatmap(lambda drawn: drawn)


MESSAGES = often(MALFORMED, 2, RIGHT)
BATCHES = st.lists(MESSAGES | ODD.map(ODD_VALUES.__getitem__), max_size=3).map(lambda each: f"[{','.join(each)}]")
GLUED = st.tuples(MESSAGES, st.sampled_from(["", " ", "\r", BOM, ",", "x"]), MESSAGES).map("".join)
ONE = often(MESSAGES, 6, BATCHES, GLUED, ODD.map(ODD_VALUES.__getitem__))
BEFORE, AFTER = (st.sampled_from(["", "", each, f"{each} \t", "\r"]) for each in (BOM, "\r"))
WHOLE = st.tuples(BEFORE, ONE, AFTER).map("".join).map(str.encode)
DOUBLED = st.tuples(WHOLE, st.integers(0, 200)).map(lambda drawn: drawn[0][: drawn[1]] + drawn[0])
RUBBISH = st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))
LINES = often(WHOLE, 5, st.builds(cut, WHOLE, CUTS), DOUBLED, RUBBISH)

# ---- the answers that a line must get ----

Answer = str | float | None
STRINGS = re.compile(r'(?="((?:[^"\\]|\\.)*)")', re.DOTALL)
# An id at a place where it can be found although the rest of the line is broken.
PLAIN_ID = re.compile(
    r'\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*(-?[1-9]\d{0,99}|"[^"\\\0-\x1f]*")\s*[,}]'
)
# The number of levels that the SDK reads, less two.
MOST_DEPTH = 196
DECODER = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) <= 4300 else math.inf)


def whole_values(text: str) -> tuple[list[Any], str]:
    """The JSON values at the beginning of a text, and the rest of the text. Only objects may follow one another."""
    values: list[Any] = []
    value: Any
    rest = text.strip(BLANK)
    while rest:
        try:
            value, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            break
        after = rest[end:].lstrip(BLANK)
        if rest[0] != "{" and (values or after):
            break
        values.append(value)
        rest = after
    return values, rest


def answers_owed(value: Any) -> list[Answer]:
    """The ids of the answers that a value must get; None for an answer without an id."""
    if isinstance(value, dict):
        return _owed(cast("dict[str, Any]", value))
    members = cast("list[Any]", value) if isinstance(value, list) else []
    objects = [cast("dict[str, Any]", each) for each in members if isinstance(each, dict)]
    return [answer for each in objects if "id" in each for answer in _owed(each)] or [None]


def _owed(message: dict[str, Any]) -> list[Answer]:
    is_response = "method" not in message and ("result" in message or "error" in message)
    is_notification = "method" in message and "id" not in message
    if is_response or is_notification:
        return []
    match message.get("id"):
        case str(text):
            return [re.sub("[\ud800-\udfff]", "\ufffd", text)]
        case int() | float() as number if not isinstance(number, bool) and abs(number) < math.inf:
            return [number]
        case _:
            return [None]


def can_be_served(value: Any) -> bool:
    """Whether a value is a request of the protocol, after characters that no text can contain were replaced."""
    match value:
        case {"jsonrpc": "2.0", "id": str() | int() | float() as id_, "method": str()} if not isinstance(id_, bool):
            params = cast("dict[str, Any]", value).get("params")
            is_whole = not isinstance(id_, float) or id_.is_integer()
            return is_whole and (params is None or isinstance(params, dict)) and depth_of(value) < MOST_DEPTH
        case _:
            return False


def depth_of(value: Any) -> int:
    """How deeply a value is nested."""
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = cast("dict[str, Any]", value).values()
    elif isinstance(value, list):
        inner = cast("list[Any]", value)
    return 1 + max(map(depth_of, inner), default=0)


def answers(outcomes: Iterable[Outcome]) -> tuple[list[Answer], list[Answer]]:
    """The ids of the requests in a line, all of which the server answers, and the ids of the errors."""
    served: list[Answer] = []
    refused: list[Answer] = []
    for outcome in outcomes:
        if isinstance(outcome, str):
            message = jsonrpc_message_adapter.validate_json(outcome, by_name=False)
            served += [message.id] if isinstance(message, JSONRPCRequest) else []
        else:
            wire = json.loads(outcome.model_dump_json(by_alias=True, exclude_unset=True))
            assert wire["error"]["code"] in (-32700, -32600)
            assert not isinstance(wire["id"], bool)
            refused += [wire["id"]]
    return served, refused


def check_line(line: bytes, outcomes: list[Outcome]) -> None:
    """Check the outcomes of a line: each valid request is served once, and everything else gets one error."""
    served, refused = answers(outcomes)
    values, rest = whole_values(line.decode(errors="replace"))
    if not any("error" in each for each in values if isinstance(each, dict)):  # the SDK may treat it as a response
        assert served == [answer for each in values if can_be_served(each) for answer in answers_owed(each)]
    found = Counter([*served, *refused])
    found.subtract(answer for each in values for answer in answers_owed(each))
    assert not -found
    if not rest:
        assert not +found
        return
    (last,) = found.elements()
    plain = None if '"result"' in rest or '"error"' in rest else PLAIN_ID.match(rest)
    assert last == json.loads(plain[1]) if plain else last is None or is_in(rest, last)


def is_in(text: str, id_: str | float) -> bool:
    """Whether an id occurs in a text that is not JSON."""
    return isinstance(id_, int | float) or id_ in _strings_in(text)


def _strings_in(text: str) -> Iterable[str]:
    for spelling in STRINGS.findall(text):
        with suppress(ValueError):
            yield re.sub("[\ud800-\udfff]", "\ufffd", json.loads(f'"{spelling}"'))
