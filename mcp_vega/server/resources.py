"""What was drawn as MCP resources: pictures, their previews, jobs, the gallery to search them, and its page."""

import json
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp_types import Annotations, Completion, Resource, ResourceTemplate

from mcp_vega.errors import InvalidArguments
from mcp_vega.job import REQUEST_ID, Image, JobImage
from mcp_vega.redaction import is_blank, named, quoted
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.server.results.job_result import quoted_prompt
from mcp_vega.storage.ledger.search import PAGE, ImageQuery

GALLERY = "vega://gallery"
# The page as an MCP App: hosts that render apps show the results of tools in it.
VIEW = "ui://vega/gallery"
JSON = "application/json"
# How many pictures `resources/list` shows, and how many ids are offered to complete one.
LATEST = 20
OFFERED = 100
# The elements of the page whose text the policy lets run.
INLINE = ("script", "style")

TEMPLATES = [
    ResourceTemplate(
        uri_template="vega://images/{id}",
        name="image",
        title="Generated image",
        description="A generated image, full size, in its own format; the URI stands in the result that made it.",
    ),
    ResourceTemplate(
        uri_template="vega://images/{id}/preview",
        name="preview",
        title="Preview of a generated image",
        description="A generated image, small enough for a conversation: at most 768 px.",
    ),
    ResourceTemplate(
        uri_template="vega://jobs/{request_id}",
        name="job",
        title="Image job",
        description="An image job as JSON: its recipe, state, cost and files.",
        mime_type=JSON,
    ),
    ResourceTemplate(
        uri_template="vega://gallery{?q,page}",
        name="search",
        title="Search generated images",
        description="The generated images as JSON, newest first, 20 a page. q: words of the prompt, a seed, a model "
        "(vega or vegart), a day (2026-11-20, in UTC), month or year; all must match. page: from 1.",
        mime_type=JSON,
    ),
]
_IMAGE = re.compile(r"vega://images/([0-9a-f]{32})(/preview)?")
_JOB = re.compile(f"vega://jobs/({REQUEST_ID})")
_KNOWN = ", ".join(template.uri_template for template in TEMPLATES)


async def listed(app: AppContext, owner: str) -> list[Resource]:
    """The gallery, and the latest pictures that `owner` may see."""
    gallery = Resource(
        uri=GALLERY,
        name="gallery",
        title="Generated images",
        description=f"All generated images as JSON, newest first; {GALLERY}?q=WORDS searches them.",
        mime_type=JSON,
    )
    kept, _ = await app.gallery.search.page(ImageQuery(owner=owner), size=LATEST)
    pictures = [
        Resource(
            uri=image.uri,
            name=image.name,
            title=quoted_prompt(job),
            description=f"{job.parameters.title}, seed {job.seed}, {image.width}×{image.height}",
            mime_type=image.mime_type,
            size=image.bytes,
            annotations=Annotations(last_modified=records.iso(job.created)),
        )
        for job, image in kept
    ]
    return [gallery, *pictures]


async def read(app: AppContext, uri: str, client: ClientInfo) -> list[ReadResourceContents]:
    """The contents of a resource.

    Raises:
        InvalidArguments: The URI is none of a resource.
        VegaError: There is no such picture or job, or it cannot be read.
    """
    if match := _IMAGE.fullmatch(uri):
        _, image = await app.gallery.find(match[1], client.owner)
        if not match[2]:
            return await _picture(app, image, client)
        shown = await app.service.processor.preview(await app.gallery.read(image), "auto")
        return [ReadResourceContents(content=shown.bytes, mime_type=shown.mime_type)]
    if match := _JOB.fullmatch(uri):
        job = records.job_for(app, await app.service.get(match[1], client.owner), client)
        return [_as_json(records.record_of(job, client))]
    if uri.partition("?")[0] == GALLERY:
        return [_as_json(await _gallery(app, uri, client))]
    raise InvalidArguments(f"No resource has the URI {quoted(uri)}", next_step=f"Read one of {_KNOWN}")


async def completion(app: AppContext, template: str, argument: str, beginning: str, owner: str) -> Completion | None:
    """The ids that an argument of a template may be completed to; None where it takes none."""
    known = any(template == each.uri_template for each in TEMPLATES) and f"{{{argument}}}" in template
    if known and argument == "id":
        return await offered_images(app, beginning, owner)
    if known and argument == "request_id":
        return _offered(await app.gallery.search.request_ids(beginning, OFFERED + 1, owner))
    return None


async def offered_images(app: AppContext, beginning: str, owner: str) -> Completion:
    """The ids of pictures that begin like this, the newest first."""
    return _offered(await app.gallery.search.image_ids(beginning, OFFERED + 1, owner))


def _offered(ids: list[str]) -> Completion:
    return Completion(values=ids[:OFFERED], has_more=len(ids) > OFFERED)


# ---- pictures ----


async def _picture(app: AppContext, image: Image, client: ClientInfo) -> list[ReadResourceContents]:
    """A picture's bytes; where the transport cannot carry them, the largest that it can and where the original is."""
    data = await app.gallery.read(image)
    if client.read_limit is None or len(data) <= client.read_limit:
        return [ReadResourceContents(content=data, mime_type=image.mime_type)]
    shown = await app.service.processor.preview(data, "full")
    said = (
        f"The original, {image.mime_type} of {len(data):,} bytes, is more than this connection carries; this is a "
        f"JPEG of {shown.width}×{shown.height}. The original is at {client.location(image)}"
    )
    return [
        ReadResourceContents(content=shown.bytes, mime_type=shown.mime_type),
        ReadResourceContents(content=said, mime_type="text/plain"),
    ]


# ---- JSON ----


def _as_json(data: dict[str, Any]) -> ReadResourceContents:
    return ReadResourceContents(content=json.dumps(data, indent=1, ensure_ascii=False), mime_type=JSON)


async def _gallery(app: AppContext, uri: str, client: ClientInfo) -> dict[str, Any]:
    query, number = _asked(uri)
    asked = ImageQuery(query, client.owner)
    kept, more = await app.gallery.search.page(asked, offset=(number - 1) * PAGE)
    following = {"q": query, "page": number + 1} if query else {"page": number + 1}
    return {
        "query": query,
        "page": number,
        "pictures": [_picture_data(each, client) for each in kept],
        "next": f"{GALLERY}?{urlencode(following)}" if more else None,
    }


def _asked(uri: str) -> tuple[str, int]:
    """The words and the page of a gallery URI."""
    asked = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
    query, page = (asked.get(name, "").strip() for name in ("q", "page"))
    page = "1" if is_blank(page) else page
    said = ""
    if unknown := [name for name in asked if name not in {"q", "page"}]:
        said = f"The gallery is asked for q and page, not for {named(unknown[0])}"
    # Nine digits are more pages than any ledger has, and fewer than SQLite counts.
    elif not re.fullmatch("0*[1-9][0-9]{0,8}", page):
        said = f"page is {named(page)}, but must be a whole number from 1"
    if said:
        raise InvalidArguments(said, next_step=f"Read {TEMPLATES[-1].uri_template}")
    return "" if is_blank(query) else query, int(page)


def _picture_data(kept: JobImage, client: ClientInfo) -> dict[str, Any]:
    job, image = kept
    texts, marks = records.shortened({"prompt": job.parameters.prompt})
    return {
        "uri": image.uri,
        "preview": f"{image.uri}/preview",
        "file": client.location(image),
        **records.format_of(image),
        **texts,
        **marks,
        "model": job.model,
        "seed": job.seed,
        "created": records.iso(job.created),
        "job": job.uri,
    }


# ---- the page ----


@cache
def view_html() -> str:
    """The gallery's page, which is the MCP App as well, with its Content-Security-Policy in it."""
    meta = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{view_policy()}">'
    return _page().replace('<meta charset="utf-8">', meta, 1)


@cache
def view_policy() -> str:
    """The Content-Security-Policy of the page: its own script and style run, and requests go to its own server."""
    hashes = {name: f"'sha256-{b64encode(sha256(_inline(name).encode()).digest()).decode()}'" for name in INLINE}
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src 'self'; "
        "connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


@cache
def _page() -> str:
    return (files("mcp_vega.server") / "static" / "gallery.html").read_text(encoding="utf-8")


def _inline(element: str) -> str:
    """The text of the page's one script or style, as a browser takes its hash."""
    return _page().partition(f"<{element}>")[2].partition(f"</{element}>")[0]
