"""The sandbox's state: an account, its calls, and the state of each call at a given time."""

import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import formatdate
from math import ceil
from typing import Any

from pydantic import ValidationError

from mcp_vega.parameters import MODELS, Parameters
from mcp_vega.sandbox.faults import Faults
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour
from mcp_vega.sandbox.odd_answers import ERROR_TEXTS, ERRORS, INVALID

RESULT_SECONDS = 3600
MEDIA_SECONDS = 7 * 24 * 3600
COLD_START_SECONDS = 20
NEVER = 10**9
RETRY_SECONDS = 3  # the pause that the faults `429-retry-after` and `429-retry-date` ask for
TOO_SOON = "paid calls sooner than told"  # counted among the requests


@dataclass
class Call:
    """A call that the sandbox accepted. Times are seconds, multiplied by the account's speed; costs are US dollars."""

    id: str
    slug: str
    route: str
    body: dict[str, Any]
    faults: Faults
    created: float
    queue_seconds: float
    run_seconds: float
    cost: Decimal
    credits_left: Decimal
    seed: int
    pictures: int
    key: str = field(repr=False)  # the API key of the call; it is shown nowhere
    error: str = ""
    status_requests: int = 0

    @property
    def done(self) -> float:
        """When the call ends, in the sandbox's time."""
        return self.created + self.queue_seconds + self.run_seconds

    def state(self, now: float) -> str:
        """Return the state of the call at a time."""
        if now < self.created + self.queue_seconds:
            return "QUEUED"
        if now < self.done:
            return "PROCESSING"
        return "FAILED" if self.error else "COMPLETED"


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  it says what happens to the call
    """Refuses a request: HTTP status, the API's message, headers, and the fault that gives the message an odd form."""

    status: int
    text: str = ""
    headers: Mapping[str, str] | None = None
    form: str = ""


class Account:
    """The account and its calls. All public attributes may be changed while the sandbox runs."""

    def __init__(
        self,
        *,
        speed: float = 1,  # the documented times are multiplied by this; 0 answers immediately
        credits: Decimal = Decimal(10),  # noqa: A002  the API's word for the balance (US dollars)
        rate_limit: int = 0,  # paid calls per minute; 0 means no limit
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.speed = speed
        self.credits = credits
        self.rate_limit = rate_limit
        self.history_status = 200  # the HTTP status of the request history's answers
        self.history = HistoryBehaviour()
        self.models = {"v1": set(MODELS), "v2": set(MODELS)}  # the models of each route
        self.faults: Sequence[str] = ()  # faults of every paid call, in addition to those in its prompt
        self.calls: dict[str, Call] = {}
        self.requests = Counter[str]()  # the number of requests to each endpoint
        self.most_fetched = 0  # the largest number of pictures that were fetched at the same time
        self.admitted = deque[float]()  # when the paid calls of the last minute came
        self._clock = clock
        self._skipped = 0.0
        self._fetched = 0
        self._admits_from = 0.0  # the time that the last 429 gave for the next call
        self._prompts = Counter[str]()

    @property
    def now(self) -> float:
        """The sandbox's time."""
        return self._clock() + self._skipped

    def skip(self, seconds: float) -> None:
        """Move the sandbox's clock forward."""
        self._skipped += seconds

    def admit(self) -> None:
        """Count a paid call against the rate limit. A call before the time that the last 429 gave counts as a mistake.

        Raises:
            Refusal: The limit is reached; it says when the next call is admitted.
        """
        if self.now < self._admits_from:
            self.requests[TOO_SOON] += 1
        while self.admitted and self.admitted[0] <= self.now - 60:
            self.admitted.popleft()
        if self.rate_limit and len(self.admitted) >= self.rate_limit:
            raise self._rate_limited(self.admitted[0] + 60)
        self.admitted.append(self.now)

    def take(self, route: str, slug: str, body: dict[str, Any], key: str) -> Call:
        """Accept a call, and charge it.

        Raises:
            Refusal: A fault refuses the call, the credits are used up, or (v1) the body is invalid. v2 queues a call
                with an invalid body, and the job fails later.
        """
        faults = self._faults_of(body.get("prompt"))
        if self.credits <= 0:
            raise Refusal(406 if route == "v1" else 402, "Insufficient credits. Please add credits to your account.")
        parameters, error = None, faults.error()
        try:
            parameters = _parse(slug, body)
        except Refusal as refusal:
            if route == "v1":
                raise
            error = refusal.text
        cost = parameters.expected_cost if parameters and not error else Decimal(0)
        run_seconds = parameters.expected_seconds if parameters else 0.0
        run_seconds += COLD_START_SECONDS if "cold-start" in faults else 0
        seed = parameters.seed if parameters else 0
        self.credits -= cost
        call = Call(
            id=uuid.uuid4().hex,
            slug=slug,
            route=route,
            body=body,
            faults=faults,
            created=self.now,
            queue_seconds=NEVER if "stuck" in faults else random.uniform(0.1, 0.3) * self.speed,  # noqa: S311
            run_seconds=run_seconds * self.speed,
            cost=cost,
            credits_left=self.credits,
            seed=random.randrange(10**10) if seed == -1 else seed,  # noqa: S311
            pictures=parameters.pictures if parameters else 0,
            key=key,
            error=error,
        )
        self.calls[call.id] = call
        return call

    def _faults_of(self, prompt: object) -> Faults:
        """Return the faults of a call, and count its prompt as sent.

        Raises:
            Refusal: One of the faults refuses the call, or is not known.
        """
        faults = Faults(prompt, self._prompts[str(prompt)], self.faults)
        self._prompts[str(prompt)] += 1
        if name := faults.unknown():
            raise Refusal(400, f"The sandbox has no fault {name!r}; GET /_sandbox lists all faults")
        if refusal := self._refusal(faults):
            raise refusal
        return faults

    def _refusal(self, faults: Faults) -> Refusal | None:
        """Return the refusal of a call, if one of its faults refuses it."""
        if "429-retry-after" in faults:
            return self._rate_limited(self.now + RETRY_SECONDS, {"retry-after": str(RETRY_SECONDS)})
        if "429-retry-date" in faults:
            until = ceil(self.now + RETRY_SECONDS)  # an HTTP date has whole seconds
            return self._rate_limited(until, {"retry-after": formatdate(until, usegmt=True)})
        form = next((name for name in (*ERRORS, *ERROR_TEXTS) if name in faults), "")
        status = faults.status() or (400 if form else None)
        if status == 429:
            return self._rate_limited(self.now + 1)
        return Refusal(status, INVALID if form else "", form=form) if status else None

    def _rate_limited(self, until: float, headers: Mapping[str, str] | None = None) -> Refusal:
        """Return the refusal of all calls before `until`. The documented header says that time, unless others do."""
        self._admits_from = until
        moment = datetime.fromtimestamp(until, UTC).replace(tzinfo=None).isoformat()
        return Refusal(429, "Rate limit exceeded", headers or {"x-rate-limit-reset-at-utc": moment})

    def record(self, request_id: str) -> Call:
        """Return a call; the API keeps it for an hour after its end.

        Raises:
            Refusal: There is no such call any more.
        """
        call = self.calls.get(request_id)
        kept = 0 if call and "expired" in call.faults else RESULT_SECONDS
        if call is None or self.now > call.done + kept:
            raise no_record(request_id)
        return call

    def media(self, request_id: str, index: int) -> Call:
        """Return the call of a picture; the API keeps the picture for seven days after the end of the call.

        Raises:
            Refusal: There is no such picture now.
        """
        call = self.calls.get(request_id)
        if call is None or index >= call.pictures or not call.done <= self.now <= call.done + MEDIA_SECONDS:
            raise Refusal(404, "Not found")
        return call

    @contextmanager
    def fetching(self) -> Generator[None]:
        """Count a picture as being fetched within the block."""
        self._fetched += 1
        self.most_fetched = max(self.most_fetched, self._fetched)
        try:
            yield
        finally:
            self._fetched -= 1


def no_record(request_id: str) -> Refusal:
    """Return the refusal for an id that is unknown or has expired."""
    return Refusal(404, f"Request {request_id} not found")


def _parse(slug: str, body: dict[str, Any]) -> Parameters:
    """Return the parameters in the body, without names that the model does not have.

    Raises:
        Refusal: The body is invalid; this is v1's answer to it.
    """
    model = MODELS[slug]
    try:
        return model.model_validate({name: value for name, value in body.items() if name in model.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        text = f"{first['loc'][0]}: {first['msg']}"
        raise Refusal(406 if first["type"] == "literal_error" else 400, text) from error
