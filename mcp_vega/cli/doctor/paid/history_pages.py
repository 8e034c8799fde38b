"""The assumptions about how the request history lists calls: they are needed to know that a call is not in it."""

import json
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from mcp_vega.cli.doctor.paid.finding import (
    Finding,
    assumption,
    differs,
    holds,
    holds_if,
    names,
    not_seen,
    not_tried,
    together,
)
from mcp_vega.cli.doctor.paid.observation import AGAIN, ENTRY, LOOKS, PAGES, Drawn, Observations
from mcp_vega.errors import RateLimited, SegmindError
from mcp_vega.jobs.reconciliation.call_finder import SKEW
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.response import error_text

UNREAD = not_seen("the history could not be read")
# The most rows that the API puts on a page.
LARGEST_PAGE = 100


@assumption(
    "history: address",
    documented="GET https://api.spotprod.segmind.com/inference-request/request-history, with the same key",
    assumed="it answers with HTTP 200",
    fix="Set SEGMIND_HISTORY_URL to the history's address if you know it: without the history, a call whose answer is "
    "lost stays “unknown”. Report it",
)
def _address(seen: Observations) -> Finding:
    answers = seen.of_history(LOOKS, AGAIN)
    if not answers:
        problem = seen.problems.get(AGAIN) or seen.problems.get(LOOKS)
        return _problem(problem) if problem else not_tried("it was not asked")
    refused = [each.response for each in answers if not each.response.ok or error_text(each.response)]
    if seen.listing is not None or not refused:
        return holds("HTTP 200")
    return together(differs(f"HTTP {each.status}: {error_text(each) or 'no reason'}") for each in refused)


def _problem(problem: SegmindError) -> Finding:
    """The finding of a question that failed; nothing is known if the API was asked too often."""
    return not_seen(problem.what) if isinstance(problem, RateLimited) else differs(problem.what)


@assumption(
    "history: form",
    documented="an object with data, a list of rows, and paging",
    assumed="the same, or the list alone",
    fix="Report it: if the history cannot be read, a call whose answer is lost stays “unknown”",
)
def _form(seen: Observations) -> Finding:
    answers = [each.response for each in seen.of_history(LOOKS, AGAIN) if each.response.ok]
    answers = [each for each in answers if not error_text(each)]
    found = [
        holds_if(
            isinstance(each.fields.get("data"), list),
            f"an object with {names(each.fields)}" if each.fields else "not an object",
        )
        for each in answers
    ]
    return together(found) if found else UNREAD


@assumption(
    "history: clock",
    documented="HTTP's header Date",
    assumed=f"every answer has it, within {SKEW.total_seconds() / 60:.0f} minutes of this machine's clock",
    fix="Set this machine's clock. If the header is missing, report it: nothing then proves that a lost call never ran",
)
def _clock(seen: Observations) -> Finding:
    answers = [each for each in seen.of_history(LOOKS, AGAIN) if each.response.ok]
    if not answers:
        return not_seen("the history could not be read")
    if not all(each.response.headers.get("date") for each in answers):
        return differs("the header Date is missing")
    error = clock_error(seen)
    return holds_if(abs(error) < SKEW, f"the API's clock is {signed(error)} from this machine's")


def clock_error(seen: Observations) -> timedelta:
    """How far the API's clock is ahead of this machine's; 0 if the API does not say its time."""
    for answer in seen.of_history(LOOKS, AGAIN):
        moment = _http_date(answer.response.headers.get("date"))
        if moment:
            return moment - answer.ended
    return timedelta()


def _http_date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text and text.endswith("GMT") else None
    except ValueError:
        return None


def signed(apart: timedelta) -> str:
    """A span of time with its sign, for people."""
    seconds = apart.total_seconds()
    return f"{seconds / 3600:+.1f} h" if abs(seconds) > 3600 else f"{seconds:+.0f} s"


@assumption(
    "history: rows of a call",
    documented="one for each picture, each with the cost of the call",
    assumed="the same; rows with the same request_id are one call",
    fix="Report it. Costs stay right: rows with the same id count once",
)
def _rows(seen: Observations) -> Finding:
    found = [
        holds_if(len(drawn.again) == drawn.job.parameters.pictures, f"{len(drawn.again)}")
        for drawn in seen.drawn
        if drawn.job and drawn.again
    ]
    return together(found) if found else _nothing_shown(seen)


def _nothing_shown(seen: Observations) -> Finding:
    return UNREAD if seen.listing is None else not_seen("the history did not show the calls")


@assumption(
    "history: second look",
    documented="nothing",
    assumed="it shows the same calls with the same values",
    fix="Report it: only two looks that agree prove that a call never ran",
)
def _second_look(seen: Observations) -> Finding:
    def look(drawn: Drawn) -> Finding:
        if not drawn.again:
            return differs("a call was missing at the second look")
        one, other = _values(drawn.rows), _values(drawn.again)
        changed = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
        return differs(f"other values of {names(changed)}") if changed else holds("the same")

    found = [look(drawn) for drawn in seen.drawn if drawn.rows]
    return together(found) if found and seen.listing is not None else _nothing_shown(seen)


def _values(rows: list[HistoryRow]) -> dict[str, list[object]]:
    """The values of rows, by the names of their fields."""
    fields = [json.loads(row.text) for row in rows]
    return {name: [each.get(name) for each in fields] for name in {name for each in fields for name in each}}


@assumption(
    "history: one call",
    documented="…/request-history/{request_id}: one call of the account, of any age",
    assumed="the same call with the same values, or HTTP 404",
    fix="Report it: a job that nobody worked on for more than a month cannot be looked up",
)
def _one_call(seen: Observations) -> Finding:
    def look(drawn: Drawn) -> Finding:
        if drawn.entry is None:
            return _problem(seen.problems[ENTRY]) if ENTRY in seen.problems else differs("HTTP 404")
        row, entry = drawn.rows[0], drawn.entry
        is_same = (entry.request_id, entry.state, entry.cost) == (row.request_id, row.state, row.cost)
        return holds_if(is_same, "the same call" if is_same else "other values than in the list")

    found = [look(drawn) for drawn in seen.drawn if drawn.rows]
    return together(found) if found and seen.listing is not None else _nothing_shown(seen)


@assumption(
    "history: calls of a model",
    documented="the parameter model_name: a part of the model's name",
    assumed="with the slug, it shows the model's calls",
    fix="Nothing to set: a later look finds a lost call among the calls of all models. Report it",
)
def _of_model(seen: Observations) -> Finding:
    found = [
        holds_if(drawn.of_model, f"{drawn.picture.name} is{'' if drawn.of_model else ' not'} among these calls")
        for drawn in seen.drawn
        if drawn.of_model is not None
    ]
    return together(found) if found else _nothing_shown(seen)


@assumption(
    "history: total",
    documented="in the SDK's tests",
    assumed="total, the number of all rows",
    fix="Report it. Until then the history ends for this software at an empty page, or at calls that are older",
)
def _total(seen: Observations) -> Finding:
    if seen.listing is None:
        return UNREAD
    told = [each.response.fields.get("total") for each in seen.of_history(AGAIN) if each.response.ok]
    totals = [each for each in told if isinstance(each, int)]
    if not totals or len(totals) < len(told):
        return differs("total is missing")
    # The history is read only as far back as needed, and others may call with the same key meanwhile.
    whole = max(totals) >= len(seen.listing)
    return holds_if(whole, f"{names(dict.fromkeys(totals))}; {len(seen.listing)} rows were read")


@assumption(
    "history: page size",
    documented=f"per_page, 1 to {LARGEST_PAGE}",
    assumed="a page has as many rows as asked for, if the history has that many",
    fix="Nothing to set: a shorter page does not count as the last one. Report it",
)
def _page_size(seen: Observations) -> Finding:
    answers = [each.response for each in seen.of_history(AGAIN) if each.response.ok]
    if seen.listing is None or not answers:
        return UNREAD
    longest = max((len(each.json.get("data", ())) if each.fields else len(each.json) for each in answers), default=0)
    there = min(len(seen.listing), LARGEST_PAGE)
    short = {len(rows) for rows in _single(seen).values()}
    said = f"asked for {LARGEST_PAGE}: {longest} of {len(seen.listing)}; asked for 1: {names(sorted(short))}"
    return holds_if(longest >= there and short <= {0, 1}, said)


def _single(seen: Observations) -> dict[int, list[object]]:
    """The rows of the pages of one row each, by the page's number; a refused page has none."""
    pages: dict[int, list[object]] = {}
    for number, doing in PAGES.items():
        for each in seen.of_history(doing):
            rows = each.response.fields.get("data", each.response.json)
            pages[number] = rows if each.response.ok and isinstance(rows, list) else []
    return pages


@assumption(
    "history: pages",
    documented="the parameter page",
    assumed="the first page is 1, and each page continues the one before",
    fix="Nothing to set: a thorough look asks for page 0 as well. Report it",
)
def _pages(seen: Observations) -> Finding:
    pages = _single(seen)
    if seen.listing is None or not any(pages.values()):
        return UNREAD if seen.listing is None else not_seen("the pages were empty")
    zero, first, second = (pages.get(number, []) for number in PAGES)
    if zero and zero != first:
        return differs("page 0 has a row that page 1 does not have")
    said = "page 0 repeats page 1" if zero else "page 0 is empty"
    if len(seen.listing) < 2:
        return holds(said)
    goes_on = second and second != first
    return holds_if(goes_on, f"page 2 {'continues' if goes_on else 'does not continue'} page 1; {said}")


@assumption(
    "history: order",
    documented="sort_by=model_created and sort_order=desc: newest first",
    assumed="the same",
    fix="Nothing to set: in another order, all pages are read. Report it",
)
def _order(seen: Observations) -> Finding:
    if seen.listing is None:
        return UNREAD
    times = [row.created for row in seen.listing if row.created]
    if len({*times}) < 2:
        return not_seen("fewer than two calls have a time")
    is_so = times == sorted(times, reverse=True)
    return holds_if(is_so, "newest first" if is_so else "oldest first" if times == sorted(times) else "in no order")


HISTORY_PAGES = (
    _address,
    _form,
    _clock,
    _rows,
    _second_look,
    _one_call,
    _of_model,
    _total,
    _page_size,
    _pages,
    _order,
)
