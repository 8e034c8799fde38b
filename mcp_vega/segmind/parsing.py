"""What the response to each call means: pure functions from status, headers and body to types.

Only what the documents call sure is relied on; every other shape that was seen or is likely is understood as well.
The functions raise a `SegmindError` where the call was refused or its response cannot be read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from mcp_vega import errors
from mcp_vega.imaging.formats import recognise, require_whole
from mcp_vega.job import Receipt, State
from mcp_vega.redaction import quoted
from mcp_vega.segmind.pictures import find_pictures
from mcp_vega.segmind.response import ApiResponse, error_text, generation_error, require_success
from mcp_vega.segmind.values import (
    error_of,
    field_of,
    parse_cost,
    parse_request_id,
    parse_seconds,
    parse_seed,
    parse_usd,
    state_of,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Generation:
    """Finished pictures: bytes where they came along, an address where they are to be fetched."""

    pictures: tuple[bytes | str, ...]
    receipt: Receipt


@dataclass(frozen=True)
class Submission:
    """A job that the API has queued."""

    request_id: str


@dataclass(frozen=True)
class Status:
    """The state of a queued job; `error` is set when it has failed, `pictures` where they came with it."""

    state: State
    receipt: Receipt
    error: errors.GenerationFailed | None = None
    pictures: tuple[bytes | str, ...] = ()


@dataclass(frozen=True)
class Credits:
    """The account's balance in US dollars."""

    credits: Decimal | None
    free: Decimal | None


# ---- calls ----


def parse_generation(response: ApiResponse, *, paid: bool) -> Generation | Submission:
    """The response to `POST /v1/{slug}` (paid) or `GET /v2/requests/{id}`: a `Submission` until pictures are there."""
    state = state_of(response.json)
    # Under a 5xx the word proves nothing: whether a paid call ran stays open.
    if response.status == 422 and state is State.FAILED:
        raise _failure(response, state)
    require_success(response, paid=paid)
    receipt = parse_receipt(response)
    if recognise(response.body):
        return Generation((require_whole(response.body),), receipt)
    # Of a job that is under way an address may be anything.
    if pictures := find_pictures(response.json, surely=state in (State.QUEUED, State.PROCESSING)):
        return Generation(pictures, receipt)
    if state is State.FAILED or error_of(response.json):
        raise _failure(response, state)
    request_id = _request_id(response)
    if request_id and (paid or state is not State.COMPLETED):
        return Submission(request_id)
    raise _no_picture(response, paid=paid)


def _no_picture(response: ApiResponse, *, paid: bool) -> errors.SegmindError:
    kind = quoted(response.content_type) if response.content_type else "no content type"
    found = f"no picture ({len(response.body)} bytes of {kind})" if response.body else "nothing that can be read"
    said = f"The API reported success but sent {found}"
    if not paid and response.json is None:  # asking again costs nothing, and may bring the whole response
        return errors.ServiceUnavailable(said)
    return errors.UnreadableAnswer(said, received=response.body)


def parse_submission(response: ApiResponse) -> Submission:
    """The response to `POST /v2/{slug}`."""
    require_success(response, paid=True)
    if request_id := _request_id(response, "job_id", "id"):
        return Submission(request_id)
    state = state_of(response.json)
    if state is State.FAILED or error_of(response.json):
        raise _failure(response, state)
    said = "The API accepted the job but gave no usable request id"
    # A queued job is charged when it is drawn, and not where that fails.
    raise errors.UnreadableAnswer(said, charged=errors.Charged.UNKNOWN, received=response.body)


def parse_status(response: ApiResponse) -> Status:
    """The response to `GET /v2/requests/{id}/status`. An unknown state counts as still running.

    An error in it ends the job, whatever the state is called.
    """
    state = state_of(response.json)
    if state is State.FAILED:
        return Status(state, parse_receipt(response), _failure(response, state))
    require_success(response)
    receipt = parse_receipt(response)
    pictures = find_pictures(response.json, surely=True)
    if not pictures and error_of(response.json):
        return Status(State.FAILED, receipt, _failure(response, state))
    if not pictures and not isinstance(field_of(response.json, "status", "state"), str):
        raise errors.UnreadableAnswer("The API's answer carries no status", charged=errors.Charged.UNKNOWN)
    return Status(state or State.PROCESSING, receipt, pictures=pictures)


def parse_credits(response: ApiResponse) -> Credits:
    """The response to `GET /v1/get-user-credits`."""
    require_success(response)
    body = response.json
    return Credits(parse_usd(field_of(body, "credits")), parse_usd(field_of(body, "free-credits", "free_credits")))


def _failure(response: ApiResponse, state: State | None) -> errors.GenerationFailed:
    """The error of a call that failed: charged as its cost says, else by how the failure was told.

    A job that failed is not charged, an error that comes as a success is; with one in a job that is said to be under
    way it is not known.
    """
    cost = parse_usd(_cost_of(response))
    if cost is not None and cost >= 0:
        charged = errors.Charged.YES if cost > 0 else errors.Charged.NO
    elif state is State.FAILED or not response.ok:
        charged = errors.Charged.NO
    else:
        charged = errors.Charged.UNKNOWN if state else errors.Charged.YES
    return generation_error(error_text(response), charged)


# ---- receipts ----


def parse_receipt(response: ApiResponse) -> Receipt:
    """Cost, balance, seconds and seed from the headers or, where they are silent, from the body."""
    headers, body = response.headers, response.json
    cost = parse_cost(_cost_of(response), free=response.free)
    return Receipt(
        request_id=parse_request_id(headers.get("x-request-id")) or _request_id(response),
        cost=Decimal(0) if response.free and cost is None else cost,
        credits_left=_first(parse_usd, headers.get("x-remaining-credits"), field_of(body, "remaining_credits")),
        seconds=_first(parse_seconds, headers.get("x-generation-time"), field_of(body, "inference_time", "infer_time")),
        seed=_first(parse_seed, headers.get("x-seed-value"), field_of(body, "seed")),
    )


def _cost_of(response: ApiResponse) -> Any:
    """What a response says that the call cost, as it says it."""
    told = response.headers.get("x-cost"), field_of(response.json, "cost")
    return next((each for each in told if parse_usd(each) is not None), None)


def _first(parse: Callable[[Any], T | None], *values: Any) -> T | None:
    return next((found for found in map(parse, values) if found is not None), None)


def _request_id(response: ApiResponse, *names: str) -> str | None:
    return parse_request_id(field_of(response.json, "request_id", "requestId", *names))
