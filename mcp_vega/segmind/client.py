"""The endpoints of the Segmind API for its two Vega models, as typed calls."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import anyio
import httpx

from mcp_vega import errors
from mcp_vega.imaging.formats import MAX_BYTES
from mcp_vega.imaging.integrity import require_complete
from mcp_vega.job.free import of_free_call
from mcp_vega.redaction import quoted
from mcp_vega.segmind import history, parsing
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.segmind.history import HistoryPage, HistoryRow
from mcp_vega.segmind.http import DEFAULT_POLICY, LONGEST_POLL_PAUSE, HttpSender, Operation, RetryPolicy, poll_pauses
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.parsing import Credits, Generation, Status, Submission
from mcp_vega.segmind.response import ApiResponse, Exchange

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The longest pause between two requests for a job's status that the API gets if it asks for one (s).
LONGEST_ASKED_PAUSE = 120.0

# Errors that say nothing about the job. Another request may succeed.
TEMPORARY = (errors.ServiceUnavailable, errors.Unreachable, errors.RateLimited)


# The key of the work that is done in this context; None for the client's.
_KEPT_KEY: ContextVar[ApiKey | None] = ContextVar("kept_key", default=None)


@dataclass(frozen=True)
class Endpoints:
    """The addresses that a client uses."""

    base_url: str  # without a version
    history_url: str  # of the request history
    media_hosts: tuple[str, ...] = ()  # from which pictures may be downloaded, besides the vendor's


class SegmindClient:
    """Calls the API's v1 (answers with the picture) and v2 (queues a job).

    Every call raises a `SegmindError` if the API refuses it, does not respond, or sends a response that cannot be read.
    The error says whether the call was charged. Without a key, every call except `download` raises `MissingKey`. The
    key is sent only to the base URL and to the history's URL. The client does not close `http`. `open_http` does the
    slow part of the first request to an address in advance, such as reading TLS certificates.

    Source of the contract: the vendor's model pages, its Python SDK and recorded responses.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        key: ApiKey,
        endpoints: Endpoints,
        policy: RetryPolicy = DEFAULT_POLICY,
        open_http: Callable[[str], None] | None = None,
    ) -> None:
        self._sender = HttpSender(http, policy)
        self._open_http = open_http
        self._key = key
        self.base_url = endpoints.base_url.rstrip("/")
        self._history_url = endpoints.history_url.rstrip("/")
        self._allowed_urls = AllowedUrls(endpoints.base_url, endpoints.media_hosts)
        self._replication_seconds = policy.replication_seconds
        self.record_seconds = policy.record_seconds

    def use_key(self, key: ApiKey) -> None:
        """Use another key from now on, except in blocks of `keeping_key` that have begun."""
        self._key = key

    @contextmanager
    def keeping_key(self) -> Generator[None]:
        """Within the block, and in the tasks that it starts, use the present key, whatever `use_key` does meanwhile.

        A job belongs to the account of its key. If it went on with the key of another account, its call could not be
        found there.
        """
        token = _KEPT_KEY.set(self._present_key)
        try:
            yield
        finally:
            _KEPT_KEY.reset(token)

    def require_key(self) -> str:
        """The key, if it can be used for a call. Raises the errors of `api_key.require_usable`."""
        return self._present_key.usable()

    @property
    def _present_key(self) -> ApiKey:
        return _KEPT_KEY.get() or self._key

    @property
    def history_url(self) -> str:
        """The address of the request history."""
        return self._history_url

    def observe(self, listener: Callable[[Exchange], None]) -> None:
        """Call `listener` with each answer from now on: unchanged, but without the key. It must not raise."""
        self._sender.listener = listener

    def may_fetch(self, url: str) -> bool:
        """Whether the settings allow the download of a picture from an address."""
        return self._allowed_urls.permits(url)

    def prepare(self) -> None:
        """Do the slow preparation before a call is marked as sent, so that the call is sent immediately afterwards."""
        if self._open_http:
            self._open_http(self.base_url)

    async def generate(self, slug: str, body: Mapping[str, Any]) -> Generation | Submission:
        """`POST /v1/{slug}`: draw and wait for the pictures, unless the API queues the call instead. Charged."""
        response = await self._send(Operation.GENERATE, f"{self.base_url}/v1/{slug}", json=body)
        return await self._read(response, partial(parsing.parse_generation, paid=True))

    async def submit(self, slug: str, body: Mapping[str, Any]) -> Submission | Generation:
        """`POST /v2/{slug}`: queue a job, unless the API draws it immediately. Each call is charged."""
        response = await self._send(Operation.SUBMIT, f"{self.base_url}/v2/{slug}", json=body)
        return await self._read(response, parsing.parse_submission)

    async def watch(
        self, request_id: str, *, expected: float, age: float = 0, longest_pause: float = LONGEST_POLL_PAUSE
    ) -> AsyncIterator[Status]:
        """Poll the status of a job that was submitted `age` seconds ago until it has finished. Yields each status.

        The first request is sent after `expected` seconds. Responses that say nothing (5xx, broken bodies, a 404 soon
        after the submission) are ignored for as long as the API keeps its records.

        Raises:
            OutcomeUnknown: The API no longer knows the job, or refuses to report its status.
        """
        started, wait = time.monotonic() - age, 0.0
        for pause in poll_pauses(expected, longest_pause):
            await anyio.sleep(max(pause, wait))
            wait = 0.0
            elapsed = time.monotonic() - started
            try:
                status = await self.status(request_id)
            except errors.NotFound as error:
                if elapsed > self._replication_seconds:
                    raise errors.OutcomeUnknown(f"The API no longer knows job {request_id}") from error
            except (*TEMPORARY, errors.UnreadableAnswer) as error:
                wait = _requested_pause(error)
            except errors.SegmindError as error:
                message = f"Job {request_id} was queued, but its status is not available: {error.what}"
                raise errors.OutcomeUnknown(message) from error
            else:
                yield status
                if status.state.finished:
                    return
            if elapsed > self.record_seconds:
                raise errors.OutcomeUnknown(f"The API had not finished job {request_id} after an hour")

    async def status(self, request_id: str) -> Status:
        """`GET /v2/requests/{id}/status`: a queued job's status."""
        response = await self._send(Operation.STATUS, f"{self._request_url(request_id)}/status")
        return await self._read(response, parsing.parse_status)

    async def result(self, request_id: str, *, deadline: float = 600) -> Generation:
        """`GET /v2/requests/{id}`: the pictures of a finished job. The API keeps them for an hour.

        While the API cannot answer, the request is repeated for `deadline` seconds, because the job is paid for.

        Raises:
            MediaError: The result is not available.
        """
        started, wait = time.monotonic(), 0.0
        for pause in poll_pauses(0):
            await anyio.sleep(max(pause, wait))
            wait = 0.0
            elapsed = time.monotonic() - started
            try:
                generation = await self._result(request_id)
            except errors.SegmindError as error:
                why, limit = error.what, deadline if isinstance(error, TEMPORARY) else 0
                wait = _requested_pause(error)
                if isinstance(error, errors.NotFound):
                    limit = self._replication_seconds
            else:
                if isinstance(generation, Generation):
                    return generation
                why, limit = "it is not finished, although the API said that it was", self._replication_seconds
            if elapsed >= limit:
                raise errors.MediaError(
                    f"The picture was drawn, but the result of job {request_id} is not available: {why}",
                    next_step=f"Look for {request_id} in your request history at https://cloud.segmind.com "
                    "within seven days",
                )
        raise RuntimeError("there is no further pause")

    async def _result(self, request_id: str) -> Generation | Submission:
        response = await self._send(Operation.RESULT, self._request_url(request_id))
        return await self._read(response, partial(parsing.parse_generation, paid=False))

    async def history(
        self, *, model: str | None, since: date, until: date, page: int, per_page: int = 100
    ) -> HistoryPage:
        """One page of the account's calls to one model, or to all: newest first, failed and unfinished ones included.

        The days are in UTC and at most 31 apart. Pages count from 1 and have up to 100 rows. The request is not
        repeated: its callers decide when to ask again.
        """
        query = {"page": page, "per_page": per_page, "from_date": since.isoformat(), "to_date": until.isoformat()}
        query |= {"model_name": model} if model else {}
        query |= {"sort_by": "model_created", "sort_order": "desc"}
        response = await self._send(Operation.HISTORY, self._history_url, params=query, repeat=False)
        return await self._read(response, history.parse_history)

    async def history_entry(self, request_id: str) -> HistoryRow | None:
        """One call of the account, of any age; None if the history has no such call. The request is not repeated."""
        url = f"{self._history_url}/{quote(request_id, safe='')}"
        response = await self._send(Operation.HISTORY_ENTRY, url, repeat=False)
        return await self._read(response, history.parse_history_entry)

    async def credits(self) -> Credits:
        """`GET /v1/get-user-credits`: the account's balance. It is free, so it is the right check of a key."""
        return parsing.parse_credits(await self._send(Operation.CREDITS, f"{self.base_url}/v1/get-user-credits"))

    async def download(self, url: str) -> bytes:
        """Download a finished picture without sending the key: a complete JPEG, PNG or WebP of at most 25 MB.

        An address without a host is on the API's own host.

        Raises:
            MediaError: The settings do not allow the address, or no complete picture came from it.
        """
        if url.startswith("/"):
            with suppress(httpx.InvalidURL, ValueError):  # an unreadable address stays unchanged, and is never allowed
                url = str(httpx.URL(self.base_url).join(url))
        shown = quoted(url)
        open_soon = f"Open {shown} within seven days"
        key = self._present_key.secret
        if key and key.get_secret_value() in unquote(url):
            raise errors.MediaError("The picture was drawn, but its address contains the API key, so it is not opened")
        try:
            response = await self._sender.download(url, self._allowed_urls)
        except (errors.Unreachable, errors.ServiceUnavailable) as error:
            message = f"The picture was drawn, but {shown} could not be reached"
            raise errors.MediaError(message, next_step=open_soon) from error
        if not response.ok:
            message = f"The picture was drawn, but {shown} answered with HTTP {response.status}"
            raise errors.MediaError(message, next_step=open_soon)
        try:
            return require_complete(response.body)
        except errors.UnreadableAnswer as error:
            message = f"The picture was drawn, but {shown} sent no complete picture of at most {MAX_BYTES:,} bytes"
            raise errors.MediaError(message, next_step=f"Open {shown}", received=response.body) from error

    def _request_url(self, request_id: str) -> str:
        return f"{self.base_url}/v2/requests/{quote(request_id, safe='')}"

    async def _send(self, operation: Operation, url: str, **request: Any) -> ApiResponse:
        return await self._sender.send(operation, url, self.require_key(), **request)

    async def _read(self, response: ApiResponse, parse: Callable[[ApiResponse], T]) -> T:
        """Parse a response. If the parser itself fails, the error keeps the response.

        An error that came from a free API is not charged, whatever it says.
        """
        try:
            return await self._sender.off_loop([response.body], partial(parse, response))
        except errors.SegmindError as error:
            if response.free:
                raise of_free_call(error) from error
            raise
        except Exception as error:
            logger.exception("An answer of the API could not be read")
            message = f"The API's answer could not be read ({type(error).__name__})"
            raise errors.UnreadableAnswer(message, charged=errors.Charged.UNKNOWN, received=response.body) from error


def _requested_pause(error: errors.SegmindError) -> float:
    """How many seconds the API asked to wait; never more than a part of the time for which it keeps a job."""
    return min(error.wait.total_seconds(), LONGEST_ASKED_PAUSE) if error.wait else 0.0
