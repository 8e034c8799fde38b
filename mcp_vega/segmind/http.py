"""Sends requests with limits of time and size, and repeats them as far as a `RetryPolicy` allows.

A paid call is repeated only if it never left this machine. A call that was refused with 429 was not executed either.
But `jobs` decides when to send that call again, because it knows the limits of all servers. A GET request costs nothing
and is repeated freely.
"""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES
from mcp_vega.redaction import quoted
from mcp_vega.segmind.body import ANSWER_BYTES, decompressed, is_large, read_body, without_key
from mcp_vega.segmind.connection import RequestTrace
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.response import ApiResponse, Exchange, error_from
from mcp_vega.telemetry.measurements import api_request

T = TypeVar("T")

# The longest time that a complete paid call may take.
DRAWING_SECONDS = 300
# For how long the API keeps the record of a request.
RECORD_SECONDS = 3600
REDIRECTS = 3
# The longest pause between two requests for the status of a job, if the API asks for no longer one (s).
LONGEST_POLL_PAUSE = 10.0
# The errors after which a GET request is repeated. A paid call is repeated only after `Unreachable`: it was never sent.
REPEATABLE = (errors.RateLimited, errors.ServiceUnavailable, errors.Unreachable, httpx.RequestError)


@dataclass(frozen=True)
class TimeLimits:
    """How long a call may take, in seconds."""

    connect: float = 10  # to connect, and to send one part of the request
    reaching: float = 30  # until the request is sent to the API, including a proxy's tunnel and TLS
    drawing_read: float = 240  # between two parts of a paid call's response: a cold start may take three minutes
    read: float = 20  # between two parts of any other response
    drawing: float = DRAWING_SECONDS  # for a complete paid call
    asking: float = 60  # for a complete GET request
    media: float = 120  # for a complete download


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often calls are repeated, and how long each may take. All times are in seconds."""

    retry_seconds: float = 40  # for how long a call is repeated that was refused or not sent
    paid_retry_seconds: float = 5  # the same for a paid call, if less: its caller must soon know
    first_pause: float = 0.5  # doubles with each further attempt
    longest_pause: float = 10
    attempts: int = 6
    replication_seconds: float = 15  # for how long a replica of the API may not know a request that was just queued
    record_seconds: float = RECORD_SECONDS
    limits: TimeLimits = field(default_factory=TimeLimits)

    def pause_before_retry(self, failure: Exception, attempt: int, *, paid: bool) -> float | None:
        """Seconds until a failed call may be repeated; None if it must not be. `attempt` counts from 0."""
        if attempt + 1 >= self.attempts or not isinstance(failure, errors.Unreachable if paid else REPEATABLE):
            return None
        if isinstance(failure, errors.Unreachable) and not failure.repeatable:
            return None
        wait = failure.wait if isinstance(failure, errors.SegmindError) else None
        return (wait.total_seconds() if wait else 0) + self.backoff(attempt)

    def backoff(self, attempt: int) -> float:
        """A pause that doubles with each attempt. It is shortened at random by up to a half, so that clients spread."""
        return min(self.first_pause * 2**attempt, self.longest_pause) * random.uniform(0.5, 1)  # noqa: S311


DEFAULT_POLICY = RetryPolicy()


def poll_pauses(expected: float, longest: float = LONGEST_POLL_PAUSE) -> Iterator[float]:
    """Seconds to wait before each status request for a queued job. The iterator has no end.

    The first request comes after the `expected` seconds of drawing, the next ones soon after it. Then they become less
    and less frequent, at least every `longest` seconds, so that they do not use up the plan's requests per minute.
    """
    yield expected
    pause = 0.1
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311
        pause = min(pause * 1.5, longest)


class Operation(Enum):
    """The kinds of requests. The value is the path, with names instead of ids; empty if the API chooses the address."""

    GENERATE = "/v1/{model}"
    SUBMIT = "/v2/{model}"
    STATUS = "/v2/requests/{id}/status"
    RESULT = "/v2/requests/{id}"
    HISTORY = "/inference-request/request-history"
    HISTORY_ENTRY = "/inference-request/request-history/{id}"
    CREDITS = "/v1/get-user-credits"
    DOWNLOAD = ""

    @property
    def paid(self) -> bool:
        """Whether each such call is charged."""
        return self in (Operation.GENERATE, Operation.SUBMIT)


class HttpSender:
    """Sends requests over an HTTP client, which it does not close.

    The methods return the last response, with any status. They raise a `SegmindError` if there was no response.
    """

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy) -> None:
        self._http = http
        self._policy = policy
        # One body at a time: this work does not release Python's lock, so several threads would only delay the loop.
        self._processing = anyio.CapacityLimiter(1)
        self.listener: Callable[[Exchange], None] = lambda _: None  # called with each response, also before a retry

    async def send(
        self, operation: Operation, url: str, key: str, *, repeat: bool = True, **request: Any
    ) -> ApiResponse:
        """Send a request with the key. With `repeat`, it is repeated as far as the policy allows."""
        limits, paid = self._policy.limits, operation.paid
        read, seconds = (limits.drawing_read, limits.drawing) if paid else (limits.read, limits.asking)
        timeout = httpx.Timeout(limits.connect, read=read)

        async def attempt() -> ApiResponse:
            options = {"headers": {"x-api-key": key}, "timeout": timeout, **request}
            async with self._exchange(operation, url, seconds, **options) as response:
                pieces = await read_body(response, ANSWER_BYTES, keep_partial=paid and response.is_success)
                # If the response repeats the key, the key is removed.
                headers = {name: value.replace(key, "SG_…") for name, value in response.headers.items()}
            body = await self.off_loop(pieces, lambda: decompressed(b"".join(pieces), headers, ANSWER_BYTES))
            answer = await self.off_loop([body], partial(_received, response.status_code, headers, body, key))
            return self._report(response, answer)

        retry_seconds = self._policy.retry_seconds if repeat else 0
        if paid:
            retry_seconds = min(retry_seconds, self._policy.paid_retry_seconds)
        return await self._repeat(attempt, paid=paid, retry_seconds=retry_seconds)

    async def download(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        """Download media without sending the key. A body that is too large is cut off at the limit.

        Raises:
            MediaError: The address, or an address to which it redirects, is not allowed.
        """
        attempt = partial(self._follow, url, allowed_urls)
        return await self._repeat(attempt, paid=False, retry_seconds=self._policy.retry_seconds)

    async def _follow(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        limits = self._policy.limits
        for _ in range(REDIRECTS + 1):
            if not allowed_urls.permits(url):
                raise _not_allowed(url)
            timeout = httpx.Timeout(limits.connect, read=limits.read)
            async with self._exchange(Operation.DOWNLOAD, url, limits.media, timeout=timeout) as response:
                moved, headers = response.has_redirect_location, dict(response.headers)
                pieces = [] if moved else await read_body(response, MAX_BYTES)
                body = await self.off_loop(pieces, lambda: decompressed(b"".join(pieces), headers, MAX_BYTES))  # noqa: B023
            answer = self._report(response, ApiResponse(response.status_code, headers, body))
            if not moved:
                return answer
            location = headers["location"]
            with suppress(httpx.InvalidURL, ValueError):  # an unreadable address stays unchanged, and is never allowed
                location = str(httpx.URL(url).join(location))
            url = location
        raise errors.MediaError(f"The picture was drawn, but its address redirects too often: {quoted(url)}")

    async def off_loop(self, pieces: Sequence[bytes], work: Callable[[], T]) -> T:
        """The result of `work` on a body. For a large body it runs in a thread, so that other calls go on meanwhile."""
        return await anyio.to_thread.run_sync(work, limiter=self._processing) if is_large(pieces) else work()

    def _report(self, response: httpx.Response, answer: ApiResponse) -> ApiResponse:
        request = response.request
        self.listener(Exchange(request.method, str(request.url), answer, request.extensions["trace"].seconds))
        return answer

    @asynccontextmanager
    async def _exchange(
        self, operation: Operation, url: str, seconds: float, **request: Any
    ) -> AsyncGenerator[httpx.Response]:
        """The response to one request. Everything until the end of the block takes at most `seconds`.

        Raises:
            Unreachable: Nothing of the request was sent to the API.
        """
        if self._http.is_closed:
            raise _not_made("the HTTP client is closed")
        try:
            built = self._http.build_request("POST" if operation.paid else "GET", url, **request)
        except (httpx.InvalidURL, ValueError) as error:
            raise _not_made(type(error).__name__) from error
        trace = built.extensions["trace"] = RequestTrace(built.url)
        address = built.url.host, built.url.port
        try:
            with api_request(operation.name.lower(), built.method, operation.value, *address) as measured:
                async with (
                    _time_limit(seconds, self._policy.limits.reaching, trace),
                    aclosing(await self._http.send(built, stream=True)) as response,
                ):
                    measured.status = response.status_code
                    yield response
        except errors.Unreachable:  # the transport already gave the reason
            raise
        except Exception as error:
            if trace.nothing_sent(error):
                raise trace.unreachable(error) from error
            raise

    async def _repeat(
        self, attempt: Callable[[], Awaitable[ApiResponse]], *, paid: bool, retry_seconds: float
    ) -> ApiResponse:
        give_up = time.monotonic() + retry_seconds
        number = 0
        while True:
            try:
                outcome = await attempt()
                failure = None if outcome.ok else error_from(outcome, paid=paid)
            # httpx follows no redirect here, but parses its address. It raises a ValueError if it cannot.
            except (errors.Unreachable, httpx.RequestError, httpx.InvalidURL, ValueError) as error:
                outcome = failure = error
            pause = failure and self._policy.pause_before_retry(failure, number, paid=paid)
            if pause is None or time.monotonic() + pause > give_up:
                break
            await anyio.sleep(pause)
            number += 1
        if isinstance(outcome, ApiResponse):
            return outcome
        if isinstance(outcome, errors.Unreachable):
            raise outcome
        raise _transport_error(outcome, paid=paid) from outcome


def _received(status: int, headers: dict[str, str], body: bytes, key: str) -> ApiResponse:
    """The response without the key that was sent. The JSON of a large one is parsed here, off the event loop."""
    response = ApiResponse(status, headers, without_key(body, key))
    if is_large([body]):
        _ = response.json
    return response


def _not_made(why: str) -> errors.Unreachable:
    error = errors.Unreachable(f"The request to the API could not be made ({why})")
    error.repeatable = False
    return error


def _not_allowed(url: str) -> errors.MediaError:
    message = f"The picture was drawn, but its address is not allowed: {quoted(url)}"
    if url.lower().startswith("https://"):
        step = "Add the host to MCP_VEGA_MEDIA_HOSTS if you trust it, or open the address yourself"
    else:
        step = "Look for the picture in your request history at https://cloud.segmind.com; this server opens only https"
    return errors.MediaError(message, next_step=step)


@asynccontextmanager
async def _time_limit(seconds: float, reaching: float, trace: RequestTrace) -> AsyncGenerator[None]:
    """Ends a call after `seconds`, or after `reaching` seconds if its request is not being sent by then.

    httpx's own time-outs are not enough. They start again with every byte, and a tunnel has the time-out of the answer.
    """
    deadline = anyio.current_time() + seconds
    with anyio.move_on_after(min(seconds, reaching)) as scope:

        def go_on() -> None:
            scope.deadline = deadline

        trace.on_its_way = go_on
        yield
    if scope.cancelled_caught:
        raise httpx.ReadTimeout(f"no complete answer after {seconds} s")


def _transport_error(error: Exception, *, paid: bool) -> errors.SegmindError:
    """The error of a request that was sent, or may have been sent."""
    name = type(error).__name__
    if paid:
        return errors.OutcomeUnknown(f"The call was sent, but no complete answer came back ({name})")
    return errors.ServiceUnavailable(f"The API did not answer ({name})")
