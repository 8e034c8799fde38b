"""The pictures in a bucket of an object storage: Amazon S3 and compatible services, Google Cloud, Azure.

<prefix>/2026-11-20/<words of the prompt>-<seed>-<8 digits of the id>.jpg

If the API's answer is not a readable picture, it is kept below <prefix>/unreadable, under a name of the same form.
"""

from datetime import date
from hashlib import sha256

import anyio

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.imaging.formats import MAX_BYTES, recognise
from mcp_vega.job import ImageLocation
from mcp_vega.storage.images.object_storage.address import BucketAddress
from mcp_vega.storage.images.object_storage.client import StorageClient
from mcp_vega.storage.images.object_storage.problems import OVERWRITES, StorageError
from mcp_vega.storage.images.store import UNREADABLE, UNREADABLE_BYTES, names_of

# The object that is written to check that pictures can be kept, and for how many seconds such a check counts.
CHECK, CHECK_SECONDS = "mcp-vega-check", 5.0
_CHECK_TEXT = b"mcp-vega writes this object to check that pictures can be kept here. You may delete it.\n"
# Seconds until a check must be answered.
PREPARE_SECONDS = 3.0
# For how many seconds requests are repeated while the storage is overloaded: a check, the saving of a picture that was
# paid for, and all others.
CHECK_RETRY_SECONDS, SAVE_RETRY_SECONDS, RETRY_SECONDS = 0.5, 4.0, 2.0
# How often an object is created again, if another server was creating it and failed.
CREATIONS = 3


class Bucket:
    """An `ImageStore` that keeps pictures in a bucket and never overwrites one.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. The credentials, and the address of
            another service, come from the usual environment variables of the clouds.

    Raises:
        InvalidSettings: A variable cannot be used, or obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        address = BucketAddress.parse(url)
        self.address = str(address)
        self._client = StorageClient(address)
        self._checking = anyio.Lock()
        self._kept_at: float | None = None  # when something was last kept
        self._creates_only = False  # whether the storage has refused to overwrite an object
        self._failed: tuple[float, GalleryError] | None = None  # the last check that failed, and when

    async def prepare(self, day: date) -> None:  # noqa: ARG002  a bucket has no folders
        """Make sure that a picture can be kept, before one is paid for. Does nothing if that was so seconds ago."""
        asked = anyio.current_time()
        if self._kept_at is not None and asked - self._kept_at < CHECK_SECONDS:
            return
        async with self._checking:
            if self._kept_at is not None and asked - self._kept_at < CHECK_SECONDS:
                return
            if self._failed and self._failed[0] >= asked:  # it failed for another call, while this one waited
                raise self._failed[1].reworded(self._failed[1].what)
            try:
                await self._check()
            except StorageError as error:
                failure = self._not_written(error, Charged.NO)
                self._failed = anyio.current_time(), failure
                raise failure from error
            self._kept_at = anyio.current_time()

    async def _check(self) -> None:
        """Write an object. The first time, also check that the storage does not overwrite it."""
        await self._client.overwrite(CHECK, _CHECK_TEXT, CHECK_RETRY_SECONDS, PREPARE_SECONDS)
        if not self._creates_only:
            if await self._client.create(CHECK, _CHECK_TEXT, CHECK_RETRY_SECONDS, PREPARE_SECONDS):
                raise StorageError(OVERWRITES)
            self._creates_only = True

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        """Keep a picture, completely or not at all; see `ImageStore`."""
        return await self._save(data, name, image_id, day.isoformat())

    async def _save(self, data: bytes, name: str, image_id: str, folder: str) -> ImageLocation:
        """Keep an object below a folder; returns its place."""
        try:
            for each in names_of(name, image_id):
                key = f"{folder}/{each}"
                if await self._keep(key, data):
                    self._kept_at = anyio.current_time()
                    return ImageLocation(self.address, key)
        except StorageError as error:
            raise self._not_written(error, Charged.YES) from error
        said = f"The bucket {self.address} could not be written: both names of the picture are taken by other objects"
        raise GalleryError(said, charged=Charged.YES)

    async def _keep(self, key: str, data: bytes) -> bool:
        """Create an object; returns whether the object with this key has this data now."""
        for _ in range(CREATIONS):
            if await self._client.create(key, data, SAVE_RETRY_SECONDS):
                return True
            try:
                return await self._client.read(key, RETRY_SECONDS) == data
            except StorageError as error:
                if not error.problem.missing:
                    raise
        return False

    def _not_written(self, error: StorageError, charged: Charged) -> GalleryError:
        self._kept_at = None
        said = f"The bucket {self.address} could not be written: {error.problem.why}"
        return GalleryError(said, next_step=error.problem.next_step, charged=charged)

    async def set_aside(self, data: bytes, name: str, day: date) -> ImageLocation:
        """Keep an answer that is not a readable picture but was paid for; returns its place.

        If the answer does not begin like a picture, only its first million bytes are kept.
        """
        data = data[: MAX_BYTES if recognise(data) else UNREADABLE_BYTES]
        return await self._save(data, name, sha256(data).hexdigest(), f"{UNREADABLE}/{day.isoformat()}")

    async def find(self, name: str, image_id: str, day: date) -> bytes | None:
        """Return a picture that a server saved, but could not note before it died; None if there is none."""
        for each in reversed(names_of(name, image_id)):
            try:
                return await self._client.read(f"{day.isoformat()}/{each}", RETRY_SECONDS)
            except StorageError as error:
                if not error.problem.missing:
                    return None
        return None

    async def read(self, key: str) -> bytes:
        """Return the bytes of a kept picture."""
        self._require_below(key, "read")
        try:
            return await self._client.read(key, RETRY_SECONDS)
        except StorageError as error:
            raise self._failure(key, "read", error) from error

    async def is_missing(self, key: str) -> bool:
        """Whether the bucket can be read and the picture is not there."""
        self._require_below(key, "read")
        try:
            return await self._client.is_missing(key, RETRY_SECONDS)
        except StorageError as error:
            raise self._failure(key, "read", error) from error

    async def identity(self, key: str) -> object:
        """Return a value that only the same object has."""
        return self.address, key

    async def delete(self, key: str) -> None:
        """Delete a picture, if it exists."""
        self._require_below(key, "deleted")
        try:
            await self._client.delete(key, RETRY_SECONDS)
        except StorageError as error:
            raise self._failure(key, "deleted", error) from error

    def _require_below(self, key: str, action: str) -> None:
        """Check that a key does not lead out of the prefix."""
        if any(each in ("", ".", "..") for each in key.split("/")):
            said = f"The picture {key!r} cannot be {action}: the key leads out of {self.address}"
            raise GalleryError(said, next_step="Draw the picture again")

    def _failure(self, key: str, action: str, error: StorageError) -> GalleryError:
        said = f"The picture {self.address}/{key} cannot be {action}: {error.problem.why}"
        return GalleryError(said, next_step=error.problem.next_step)
