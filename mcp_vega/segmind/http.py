"""How requests are sent: bounded in time and size, and repeated as far as a `RetryPolicy` allows.

A paid call is repeated only when it never left this machine. Refused with 429 it was not executed either, but when it
is sent again is decided in `jobs`, where the limits of all servers are known. A question (GET) costs nothing and is
repeated freely.
"""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES
from mcp_vega.redaction import quoted
from mcp_vega.segmind.body import ANSWER_BYTES, LARGE_BYTES, decompressed, off_loop, read_body, without_key
from mcp_vega.segmind.connection import RequestTrace
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.response import ApiResponse, Exchange, error_from

# The longest that a whole paid call may take.
DRAWING_SECONDS = 300
REDIRECTS = 3
# What a question may end with that is worth another attempt. For a paid call it is `Unreachable` alone: never sent.
REPEATABLE = (errors.RateLimited, errors.ServiceUnavailable, errors.Unreachable, httpx.RequestError)


@dataclass(frozen=True)
class TimeLimits:
    """How long a call may take, in seconds."""

    connect: float = 10  # for a connection, and to send a part of the request
    reaching: float = 30  # until a request is on its way to the API, a proxy's tunnel and TLS included
    drawing_read: float = 240  # between two parts of a paid call's response: a cold start may take three minutes
    read: float = 20  # between two parts of any other response
    drawing: float = DRAWING_SECONDS  # for a whole paid call
    asking: float = 60  # for a whole question
    media: float = 120  # for a whole download


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often calls are repeated, and how long each may take. All times are in seconds."""

    retry_seconds: float = 40  # for how long a call that was refused or not sent is repeated
    paid_retry_seconds: float = 5  # the same for a paid call, if it is less: its job is soon said to be waiting
    first_pause: float = 0.5  # doubles with each further attempt
    longest_pause: float = 10
    attempts: int = 6
    replication_seconds: float = 15  # for how long a replica of the API may not know a request that was just queued
    limits: TimeLimits = field(default_factory=TimeLimits)

    def pause_before_retry(self, failure: Exception, attempt: int, *, paid: bool) -> float | None:
        """Seconds until a call may be repeated whose attempt (from 0) failed; None when it must not be."""
        if attempt + 1 >= self.attempts or not isinstance(failure, errors.Unreachable if paid else REPEATABLE):
            return None
        if isinstance(failure, errors.Unreachable) and not failure.repeatable:
            return None
        wait = failure.wait if isinstance(failure, errors.SegmindError) else None
        return (wait.total_seconds() if wait else 0) + self.backoff(attempt)

    def backoff(self, attempt: int) -> float:
        """A pause that doubles with each attempt, shortened at random by up to a half so that clients spread."""
        return min(self.first_pause * 2**attempt, self.longest_pause) * random.uniform(0.5, 1)  # noqa: S311


DEFAULT_POLICY = RetryPolicy()


def poll_pauses(expected: float) -> Iterator[float]:
    """Seconds to wait before each status request of a queued job, without end.

    The first comes after the `expected` seconds of drawing, the next ones soon after, then ever less often, so that
    they do not use up the plan's requests per minute.
    """
    yield expected
    pause = 0.1
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311
        pause = min(pause * 1.5, 10.0)


class HttpSender:
    """Sends requests over an HTTP client that is not closed here.

    The methods return the last response, whatever its status, and raise a `SegmindError` where there was none.
    """

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy) -> None:
        self._http = http
        self._policy = policy
        self.listener: Callable[[Exchange], None] = lambda _: None  # is told of each response, repeated ones as well

    async def send(
        self, method: str, url: str, key: str, *, paid: bool, repeat: bool = True, **request: Any
    ) -> ApiResponse:
        """Send a request with the key; with `repeat`, again and again as far as the policy allows."""
        limits = self._policy.limits
        read, seconds = (limits.drawing_read, limits.drawing) if paid else (limits.read, limits.asking)
        timeout = httpx.Timeout(limits.connect, read=read)

        async def attempt() -> ApiResponse:
            options = {"headers": {"x-api-key": key}, "timeout": timeout, **request}
            async with self._exchange(method, url, seconds, **options) as response:
                body = await read_body(response, ANSWER_BYTES, keep_partial=paid and response.is_success)
                # A key that comes back in a response goes no further.
                headers = {name: value.replace(key, "SG_…") for name, value in response.headers.items()}
            answer = await off_loop(body, partial(_received, response.status_code, headers, body, key))
            return self._told(response, answer)

        retry_seconds = self._policy.retry_seconds if repeat else 0
        if paid:
            retry_seconds = min(retry_seconds, self._policy.paid_retry_seconds)
        return await self._repeat(attempt, paid=paid, retry_seconds=retry_seconds)

    async def download(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        """Fetch media without the key; a body that is too large is given up early, and comes cut off.

        Raises:
            MediaError: The address, or one it redirects to, is not allowed.
        """
        attempt = partial(self._follow, url, allowed_urls)
        return await self._repeat(attempt, paid=False, retry_seconds=self._policy.retry_seconds)

    async def _follow(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        limits = self._policy.limits
        for _ in range(REDIRECTS + 1):
            if not allowed_urls.permits(url):
                raise _not_allowed(url)
            timeout = httpx.Timeout(limits.connect, read=limits.read)
            async with self._exchange("GET", url, limits.media, timeout=timeout) as response:
                moved, headers = response.has_redirect_location, dict(response.headers)
                body = b"" if moved else await read_body(response, MAX_BYTES)
                body = await off_loop(body, partial(decompressed, body, headers, MAX_BYTES))
            answer = self._told(response, ApiResponse(response.status_code, headers, body))
            if not moved:
                return answer
            location = headers["location"]
            with suppress(httpx.InvalidURL, ValueError):  # what cannot be read stays as it is, and is never allowed
                location = str(httpx.URL(url).join(location))
            url = location
        raise errors.MediaError(f"The picture was drawn, but its address redirects too often: {quoted(url)}")

    def _told(self, response: httpx.Response, answer: ApiResponse) -> ApiResponse:
        asked = response.request
        self.listener(Exchange(asked.method, str(asked.url), answer, asked.extensions["trace"].seconds))
        return answer

    @asynccontextmanager
    async def _exchange(self, method: str, url: str, seconds: float, **request: Any) -> AsyncGenerator[httpx.Response]:
        """The response to one request, for at most so many seconds from its start to the end of the block.

        Raises:
            Unreachable: Nothing of the request was sent to the API.
        """
        if self._http.is_closed:
            raise _not_made("the HTTP client is closed")
        try:
            built = self._http.build_request(method, url, **request)
        except (httpx.InvalidURL, ValueError) as error:
            raise _not_made(type(error).__name__) from error
        trace = built.extensions["trace"] = RequestTrace(built.url)
        try:
            async with (
                _time_limit(seconds, self._policy.limits.reaching, trace),
                aclosing(await self._http.send(built, stream=True)) as response,
            ):
                yield response
        except errors.Unreachable:  # the transport itself knows why
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
            # httpx follows no redirect here, but reads where one leads: ValueError where it cannot.
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
    """A response from what came, without the key that was sent; what a large one holds is read already."""
    response = ApiResponse(status, headers, without_key(decompressed(body, headers, ANSWER_BYTES), key))
    if len(body) > LARGE_BYTES:
        _ = response.json
    return response


def _not_made(why: str) -> errors.Unreachable:
    error = errors.Unreachable(f"The request to the API could not be made ({why})")
    error.repeatable = False
    return error


def _not_allowed(url: str) -> errors.MediaError:
    said = f"The picture was drawn, but its address is not allowed: {quoted(url)}"
    if url.lower().startswith("https://"):
        step = "Add the host to MCP_VEGA_MEDIA_HOSTS if you trust it, or open the address yourself"
    else:
        step = "Look for the picture in your request history at https://cloud.segmind.com; only https is fetched"
    return errors.MediaError(said, next_step=step)


@asynccontextmanager
async def _time_limit(seconds: float, reaching: float, trace: RequestTrace) -> AsyncGenerator[None]:
    """Ends a call as a whole, or one that is not on its way after `reaching` seconds.

    httpx's own time-outs begin anew with every byte, and a tunnel has that of the answer.
    """
    deadline = anyio.current_time() + seconds
    with anyio.move_on_after(min(seconds, reaching)) as scope:

        def go_on() -> None:
            scope.deadline = deadline

        trace.on_its_way = go_on
        yield
    if scope.cancelled_caught:
        raise httpx.ReadTimeout(f"no whole answer after {seconds} s")


def _transport_error(error: Exception, *, paid: bool) -> errors.SegmindError:
    """What to say of a request that was sent, or may have been."""
    name = type(error).__name__
    if paid:
        return errors.OutcomeUnknown(f"The call was sent, but no whole answer came back ({name})")
    return errors.ServiceUnavailable(f"The API did not answer ({name})")
