"""The assumptions about every call: its picture, its cost, its refusal."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega.cli.doctor.paid.finding import (
    Finding,
    assumption,
    holds_if,
    is_number,
    names,
    not_seen,
    together,
    word,
)
from mcp_vega.cli.doctor.paid.observation import BALANCE, TOO_MANY, Observations
from mcp_vega.errors import Charged
from mcp_vega.imaging.formats import JPEG
from mcp_vega.segmind.response import ApiResponse
from mcp_vega.storage.ledger.spending import dollars

BALANCES = ("credits", "free-credits")
# If a call costs more than this many times the average, the estimates are useless.
TOLERATED = 2


@assumption(
    "balance",
    documented="GET /v1/get-user-credits: credits and free-credits, US dollars",
    assumed="both, as numbers",
    fix="Report it: `mcp-vega doctor` cannot show the balance",
)
def _balance(seen: Observations) -> Finding:
    answers = [each.response for each in seen.exchanges.get(BALANCE, ())]
    if not answers:
        return not_seen("no answer came")
    fields = answers[-1].fields
    kinds = [f"{name}: {'a number' if is_number(value) else type(value).__name__}" for name, value in fields.items()]
    said = f"HTTP {answers[-1].status}, {names(kinds)}"
    return holds_if(all(is_number(fields.get(name)) for name in BALANCES), said)


@assumption(
    "pictures",
    documented="1024×1024, JPEG",
    assumed="the same; PNG and WebP are accepted as well",
    fix="Nothing to change if the pictures were kept. Report it",
)
def _pictures(seen: Observations) -> Finding:
    found = [
        holds_if(
            (image.mime_type, image.width, image.height) == (JPEG.mime_type, 1024, 1024),
            f"{image.mime_type}, {image.width}×{image.height}",
        )
        for drawn in seen.drawn
        for image in (drawn.job.images if drawn.job else ())
    ]
    return together(found) if found else not_seen("there is no picture")


@assumption(
    "seconds until a picture",
    documented="2.36 s for Vega, 1.68 s for VegaRT on average; a cold start takes up to 180 s",
    assumed="less than MCP_VEGA_WAIT_SECONDS: an agent's call waits that long",
    fix="Raise MCP_VEGA_WAIT_SECONDS, but not above the time that your host waits. Until then agents get a request id "
    "for check_job",
)
def _seconds(seen: Observations) -> Finding:
    found = [
        holds_if(drawn.seconds < seen.wait_seconds, f"{drawn.picture.name} {drawn.seconds:.1f} s")
        for drawn in seen.drawn
        if drawn.job and drawn.job.images
    ]
    return together(found) if found else not_seen("there is no picture")


@assumption(
    "price",
    documented="$0.00225 for Vega, $0.0020 for VegaRT on average; it depends on the time that the drawing takes",
    assumed=f"less than {TOLERATED} times the average",
    fix="Leave a margin in MCP_VEGA_SPENDING_LIMIT_USD: the cost of a call is estimated from the average",
)
def _price(seen: Observations) -> Finding:
    found = [
        holds_if(0 < cost < TOLERATED * drawn.picture.parameters.expected_cost, f"{drawn.picture.name} {dollars(cost)}")
        for drawn in seen.drawn
        if drawn.job and drawn.job.images and (cost := drawn.job.receipt.cost) is not None
    ]
    return together(found) if found else not_seen("no answer said the cost")


@assumption(
    "charge",
    documented="nothing",
    assumed="the balance falls by what the calls say they cost",
    fix="Report it, unless the account was used or topped up meanwhile: `mcp-vega jobs --spent` may be wrong",
)
def _charge(seen: Observations) -> Finding:
    balances = [_balance_of(each.response.fields) for each in seen.exchanges.get(BALANCE, ()) if each.response.ok]
    costs = [each.job.receipt.cost for each in seen.drawn if each.job and each.job.charged is not Charged.NO]
    told = sum((cost for cost in costs if cost is not None), Decimal(0))
    if len(balances) < 2 or not all(balances) or None in costs or not told:
        return not_seen("the balance or a cost is not known")
    fall = sum(balances[0], Decimal(0)) - sum(balances[-1], Decimal(0))
    # The balance may be rounded.
    unit = Decimal(1).scaleb(-max(_decimals(each) for balance in balances for each in balance))
    if unit > told and abs(fall) <= unit:
        return not_seen(f"the API rounds the balance to {dollars(unit)}")
    return holds_if(abs(fall - told) <= max(unit, told / 100), f"{dollars(fall)} for calls of {dollars(told)}")


def _balance_of(fields: dict[str, Any]) -> list[Decimal]:
    """The parts of a balance that are numbers."""
    return [Decimal(str(fields[name])) for name in BALANCES if is_number(fields.get(name))]


def _decimals(number: Decimal) -> int:
    return len(f"{number:f}".partition(".")[2])


@assumption(
    "refusals",
    documented="an object with error, a text",
    assumed="the same; in other forms, texts are searched for",
    fix="Report it: errors may lack the API's reason",
)
def _refusals(seen: Observations) -> Finding:
    def look(response: ApiResponse) -> Finding:
        said = f"HTTP {response.status}: {names(response.fields)}"
        return holds_if(isinstance(response.fields.get("error"), str), said)

    answers = [each.response for each in seen.all_answers() if seen.is_of_api(each)]
    found = [look(each) for each in answers if 400 <= each.status < 500]
    return together(found) if found else not_seen("nothing was refused")


@assumption(
    "rate limit",
    documented="HTTP 429 with x-rate-limit-reset-at-utc and no Retry-After; 5 requests a minute in the free plan",
    assumed="the same; if no time is given, the call is retried after 1 to 4 s",
    fix="Set MCP_VEGA_REQUESTS_PER_MINUTE to the limit of your plan, so that calls wait here. Report it",
)
def _rate_limit(seen: Observations) -> Finding:
    def look(response: ApiResponse) -> Finding:
        until, after = response.headers.get("x-rate-limit-reset-at-utc"), response.headers.get("retry-after")
        said = f"HTTP 429, x-rate-limit-reset-at-utc {word(until or 'missing')}, Retry-After {word(after or 'missing')}"
        return holds_if(_is_time(until) and after is None, said)

    found = [look(each.response) for each in seen.exchanges.get(TOO_MANY, ())]
    return together(found) if found else not_seen("nothing was refused with 429")


def _is_time(value: Any) -> bool:
    try:
        return bool(value and datetime.fromisoformat(value))
    except ValueError:
        return False


EVERY_CALL = (_balance, _pictures, _seconds, _price, _charge, _refusals, _rate_limit)
