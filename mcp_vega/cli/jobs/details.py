"""All that is known of one job."""

import json
from collections.abc import Iterator
from datetime import datetime

from mcp_vega.cli.jobs.words import cost_of, state_of
from mcp_vega.cli.output import paragraph
from mcp_vega.job import SANDBOX, Job
from mcp_vega.redaction import quoted
from mcp_vega.storage.images.store import place_of
from mcp_vega.storage.ledger.spending import dollars

# The width of the names, with a colon and a space.
NAMES = 14
# The values that may go on in the next line; others are ids and paths, which are copied.
TEXTS = {"Prompt", "Negative", "Parameters", "Error", "Next", "Note"}


def details_of(job: Job, width: int | None) -> list[str]:
    """Lines of a name and a value each; they fit a terminal of this width."""
    lines: list[str] = []
    for name, value in _facts(job):
        start = f"{f'{name}:' if name else '':{NAMES}}"
        lines += paragraph(start, str(value), width, NAMES) if name in TEXTS else [f"{start}{value}"]
    return lines


def _facts(job: Job) -> Iterator[tuple[str, object]]:
    pretend = job.base_url == SANDBOX
    yield "Request id", job.request_id
    yield "Local id", job.local_id
    yield "State", state_of(job)
    yield "Model", job.model
    yield "Prompt", quoted(job.parameters.prompt, len(job.parameters.prompt))
    yield "Seed", job.seed
    if negative := job.parameters.negative:
        yield "Negative", quoted(negative, len(negative))
    others = job.parameters.model_dump(mode="json", exclude={"prompt", "negative_prompt", "seed"})
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in others.items()}
    yield "Parameters", ", ".join(f"{name} {value}" for name, value in shown.items())
    yield "Route", job.route
    yield "API", job.base_url
    yield "Begun", _time(job.created)
    yield "Sent", _time(job.sent)
    yield "Ended", _time(job.ended)
    yield "Charged", job.charged
    yield "Cost", cost_of(job, pretend=pretend)
    if not job.is_free:
        yield "Credits left", dollars(job.receipt.credits_left, pretend=pretend)
    yield "Seconds", "unknown" if job.receipt.seconds is None else job.receipt.seconds
    if problem := job.problem:
        yield "Error", f"{problem.what} ({problem.code})"
        yield "Next", problem.next_step
    else:
        yield from (("Note", note) for note in job.notes)
    for image in job.images:
        place = f"deleted on {image.deleted:%Y-%m-%d} (UTC)" if image.deleted else place_of(image.location) or image.uri
        yield "Image", place
        if place != image.uri:
            yield "", image.uri
        yield "", f"{image.width}×{image.height}, {image.bytes:,} bytes"
        yield "", f"sha256 {image.sha256}"


def _time(moment: datetime | None) -> str:
    """A moment in local time, with its distance from UTC."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z}" if moment else "–"
