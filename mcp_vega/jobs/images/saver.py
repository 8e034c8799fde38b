"""Saves the pictures of a job, with the recipe in each file."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import NamedTuple

import anyio
import anyio.to_thread

from mcp_vega import errors
from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import SUFFIXES, recognise
from mcp_vega.imaging.integrity import InvalidImageError, Measured, measure, require_complete
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.job import LOCAL, Image, Job, Receipt, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.store import file_name

logger = logging.getLogger(__name__)

# How many pictures are downloaded at the same time: as many as a call draws at most. This limits the memory.
FETCHED_AT_ONCE = 4


@dataclass
class _Saved:
    """The result of saving: the kept pictures by id, the new ones among them, notes for users, the last problem."""

    images: dict[str, Image]
    new: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])
    problem: VegaError | None = None


class _File(NamedTuple):
    """A picture's file before it is kept: its data with the recipe, its name, and what the ledger notes of it."""

    data: bytes
    name: str
    measured: Measured
    sha256: str


class ImageSaver:
    """Saves each picture of a job once."""

    def __init__(
        self, client: SegmindClient, images: FallbackImageStore, running: RunningJobs, config: JobConfig
    ) -> None:
        self._client = client
        self._images = images
        self._running = running
        self._config = config

    async def save(self, job: Job, pictures: Sequence[bytes | str], receipt: Receipt) -> None:
        """Save the pictures of a job that are not kept yet. This ends the job, or leaves it open if some are missing.

        Args:
            job: The job, with the pictures kept so far.
            pictures: Its pictures in order: the bytes, an address, or nothing if a picture is not available.
            receipt: What the API reported about the call.

        Raises:
            VegaError: No picture could be saved.
        """
        job = replace(job, receipt=receipt.or_else(job.receipt))
        saved = await self._save_each(job, pictures)
        if saved.problem and not saved.images:
            await self._running.update(job)
            raise saved.problem
        saved.notes += _engine_notes(job)
        images, wanted = job.in_order(saved.images.values()), job.parameters.pictures
        if len(images) < wanted:
            why = f": {saved.problem.what}" if saved.problem else ""
            saved.notes.append(f"{wanted - len(images)} of the {wanted} pictures did not arrive{why}")
        is_open = bool(saved.problem) or len(images) < wanted or any(image.in_memory for image in images)
        ends = {"state": State.COMPLETED, "error": None, "ended": self._config.clock(), "open": is_open}
        earlier = job.images
        await self._running.update(job, images=images, notes=tuple(saved.notes), **ends)
        await self.forget(earlier, images)

    async def save_from_memory(self, job: Job) -> None:
        """Save the pictures that are only in memory, because no disk could keep them before.

        Raises:
            VegaError: No picture could be saved.
        """
        data = {image.id: await self._images.read(image.location) for image in job.images if image.in_memory}
        indexes = range(max(job.parameters.pictures, len(job.images)))
        await self.save(job, [data.get(job.image_id(index), b"") for index in indexes], job.receipt)

    async def forget(self, images: Sequence[Image], kept: Sequence[Image]) -> None:
        """Remove pictures from memory that are kept elsewhere now."""
        on_disk = {image.id for image in kept if not image.in_memory}
        for image in images:
            if image.in_memory and image.id in on_disk:
                await self._images.delete(image.location)

    async def unrecorded(self, job: Job) -> list[bytes]:
        """The pictures that a server saved just before it died; empty unless all of them are there and complete."""
        found: list[bytes] = []
        for index in range(job.parameters.pictures):
            for suffix in SUFFIXES:
                name = file_name(job.parameters.prompt, job.seed, suffix)
                data = await self._images.find(name, job.image_id(index), job.created.date())
                if data:
                    found.append(data)
                    break
        try:
            return [require_complete(data) for data in found] if len(found) == job.parameters.pictures else []
        except errors.UnreadableAnswer:
            return []

    async def keep_received(self, job: Job, error: VegaError) -> VegaError:
        """Save the data that came instead of a picture, if there is any. The error then names its file."""
        if not isinstance(error, SegmindError) or not error.received:
            return error
        found = recognise(error.received)
        name = file_name(job.parameters.prompt, job.seed, found.suffix if found else ".bin")
        path = await self._images.set_aside(error.received, name, job.created.date())
        shorter = error.reworded(f"{error.what}; the received data is kept at {path}" if path else error.what)
        shorter.received = b""
        return shorter

    # ---- each picture ----

    async def _save_each(self, job: Job, pictures: Sequence[bytes | str]) -> _Saved:
        """Save one picture after the other. If one is not available, the others are still saved."""
        saved = _Saved({image.id: image for image in job.images})
        # Addresses come in any order. If some pictures are kept, only the content shows which ones are missing.
        refilling = any(not image.in_memory for image in job.images)
        kept = {index for index in range(len(pictures)) if _is_on_disk(saved.images.get(job.image_id(index)))}
        wanted = [
            (index, picture)
            for index, picture in enumerate(pictures)
            if picture and (index not in kept or (refilling and isinstance(picture, str)))
        ]
        for start in range(0, len(wanted), FETCHED_AT_ONCE):
            part = wanted[start : start + FETCHED_AT_ONCE]
            fetched = await self._fetch([picture for _, picture in part])
            for (index, picture), outcome in zip(part, fetched, strict=True):
                by_content = refilling and isinstance(picture, str)
                try:
                    data = _data_of(outcome)
                    number = await self._number_of(job, saved, data) if by_content else index
                    if number is not None:
                        await self._save_one(job, number, data, saved)
                except VegaError as error:
                    saved.problem = await self.keep_received(job, error)
                except Exception as error:
                    logger.exception("A picture of job %s could not be saved", job.local_id)
                    message = f"A picture of the job could not be saved ({type(error).__name__})"
                    saved.problem = errors.MediaError(message)
        return saved

    async def _fetch(self, pictures: Sequence[bytes | str]) -> list[bytes | Exception]:
        """The bytes of each picture, or why it is not available. All are downloaded at the same time."""
        fetched: list[bytes | Exception] = [each if isinstance(each, bytes) else b"" for each in pictures]

        async def fetch(index: int, address: str) -> None:
            try:
                fetched[index] = await self._client.download(address)
            except Exception as error:  # noqa: BLE001  raised when this picture is saved
                fetched[index] = error

        async with anyio.create_task_group() as tasks:
            for index, picture in enumerate(pictures):
                if isinstance(picture, str):
                    tasks.start_soon(fetch, index, picture)
        return fetched

    async def _number_of(self, job: Job, saved: _Saved, data: bytes) -> int | None:
        """The number of a picture in its job: its own if it is in memory, else a free one; None if it is kept already.

        If no number is free, a kept picture was changed and cannot be recognised. Then one too many is kept, but none
        is lost.
        """
        free: list[int] = []
        for index in range(max(job.parameters.pictures, len(saved.images))):
            image = saved.images.get(job.image_id(index))
            if image is None:
                free.append(index)
            elif image.id not in saved.new and await self._is_same(job, index, image, data):
                saved.new.add(image.id)
                return index if image.in_memory else None
        return free[0] if free else len(saved.images)

    async def _is_same(self, job: Job, index: int, image: Image, data: bytes) -> bool:
        """Whether the data is this kept picture, whatever recipe is in its file, and wherever the file is."""
        if image.sha256 == await anyio.to_thread.run_sync(lambda: sha256(_with_recipe(job, index, data)).hexdigest()):
            return True
        try:
            kept = await self._images.read(image.location)
        except errors.GalleryError:
            return False
        return metadata.strip(kept) == metadata.strip(data)

    async def _save_one(self, job: Job, index: int, data: bytes, saved: _Saved) -> None:
        """Save a picture. If no disk can keep it, it stays in memory."""
        file, image_id = await anyio.to_thread.run_sync(_file_of, job, index, data), job.image_id(index)
        location, note = await self._images.save(file.data, file.name, image_id, job.created.date())
        image = Image(
            id=image_id,
            location=location,
            fallback=bool(note),
            mime_type=file.measured.format.mime_type,
            width=file.measured.width,
            height=file.measured.height,
            bytes=len(file.data),
            sha256=file.sha256,
        )
        if image.in_memory:
            note = (
                f"{note}; no other folder could keep the picture. It is only in this result and in this server's "
                "memory: save it, or make room on a disk and call check_job"
            )
        saved.images[image.id] = image
        saved.new.add(image.id)
        saved.notes += [note] if note and note not in saved.notes else []


def _engine_notes(job: Job) -> list[str]:
    """What drew a job's pictures, if that was an engine of the user's own."""
    where = "on this machine" if job.base_url == LOCAL else "by your engine"
    what = f" ({job.receipt.engine})" if job.receipt.engine else ""
    return [f"Drawn {where}{what}"] if job.is_free else []


def _data_of(outcome: bytes | Exception) -> bytes:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _is_on_disk(image: Image | None) -> bool:
    return image is not None and not image.in_memory


def _file_of(job: Job, index: int, data: bytes) -> _File:
    """The file of a picture.

    Raises:
        UnreadableAnswer: It is damaged, or claims to be larger than any picture of the models.
    """
    try:
        measured = measure(data)
    except InvalidImageError as error:
        raise errors.UnreadableAnswer(f"The picture in the API's answer {error}", received=data) from error
    data = _with_recipe(job, index, data)
    name = file_name(job.parameters.prompt, job.seed, measured.format.suffix)
    return _File(data, name, measured, sha256(data).hexdigest())


def _with_recipe(job: Job, index: int, data: bytes) -> bytes:
    # The recipe has no time and no price, so that the same picture becomes the same file at every download.
    parameters = job.parameters.model_copy(update={"seed": job.seed})
    return metadata.embed(data, Recipe(parameters, index + 1, job.drawn_by))
