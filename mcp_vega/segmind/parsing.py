"""Parses the response to each call: pure functions from status, headers and body to types.

They rely only on what the documentation promises, but they also understand every other form that was seen or is likely.
They raise a `SegmindError` if the call was refused or its response cannot be read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from mcp_vega import errors
from mcp_vega.imaging.formats import recognise
from mcp_vega.imaging.integrity import require_complete
from mcp_vega.job import Receipt, State
from mcp_vega.redaction import quoted
from mcp_vega.segmind.pictures import documented_fields, find_pictures
from mcp_vega.segmind.response import (
    ApiResponse,
    engine_error,
    error_text,
    generation_error,
    is_about_content,
    require_success,
)
from mcp_vega.segmind.values import (
    FIGURES,
    error_of,
    field_of,
    parse_cost,
    parse_number,
    parse_request_id,
    parse_seconds,
    parse_seed,
    parse_usd,
    state_of,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Generation:
    """Finished pictures: their bytes if the response has them, else their addresses."""

    pictures: tuple[bytes | str, ...]
    receipt: Receipt


@dataclass(frozen=True)
class Submission:
    """A job that the API has queued."""

    request_id: str


@dataclass(frozen=True)
class Status:
    """The state of a queued job. `error` is set if it has failed, and `pictures` if the response has them.

    `progress` is which share is drawn, from 0 to 1, if the API reports it.
    """

    state: State
    receipt: Receipt
    error: errors.GenerationFailed | None = None
    pictures: tuple[bytes | str, ...] = ()
    progress: float | None = None


@dataclass(frozen=True)
class Credits:
    """The account's balance in US dollars.

    `costs_nothing` says that this is an engine of the user's own, and `engine` what draws there, as in `Receipt`.
    """

    credits: Decimal | None
    free: Decimal | None
    costs_nothing: bool = False
    engine: str | None = None


# ---- calls ----


def parse_generation(response: ApiResponse, *, paid: bool) -> Generation | Submission:
    """The response to `POST /v1/{slug}` (paid) or `GET /v2/requests/{id}`. A `Submission` has no pictures yet."""
    _require_success_or_failure(response, paid=paid)
    receipt = parse_receipt(response)
    if recognise(response.body):
        return Generation((require_complete(response.body),), receipt)
    request_id = _request_id(response)
    # While a job is in progress, an address may be that of anything.
    if pictures := find_pictures(response.content, certain=request_id is not None):
        return Generation(pictures, receipt)
    state, error = state_of(response.json), error_of(response.json)
    if state is State.FAILED or (error and state is not State.COMPLETED):
        raise _failure(response, paid=paid)
    if request_id and (paid or state is not State.COMPLETED):
        return Submission(request_id)
    raise _no_picture(response, paid=paid)


def _require_success_or_failure(response: ApiResponse, *, paid: bool) -> None:
    """Raise the error of an unsuccessful response. The API reports a failed job with HTTP 422.

    Any other refusal is about the request, and says nothing about the job.
    """
    if response.status == 422 and state_of(response.json) is State.FAILED:
        raise _failure(response, paid=paid)
    require_success(response, paid=paid)


def _no_picture(response: ApiResponse, *, paid: bool) -> errors.SegmindError:
    kind = quoted(response.content_type) if response.content_type else "no content type"
    found = f"no picture ({len(response.body)} bytes of {kind})" if response.body else "nothing that can be read"
    message, text = f"The API reported success but sent {found}", error_text(response)
    if not paid and response.json is None:  # another request costs nothing, and may bring the complete response
        return errors.ServiceUnavailable(message)
    if is_about_content(text):
        return generation_error(text, errors.Charged.UNKNOWN)
    return errors.UnreadableAnswer(f"{message}: {text}" if text else message, received=response.body)


def parse_submission(response: ApiResponse) -> Submission | Generation:
    """The response to `POST /v2/{slug}`. It may contain the picture already."""
    _require_success_or_failure(response, paid=True)
    if request_id := _request_id(response, "job_id", "task_id", "id", "uuid"):
        return Submission(request_id)
    if recognise(response.body) or find_pictures(response.content):
        return parse_generation(response, paid=True)
    if state_of(response.json) is State.FAILED or error_of(response.json):
        raise _failure(response, paid=True)
    message = "The API accepted the job but gave no usable request id"
    # A queued job is charged when it is drawn, and not if the drawing fails.
    raise errors.UnreadableAnswer(message, charged=errors.Charged.UNKNOWN, received=response.body)


def parse_status(response: ApiResponse) -> Status:
    """The response to `GET /v2/requests/{id}/status`. An unknown state counts as still running.

    An error in the response ends the job in every state except COMPLETED. Pictures in the documented fields may end it,
    too.
    """
    error = None
    try:
        _require_success_or_failure(response, paid=False)
    except errors.GenerationFailed as failure:
        error = failure
    state, receipt = state_of(response.json), parse_receipt(response)
    pictures = find_pictures(documented_fields(response.json))
    if state is State.FAILED or (error_of(response.json) and state is not State.COMPLETED):
        error = error or _failure(response, paid=False)
        return Status(State.FAILED, receipt, error, pictures)
    if not pictures and not isinstance(field_of(response.json, "status", "state"), str | dict):
        raise errors.UnreadableAnswer("The API's answer contains no status", charged=errors.Charged.UNKNOWN)
    share = parse_number(field_of(response.json, "progress", inside=FIGURES))
    progress = float(share) if share is not None and 0 <= share <= 1 else None
    return Status(state or State.PROCESSING, receipt, pictures=pictures, progress=progress)


def parse_credits(response: ApiResponse) -> Credits:
    """The response to `GET /v1/get-user-credits`."""
    require_success(response)
    body = response.json
    paid, free = (parse_usd(field_of(body, name)) for name in ("credits", "free-credits"))
    return Credits(paid, free, response.free, response.engine)


def _failure(response: ApiResponse, *, paid: bool) -> errors.GenerationFailed:
    """The error of a call that failed. Its cost says whether it was charged, else the way the failure was reported.

    A job with the state FAILED is not charged, and neither is one with refused content. An error in a successful
    response to a paid call is charged. Any other error may be about the request, or about a job that is still running.
    """
    if response.free:
        return engine_error(response)
    stated_cost, text = _cost_of(response), error_text(response)
    cost, state = parse_usd(stated_cost), state_of(response.json)
    word = field_of(response.json, "status", "state")
    # A paid call with an id may have been queued, whatever else the response says.
    of_job = str(word).strip().upper() == State.FAILED or error_of(response.json)
    of_job = of_job or (not paid and _request_id(response))
    if cost is not None and cost >= 0:
        charged = errors.Charged.YES if cost > 0 else errors.Charged.NO
    elif stated_cost is not None:
        charged = errors.Charged.UNKNOWN
    elif state is State.FAILED:
        charged = errors.Charged.NO if of_job or is_about_content(text) else errors.Charged.UNKNOWN
    else:
        charged = errors.Charged.YES if paid and not state else errors.Charged.UNKNOWN
    return generation_error(text, charged)


# ---- receipts ----


def parse_receipt(response: ApiResponse) -> Receipt:
    """Cost, balance, seconds and seed, from the headers or else from the body."""
    headers, body = response.headers, response.json

    def figure(parse: Callable[[Any], T | None], header: str, *names: str) -> T | None:
        found = (parse(each) for each in (headers.get(header), field_of(body, *names, inside=FIGURES)))
        return next((each for each in found if each is not None), None)

    cost = parse_cost(_cost_of(response), free=response.free)
    return Receipt(
        request_id=parse_request_id(headers.get("x-request-id")) or _request_id(response),
        cost=Decimal(0) if response.free and cost is None else cost,
        credits_left=figure(parse_usd, "x-remaining-credits", "remaining_credits"),
        seconds=figure(parse_seconds, "x-generation-time", "inference_time", "infer_time"),
        seed=figure(parse_seed, "x-seed-value", "seed"),
        engine=response.engine,
    )


def _cost_of(response: ApiResponse) -> Any:
    """The cost that a response states, not parsed; None if it states none."""
    fields = response.headers.get("x-cost"), field_of(response.json, "cost", inside=FIGURES)
    stated = [each for each in fields if each is not None and each != ""]
    return next((each for each in stated if parse_usd(each) is not None), stated[0] if stated else None)


def _request_id(response: ApiResponse, *names: str) -> str | None:
    ids = (parse_request_id(field_of(response.json, name)) for name in ("request_id", *names))
    return next((each for each in ids if each), None)
