"""How requests are sent: bounded in time and size, repeated as far as `retries` allows."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES
from mcp_vega.redaction import quoted
from mcp_vega.segmind import retries
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.response import ApiResponse, passing_failure

# A cold start may take three minutes before the first byte of an answer.
DRAWING = httpx.Timeout(10, read=240)
CURRENT_CLIENT = httpx.Timeout(10, read=20)
# The longest that a whole call may take, and the largest answer: four pictures of 7 MB as base64.
DRAWING_SECONDS, ASKING_SECONDS, MEDIA_SECONDS = 300, 60, 120
ANSWER_BYTES = 40_000_000
REDIRECTS = 3
PAID_PATIENCE = 5.0


class Caller:
    """Sends requests over an HTTP client that is not closed here.

    Args:
        http: The client.
        patience: Seconds that a call which was refused or not sent is repeated for.
    """

    def __init__(self, http: httpx.AsyncClient, patience: float) -> None:
        self._http = http
        self._patience = patience

    async def call(
        self, method: str, url: str, key: str, *, paid: bool, repeat: bool = True, **request: Any
    ) -> ApiResponse:
        """Send a request with the key; with `repeat`, again and again as far as `retries` and the patience allow.

        Returns:
            The last answer, whatever it says: reading it is the caller's.

        Raises:
            SegmindError: The last attempt got no answer.
        """
        timeout, seconds = (DRAWING, DRAWING_SECONDS) if paid else (CURRENT_CLIENT, ASKING_SECONDS)

        async def attempt() -> ApiResponse:
            stream = self._http.stream(method, url, headers={"x-api-key": key}, timeout=timeout, **request)
            async with _at_most(seconds), stream as response:
                body = await _read(response, ANSWER_BYTES, even_cut=paid and response.is_success)
                # A key that comes back in an answer goes no further.
                headers = {name: value.replace(key, "SG_…") for name, value in response.headers.items()}
                return ApiResponse(response.status_code, headers, _without(key, body))

        # A paid call that has to wait longer is a job that waits: whoever began it is to know.
        patience = min(self._patience, PAID_PATIENCE) if paid else self._patience
        return await self._repeat(attempt, paid=paid, patience=patience if repeat else 0)

    async def fetch(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        """Fetch media without the key, in pieces, so that one that is too large is given up early.

        Returns:
            The last answer, its body cut off where it was too large.

        Raises:
            MediaError: The address, or one it redirects to, is not allowed.
            SegmindError: The last attempt got no answer.
        """
        return await self._repeat(lambda: self._fetch(url, allowed_urls), paid=False, patience=self._patience)

    async def _fetch(self, url: str, allowed_urls: AllowedUrls) -> ApiResponse:
        for _ in range(REDIRECTS + 1):
            if not allowed_urls.permits(url):
                raise _not_allowed(url)
            stream = self._http.stream("GET", url, timeout=CURRENT_CLIENT)
            async with _at_most(MEDIA_SECONDS), stream as response:
                if not response.has_redirect_location:
                    return ApiResponse(response.status_code, dict(response.headers), await _read(response, MAX_BYTES))
                url = _joined(url, response.headers["location"])
        raise errors.MediaError(f"The picture was drawn, but its address redirects too often: {quoted(url)}")

    async def _repeat(
        self, attempt: Callable[[], Awaitable[ApiResponse]], *, paid: bool, patience: float
    ) -> ApiResponse:
        """Make a call until it has an answer worth reading, or must not be repeated, or patience ends."""
        give_up = time.monotonic() + patience
        number = 0
        while True:
            try:
                outcome = await attempt()
                failure = passing_failure(outcome, paid=paid)
            # httpx follows no redirect here, but reads where one leads: ValueError where it cannot.
            except (httpx.RequestError, httpx.InvalidURL, ValueError) as error:
                outcome = failure = error
            pause = retries.pause_before_retry(failure, number, datetime.now(UTC), paid=paid) if failure else None
            if pause is None or time.monotonic() + pause > give_up:
                break
            await anyio.sleep(pause)
            number += 1
        if isinstance(outcome, ApiResponse):
            return outcome
        raise _no_answer(outcome, paid=paid) from outcome


def _without(key: str, body: bytes) -> bytes:
    """A body without the key that was sent, also where JSON spells it in numbers or comes in UTF-16."""
    body = body.replace(key.encode(), b"SG_...")
    if rb"\u" not in body and json.detect_encoding(body) == "utf-8":
        return body
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return body
    return text.replace(key, "SG_...").encode(errors="replace") if key in text else body


def _not_allowed(url: str) -> errors.MediaError:
    said = f"The picture was drawn, but its address is not allowed: {quoted(url)}"
    if url.lower().startswith("https://"):
        step = "Add the host to MCP_VEGA_MEDIA_HOSTS if you trust it, or open the address yourself"
    else:
        step = "Look for the picture in your request history at https://cloud.segmind.com; only https is fetched"
    return errors.MediaError(said, next_step=step)


def _joined(url: str, location: str) -> str:
    """Where a redirect leads; a location that cannot be read stays as it is, and is on no list."""
    try:
        return str(httpx.URL(url).join(location))
    except (httpx.InvalidURL, ValueError):
        return location


async def _read(response: httpx.Response, limit: int, *, even_cut: bool = False) -> bytes:
    """The first `limit` bytes of a body, or those before the place where its compression is broken.

    Layers of compression, or one of an unusual kind, are left as they are: a few bytes could become more than there is
    memory for before anybody counts them.

    With `even_cut` those before the place where the connection broke as well: the status of a paid call says that it
    ran, whatever became of its answer.
    """
    data = bytearray()
    with suppress(httpx.DecodingError, *([httpx.TransportError] if even_cut else [])):
        named = [each.strip().lower() for each in response.headers.get("content-encoding", "").split(",")]
        layers = [each for each in named if each not in {"", "identity"}]
        usual = len(layers) < 2 and {*layers} <= {"gzip", "deflate"}
        async for piece in response.aiter_bytes() if usual else response.aiter_raw():
            data += piece
            if len(data) >= limit:
                break
    return bytes(data[:limit])


@asynccontextmanager
async def _at_most(seconds: float) -> AsyncGenerator[None]:
    """Ends a call that drips: the library's own time-outs begin anew with every byte."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise httpx.ReadTimeout(f"no whole answer after {seconds} s")


def _no_answer(error: Exception, *, paid: bool) -> errors.SegmindError:
    """What a call that got no whole answer comes to."""
    name = type(error).__name__
    if isinstance(error, retries.NEVER_SENT):
        return errors.Unreachable(f"No connection to the API could be made ({name})")
    if paid:
        return errors.OutcomeUnknown(f"The call was sent, but no whole answer came back ({name})")
    return errors.ServiceUnavailable(f"The API did not answer ({name})")
