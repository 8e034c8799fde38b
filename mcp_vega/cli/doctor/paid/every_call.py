"""What is assumed of every call: its picture, its money, its refusal."""

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
# How much dearer than the average a call may be before the estimates are no use.
TOLERATED = 2


@assumption(
    "balance",
    documented="GET /v1/get-user-credits: credits and free-credits, US dollars",
    assumed="both, as numbers",
    mend="Report it: `mcp-vega doctor` cannot tell the balance",
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
    assumed="the same; PNG and WebP are kept as well",
    mend="Nothing to change where the pictures are kept. Report it",
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
    assumed="less than MCP_VEGA_WAIT_SECONDS, for which a call of an agent waits",
    mend="Raise MCP_VEGA_WAIT_SECONDS as far as your host waits; until then agents get a request id for check_job",
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
    documented="$0.00225 for Vega, $0.0020 for VegaRT on average; by the time it takes",
    assumed=f"less than {TOLERATED} times that",
    mend="Set MCP_VEGA_SPENDING_LIMIT_USD with room to spare: what a call will cost is estimated by the average",
)
def _price(seen: Observations) -> Finding:
    found = [
        holds_if(0 < cost < TOLERATED * drawn.picture.parameters.expected_cost, f"{drawn.picture.name} {dollars(cost)}")
        for drawn in seen.drawn
        if drawn.job and drawn.job.images and (cost := drawn.job.receipt.cost) is not None
    ]
    return together(found) if found else not_seen("no cost was told")


@assumption(
    "charge",
    documented="nothing",
    assumed="the balance falls by what the calls say they cost",
    mend="Report it, unless something else spent or paid in meanwhile: `mcp-vega jobs --spent` may be wrong",
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
        return not_seen(f"the balance is told to {dollars(unit)} only")
    return holds_if(abs(fall - told) <= max(unit, told / 100), f"{dollars(fall)} for calls of {dollars(told)}")


def _balance_of(fields: dict[str, Any]) -> list[Decimal]:
    """The parts of a balance that are told."""
    return [Decimal(str(fields[name])) for name in BALANCES if is_number(fields.get(name))]


def _decimals(number: Decimal) -> int:
    return len(f"{number:f}".partition(".")[2])


@assumption(
    "refusals",
    documented="an object with error, a text",
    assumed="the same; other forms are looked through for words",
    mend="Report it: the API's reason may be missing in errors",
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
    assumed="the same; without a time it is tried again after 1 to 4 s",
    mend="Set MCP_VEGA_REQUESTS_PER_MINUTE to what your plan allows, so that calls wait their turn here; and report it",
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
