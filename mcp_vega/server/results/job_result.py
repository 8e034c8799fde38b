"""A job as a tool result."""

import math

from mcp_types import CallToolResult, ImageContent

from mcp_vega.errors import GalleryError
from mcp_vega.imaging.preview import Mode
from mcp_vega.job import Image, Job
from mcp_vega.jobs.service import JobService
from mcp_vega.redaction import quoted
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.server.results.result import result_of, taken_by
from mcp_vega.storage.ledger.spending import dollars

JOINED = (
    "the same call was made shortly before and its result not received, so this is that one's job and nothing is paid "
    "again; for another picture give another seed"
)

# Seconds after which to ask again for a job that takes longer than usual.
OVERDUE = 10


async def of_job(
    app: AppContext, job: Job, client: ClientInfo, *, joined: bool = False, full: bool = False
) -> CallToolResult:
    """The result of a job as it stands, for the client that asked.

    `joined` says that another call began it, `full` that it is to have the pictures in full size.

    Raises:
        VegaError: The job has failed: its own error.
    """
    job = records.job_for(app, job, client)
    left_alone = await app.service.why_not_resumable(job) if job.open and not job.held else ""
    if problem := job.problem:
        why = [f"it was {left_alone}"] if left_alone else []
        said = "; ".join([problem.what, *why, *([JOINED] if joined else [])])
        step = job.error.next_step if left_alone and job.error else None
        raise problem.reworded(said, step).with_traceback(None)  # else it grows with every check
    meta = {"mcp-vega/job": records.data_of(job, client)}
    joined_note = [JOINED] if joined else []
    if not job.state.finished:
        return await result_of(app, _under_way(app.service, job, left_alone), meta, joined_note)
    # A picture that no disk would take is in its result or nowhere.
    full = full or job.parameters.base64 or any(image.in_memory for image in job.images)
    text = _finished(job, client)
    previews, notes = await _previews(app, job, "full" if full else app.preview, taken_by(text, meta))
    notes = [*joined_note, *(client.told(note, app.folders) for note in notes)]
    return await result_of(app, text, meta, notes, previews)


# ---- the text ----


def _finished(job: Job, client: ClientInfo) -> str:
    count = "a picture" if len(job.images) == 1 else f"{len(job.images)} pictures"
    lines = [f"{job.parameters.title} drew {count} of {quoted_prompt(job)}."]
    lines += [f"Note: {note}." for note in job.notes]
    for image in job.images:
        if not image.deleted:
            lines += [f"Image: {location}"] if (location := client.location(image)) else []
            lines += [f"URI: {image.uri}"]
    receipt = job.receipt
    lines += [
        f"Seed: {job.seed}",
        f"Steps: {job.parameters.num_inference_steps}",
        f"Seconds: {'unknown' if receipt.seconds is None else f'{receipt.seconds:f}'}",
        f"Cost: {dollars(receipt.cost)}",
        f"Credits left: {dollars(receipt.credits_left)}",
        f"Request id: {job.request_id}",
    ]
    return "\n".join(lines)


def _under_way(service: JobService, job: Job, left_alone: str) -> str:
    if left_alone:
        return (
            f"The job has not finished; it was {left_alone}. Do not repeat the call.\n"
            f"State: {job.state}\nRequest id: {job.request_id}"
        )
    left = service.expected_seconds(job) - service.elapsed_seconds(job)
    late = "" if left > 0 else f", which takes longer than the usual {service.expected_seconds(job):.0f} s"
    notes = f" ({'; '.join(job.notes)})" if job.notes else ""
    return (
        f"{job.parameters.title} has not finished {quoted_prompt(job)} yet{late}{notes}; call check_job "
        f"with the request id below in about {math.ceil(left) if left > 0 else OVERDUE} s. Do not repeat the call.\n"
        f"State: {job.state}\nRequest id: {job.request_id}\nCost: about {dollars(job.parameters.expected_cost)}"
    )


def quoted_prompt(job: Job) -> str:
    """The beginning of a job's prompt, enough to know it by."""
    return quoted(job.parameters.prompt, 80)


# ---- the pictures ----


async def _previews(app: AppContext, job: Job, mode: Mode, taken: int) -> tuple[list[ImageContent], list[str]]:
    """The previews of a job's pictures, and what there is to say about them.

    So many characters of what they may take are `taken` by the rest of the result.
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
    data: dict[Image, bytes] = {}
    for image in here:
        try:
            data[image] = await app.gallery.read(image)
        except GalleryError as error:
            notes.append(error.what)
    made = await app.service.processor.previews([*data.values()], mode, taken)
    broken = [image for image, preview in zip(data, made, strict=True) if preview is None]
    notes += [f"the file {image.path or image.name} is no whole picture any more" for image in broken]
    shown = [preview for preview in made if preview]
    reduced = [preview for preview in shown if not preview.unchanged]
    if mode == "full" and reduced:
        some = "the picture does" if len(shown) == 1 else f"{len(reduced)} of the {len(shown)} pictures do"
        sizes = ", ".join(dict.fromkeys(f"{each.width}×{each.height}" for each in reduced))
        whole = "the file" if all(image.path for image in here) else "its URI"
        notes.append(
            f"{some} not fit into a result unchanged, so what is shown is a JPEG of {sizes}; "
            f"{whole} gives the full size"
        )
    return [ImageContent(type="image", data=each.base64, mime_type=each.mime_type) for each in shown], notes
