"""The Segmind API's two Vega models over HTTP: the only module of this package that sends requests."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from pydantic import SecretStr

from mcp_vega import errors
from mcp_vega.segmind import answers, history, retries
from mcp_vega.segmind.answers import Credits, Generation, Status, Submission
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.media import MAX_BYTES, Allowance
from mcp_vega.segmind.responses import Answer, passing_failure

# A cold start may take three minutes before the first byte of an answer.
DRAWING = httpx.Timeout(10, read=240)
ASKING = httpx.Timeout(10, read=20)
REDIRECTS = 3
# A request that was just queued may not have reached every replica of the API yet.
REPLICATION_SECONDS = 15


class SegmindClient:
    """Speaks the API's v1 (answers with the picture) and v2 (queues a job).

    Source of the contract: the vendor's model pages, its Python SDK and recorded responses.

    Args:
        http: Sends the requests; it is not closed here.
        key: The API key, sent to `base_url` and `history_url` only. Without one every paid call raises `MissingKey`.
        base_url: The API, without a version.
        history_url: The request history's address.
        media_hosts: Further host names that pictures may be fetched from.
        patience: Seconds that a refused or unsent call is repeated for.
    """

    def __init__(  # noqa: PLR0913  each is one thing the world outside decides
        self,
        http: httpx.AsyncClient,
        key: SecretStr | None,
        *,
        base_url: str,
        history_url: str,
        media_hosts: tuple[str, ...] = (),
        patience: float = 40,
    ) -> None:
        self._http = http
        self._key = key
        self.base_url = base_url.rstrip("/")
        self._history_url = history_url.rstrip("/")
        self._allowance = Allowance(base_url, media_hosts)
        self._patience = patience

    def require_key(self) -> None:
        """Check that a paid call could be made at all.

        Raises:
            MissingKey: No key is set.
        """
        if self._key is None:
            raise errors.MissingKey("No Segmind API key is set")

    async def generate(self, slug: str, body: Mapping[str, Any]) -> Generation | Submission:
        """`POST /v1/{slug}`: draw and wait for the picture. Charged.

        Returns:
            The pictures; or a `Submission` where the API queued the call instead.

        Raises:
            SegmindError: See `errors`; each knows whether the call was charged.
        """
        answer = await self._call("POST", f"{self.base_url}/v1/{slug}", json=body, paid=True)
        return answers.read_generation(answer, paid=True)

    async def submit(self, slug: str, body: Mapping[str, Any]) -> Submission:
        """`POST /v2/{slug}`: queue a job. Charged, each time.

        Raises:
            SegmindError: See `errors`; each knows whether the call was charged.
        """
        return answers.read_submission(await self._call("POST", f"{self.base_url}/v2/{slug}", json=body, paid=True))

    async def watch(self, request_id: str, *, expected: float, deadline: float = 600) -> AsyncIterator[Status]:
        """Look at a queued job again and again until it has finished; yields what each look shows.

        Answers that say nothing (5xx, broken bodies, a 404 soon after the submission) are passed over.

        Args:
            request_id: The job's id.
            expected: Seconds the drawing takes on average: the first look comes then.
            deadline: Seconds after which to give up.

        Raises:
            OutcomeUnknown: The deadline passed, or the API does not know the job any more.
            Refused: The API would not say, for instance because the key is no longer valid.
        """
        started = time.monotonic()
        for pause in retries.polls(expected):
            await anyio.sleep(pause)
            elapsed = time.monotonic() - started
            try:
                status = await self.status(request_id)
            except errors.NotFound as error:
                if elapsed > REPLICATION_SECONDS:
                    raise errors.OutcomeUnknown(f"The API no longer knows job {request_id}") from error
            except (errors.ServiceUnavailable, errors.UnreadableAnswer, errors.Unreachable, errors.RateLimited):
                pass  # it says nothing about the job; the next look may
            except errors.Refused as error:
                error.charged = errors.Charged.UNKNOWN
                raise
            else:
                yield status
                if status.state.finished:
                    return
            if elapsed > deadline:
                raise errors.OutcomeUnknown(f"The API had not finished job {request_id} after {deadline:.0f} s")

    async def status(self, request_id: str) -> Status:
        """`GET /v2/requests/{id}/status`: look at a queued job once.

        Raises:
            SegmindError: The API does not know the job, or could not be asked.
        """
        return answers.read_status(await self._call("GET", f"{self._request_url(request_id)}/status"))

    async def result(self, request_id: str) -> Generation:
        """`GET /v2/requests/{id}`: the pictures of a finished job. The API keeps them for an hour.

        Raises:
            SegmindError: The result cannot be had; the job was charged.
        """
        try:
            answer = await self._call("GET", self._request_url(request_id))
            generation = answers.read_generation(answer, paid=False)
        except (errors.Refused, errors.ServiceUnavailable, errors.Unreachable) as error:
            error.charged = errors.Charged.YES
            raise
        if isinstance(generation, Submission):
            raise errors.UnreadableAnswer("The API says the job is finished, but its result names no picture")
        return generation

    async def history(
        self, *, model: str, since: date, until: date, page: int = 1, per_page: int = 100
    ) -> list[HistoryRow]:
        """One page of the account's calls of a model, newest first, failed and unfinished ones included.

        Args:
            model: The model's slug.
            since: The first day (UTC).
            until: The last day (UTC), at most 31 days later.
            page: From 1.
            per_page: 1 to 100 pictures.

        Raises:
            SegmindError: The history cannot be had.
        """
        query = {"page": page, "per_page": per_page, "from_date": since.isoformat(), "to_date": until.isoformat()}
        query |= {"model_name": model, "sort_by": "model_created", "sort_order": "desc"}
        return history.read_history(await self._call("GET", self._history_url, params=query))

    async def credits(self) -> Credits:
        """`GET /v1/get-user-credits`: the account's balance. Free, so it is the right check of a key.

        Raises:
            SegmindError: The key is not valid, or the API could not be asked.
        """
        return answers.read_credits(await self._call("GET", f"{self.base_url}/v1/get-user-credits"))

    async def download(self, url: str) -> bytes:
        """Fetch a finished picture, without the key, from an address that the settings allow.

        Returns:
            The bytes of a whole JPEG, PNG or WebP picture, at most 25 MB.

        Raises:
            MediaError: The address is not allowed, or gave no whole picture.
        """
        try:
            answer = await self._repeat(lambda: self._stream(url), paid=False)
        except (errors.Unreachable, errors.ServiceUnavailable) as error:
            raise errors.MediaError(
                f"The picture was drawn, but {url} could not be reached", next_step=f"Open {url} within seven days"
            ) from error
        return answers.read_medium(answer, url)

    def _request_url(self, request_id: str) -> str:
        return f"{self.base_url}/v2/requests/{quote(request_id, safe='')}"

    async def _call(self, method: str, url: str, *, paid: bool = False, **request: Any) -> Answer:
        """Send a request with the key, repeated as `retries` allows."""
        self.require_key()
        assert self._key is not None  # noqa: S101  for the type checker; require_key has raised otherwise
        headers = {"x-api-key": self._key.get_secret_value()}
        timeout = DRAWING if paid else ASKING

        async def attempt() -> Answer:
            response = await self._http.request(method, url, headers=headers, timeout=timeout, **request)
            return Answer(response.status_code, dict(response.headers), response.content)

        return await self._repeat(attempt, paid=paid)

    async def _repeat(self, attempt: Callable[[], Awaitable[Answer]], *, paid: bool) -> Answer:
        """Make a call until it has an answer worth reading, or must not be repeated, or patience ends.

        Returns:
            The last answer, whatever it says: reading it is the caller's.

        Raises:
            SegmindError: The last attempt got no answer.
        """
        give_up = time.monotonic() + self._patience
        number = 0
        while True:
            try:
                outcome = await attempt()
                failure = passing_failure(outcome, paid=paid)
            except httpx.RequestError as error:
                outcome = failure = error
            pause = retries.pause_before_retry(failure, number, datetime.now(UTC), paid=paid) if failure else None
            if pause is None or time.monotonic() + pause > give_up:
                break
            await anyio.sleep(pause)
            number += 1
        if isinstance(outcome, Answer):
            return outcome
        raise _no_answer(outcome, paid=paid) from outcome

    async def _stream(self, url: str) -> Answer:
        """Fetch media in pieces, so that one that is too large is given up early; redirects obey the same list."""
        for _ in range(REDIRECTS + 1):
            if not self._allowance.permits(url):
                raise errors.MediaError(
                    f"The picture was drawn, but its address is on a host that is not allowed: {url}",
                    next_step="Add the host to MCP_VEGA_MEDIA_HOSTS if you trust it, or open the address yourself",
                )
            async with self._http.stream("GET", url, timeout=ASKING) as response:
                if not response.has_redirect_location:
                    return Answer(response.status_code, dict(response.headers), await _read(response, url))
                url = _joined(url, response.headers["location"])
        raise errors.MediaError(f"The picture was drawn, but its address redirects too often: {url}")


def _joined(url: str, location: str) -> str:
    """Where a redirect leads; a location that cannot be read stays as it is, and is on no list."""
    try:
        return str(httpx.URL(url).join(location))
    except httpx.InvalidURL:
        return location


async def _read(response: httpx.Response, url: str) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > MAX_BYTES:
            raise errors.MediaError(
                f"The picture was drawn, but what {url} gives is larger than {MAX_BYTES:,} bytes",
                next_step=f"Open {url} within seven days",
            )
    return bytes(data)


def _no_answer(error: httpx.RequestError, *, paid: bool) -> errors.SegmindError:
    """What a call that got no whole answer comes to."""
    name = type(error).__name__
    if isinstance(error, retries.NEVER_SENT):
        return errors.Unreachable(f"No connection to the API could be made ({name})")
    if paid:
        return errors.OutcomeUnknown(f"The call was sent, but no whole answer came back ({name})")
    return errors.ServiceUnavailable(f"The API did not answer ({name})")
