"""The assumptions about a call's row in the history: they are needed to find a call whose answer was lost."""

import json
from ast import literal_eval
from collections.abc import Callable
from typing import Any

from mcp_vega.cli.doctor.paid.finding import (
    Finding,
    allow,
    assumption,
    differs,
    holds,
    holds_if,
    host_of,
    names,
    not_seen,
    not_tried,
    together,
    word,
)
from mcp_vega.cli.doctor.paid.history_pages import clock_error, signed
from mcp_vega.cli.doctor.paid.observation import PICTURE, Drawn, Observations
from mcp_vega.errors import Charged, GenerationFailed
from mcp_vega.job import Job, State
from mcp_vega.jobs.reconciliation.call_finder import SKEW
from mcp_vega.jobs.reconciliation.matching import is_call_of
from mcp_vega.jobs.reconciliation.reconciler import LOOKS as LOOKS_FOR_LOST_CALLS
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.values import as_object
from mcp_vega.storage.ledger.spending import dollars

# While a caller waits, a call whose answer was lost is searched for this many seconds.
SOON = sum(LOOKS_FOR_LOST_CALLS)
NEEDED = {"request_id", "model_name", "model_status", "model_created", "credits_deduction", "generation_url"}
# More than any call's inputs have.
INPUTS_LENGTH = 100_000


def _of_rows(seen: Observations, look: Callable[[Drawn, Job, HistoryRow], Finding]) -> Finding:
    """The findings of the first row of each call, together."""
    shown = [(drawn, drawn.job, drawn.rows[0]) for drawn in seen.drawn if drawn.job and drawn.rows]
    if shown:
        return together(look(*each) for each in shown)
    if seen.listing is None:
        return not_seen("the history could not be read")
    return not_seen("the history did not show the calls") if _paid(seen) else not_tried("no picture was drawn")


def _paid(seen: Observations) -> list[Drawn]:
    return [drawn for drawn in seen.drawn if drawn.job and drawn.job.images]


def _fields(row: HistoryRow) -> dict[str, Any]:
    return json.loads(row.text)


@assumption(
    "history: delay",
    documented="nothing",
    assumed=f"a call appears within {SOON} s, while it is searched for, and in any case within a day",
    fix="Nothing to set: a call whose answer was lost stays “unknown” for longer. It is looked up again after minutes, "
    "hours and a day. Do not repeat such a call. Report it",
)
def _delay(seen: Observations) -> Finding:
    def look(drawn: Drawn) -> Finding:
        if drawn.shown_after is not None:
            return holds_if(drawn.shown_after <= SOON, f"{drawn.picture.name} after {drawn.shown_after:.1f} s")
        return differs(f"{drawn.picture.name} only at the last look" if drawn.rows else f"{drawn.picture.name} never")

    if seen.listing is None:
        return not_seen("the history could not be read")
    drawn = _paid(seen)
    return together(map(look, drawn)) if drawn else not_tried("no picture was drawn")


@assumption(
    "history: fields",
    documented="request_id, model_name, model_status, credits_deduction, request_body, generation_url, latency_ms, "
    "model_created, error",
    assumed=", ".join(sorted(NEEDED)),
    fix="Report it: what is missing stays unknown for a call whose answer was lost",
)
def _names(seen: Observations) -> Finding:
    def look(_drawn: Drawn, _job: Job, row: HistoryRow) -> Finding:
        fields = _fields(row)
        return holds_if(fields.keys() >= NEEDED, names(fields))

    return _of_rows(seen, look)


@assumption(
    "history: id",
    documented="request_id",
    assumed="the id in the call's own answer",
    fix="Report it: calls are then found only by seed and prompt",
)
def _id(seen: Observations) -> Finding:
    def look(_: Drawn, job: Job, row: HistoryRow) -> Finding:
        if job.remote_id is None:
            return not_seen("the call's answer had none")
        is_same = row.request_id == job.remote_id
        return holds_if(is_same, "the same as in the answer" if is_same else "not the one in the answer")

    return _of_rows(seen, look)


@assumption(
    "history: model",
    documented="model_name",
    assumed="the slug of the model that was called",
    fix="Report it: with a name that is neither the slug nor the title, a call is harder to find",
)
def _model(seen: Observations) -> Finding:
    return _of_rows(seen, lambda _, job, row: holds_if(row.model == job.model, word(row.model or "missing")))


@assumption(
    "history: inputs",
    documented="request_body: the inputs as sent, as a text: JSON or a Python dictionary",
    assumed="the same, with prompt and seed at the top level",
    fix="Report it: deeper levels are searched as well, but without inputs a lost call cannot be recognized",
)
def _inputs(seen: Observations) -> Finding:
    def look(_: Drawn, job: Job, row: HistoryRow) -> Finding:
        told = _fields(row).get("request_body")
        kind, inputs = _read(told)
        return holds_if(
            inputs.get("prompt") == job.parameters.prompt, f"{kind} with {names(inputs)}" if inputs else kind
        )

    return _of_rows(seen, look)


def _read(told: Any) -> tuple[str, dict[str, Any]]:
    """The form of a call's inputs, and the inputs themselves if the form is a documented one."""
    if not isinstance(told, str):
        return ("an object" if isinstance(told, dict) else "missing" if told is None else "a value"), {}
    for kind, parse in (("JSON", json.loads), ("a Python dictionary", literal_eval)):
        try:
            found = parse(told[:INPUTS_LENGTH])
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if inputs := as_object(found):
            return kind, inputs
    return f"a text of {len(told):,} characters that is neither JSON nor Python", {}


@assumption(
    "history: seed",
    documented="in the inputs",
    assumed="the seed that was sent, all 15 digits of it",
    fix="Report it: a call is recognized by its seed; without the seed, a lost call stays “unknown”",
)
def _seed(seen: Observations) -> Finding:
    def look(_: Drawn, job: Job, row: HistoryRow) -> Finding:
        told = row.inputs.get("seed")
        if told is None:
            return differs("it is missing")
        return holds_if(str(told) == str(job.parameters.seed), "as sent" if told == job.parameters.seed else word(told))

    return _of_rows(seen, look)


@assumption(
    "history: recognition",
    documented="nothing",
    assumed="a call whose answer was lost is recognized by model, seed and prompt",
    fix="Report it. Until then a call whose answer is lost stays “unknown” and counts as spent. Do not repeat it",
)
def _recognition(seen: Observations) -> Finding:
    def look(_: Drawn, job: Job, row: HistoryRow) -> Finding:
        return holds("recognized") if is_call_of(row, job) else differs("not recognized")

    return _of_rows(seen, look)


@assumption(
    "history: state",
    documented="model_status: COMPLETED, FAILED or PENDING",
    assumed="COMPLETED for a call that ran, FAILED for one that failed",
    fix="Report it: a lost call may be taken for one that is still running",
)
def _state(seen: Observations) -> Finding:
    def look(drawn: Drawn, job: Job, row: HistoryRow) -> Finding:
        told = str(_fields(row).get("model_status"))
        if isinstance(drawn.error, GenerationFailed):
            return holds_if(told == State.FAILED, word(told))
        return holds_if(told == State.COMPLETED, word(told)) if job.charged is Charged.YES else not_seen(word(told))

    return _of_rows(seen, look)


@assumption(
    "history: time",
    documented="model_created, a time stamp",
    assumed="the time of the call, in ISO 8601 with a time zone",
    fix="Nothing to set: a time without a zone may be in any zone. Two calls with the same seed of your own are then "
    "harder to tell apart. Report it",
)
def _time(seen: Observations) -> Finding:
    def look(drawn: Drawn, _: Job, row: HistoryRow) -> Finding:
        told = _fields(row).get("model_created")
        if row.created is None:
            return differs(f"not a readable time: {word(told)}")
        zone = "" if row.names_zone else "without a zone; "
        apart = row.created - drawn.begun
        near = min(abs(apart), abs(apart - clock_error(seen))) < SKEW
        said = f"{zone}{signed(apart)} from this machine's clock"
        return holds_if(near and row.names_zone, said)

    return _of_rows(seen, look)


@assumption(
    "history: cost",
    documented="credits_deduction, US dollars",
    assumed="the cost in the call's own answer",
    fix="Report it: `mcp-vega jobs --spent` may be wrong about calls whose answer was lost",
)
def _cost(seen: Observations) -> Finding:
    def look(_: Drawn, job: Job, row: HistoryRow) -> Finding:
        if job.receipt.cost is None:
            return not_seen("the call's answer had none")
        told = _fields(row).get("credits_deduction")
        return holds_if(row.cost == job.receipt.cost, f"{word(told)}; in the answer {dollars(job.receipt.cost)}")

    return _of_rows(seen, look)


@assumption(
    "history: picture",
    documented="generation_url",
    assumed="the address of the call's picture, on a host from which pictures may be fetched",
    fix="Report it: the picture of a call whose answer was lost cannot be fetched",
)
def _picture(seen: Observations) -> Finding:
    def look(drawn: Drawn, _: Job, row: HistoryRow) -> Finding:
        if isinstance(drawn.error, GenerationFailed):
            return not_seen("the call failed")
        if not row.urls:
            return differs("the address is missing")
        url = row.urls[0]
        if not seen.may_fetch.get(url):
            return differs(f"on {host_of(url)}, from which pictures may not be fetched", allow([url]))
        if not drawn.fetched:
            return differs(f"on {host_of(url)}, but it cannot be fetched: {seen.problems[PICTURE].what}")
        compared = {True: "the same bytes", False: "other bytes", None: "the kept one could not be read"}
        return holds(f"on {host_of(url)}: {compared[drawn.same_picture]}")

    return _of_rows(seen, look)


HISTORY_ROWS = (
    _delay,
    _names,
    _id,
    _model,
    _inputs,
    _seed,
    _recognition,
    _state,
    _time,
    _cost,
    _picture,
)
