"""What a response of the API means: pure functions from status, headers and body to types.

Only what the documents call sure is relied on; every other shape that was seen or is likely is understood as well.
"""

import re
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeGuard

from mcp_vega import errors
from mcp_vega.segmind.media import MAX_BYTES, find_pictures, recognise, whole
from mcp_vega.segmind.responses import Answer, as_object, error_text, is_about_content, quoted, redacted, refusal

REQUEST_ID = "[A-Za-z0-9_-]{1,64}"


@dataclass(frozen=True)
class Receipt:
    """What the API says about a call; None is unknown, never zero.

    `cost` and `credits_left` are US dollars, `seconds` is the time of the drawing on the API's machine.
    """

    request_id: str | None = None
    cost: Decimal | None = None
    credits_left: Decimal | None = None
    seconds: Decimal | None = None
    seed: int | None = None

    def filled(self, other: "Receipt") -> "Receipt":
        """What either receipt knows; where both do, this one."""
        known = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(other, **known)


@dataclass(frozen=True)
class Generation:
    """Finished pictures: bytes where they came along, an address where they are to be fetched."""

    pictures: tuple[bytes | str, ...]
    receipt: Receipt


@dataclass(frozen=True)
class Submission:
    """A job that the API has queued."""

    request_id: str


class State(StrEnum):
    """The four states that the API documents, and that of a call whose outcome is not known (yet)."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.COMPLETED, State.FAILED)


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


def read_generation(answer: Answer, *, paid: bool) -> Generation | Submission:
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


def read_submission(answer: Answer) -> Submission:
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


def read_status(answer: Answer) -> Status:
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


def read_credits(answer: Answer) -> Credits:
    """Read the answer to `GET /v1/get-user-credits`.

    Raises:
        Refused: The key is missing or not valid.
        ServiceUnavailable: The API could not say.
    """
    if not answer.ok:
        raise refusal(answer)
    return Credits(as_decimal(answer.fields.get("credits")), as_decimal(answer.fields.get("free-credits")))


def read_medium(answer: Answer, url: str) -> bytes:
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


def failure(answer: Answer) -> errors.GenerationFailed:
    """The error of a call that ran and failed: charged as its cost says, else when it came as a success."""
    cost = read_receipt(answer).cost
    paid = cost > 0 if cost is not None else answer.ok and answer.fields.get("status") != State.FAILED
    return failed(error_text(answer), errors.Charged.YES if paid else errors.Charged.NO)


def failed(text: str, charged: errors.Charged) -> errors.GenerationFailed:
    """The error of a call that ran and failed, from the API's words."""
    if is_about_content(text):
        return errors.ContentBlocked(f"The API would not draw this: {text}", charged=charged)
    return errors.GenerationFailed(f"The API could not draw this: {text or 'no reason given'}", charged=charged)


def _describe_unreadable(answer: Answer) -> str:
    if not answer.body:
        return "The API reported success but sent nothing that can be read"
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    return f"The API reported success but sent no picture ({len(answer.body)} bytes of {quoted(kind)})"


# ---- receipts ----


def is_request_id(value: Any) -> TypeGuard[str]:
    """Whether a foreign value can serve as a request id; a key cannot."""
    return isinstance(value, str) and re.fullmatch(REQUEST_ID, value) is not None and redacted(value) == value


def read_receipt(answer: Answer) -> Receipt:
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
