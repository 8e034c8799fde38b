"""A job as a tool result."""

import math
from collections.abc import Sequence
from dataclasses import replace

import anyio
from mcp_types import CallToolResult, ImageContent

from mcp_vega.errors import VegaError
from mcp_vega.imaging.preview import Mode
from mcp_vega.job import Image, Job, State
from mcp_vega.redaction import quoted
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.server.results.result import ResultText, result_of, taken_by
from mcp_vega.storage.ledger.spending import dollars

JOINED = (
    "the same call was made shortly before, and nobody received its result, so this is the job of that call and "
    "nothing is {} again; for another picture, give another seed"
)
NO_PREVIEW = (
    "this client passes pictures to its model as text, so the result has none; the full size is at the URI below"
)

# How many characters of the prompt a finished job quotes: the names of its files begin with the same words.
BRIEFLY = 30
# Seconds after which to ask again for a job that takes longer than usual, or if what is usual is not known.
OVERDUE = 10


async def of_job(
    app: AppContext, job: Job, client: ClientInfo, *, joined: bool = False, full: bool = False
) -> CallToolResult:
    """The result of a job in its current state, for the client that asked.

    `joined` says that another call began the job; `full` asks for the pictures in full size.

    Raises:
        VegaError: The job has failed: its own error.
    """
    job = records.job_for(app, job, client)
    not_resumable = await app.service.why_not_resumable(job) if job.open and not job.held else ""
    notes = [JOINED.format("drawn" if job.is_free else "paid")] if joined else []
    # Who cannot finish a job need not be asked for it again.
    if problem := (replace(job, open=False) if not_resumable else job).problem:
        why = [f"it was {not_resumable}"] if not_resumable else []
        said = "; ".join([problem.what, *why, *notes])
        raise problem.reworded(said).with_traceback(None)  # else it grows with every check
    meta = {"mcp-vega/job": records.data_of(job, client)}
    if not job.state.finished:
        return await result_of(app, client, _under_way(app, job, not_resumable, notes), meta)
    # If no disk took a picture, it is in its result or nowhere.
    full = full or job.parameters.base64 or job.in_memory
    mode = "off" if client.text_only else "full" if full else app.preview
    text = _finished(app, job, client, notes)
    previews, more = await _previews(app, job, client, mode, taken_by(text, meta))
    more += [NO_PREVIEW] if full and client.text_only else []
    text = replace(text, notes=[*text.notes, *(client.told(note, app.folders) for note in more)])
    return await result_of(app, client, text, meta, previews)


# ---- the text ----


def _finished(app: AppContext, job: Job, client: ClientInfo, notes: list[str]) -> ResultText:
    count = "" if len(job.images) == 1 else f"{len(job.images)} pictures of "
    receipt, last = job.receipt, list[str]()
    for image in job.images:
        if not image.deleted:
            last += [f"URI: {image.uri}"]
            last += [f"Image: {location}"] if (location := client.location(image)) else []
    facts = [
        f"Seed: {job.seed}",
        f"Steps: {job.parameters.num_inference_steps}",
        f"Seconds: {'unknown' if receipt.seconds is None else f'{receipt.seconds:f}'}",
        f"Cost: {dollars(job.cost, pretend=app.sandbox)}",
        *([] if job.is_free else [f"Credits left: {dollars(receipt.credits_left, pretend=app.sandbox)}"]),
        f"Request id: {job.request_id}",
    ]
    sentence = f"{job.parameters.title} drew {count}{quoted_prompt(job, BRIEFLY)}."
    return ResultText(sentence, [*job.notes, *notes], facts, last)


def _under_way(app: AppContext, job: Job, not_resumable: str, notes: list[str]) -> ResultText:
    last = [f"State: {job.state}", f"Request id: {job.request_id}"]
    if not_resumable:
        said = f"The job has not finished: it was {not_resumable}. Do not repeat the call."
        return ResultText(said, notes, last=last)
    usual = app.service.expected_seconds(job)
    left = (OVERDUE if usual is None else usual - app.service.sent_seconds(job)) + _pause(app, job)
    late = f"; this takes longer than usual (about {usual:.0f} s)" if left <= 0 else ""
    seconds = math.ceil(left) if left > 0 else OVERDUE
    sentence = (
        f"{_stage(app, job)}{late}. Call check_job with the request id below in about {seconds} s. Do not "
        "repeat the call."
    )
    cost = f"Cost: {'' if job.is_free else 'about '}{dollars(job.expected_cost, pretend=app.sandbox)}"
    return ResultText(sentence, notes, [cost], last)


def _stage(app: AppContext, job: Job) -> str:
    """What happens with a job under way, as the beginning of a sentence."""
    title, prompt = job.parameters.title, quoted_prompt(job)
    if app.service.is_answer_lost(job):
        whose = "The engine's" if job.is_free else "Segmind's"
        return f"{whose} answer was lost; the server is asking whether {title} drew {prompt}"
    stage = f"Queued: {title} will draw" if job.state is State.QUEUED else f"{title} is still drawing"
    why = f" ({'; '.join(job.notes)})" if job.notes else ""
    return f"{stage} {prompt}{why}"


def _pause(app: AppContext, job: Job) -> float:
    """How many seconds a job still waits before it is sent, as far as that is known."""
    if job.sent or not job.next_try:
        return 0
    return max((job.next_try - app.service.config.clock()).total_seconds(), 0)


def quoted_prompt(job: Job, characters: int = 80) -> str:
    """The beginning of a job's prompt, enough to know it by."""
    return quoted(job.parameters.prompt, characters)


# ---- the pictures ----


async def _previews(
    app: AppContext, job: Job, client: ClientInfo, mode: Mode, taken: int
) -> tuple[list[ImageContent], list[str]]:
    """The previews of a job's pictures, and the notes about them.

    The rest of the result has `taken` that many characters of the previews' share.
    """
    here = [image for image in job.images if not image.deleted]
    notes = [
        f"the picture {image.id} was deleted from the gallery on {image.deleted:%Y-%m-%d} (UTC); the same parameters "
        "and seed draw it again"
        for image in job.images
        if image.deleted
    ]
    if mode == "off":
        return [], notes
    async with app.previewing:
        read = await _read(app, here)
        notes += [records.error_for(app, each, client).what for each in read.values() if isinstance(each, VegaError)]
        data = {image: each for image, each in read.items() if isinstance(each, bytes)}
        made = await app.service.processor.previews([*data.values()], mode, taken)
    broken = [image for image, preview in zip(data, made, strict=True) if preview is None]
    notes += [f"no preview can be made of {image.path or image.name}: the picture is damaged" for image in broken]
    shown = [preview for preview in made if preview]
    reduced = [preview for preview in shown if not preview.unchanged]
    if mode == "full" and reduced:
        some = "the picture does" if len(shown) == 1 else f"{len(reduced)} of the {len(shown)} pictures do"
        sizes = ", ".join(dict.fromkeys(f"{each.width}×{each.height}" for each in reduced))
        whole = "the file" if all(image.path for image in here) else "its URI"
        notes.append(
            f"{some} not fit into a result unchanged, so the result shows a JPEG of {sizes}; "
            f"{whole} gives the full size"
        )
    return [ImageContent(type="image", data=each.base64, mime_type=each.mime_type) for each in shown], notes


async def _read(app: AppContext, images: Sequence[Image]) -> dict[Image, bytes | VegaError]:
    """The bytes of each picture, or why it cannot be read.

    All are read at the same time, so that a disk that hangs delays the result only once.
    """
    read: dict[Image, bytes | VegaError] = {}

    async def read_one(image: Image) -> None:
        try:
            read[image] = await app.gallery.read_in_time(image)
        except VegaError as error:
            read[image] = error

    async with anyio.create_task_group() as tasks:
        for image in images:
            tasks.start_soon(read_one, image)
    return {image: read[image] for image in images}
