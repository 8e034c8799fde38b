"""The keeper: puts a job's pictures into the gallery, from wherever they are, with the recipe in each."""

import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from mcp_vega import errors
from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import SUFFIXES, recognise, require_whole
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import SANDBOX, Image, Job
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.images.folder import ImageFolder, name_of

logger = logging.getLogger(__name__)

# Pictures, what there is to say about them, and the last problem.
Outcome = tuple[tuple[Image, ...], tuple[str, ...], VegaError | None]


class ImageSaver:
    """Keeps each picture of a job once.

    Args:
        client: Fetches pictures.
        gallery: Takes them.
        darkroom: Measures them.
    """

    def __init__(self, client: SegmindClient, image_folder: ImageFolder, processor: ImageProcessor) -> None:
        self._client = client
        self._image_folder = image_folder
        self._processor = processor

    async def keep(self, job: Job, drawn: Sequence[bytes | str]) -> Outcome:
        """Keep the pictures of a job that are not kept yet; one that cannot be had does not cost the others.

        Args:
            job: The job, with the pictures kept so far.
            drawn: Its pictures in their order: the bytes, an address, or nothing where it is not to be had.

        Returns:
            All its pictures that are here now, what there is to say about them, and the last problem.
        """
        images = {image.id: image for image in job.images}
        # Lists of addresses come in any order, so those of a job that is partly kept are told apart by what they give.
        refilling = any(image.path for image in job.images)
        told: set[str] = set()
        notes: list[str] = []
        problem: VegaError | None = None
        for index, picture in enumerate(drawn):
            by_content = refilling and isinstance(picture, str)
            if not picture or (not by_content and _kept(images, job.image_id(index))):
                continue
            try:
                data = picture if isinstance(picture, bytes) else await self._client.download(picture)
                place = await self._place_of(job, images, data, told) if by_content else index
                if place is None:
                    continue
                image, note = await self._keep_one(job, place, data)
            except VegaError as error:
                problem = await self.with_received_kept(job, error)
            except Exception as error:
                logger.exception("A picture of job %s broke", job.local_id)
                problem = errors.MediaError(f"A picture of the job could not be kept ({type(error).__name__})")
            else:
                images[image.id] = image
                told.add(image.id)
                notes += [note] if note and note not in notes else []
        missing = job.parameters.pictures - len(images)
        if missing > 0:
            why = f": {problem.what}" if problem else ""
            notes.append(f"{missing} of the {job.parameters.pictures} pictures did not arrive{why}")
        return job.in_order(images.values()), tuple(notes), problem

    async def find(self, job: Job) -> list[bytes]:
        """The pictures of a job that a server kept just before it died; none unless all are there and whole."""
        found: list[bytes] = []
        for index in range(job.parameters.pictures):
            for suffix in SUFFIXES:
                name = name_of(job.parameters.prompt, job.seed, suffix)
                data = await self._image_folder.find(name, job.image_id(index), job.created.date())
                if data:
                    found.append(data)
                    break
        try:
            return [require_whole(data) for data in found] if len(found) == job.parameters.pictures else []
        except errors.UnreadableAnswer:
            return []

    async def with_received_kept(self, job: Job, error: VegaError) -> VegaError:
        """An error that names the file in which what came in the place of a picture is kept, where something did."""
        received = error.received if isinstance(error, SegmindError) else b""
        if not received:
            return error
        found = recognise(received)
        name = name_of(job.parameters.prompt, job.seed, found.suffix if found else ".bin")
        path = await self._image_folder.set_aside(received, name, job.created.date())
        said = f"{error.what}; what came is kept at {path}" if path else error.what
        return type(error)(said, next_step=error.next_step, charged=error.charged)

    async def _place_of(self, job: Job, images: Mapping[str, Image], data: bytes, told: set[str]) -> int | None:
        """The number of a picture in its job: its own where it is in memory, else a free one; None where it is kept.

        Where none is free, a kept picture was changed since and cannot be told: one too many is kept, and not one lost.

        Args:
            job: The job.
            images: Its pictures that are here.
            data: What came.
            told: The ids of the pictures that came already; this one is added.
        """
        free: list[int] = []
        for index in range(max(job.parameters.pictures, len(images))):
            image = images.get(job.image_id(index))
            if image is None:
                free.append(index)
            elif image.id not in told and await self._is_the_same(image, data, _with_recipe(job, index, data)):
                told.add(image.id)
                return None if image.path else index
        return free[0] if free else len(images)

    async def _is_the_same(self, image: Image, data: bytes, with_recipe: bytes) -> bool:
        """Whether what came is a picture that is here, whatever recipe was written into that, wherever its file is."""
        if image.sha256 == sha256(with_recipe).hexdigest():
            return True
        try:
            kept = await self._image_folder.read(image.path) if image.path else image.data
        except errors.GalleryError:
            return False
        return kept is not None and metadata.strip(kept) == metadata.strip(data)

    async def _keep_one(self, job: Job, index: int, data: bytes) -> tuple[Image, str]:
        """Keep a picture; where no disk takes it, it stays in memory. Returns what there is to say about that too."""
        found, width, height = await self._processor.measure(data)
        data = _with_recipe(job, index, data)
        image_id = job.image_id(index)
        name = name_of(job.parameters.prompt, job.seed, found.suffix)
        path: Path | None = None
        try:
            path, note = await self._image_folder.keep(data, name, image_id, job.created.date())
        except errors.GalleryError as error:
            note = (
                f"{error.what}: it is in this result and this server's memory alone. Save it; or make room on a disk "
                "and call check_job"
            )
        image = Image(
            id=image_id,
            path=path,
            mime_type=found.mime_type,
            width=width,
            height=height,
            bytes=len(data),
            sha256=sha256(data).hexdigest(),
            data=None if path else data,
        )
        return image, note


def _with_recipe(job: Job, index: int, data: bytes) -> bytes:
    # Nothing of the call's own time or price: the same picture is to become the same file whenever it is fetched.
    parameters = job.parameters.model_copy(update={"seed": job.seed})
    return metadata.embed(data, Recipe(parameters, index + 1, sandbox=job.base_url == SANDBOX))


def _kept(images: Mapping[str, Image], image_id: str) -> bool:
    return image_id in images and images[image_id].path is not None
