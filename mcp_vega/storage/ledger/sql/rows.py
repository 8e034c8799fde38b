"""Converts jobs to rows of the ledger, and rows to jobs."""

import logging
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from mcp_vega.errors import Charged, MediaError, VegaError
from mcp_vega.job import Image, ImageLocation, Job, JobImage, Receipt, Route, Search, State
from mcp_vega.parameters import MODELS, Parameters
from mcp_vega.storage.database.connection import Connection, Row
from mcp_vega.storage.ledger.spending import billionths

logger = logging.getLogger(__name__)

# The parameters that have columns of their own.
APART = {"prompt", "seed"}
# A row does not have the parameters with these values. The values never change, whatever defaults a model has later:
# older rows would be read with wrong ones.
USUAL: dict[str, Any] = {
    "img_width": 1024,
    "img_height": 1024,
    "base64": False,
    "negative_prompt": "",
    "samples": 1,
    "scheduler": "DPM2 Karras",
    "guidance_scale": 7.5,
}
USUAL_OF = {
    slug: {name: value for name, value in USUAL.items() if name in model.model_fields} for slug, model in MODELS.items()
}
# Characters that separate words (SQL would find nothing after a NUL); and the dotless i, which becomes an i.
PLAIN: dict[int, str] = {0x131: "i"} | dict.fromkeys(map(ord, ".,;:!?\"'()[]{}…“”„«»/\0"), " ")
# PostgreSQL cannot store the character NUL. A prompt may have it, and must be read as it was sent. So the ledger has
# this code point instead. It is not a character: Unicode leaves it to programs for such uses.
NUL = "\U0010ffff"


def storable(text: str) -> str:
    """Return a text as the ledger can store it. Halves of surrogate pairs become question marks."""
    return text.replace("\0", NUL).encode(errors="replace").decode()


def _storable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: storable(value) if isinstance(value, str) else value for name, value in values.items()}


def _restored(value: Any) -> Any:
    return value.replace(NUL, "\0") if isinstance(value, str) else value


def as_row(job: Job) -> dict[str, Any]:
    """Return a job's columns."""
    receipt = job.receipt
    parameters = job.parameters.model_dump(mode="json")
    state, error = job.state, job.error
    if job.images and all(image.in_memory for image in job.images):
        # The pictures are in memory only and end with this server, so the next server must fetch them again.
        state, error = State.PROCESSING, MediaError("The picture was drawn, but could not be written to any disk")
    return {
        "local_id": job.local_id,
        "remote_id": job.remote_id,
        "base_url": job.base_url,
        "account": job.account,
        "owner": job.owner,
        "model": job.model,
        "route": str(job.route),
        "arguments": _storable(
            {name: None if value == parameters.get(name) else value for name, value in sorted(job.arguments.items())}
        ),
        "call": as_call(job),
        "prompt": storable(job.parameters.prompt),
        "seed": job.parameters.seed,
        "parameters": _storable(
            {
                name: value
                for name, value in parameters.items()
                if name not in APART and (name not in USUAL or value != USUAL[name])
            }
        ),
        "state": str(state),
        "open": job.open,
        "charged": str(job.charged),
        "created": job.created,
        "day": job.created.date(),
        "sent": job.sent,
        "ended": job.ended,
        "next_try": job.next_try,
        "cost": receipt.cost,
        "spent": billionths(job),
        "credits_left": receipt.credits_left,
        "seconds": receipt.seconds,
        "reported_id": receipt.request_id,
        "reported_seed": receipt.seed,
        "notes": [storable(note) for note in job.notes],
        "error": _error_row(error),
        "search": _search_row(job.search),
    }


def as_call(job: Job) -> str:
    """Return a hash of a job's call, which is the same for the same call."""
    asked = job.asked.model_dump_json(exclude={"base64"})  # `base64` only concerns the result here; it is never sent
    return sha256(f"{job.model} {asked}".encode(errors="surrogatepass")).hexdigest()[:32]


def as_image_rows(job: Job) -> list[dict[str, Any]]:
    """Return the columns of a job's pictures, without pictures that are in memory only."""
    return [
        {
            "id": image.id,
            "job": job.local_id,
            "store": image.location.store,
            "key": image.location.key,
            "fallback": image.fallback,
            "mime_type": image.mime_type,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
            "sha256": image.sha256,
            "created": job.created,
            "words": _words(job.parameters, job.seed, job.created, image.id),
            "owner": job.owner,
        }
        for image in job.images
        if not image.in_memory
    ]


def _words(parameters: Parameters, seed: int, created: datetime, image_id: str) -> str:
    """Return the words by which a picture is found; each has a space on both sides."""
    day = created.date()
    facts = (parameters.prompt, "seed", seed, parameters.slug, parameters.alias, day, day.year, image_id[:8])
    return f" {words(' '.join(map(str, facts)))} "


def words(text: str) -> str:
    """Return the words of a text in a normal form: no accents, no capitals, no punctuation, single spaces."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(each for each in plain if not unicodedata.combining(each) and not _is_invisible(each))
    return " ".join(bare.translate(PLAIN).split())


def _is_invisible(letter: str) -> bool:
    """Whether a character only affects how others are displayed: a joiner, a soft hyphen, a variation selector."""
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def from_row(row: Row, images: Iterable[Row], *, held: bool) -> Job:
    """Return a job from its columns and the columns of its pictures; `held` is whether a server works on it.

    Raises:
        ValueError: The columns were not written by this version.
    """
    try:
        return replace(_from_row(row, images), held=held)
    except (LookupError, TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"the job {row['local_id']} cannot be read ({type(error).__name__})") from error


def _from_row(row: Row, images: Iterable[Row]) -> Job:
    receipt = Receipt(
        request_id=row["reported_id"],
        cost=row["cost"],
        credits_left=row["credits_left"],
        seconds=row["seconds"],
        seed=row["reported_seed"],
    )
    if row["model"] not in MODELS:
        raise ValueError(f"unknown model {row['model']!r}")
    model = MODELS[row["model"]]
    parameters = {**USUAL_OF[model.slug], **row["parameters"], **{name: row[name] for name in APART}}
    parameters = {name: _restored(value) for name, value in parameters.items()}
    job = Job(
        parameters=model.model_validate(parameters),
        arguments={
            name: parameters.get(name) if value is None else _restored(value)
            for name, value in sorted(row["arguments"].items())
        },
        route=Route(row["route"]),
        base_url=row["base_url"],
        account=row["account"],
        owner=row["owner"],
        created=row["created"],
        sent=row["sent"],
        ended=row["ended"],
        next_try=row["next_try"],
        local_id=row["local_id"],
        remote_id=row["remote_id"],
        state=State(row["state"]),
        open=row["open"],
        receipt=receipt,
        notes=tuple(row["notes"]),
        error=_error(row["error"]),
        search=_search(row["search"]),
    )
    return replace(job, images=job.in_order(image_from_row(image) for image in images))


def image_from_row(row: Row) -> Image:
    """Return a picture from its columns."""
    columns = ("id", "fallback", "mime_type", "width", "height", "bytes", "sha256", "starred", "deleted")
    return Image(location=ImageLocation(row["store"], row["key"]), **{name: row[name] for name in columns})


# ---- from the ledger ----


def read_jobs(
    connection: Connection, found: Iterable[Row], alive: Collection[str] = (), *, readable: bool = False
) -> list[Job]:
    """Return jobs from their rows, with their pictures. A job is held if its holder is one of `alive`.

    With `readable`, rows that are damaged are left out.

    Raises:
        ValueError: A row was not written by this version.
    """
    jobs: list[Job] = []
    for row in found:
        images = connection.execute("SELECT * FROM images WHERE job = :number", {"number": row["number"]})
        try:
            jobs.append(from_row(row, images, held=row["holder"] in alive))
        except ValueError as error:
            if not readable:
                raise
            logger.warning("In the ledger, %s", error)
    return jobs


def read_images(connection: Connection, found: Iterable[Row]) -> list[JobImage]:
    """Return pictures from rows with their ids and their jobs' ids, without pictures whose job cannot be read."""
    kept: list[JobImage] = []
    for row in found:
        jobs = connection.execute("SELECT * FROM jobs WHERE number = :job", {"job": row["job"]})
        for job in read_jobs(connection, jobs, readable=True):
            kept += [JobImage(job, image) for image in job.images if image.id == row["id"]]
    return kept


# ---- columns in JSON ----


def _search_row(search: Search) -> dict[str, Any] | None:
    times = {name: time and time.isoformat() for name, time in asdict(search).items()}
    return None if search == Search() else times


def _search(times: dict[str, str | None] | None) -> Search:
    return Search(**{name: datetime.fromisoformat(time) for name, time in (times or {}).items() if time})


def _error_row(error: VegaError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    kept = {"code": error.code, "what": error.what, "next_step": error.next_step, "charged": str(error.charged)}
    return _storable({**kept, "public": error.public} if error.public else kept)


def _error(kept: dict[str, Any] | None) -> VegaError | None:
    if kept is None:
        return None
    charged, public = Charged(kept["charged"]), kept.get("public", "")
    return VegaError.from_code(kept["code"], kept["what"], kept["next_step"], charged, public)
