"""Jobs as tool results: a text that stands on its own, previews for those who can see them, data for programs.

job_list  the latest jobs, with one sheet of their pictures
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_types import CallToolResult, ImageContent, TextContent

from mcp_vega.errors import GalleryError, VegaError
from mcp_vega.imaging.preview import Mode
from mcp_vega.job import OPERATOR, Image, Job
from mcp_vega.jobs.service import JobService
from mcp_vega.redaction import beginning, quoted
from mcp_vega.server.client_info import CURRENT_CLIENT, ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.storage.ledger.spending import dollars

SANDBOX = "Sandbox: a stand-in for Segmind on this machine; no key, no network and no money is used."

JOINED = (
    "the same call was made shortly before and its result not received, so this is that one's job and nothing is paid "
    "again; for another picture give another seed"
)

# Seconds after which to ask again for a job that takes longer than usual.
OVERDUE = 10

# How many characters of a prompt a list of jobs or pictures holds, so that it reaches every client.
BEGINNING = 500
# How many characters of text and data go beside the previews of a result without taking from their share.
BESIDE_PREVIEWS = 10_000


async def of_job(
    app: AppContext, job: Job, client: ClientInfo, *, joined: bool = False, full: bool = False
) -> CallToolResult:
    """The result of a job as it stands, for the client that asked.

    `joined` says that another call began it, `full` that it is to have the pictures in full size.

    Raises:
        VegaError: The job has failed: its own error.
    """
    job = job_for(app, job, client)
    left_alone = await app.service.why_left_alone(job) if job.open and not job.held else ""
    if problem := job.problem:
        why = [f"it was {left_alone}"] if left_alone else []
        said = "; ".join([problem.what, *why, *([JOINED] if joined else [])])
        step = job.error.next_step if left_alone and job.error else None
        raise problem.reworded(said, step).with_traceback(None)  # else it grows with every check
    meta = {"mcp-vega/job": data_of(job, client)}
    joined_note = [JOINED] if joined else []
    if not job.state.finished:
        return await result_of(app, _under_way(app.service, job, left_alone), meta, joined_note)
    # A picture that no disk would take is in its result or nowhere.
    full = full or job.parameters.base64 or any(image.in_memory for image in job.images)
    text = _finished(job, client)
    previews, notes = await _previews(app, job, "full" if full else app.preview, taken_by(text, meta))
    notes = [*joined_note, *(client.told(note, app.folders) for note in notes)]
    return await result_of(app, text, meta, notes, previews)


def taken_by(text: str, meta: dict[str, Any]) -> int:
    """How many characters of what previews may take a result's text and data take from them."""
    return max(len(text) + len(json.dumps(meta, ensure_ascii=False)) - BESIDE_PREVIEWS, 0)


def of_error(app: AppContext, error: VegaError) -> CallToolResult:
    """The result of a call that failed."""
    error = error_for(app, error, CURRENT_CLIENT.get())
    text = TextContent(type="text", text=_marked(app, error.text))
    return CallToolResult(content=[text], is_error=True, _meta={"mcp-vega/error": error_data(error)})


def error_data(error: VegaError) -> dict[str, str]:
    """An error for programs."""
    what = error.what.encode(errors="replace").decode()  # a folder's name may hold what no JSON can carry
    return {"code": error.code, "what": what, "charged": str(error.charged), "next": error.next_step}


async def result_of(
    app: AppContext, text: str, meta: dict[str, Any], notes: Sequence[str] = (), previews: Sequence[ImageContent] = ()
) -> CallToolResult:
    """A result that also says what can still be spent today, where there is a limit."""
    lines = [text]
    if budget := await app.service.budget():
        lines += [f"Spending limit: {dollars(budget.left)} of {dollars(budget.limit)} left today (UTC)"]
        figures = {"limit_usd": budget.limit, "spent_usd": budget.spent, "left_usd": budget.left}
        meta["mcp-vega/spending"] = {name: float(figure) for name, figure in figures.items()}
    lines += [f"Note: {note}." for note in notes]
    shown = TextContent(type="text", text=_marked(app, "\n".join(lines)))
    return CallToolResult(content=[shown, *previews], _meta=meta or None)


def _marked(app: AppContext, text: str) -> str:
    """The text, with a line that says so where the API is the sandbox."""
    return f"{text}\n{SANDBOX}" if app.sandbox else text


# ---- what a client may know ----


def job_for(app: AppContext, job: Job, client: ClientInfo) -> Job:
    """A job as a client may have it."""
    notes = tuple(client.told(note, app.folders) for note in job.notes)
    return replace(job, notes=notes, error=job.error and error_for(app, job.error, client))


def error_for(app: AppContext, error: VegaError, client: ClientInfo) -> VegaError:
    """An error as a client may have it."""
    return error.reworded(client.told(error.what, app.folders), client.told(error.next_step, app.folders))


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


# ---- the data ----


def data_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """A job for programs."""
    return {
        "request_id": job.request_id,
        "state": str(job.state),
        "model": job.model,
        "seed": job.seed,
        "parameters": json.loads(job.parameters.model_dump_json()),
        "cost_usd": _number(job.receipt.cost),
        "credits_left": _number(job.receipt.credits_left),
        "seconds": _number(job.receipt.seconds),
        "images": [_image_data(image, client) for image in job.images],
    }


def listed_data_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """A job in a list of them, for programs."""
    data = data_of(job, client)
    parameters, marks = shortened(data["parameters"])
    return {**data, "parameters": parameters, **marks}


def shortened(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Values with the beginning of each long text, and what says which texts are not whole."""
    names = [name for name, value in values.items() if isinstance(value, str) and len(value) > BEGINNING]
    beginnings = {name: f"{beginning(values[name], BEGINNING)}…" for name in names}
    return {**values, **beginnings}, {"shortened": names} if names else {}


def record_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """All that is known of a job, for programs."""
    return {
        **data_of(job, client),
        "local_id": job.local_id,
        "route": str(job.route),
        "base_url": job.base_url,
        "arguments": job.arguments,
        "created": iso(job.created),
        "sent": iso(job.sent),
        "ended": iso(job.ended),
        "charged": str(job.charged),
        "notes": list(job.notes),
        "error": job.problem and error_data(job.problem),
    }


def iso(moment: datetime | None) -> str | None:
    """A time for programs."""
    return moment and moment.isoformat()


def _image_data(image: Image, client: ClientInfo) -> dict[str, Any]:
    return {
        "id": image.id,
        # Where a file lies is nobody's business but that of those who work at the machine.
        "path": str(image.path) if image.path and not image.deleted and client.owner == OPERATOR else None,
        "uri": image.uri,
        **format_of(image),
        "sha256": image.sha256,
        **({"url": None if image.deleted else client.location(image)} if client.base_url is not None else {}),
        **({"deleted": iso(image.deleted)} if image.deleted else {}),
    }


def format_of(image: Image) -> dict[str, Any]:
    """What kind of file a picture is, for programs; `bytes` is its size."""
    return {"mime_type": image.mime_type, "width": image.width, "height": image.height, "bytes": image.bytes}


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
