"""Jobs, pictures and errors as JSON, without what a client may not see."""

import json
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from mcp_vega.errors import VegaError
from mcp_vega.job import OPERATOR, Image, Job
from mcp_vega.redaction import beginning
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext

# How many characters of a prompt a list of jobs or pictures holds, so that it reaches every client.
BEGINNING = 500


def job_for(app: AppContext, job: Job, client: ClientInfo) -> Job:
    """A job without what a client may not see."""
    notes = tuple(client.told(note, app.folders) for note in job.notes)
    return replace(job, notes=notes, error=job.error and error_for(app, job.error, client))


def error_for(app: AppContext, error: VegaError, client: ClientInfo) -> VegaError:
    """An error without what a client may not see."""
    what = error.what if client.owner == OPERATOR else error.public or error.what
    shown = error.reworded(client.told(what, app.folders), client.told(error.next_step, app.folders))
    shown.public = ""  # else it would replace what is added to the text later
    return shown


def data_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """A job as JSON."""
    return {
        "request_id": job.request_id,
        "state": str(job.state),
        "model": job.model,
        "seed": job.seed,
        "parameters": json.loads(job.parameters.model_dump_json()),
        "cost_usd": _number(job.cost),
        "credits_left": _number(job.receipt.credits_left),
        "seconds": _number(job.receipt.seconds),
        "images": [_image_data(image, client) for image in job.images],
    }


def listed_data_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """A job in a list of jobs, as JSON."""
    data = data_of(job, client)
    parameters, marks = shortened(data["parameters"])
    return {**data, "parameters": parameters, **marks}


def shortened(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Values in which each long text is cut, and a mark that names the cut texts."""
    names = [name for name, value in values.items() if isinstance(value, str) and len(value) > BEGINNING]
    beginnings = {name: f"{beginning(values[name], BEGINNING)}…" for name in names}
    return {**values, **beginnings}, {"shortened": names} if names else {}


def record_of(job: Job, client: ClientInfo) -> dict[str, Any]:
    """All that is known of a job, as JSON."""
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


def error_data(error: VegaError) -> dict[str, str]:
    """An error as JSON."""
    what = error.what.encode(errors="replace").decode()  # a folder's name may have characters that JSON does not allow
    return {"code": error.code, "what": what, "charged": str(error.charged), "next": error.next_step}


def iso(moment: datetime | None) -> str | None:
    """A time as JSON."""
    return moment and moment.isoformat()


def _image_data(image: Image, client: ClientInfo) -> dict[str, Any]:
    return {
        "id": image.id,
        # Only those who work at this machine may see where a file is.
        "path": str(image.path) if image.path and not image.deleted and client.owner == OPERATOR else None,
        "uri": image.uri,
        **format_of(image),
        "sha256": image.sha256,
        **({"url": None if image.deleted else client.location(image)} if client.base_url is not None else {}),
        **({"deleted": iso(image.deleted)} if image.deleted else {}),
    }


def format_of(image: Image) -> dict[str, Any]:
    """The format of a picture's file, as JSON; `bytes` is its size."""
    return {"mime_type": image.mime_type, "width": image.width, "height": image.height, "bytes": image.bytes}


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
