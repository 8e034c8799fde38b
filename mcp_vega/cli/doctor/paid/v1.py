"""The assumptions about the answer to `POST /v1/{slug}`."""

import re
from collections.abc import Callable

from mcp_vega.cli.doctor.paid.finding import (
    Assumption,
    Compare,
    Finding,
    assumption,
    differs,
    form_of_id,
    holds,
    holds_if,
    media_type,
    names,
    not_seen,
    of_each,
    refusal,
    word,
)
from mcp_vega.cli.doctor.paid.observation import Drawn, Observations
from mcp_vega.imaging.formats import recognise
from mcp_vega.imaging.integrity import is_complete
from mcp_vega.job import REQUEST_ID, Route
from mcp_vega.segmind.response import ApiResponse
from mcp_vega.segmind.values import parse_cost

NUMBER = re.compile(r"\d+(\.\d+)?([eE]-?\d+)?")


@assumption(
    "v1: answer",
    documented="“Text/JSON”; but recorded answers are the picture's bytes as image/jpeg",
    assumed="HTTP 200 with the bytes of a complete picture and the media type of its format",
    fix="Report it. Other known forms are read as well; an answer that cannot be read is kept in `unreadable`",
)
def _answer(seen: Observations) -> Finding:
    def look(drawn: Drawn, response: ApiResponse) -> Finding:
        if not response.ok:
            return refusal(drawn, response)
        found, size = recognise(response.body), len(response.body)
        is_whole = is_complete(response.body)
        if found:
            what = f"a picture ({found.mime_type}) of {size:,} bytes{'' if is_whole else ', cut off'}"
        elif response.fields:
            what = f"JSON with {names(response.fields)}"
        else:
            what = f"{size:,} bytes that are not a picture"
        packed = response.headers.get("content-encoding", "identity")
        said = f"HTTP {response.status}, {media_type(response)}, {what}" + f", encoded as {packed}" * (
            packed != "identity"
        )
        is_as_said = found and (response.status, media_type(response), packed) == (200, found.mime_type, "identity")
        return holds_if(is_whole and is_as_said, said)

    return of_each(seen, Route.V1, seen.posts(Route.V1), look)


def _header(name: str, look: Callable[[Drawn, str], Finding], missing: Finding) -> Compare:
    """A function that compares a header of the answers."""

    def look_at(drawn: Drawn, response: ApiResponse) -> Finding:
        text = response.headers.get(name)
        return missing if text is None else look(drawn, text)

    def compare(seen: Observations) -> Finding:
        # An answer that queues the call says nothing about its result.
        answers = [
            (drawn, each)
            for drawn, each in seen.posts(Route.V1)
            if each.response.ok and "request_id" not in each.response.fields
        ]
        return of_each(seen, Route.V1, answers, look_at)

    return compare


def _cost(_: Drawn, text: str) -> Finding:
    return holds_if(NUMBER.fullmatch(text) and parse_cost(text) is not None, word(text))


def _balance(_: Drawn, text: str) -> Finding:
    if not NUMBER.fullmatch(text):
        signs = sorted({*re.findall("[^0-9]", text)})
        return differs(f"not a plain number: {len(text)} characters, with {names(map(repr, signs))} besides digits")
    decimals = len(text.partition(".")[2])
    return holds(f"a number with {decimals} decimals" if decimals else "a whole number")


def _seconds(_: Drawn, text: str) -> Finding:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return holds_if(all(NUMBER.fullmatch(each.strip()) for each in inner.split(",")), word(text))


def _id(_: Drawn, text: str) -> Finding:
    return holds_if(re.fullmatch(REQUEST_ID, text), form_of_id(text))


def compare_seed(drawn: Drawn, text: str) -> Finding:
    """Compare a seed in an answer with the one that was sent."""
    is_same = drawn.job is not None and text.strip() == str(drawn.job.parameters.seed)
    return holds_if(is_same, "the seed that was sent" if is_same else f"not the seed that was sent: {word(text)}")


_MISSING = differs("it is missing")

V1 = (
    _answer,
    Assumption(
        "v1: request id",
        documented="header x-request-id",
        assumed="present: at most 64 letters, digits, - and _",
        fix="Report it: without it, a call has only the id that this software gave it",
        compare=_header("x-request-id", _id, _MISSING),
    ),
    Assumption(
        "v1: cost",
        documented="header x-cost: US dollars, decimal",
        assumed="present: a number with a decimal point, above 0",
        fix="Report it. Until then the spending limit is checked with estimates: leave a margin in "
        "MCP_VEGA_SPENDING_LIMIT_USD",
        compare=_header("x-cost", _cost, _MISSING),
    ),
    Assumption(
        "v1: credits left",
        documented="header x-remaining-credits: US dollars, decimal",
        assumed="present: a number with a decimal point",
        fix="Report it. Until then results say “unknown”; `mcp-vega doctor` shows the balance",
        compare=_header("x-remaining-credits", _balance, _MISSING),
    ),
    Assumption(
        "v1: seconds",
        documented="header x-generation-time: seconds, in recorded answers sometimes a list in brackets",
        assumed="present: a number or a list of numbers",
        fix="Report it. Until then results say “unknown”; nothing else changes",
        compare=_header("x-generation-time", _seconds, _MISSING),
    ),
    Assumption(
        "v1: seed",
        documented="header x-seed-value, if the model reports a seed",
        assumed="if present, the seed that was sent",
        fix="Report it: the same seed may not draw the same picture again",
        compare=_header("x-seed-value", compare_seed, not_seen("it is missing")),
    ),
)
