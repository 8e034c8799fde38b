"""What a response of the API means: pure functions from status, headers and body to types.

Only what the documents call sure is relied on; every other shape that was seen or is likely is understood as well.
"""

import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeGuard

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES, recognise, whole
from mcp_vega.job import REQUEST_ID, Receipt, State
from mcp_vega.redaction import quoted, redacted
from mcp_vega.segmind.response import ApiResponse, as_object, error_text, is_about_content, refusal


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
    """One look at a queued job; `error` is set when it has failed."""

    state: State
    receipt: Receipt
    error: errors.GenerationFailed | None = None


@dataclass(frozen=True)
class Credits:
    """The account's balance in US dollars."""

    credits: Decimal | None
    free: Decimal | None


# ---- what each call answers ----


def read_generation(answer: ApiResponse, *, paid: bool) -> Generation | Submission:
    """Read the answer to `POST /v1/{slug}` (paid) or `GET /v2/requests/{id}`.

    Returns:
        The pictures; or a `Submission` where they are not finished yet.

    Raises:
        SegmindError: The call was refused or failed, or the answer holds no whole picture.
    """
    body = answer.fields
    # Under a 5xx the word proves nothing: whether a paid call ran stays open.
    if body.get("status") == State.FAILED and (answer.ok or answer.status == 422):
        raise failure(answer)
    if not answer.ok:
        raise refusal(answer, paid=paid)
    receipt = read_receipt(answer)
    if recognise(answer.body):
        return Generation((whole(answer.body),), receipt)
    if pictures := find_pictures(body):
        return Generation(pictures, receipt)
    if body.get("error"):
        raise failure(answer)
    if body.get("status") != State.COMPLETED and is_request_id(request_id := body.get("request_id")):
        return Submission(request_id)
    if not paid and answer.json is None:  # asking again costs nothing, and may bring the whole answer
        raise errors.ServiceUnavailable(_describe_unreadable(answer))
    raise errors.UnreadableAnswer(_describe_unreadable(answer), received=answer.body)


def read_submission(answer: ApiResponse) -> Submission:
    """Read the answer to `POST /v2/{slug}`.

    Raises:
        SegmindError: The call was refused, or no request id came back.
    """
    if not answer.ok:
        raise refusal(answer, paid=True)
    request_id = answer.fields.get("request_id")
    if not is_request_id(request_id):
        said = "The API accepted the job but gave no usable request id"
        # A queued job is charged when it is drawn, and not where that fails.
        raise errors.UnreadableAnswer(said, charged=errors.Charged.UNKNOWN, received=answer.body)
    return Submission(request_id)


def read_status(answer: ApiResponse) -> Status:
    """Read the answer to `GET /v2/requests/{id}/status`. An unknown state counts as still running.

    Raises:
        SegmindError: The request is unknown, or the answer is not a status.
    """
    word = answer.fields.get("status")
    if word == State.FAILED:
        return Status(State.FAILED, read_receipt(answer), failure(answer))
    if not answer.ok:
        raise refusal(answer)
    if not isinstance(word, str):
        raise errors.UnreadableAnswer("The API's answer carries no status", charged=errors.Charged.UNKNOWN)
    state = State(word) if word in set(State) - {State.UNKNOWN} else State.PROCESSING
    return Status(state, read_receipt(answer))


def read_credits(answer: ApiResponse) -> Credits:
    """Read the answer to `GET /v1/get-user-credits`.

    Raises:
        Refused: The key is missing or not valid.
        ServiceUnavailable: The API could not say.
    """
    if not answer.ok:
        raise refusal(answer)
    return Credits(as_decimal(answer.fields.get("credits")), as_decimal(answer.fields.get("free-credits")))


def read_medium(answer: ApiResponse, url: str) -> bytes:
    """The bytes of a downloaded picture.

    Raises:
        MediaError: The address gave no whole picture.
    """
    if not answer.ok:
        raise errors.MediaError(
            f"The picture was drawn, but {quoted(url)} answered with HTTP {answer.status}",
            next_step=f"Open {quoted(url)} within seven days",
        )
    try:
        return whole(answer.body)
    except errors.UnreadableAnswer as error:
        said = f"What {quoted(url)} gave is no whole picture of at most {MAX_BYTES:,} bytes"
        raise errors.MediaError(said, next_step=f"Open {quoted(url)}", received=answer.body) from error


def failure(answer: ApiResponse) -> errors.GenerationFailed:
    """The error of a call that ran and failed: charged as its cost says, else when it came as a success."""
    cost = read_receipt(answer).cost
    paid = cost > 0 if cost is not None else answer.ok and answer.fields.get("status") != State.FAILED
    return failed(error_text(answer), errors.Charged.YES if paid else errors.Charged.NO)


def failed(text: str, charged: errors.Charged) -> errors.GenerationFailed:
    """The error of a call that ran and failed, from the API's words."""
    if is_about_content(text):
        return errors.ContentBlocked(f"The API would not draw this: {text}", charged=charged)
    return errors.GenerationFailed(f"The API could not draw this: {text or 'no reason given'}", charged=charged)


def _describe_unreadable(answer: ApiResponse) -> str:
    if not answer.body:
        return "The API reported success but sent nothing that can be read"
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    return f"The API reported success but sent no picture ({len(answer.body)} bytes of {quoted(kind)})"


# ---- receipts ----


def is_request_id(value: Any) -> TypeGuard[str]:
    """Whether a foreign value can serve as a request id; a key cannot."""
    return isinstance(value, str) and re.fullmatch(REQUEST_ID, value) is not None and redacted(value) == value


def read_receipt(answer: ApiResponse) -> Receipt:
    """Cost, balance, seconds and seed from the headers or, where they are silent, from the body."""
    headers, body = answer.headers, answer.fields
    metrics = as_object(body.get("metrics"))
    seed = _first(headers.get("x-seed-value"), body.get("seed"))
    request_id = headers.get("x-request-id") or body.get("request_id")
    return Receipt(
        request_id=request_id if is_request_id(request_id) else None,
        cost=as_cost(_first(headers.get("x-cost"), metrics.get("cost"))),
        credits_left=_first(headers.get("x-remaining-credits"), metrics.get("remaining_credits")),
        seconds=_first(headers.get("x-generation-time"), metrics.get("inference_time"), body.get("infer_time")),
        seed=int(seed) if seed is not None and 0 <= seed < 10**15 and seed == seed.to_integral_value() else None,
    )


def _first(*values: Any) -> Decimal | None:
    return next((number for number in map(as_decimal, values) if number is not None), None)


def as_cost(value: Any) -> Decimal | None:
    """A price; one below nothing is none, or a spending limit would grow by it."""
    cost = as_decimal(value)
    return None if cost is None or cost < 0 else abs(cost)


def as_decimal(value: Any) -> Decimal | None:
    """A finite decimal from a number or its text, also in brackets (`[2.1]`, one entry per picture: the first)."""
    if isinstance(value, list):
        value = value[0] if value else None  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    text = str(value).strip().strip("[]").split(",")[0].strip()
    # Longer than any figure of the API: nothing to convert, and a huge exponent would be slow.
    if not re.fullmatch(r"[+-]?[0-9]{0,20}\.?[0-9]{0,20}([eE][+-]?[0-9]{1,2})?", text):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if abs(number) < 10**15 else None


# ---- pictures ----


def find_pictures(body: dict[str, Any]) -> tuple[bytes | str, ...]:
    """The pictures of a JSON answer, wherever they are: the field that names most of them wins.

    One that cannot be read among others that can is left out, so that the others are not lost with it.

    Raises:
        UnreadableAnswer: There are some, and none can be read.
    """
    texts = max((list(_texts(body.get(name))) for name in ("image", "images", "output")), key=len)
    pictures: list[bytes | str] = []
    problem: errors.UnreadableAnswer | None = None
    for text in dict.fromkeys(texts):
        try:
            pictures.append(_medium(text))
        except errors.UnreadableAnswer as error:
            problem = error
    if problem and not pictures:
        raise problem
    return tuple(pictures)


def _texts(value: Any, depth: int = 4) -> Iterable[str]:
    match value if depth else None:
        case str() if value:
            yield value
        case list():
            for each in value:  # pyright: ignore[reportUnknownVariableType]
                yield from _texts(each, depth - 1)
        case dict():
            inner: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  JSON
            yield from _texts(inner.get("url") or inner.get("image_url") or inner.get("image"), depth - 1)
        case _:
            return


_BASE64_FOR_URLS = str.maketrans("-_", "+/", " \t\r\n")


def _medium(text: str) -> bytes | str:
    """One picture from its address, its data URI or its bare base64.

    Raises:
        UnreadableAnswer: It is none of these, or no whole picture.
    """
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
    return whole(data)
