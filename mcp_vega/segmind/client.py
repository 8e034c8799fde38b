"""The Segmind API's two Vega models: its endpoints as typed calls."""

import time
from collections.abc import AsyncIterator, Mapping
from datetime import date
from typing import Any
from urllib.parse import quote, unquote

import anyio
import httpx
from pydantic import SecretStr

from mcp_vega import errors
from mcp_vega.redaction import quoted
from mcp_vega.segmind import api_key, history, parsing, retries
from mcp_vega.segmind.history import HistoryPage, HistoryRow
from mcp_vega.segmind.http import Caller
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.parsing import Credits, Generation, Status, Submission
from mcp_vega.segmind.response import ApiResponse

# A request that was just queued may not have reached every replica of the API yet.
REPLICATION_SECONDS = 15
# For how long the API keeps the record of a request.
RECORD_SECONDS = 3600
# For how long a refused or unsent call is repeated, in seconds.
PATIENCE = 40.0

# They say nothing about a job; asking again may.
PASSING = (errors.ServiceUnavailable, errors.Unreachable, errors.RateLimited)


class SegmindClient:
    """Speaks the API's v1 (answers with the picture) and v2 (queues a job).

    Source of the contract: the vendor's model pages, its Python SDK and recorded responses.

    Args:
        http: Sends the requests; it is not closed here.
        key: The API key, sent to `base_url` and `history_url` only. Without one every call but `download` raises
            `MissingKey`.
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
        patience: float = PATIENCE,
    ) -> None:
        self._caller = Caller(http, patience)
        self._key = key
        self.base_url = base_url.rstrip("/")
        self._history_url = history_url.rstrip("/")
        self._allowed_urls = AllowedUrls(base_url, media_hosts)

    def require_key(self) -> str:
        """The key, where a call could be made with it at all.

        Raises:
            InvalidSettings: It has something that no key has.
            MissingKey: There is none, or a placeholder in its place.
        """
        return api_key.require_usable(self._key)

    async def generate(self, slug: str, body: Mapping[str, Any]) -> Generation | Submission:
        """`POST /v1/{slug}`: draw and wait for the picture. Charged.

        Returns:
            The pictures; or a `Submission` where the API queued the call instead.

        Raises:
            SegmindError: See `errors`; each knows whether the call was charged.
        """
        answer = await self._call("POST", f"{self.base_url}/v1/{slug}", json=body, paid=True)
        return parsing.read_generation(answer, paid=True)

    async def submit(self, slug: str, body: Mapping[str, Any]) -> Submission:
        """`POST /v2/{slug}`: queue a job. Charged, each time.

        Raises:
            SegmindError: See `errors`; each knows whether the call was charged.
        """
        return parsing.read_submission(await self._call("POST", f"{self.base_url}/v2/{slug}", json=body, paid=True))

    async def watch(self, request_id: str, *, expected: float, age: float = 0) -> AsyncIterator[Status]:
        """Look at a queued job again and again until it has finished; yields what each look shows.

        Answers that say nothing (5xx, broken bodies, a 404 soon after the submission) are passed over, for as long
        as the API keeps its records.

        Args:
            request_id: The job's id.
            expected: Seconds until the picture is likely ready: the first look comes then.
            age: Seconds since the job was submitted.

        Raises:
            OutcomeUnknown: The API does not know the job any more, or will not say how it stands.
        """
        started = time.monotonic() - age
        for pause in retries.polls(expected):
            await anyio.sleep(pause)
            elapsed = time.monotonic() - started
            try:
                status = await self.status(request_id)
            except errors.NotFound as error:
                if elapsed > REPLICATION_SECONDS:
                    raise errors.OutcomeUnknown(f"The API no longer knows job {request_id}") from error
            except (*PASSING, errors.UnreadableAnswer):
                pass  # it says nothing about the job; the next look may
            except errors.SegmindError as error:
                said = f"Job {request_id} was queued, but how it stands cannot be asked: {error.what}"
                raise errors.OutcomeUnknown(said) from error
            else:
                yield status
                if status.state.finished:
                    return
            if elapsed > RECORD_SECONDS:
                raise errors.OutcomeUnknown(f"The API had not finished job {request_id} after an hour")

    async def status(self, request_id: str) -> Status:
        """`GET /v2/requests/{id}/status`: look at a queued job once.

        Raises:
            SegmindError: The API does not know the job, or could not be asked.
        """
        return parsing.read_status(await self._call("GET", f"{self._request_url(request_id)}/status"))

    async def result(self, request_id: str, *, deadline: float = 600) -> Generation:
        """`GET /v2/requests/{id}`: the pictures of a finished job. The API keeps them for an hour.

        Args:
            request_id: The job's id.
            deadline: Seconds to go on asking while the API cannot answer: the job is paid for.

        Raises:
            MediaError: The result cannot be had.
        """
        started, pauses = time.monotonic(), retries.polls(0)
        while True:
            await anyio.sleep(next(pauses))
            elapsed = time.monotonic() - started
            try:
                answer = await self._call("GET", self._request_url(request_id))
                generation = parsing.read_generation(answer, paid=False)
            except PASSING as error:
                why, tolerated = error.what, elapsed < deadline
            except errors.NotFound as error:
                why, tolerated = error.what, elapsed < REPLICATION_SECONDS
            except errors.SegmindError as error:
                raise _lost_result(request_id, error.what) from error
            else:
                if isinstance(generation, Generation):
                    return generation
                why, tolerated = "it is not finished, although the API said so", elapsed < REPLICATION_SECONDS
            if not tolerated:
                raise _lost_result(request_id, why)

    async def history(self, *, model: str, since: date, until: date, page: int = 1, per_page: int = 100) -> HistoryPage:
        """One page of the account's calls of a model, newest first, failed and unfinished ones included.

        Asked once: whoever needs it has a time of his own for asking again.

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
        answer = await self._call("GET", self._history_url, params=query, repeat=False)
        return history.read_history(answer, per_page)

    async def history_entry(self, request_id: str) -> HistoryRow | None:
        """One call of the account, of any age; None where the history has no such call.

        Raises:
            SegmindError: The history cannot be had.
        """
        url = f"{self._history_url}/{quote(request_id, safe='')}"
        return history.read_history_entry(await self._call("GET", url, repeat=False))

    async def credits(self) -> Credits:
        """`GET /v1/get-user-credits`: the account's balance. Free, so it is the right check of a key.

        Raises:
            SegmindError: The key is not valid, or the API could not be asked.
        """
        return parsing.read_credits(await self._call("GET", f"{self.base_url}/v1/get-user-credits"))

    async def download(self, url: str) -> bytes:
        """Fetch a finished picture, without the key, from an address that the settings allow.

        Returns:
            The bytes of a whole JPEG, PNG or WebP picture, at most 25 MB.

        Raises:
            MediaError: The address is not allowed, or gave no whole picture.
        """
        if self._key and self._key.get_secret_value() in unquote(url):
            raise errors.MediaError("The picture was drawn, but its address holds the API key, so it is not asked")
        try:
            answer = await self._caller.fetch(url, self._allowed_urls)
        except (errors.Unreachable, errors.ServiceUnavailable) as error:
            raise errors.MediaError(
                f"The picture was drawn, but {quoted(url)} could not be reached",
                next_step=f"Open {quoted(url)} within seven days",
            ) from error
        return parsing.read_medium(answer, url)

    def _request_url(self, request_id: str) -> str:
        return f"{self.base_url}/v2/requests/{quote(request_id, safe='')}"

    async def _call(self, method: str, url: str, *, paid: bool = False, **request: Any) -> ApiResponse:
        return await self._caller.call(method, url, self.require_key(), paid=paid, **request)


def _lost_result(request_id: str, why: str) -> errors.MediaError:
    return errors.MediaError(
        f"The picture was drawn, but the result of job {request_id} cannot be had: {why}",
        next_step=f"Look for {request_id} in your request history at https://cloud.segmind.com within seven days",
    )
