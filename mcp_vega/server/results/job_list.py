"""The latest jobs as a tool result: a line for each, and one numbered sheet of their pictures.

The numbers are good for one answer only; the server remembers none.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
from mcp_types import CallToolResult, ImageContent

from mcp_vega.errors import VegaError
from mcp_vega.imaging.preview import Preview
from mcp_vega.job import Image, Job, State
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.server.results.job_result import quoted_prompt
from mcp_vega.server.results.result import ResultText, result_of, taken_by

# More pictures cannot be told apart on a sheet of 512 pixels. All are read at the same time.
MOST_ON_SHEET = 12
# After so many seconds the sheet is made without the pictures that were not read, for instance because a disk hangs.
READ_SECONDS = 3

# The states in the words of people.
WORDS = {
    State.QUEUED: "queued",
    State.PROCESSING: "drawing",
    State.COMPLETED: "done",
    State.FAILED: "failed",
    State.UNKNOWN: "unknown",
}

# The numbers on the sheet by the ids of the pictures.
Numbers = Mapping[str, int]


async def of_jobs(app: AppContext, jobs: Sequence[Job], client: ClientInfo) -> CallToolResult:
    """A list of jobs, one line each, with the latest of their pictures on one sheet."""
    if not jobs:
        text = "No jobs yet. generate_image_vega, generate_image_vegart and submit_job begin one."
        return await result_of(app, client, ResultText(text), {})
    data = [records.listed_data_of(job, client) for job in jobs]
    meta = {"mcp-vega/jobs": data}
    if app.preview == "off" or client.text_only:
        return await result_of(app, client, ResultText(_text(jobs, {})), meta)
    drawn = [image for job in jobs for image in job.images if not image.deleted]
    chosen = drawn[:MOST_ON_SHEET]
    preview, numbers, late = await _sheet(app, chosen, taken_by(ResultText(_text(jobs, {})), meta))
    for image in (image for listed in data for image in listed["images"] if image["id"] in numbers):
        image["sheet_number"] = numbers[image["id"]]
    notes = _notes(unreadable=len(chosen) - len(numbers) - late, late=late, older=len(drawn) - len(chosen))
    shown = [ImageContent(type="image", data=preview.base64, mime_type=preview.mime_type)] if preview else []
    return await result_of(app, client, ResultText(_text(jobs, numbers), notes), meta, shown)


# ---- the text ----


def _text(jobs: Sequence[Job], numbers: Numbers) -> str:
    heading = "The latest job (UTC)" if len(jobs) == 1 else f"The latest {len(jobs)} jobs, newest first (times in UTC)"
    if numbers:
        heading += ". A line begins with the numbers of its pictures on the sheet below; “-” means that it has none"
    return "\n".join([f"{heading}:", *(_line(job, numbers) for job in jobs)])


def _line(job: Job, numbers: Numbers) -> str:
    on_sheet = {job.index_of(image) + 1: numbers[image.id] for image in job.images if image.id in numbers}
    drawn = max(len(job.images), job.parameters.pictures)
    which = ""
    if 0 < len(on_sheet) < drawn:
        which = f" picture{'' if len(on_sheet) == 1 else 's'} {', '.join(map(str, on_sheet))} of {drawn}"
    return (
        f"{_mark(on_sheet, numbers)}{job.request_id} {WORDS[job.state]} {job.created:%Y-%m-%d %H:%M} {job.model} "
        f"seed {job.seed}{which} {quoted_prompt(job)}"
    )


def _mark(on_sheet: Mapping[int, int], numbers: Numbers) -> str:
    """The beginning of a job's line: its numbers, such as `3. ` or `5-8. `, if there is a sheet."""
    if not on_sheet:
        return "- " if numbers else ""
    first, last = min(on_sheet.values()), max(on_sheet.values())
    return f"{first}. " if first == last else f"{first}-{last}. "


def _notes(*, unreadable: int, late: int, older: int) -> list[str]:
    notes: list[str] = []
    if late:
        what = "1 picture is" if late == 1 else f"{late} pictures are"
        notes += [f"{what} not shown: the disk did not answer within {READ_SECONDS} s. Call check_job again"]
    if unreadable:
        what = "1 picture is" if unreadable == 1 else f"{unreadable} pictures are"
        notes += [f"{what} not shown: the file cannot be read. check_job with the request id of the job says why"]
    if older:
        what = "1 older one is" if older == 1 else f"{older} older ones are"
        notes += [f"the sheet holds the latest {MOST_ON_SHEET} pictures; {what} not on it"]
    return notes


# ---- the sheet ----


async def _sheet(app: AppContext, images: Sequence[Image], taken: int) -> tuple[Preview | None, dict[str, int], int]:
    """The sheet and its numbers, or neither if no picture can be read; and how many pictures were too slow."""
    read, late = await _read(app, images)
    sheet = await app.service.processor.sheet([*read.values()], app.preview, taken) if read else None
    if sheet is None:
        return None, {}, late
    return sheet.preview, {name: number for name, number in zip(read, sheet.numbers, strict=True) if number}, late


async def _read(app: AppContext, images: Sequence[Image]) -> tuple[dict[str, bytes], int]:
    """The bytes of the readable pictures by their ids, in their order; and how many pictures were too slow."""
    read: dict[str, bytes] = {}
    late = {image.id for image in images}
    # On a sheet of five or more, no picture is larger than its kept preview.
    read_picture = app.gallery.read if len(images) < 5 else app.gallery.preview

    async def read_one(image: Image) -> None:
        with suppress(VegaError):
            read[image.id] = await read_picture(image)
        late.discard(image.id)

    with anyio.move_on_after(READ_SECONDS):
        async with anyio.create_task_group() as tasks:
            for image in images:
                tasks.start_soon(read_one, image)
    return {image.id: read[image.id] for image in images if image.id in read}, len(late)
