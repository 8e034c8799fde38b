"""What the response to each call means: pure functions from status, headers and body to types.

Only what the documents call sure is relied on; every other shape that was seen or is likely is understood as well.
The functions raise a `SegmindError` where the call was refused or its response cannot be read.
"""

import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from mcp_vega import errors
from mcp_vega.imaging.formats import recognise, require_whole
from mcp_vega.job import REQUEST_ID, Receipt, State
from mcp_vega.redaction import quoted, redacted
from mcp_vega.segmind.response import (
    ApiResponse,
    as_cost,
    as_decimal,
    as_object,
    error_text,
    generation_error,
    require_success,
)


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
    """The state of a queued job; `error` is set when it has failed."""

    state: State
    receipt: Receipt
    error: errors.GenerationFailed | None = None


@dataclass(frozen=True)
class Credits:
    """The account's balance in US dollars."""

    credits: Decimal | None
    free: Decimal | None


# ---- calls ----


def parse_generation(response: ApiResponse, *, paid: bool) -> Generation | Submission:
    """The response to `POST /v1/{slug}` (paid) or `GET /v2/requests/{id}`: a `Submission` until pictures are there."""
    body = response.fields
    # Under a 5xx the word proves nothing: whether a paid call ran stays open.
    if body.get("status") == State.FAILED and (response.ok or response.status == 422):
        raise _failure(response)
    require_success(response, paid=paid)
    receipt = parse_receipt(response)
    if recognise(response.body):
        return Generation((require_whole(response.body),), receipt)
    if pictures := parse_pictures(body):
        return Generation(pictures, receipt)
    if body.get("error"):
        raise _failure(response)
    if body.get("status") != State.COMPLETED and is_request_id(request_id := body.get("request_id")):
        return Submission(request_id)
    kind = response.headers.get("content-type", "no content type").partition(";")[0]
    found = (
        f"no picture ({len(response.body)} bytes of {quoted(kind)})" if response.body else "nothing that can be read"
    )
    said = f"The API reported success but sent {found}"
    if not paid and response.json is None:  # asking again costs nothing, and may bring the whole response
        raise errors.ServiceUnavailable(said)
    raise errors.UnreadableAnswer(said, received=response.body)


def parse_submission(response: ApiResponse) -> Submission:
    """The response to `POST /v2/{slug}`."""
    request_id = require_success(response, paid=True).get("request_id")
    if not is_request_id(request_id):
        said = "The API accepted the job but gave no usable request id"
        # A queued job is charged when it is drawn, and not where that fails.
        raise errors.UnreadableAnswer(said, charged=errors.Charged.UNKNOWN, received=response.body)
    return Submission(request_id)


def parse_status(response: ApiResponse) -> Status:
    """The response to `GET /v2/requests/{id}/status`. An unknown state counts as still running."""
    word = response.fields.get("status")
    if word == State.FAILED:
        return Status(State.FAILED, parse_receipt(response), _failure(response))
    require_success(response)
    if not isinstance(word, str):
        raise errors.UnreadableAnswer("The API's answer carries no status", charged=errors.Charged.UNKNOWN)
    state = State(word) if word in set(State) - {State.UNKNOWN} else State.PROCESSING
    return Status(state, parse_receipt(response))


def parse_credits(response: ApiResponse) -> Credits:
    """The response to `GET /v1/get-user-credits`."""
    fields = require_success(response)
    return Credits(as_decimal(fields.get("credits")), as_decimal(fields.get("free-credits")))


def _failure(response: ApiResponse) -> errors.GenerationFailed:
    """The error of a call that ran and failed: charged as its cost says, else when it came as a success."""
    cost = parse_receipt(response).cost
    paid = cost > 0 if cost is not None else response.ok and response.fields.get("status") != State.FAILED
    return generation_error(error_text(response), errors.Charged.YES if paid else errors.Charged.NO)


# ---- receipts ----


def is_request_id(value: Any) -> TypeGuard[str]:
    """Whether a foreign value can serve as a request id; a key cannot."""
    return isinstance(value, str) and re.fullmatch(REQUEST_ID, value) is not None and redacted(value) == value


def parse_receipt(response: ApiResponse) -> Receipt:
    """Cost, balance, seconds and seed from the headers or, where they are silent, from the body."""
    headers, body = response.headers, response.fields
    metrics = as_object(body.get("metrics"))
    seed = _first_decimal(headers.get("x-seed-value"), body.get("seed"))
    request_id = headers.get("x-request-id") or body.get("request_id")
    times = headers.get("x-generation-time"), metrics.get("inference_time"), body.get("infer_time")
    return Receipt(
        request_id=request_id if is_request_id(request_id) else None,
        cost=as_cost(_first_decimal(headers.get("x-cost"), metrics.get("cost"))),
        credits_left=_first_decimal(headers.get("x-remaining-credits"), metrics.get("remaining_credits")),
        seconds=_first_decimal(*times),
        seed=int(seed) if seed is not None and 0 <= seed < 10**15 and seed == seed.to_integral_value() else None,
    )


def _first_decimal(*values: Any) -> Decimal | None:
    return next((number for number in map(as_decimal, values) if number is not None), None)


# ---- pictures ----


def parse_pictures(body: dict[str, Any]) -> tuple[bytes | str, ...]:
    """The pictures of a JSON body, wherever they are: the field that names most of them is taken.

    One that cannot be read among others that can is left out, so that the others are not lost with it.
    """
    texts = max((list(_picture_texts(body.get(name))) for name in ("image", "images", "output")), key=len)
    pictures: list[bytes | str] = []
    problem = None
    for text in dict.fromkeys(texts):
        try:
            pictures.append(_parse_picture(text))
        except errors.UnreadableAnswer as error:
            problem = error
    if problem and not pictures:
        raise problem
    return tuple(pictures)


def _picture_texts(value: Any, depth: int = 4) -> Iterable[str]:
    match value if depth else None:
        case str() if value:
            yield value
        case list():
            for each in value:  # pyright: ignore[reportUnknownVariableType]
                yield from _picture_texts(each, depth - 1)
        case dict():
            inner = as_object(value)
            yield from _picture_texts(inner.get("url") or inner.get("image_url") or inner.get("image"), depth - 1)
        case _:
            return


_BASE64_FOR_URLS = str.maketrans("-_", "+/", " \t\r\n")


def _parse_picture(text: str) -> bytes | str:
    """From a picture's address, its data URI or its bare base64."""
    text = text.strip()
    if re.match(r"[a-z][a-z0-9+.-]{0,20}://", text, re.IGNORECASE):
        return text
    digits = text.partition(",")[2] if text.startswith("data:") else text
    digits = digits.translate(_BASE64_FOR_URLS).rstrip("=")
    try:
        data = b64decode(digits + "=" * (-len(digits) % 4))
    except ValueError:
        said = "The API's answer holds neither a picture nor an address of one"
        raise errors.UnreadableAnswer(said, received=text.encode(errors="replace")) from None
    return require_whole(data)
