"""The requests to an object storage, with their time limits and retries.

Only this module imports obstore, and only when a client is built. Its async functions use no Python threads.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import anyio

from mcp_vega.errors import InvalidSettings
from mcp_vega.imaging.formats import recognise
from mcp_vega.storage.images.object_storage.address import PREFIXES, BucketAddress
from mcp_vega.storage.images.object_storage.problems import SILENT, StorageError, problem_of
from mcp_vega.storage.images.store import ascii_name
from mcp_vega.telemetry.measurements import bucket_request

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

AnswerT = TypeVar("AnswerT")

INSTALL = "Run `pip install 'mcp-vega[team]'` in the environment of mcp-vega. Then start the server again"
# Seconds until a connection must be made, and until an answer or its next part must come.
CONNECT_SECONDS, ANSWER_SECONDS = 2, 10.0
# An upload may take longer: this many bytes a second are fast enough.
SLOWEST_UPLOAD = 500_000
# Seconds between the first two tries. Each later pause is twice as long.
FIRST_PAUSE = 0.1
# How many bytes are read at a time.
PART_BYTES = 1 << 20


class StorageClient:
    """The objects of one bucket, by their keys below its prefix.

    For all methods: for `retry_seconds`, a request is repeated while the storage is overloaded or cannot be reached. A
    method raises a `StorageError` if the request fails.

    Raises:
        InvalidSettings: obstore is not installed, or an environment variable has a value that cannot be used.
    """

    def __init__(self, address: BucketAddress) -> None:
        try:
            import obstore
            from obstore import exceptions
        except ImportError as error:
            said = f"MCP_VEGA_GALLERY is {address}, but the package obstore is not installed"
            raise InvalidSettings(said, next_step=INSTALL) from error
        self._obstore, self._errors = obstore, exceptions
        self._address = address
        self._store = self._opened()

    def _opened(self) -> "S3Store | GCSStore | AzureStore":
        from obstore.store import AzureStore, GCSStore, S3Store

        self._address.check_environment()
        scheme, bucket, prefix = self._address
        # The total limit is for an object of any size: the limits that matter are set in this module.
        client: ClientConfig = {
            "allow_http": self._address.is_local,
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "timeout": "300s",
        }
        retries: RetryConfig = {"max_retries": 0}  # this module retries, and knows the last error then
        below = prefix or None
        try:
            if scheme == "gs":
                return GCSStore(bucket, prefix=below, client_options=client, retry_config=retries)
            if scheme == "az":
                return AzureStore(bucket, prefix=below, client_options=client, retry_config=retries)
            return S3Store(
                bucket,
                prefix=below,
                client_options=client,
                retry_config=retries,
                # Not all services that are compatible with S3 can delete several objects in one request.
                config={"conditional_put": "etag", "disable_bulk_delete": True},
            )
        except (self._errors.BaseError, ValueError):
            variables = f"a variable that begins with {PREFIXES[scheme]} has a value that cannot be used"
            step = f"Check {self._address.credentials} and the other variables, then start the server again"
            raise InvalidSettings(
                f"The bucket {self._address} cannot be opened: {variables}", next_step=step
            ) from None  # the error may show the value

    async def create(self, key: str, data: bytes, retry_seconds: float, seconds: float | None = None) -> bool:
        """Put an object, unless there is one with this key. Returns whether it was put.

        Each try may take so many seconds. The default depends on how much data there is.
        """
        found = recognise(data)
        name = key.rpartition("/")[2]
        attributes = {
            "Content-Type": found.mime_type if found else "application/octet-stream",
            "Content-Disposition": f"inline; filename=\"{ascii_name(name)}\"; filename*=UTF-8''{quote(name, safe='')}",
        }

        async def put() -> bool:
            try:
                await self._obstore.put_async(
                    self._store, key, data, mode="create", attributes=attributes, use_multipart=False
                )
            except self._errors.AlreadyExistsError:
                return False
            return True

        limit = ANSWER_SECONDS + len(data) / SLOWEST_UPLOAD if seconds is None else seconds
        return await self._repeated("create", put, limit, retry_seconds)

    async def overwrite(self, key: str, data: bytes, retry_seconds: float, seconds: float) -> None:
        """Put an object, even if there is one with this key. Each try may take so many seconds."""

        async def put() -> None:
            await self._obstore.put_async(
                self._store, key, data, attributes={"Content-Type": "text/plain"}, use_multipart=False
            )

        await self._repeated("overwrite", put, seconds, retry_seconds)

    async def read(self, key: str, retry_seconds: float) -> bytes:
        """Return an object's bytes."""
        return await self._repeated("read", lambda: self._read(key), None, retry_seconds)

    async def _read(self, key: str) -> bytes:
        parts: list[bytes] = []
        with anyio.fail_after(ANSWER_SECONDS) as limit:
            answer = await self._obstore.get_async(self._store, key)
            async for part in answer.stream(PART_BYTES):
                parts.append(bytes(part))
                limit.deadline = anyio.current_time() + ANSWER_SECONDS
        return b"".join(parts)

    async def is_missing(self, key: str, retry_seconds: float) -> bool:
        """Whether the bucket is there and has no such object."""

        async def look() -> bool:
            # The answer to HEAD would not say whether the object is missing, or the bucket.
            await self._obstore.get_async(self._store, key, options={"range": (0, 1)})
            return False

        try:
            return await self._repeated("look_up", look, ANSWER_SECONDS, retry_seconds)
        except StorageError as error:
            if error.problem.missing:
                return True
            raise

    async def delete(self, key: str, retry_seconds: float) -> None:
        """Delete an object, if it exists."""
        try:
            await self._repeated(
                "delete", lambda: self._obstore.delete_async(self._store, key), ANSWER_SECONDS, retry_seconds
            )
        except StorageError as error:
            if not error.problem.missing:
                raise

    async def _repeated(
        self, operation: str, request: Callable[[], Awaitable[AnswerT]], seconds: float | None, retry_seconds: float
    ) -> AnswerT:
        """Return the answer to a request. Each try may take this many seconds; None: it has a limit of its own."""
        end, pause = anyio.current_time() + retry_seconds, FIRST_PAUSE
        while True:
            try:
                return await self._measured(operation, request, seconds)
            except TimeoutError:
                raise StorageError(SILENT) from None
            except Exception as error:  # noqa: BLE001  a panic of Rust is an Exception without a class of its own
                problem = problem_of(error, self._address.credentials)
            if not problem.passing or anyio.current_time() + pause > end:
                raise StorageError(problem)
            await anyio.sleep(pause)
            pause *= 2

    async def _measured(
        self, operation: str, request: Callable[[], Awaitable[AnswerT]], seconds: float | None
    ) -> AnswerT:
        """Send a request once. It may take this many seconds; None: it has a limit of its own."""
        with bucket_request(operation, self._address.scheme, self._address.bucket) as measured:
            try:
                with anyio.fail_after(seconds):
                    return await request()
            except Exception as error:
                measured.failed = not problem_of(error, self._address.credentials).missing
                raise
