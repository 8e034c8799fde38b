"""The MCP resources: pictures, their previews, jobs, the searchable gallery, and its page."""

import json
import re
import unicodedata
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
from mcp_vega.storage.ledger.search import ImageQuery

GALLERY = "vega://gallery"
IMAGE_URI = "vega://images/"
# The page as an MCP App: hosts that render apps show the results of tools in it.
VIEW = "ui://vega/gallery"
JSON = "application/json"
# How many pictures `resources/list` shows, and how many values a completion offers (the protocol's maximum).
LATEST = 20
OFFERED = 100
# The elements of the page that the policy allows by their hash.
INLINE = ("script", "style")

TEMPLATES = [
    ResourceTemplate(
        uri_template="vega://images/{id}",
        name="image",
        title="Generated image",
        description="A generated image, full size, in its own format. The `URI:` line of a result has its URI.",
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
        uri_template="vega://gallery{?q,after}",
        name="search",
        title="Search generated images",
        description="The generated images as JSON, newest first, 20 a page. q: words of the prompt, a seed, a model "
        "(vega or vegart), a day (2026-11-20, in UTC), month or year; all must match. after: the id of an image; older "
        "ones follow. `next` in the answer is the URI of the next page.",
        mime_type=JSON,
    ),
]
_IMAGE = re.compile(r"vega://images/([0-9a-f]{32})(/preview)?")
_JOB = re.compile(f"vega://jobs/({REQUEST_ID})")
_KNOWN = ", ".join(template.uri_template for template in TEMPLATES)


async def listed(app: AppContext, owner: str) -> list[Resource]:
    """The gallery, and the latest pictures of `owner`."""
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
        InvalidArguments: No resource has this URI.
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
    """The ids that complete an argument of a template; None if the argument takes no id."""
    known = any(template == each.uri_template for each in TEMPLATES) and f"{{{argument}}}" in template
    if known and argument == "id":
        return await offered_images(app, beginning, owner)
    if known and argument == "request_id":
        return _offered(await app.gallery.search.request_ids(beginning, OFFERED + 1, owner))
    return None


async def offered_images(app: AppContext, beginning: str, owner: str) -> Completion:
    """The ids of pictures that begin like this, the newest first."""
    return _offered(await app.gallery.search.image_ids(beginning, OFFERED + 1, owner))


async def offered_names(app: AppContext, typed: str, owner: str) -> Completion:
    """File names, ids or URIs of pictures for a typed text: words of a prompt, or the beginning of a name, id or URI.

    Hosts show only values that begin with the typed text, or show all. So the values that begin with it come first.
    """
    typed = unicodedata.normalize("NFC", typed.strip())
    scheme, start = typed[: len(IMAGE_URI)], typed[len(IMAGE_URI) :]
    if ":" in scheme and IMAGE_URI.startswith(scheme):  # "vega" alone is a word
        ids = await app.gallery.search.image_ids(start, OFFERED + 1, owner)
        return _offered([f"{IMAGE_URI}{each}" for each in ids])
    beginning = typed.lower()
    try:
        found = await app.gallery.search.names(beginning, OFFERED + 1, owner)
    except InvalidArguments:  # more words than a search takes
        found = []
    names = dict(found)
    begun = {each: name for each, name in names.items() if name.startswith(beginning)}
    is_id = re.fullmatch("[0-9a-f]{1,32}", beginning)
    ids = await app.gallery.search.image_ids(beginning, OFFERED + 1, owner) if is_id else []
    other_ids = [each for each in ids if each not in begun]
    others = [name for each, name in names.items() if each not in begun and each not in other_ids]
    return _offered([*begun.values(), *other_ids, *others])


def _offered(values: list[str]) -> Completion:
    return Completion(values=values[:OFFERED], has_more=len(values) > OFFERED)


# ---- pictures ----


async def _picture(app: AppContext, image: Image, client: ClientInfo) -> list[ReadResourceContents]:
    """A picture's bytes. If the transport cannot carry them: the largest JPEG that fits, and the original's place."""
    data = await app.gallery.read(image)
    if client.read_limit is None or len(data) <= client.read_limit:
        return [ReadResourceContents(content=data, mime_type=image.mime_type)]
    shown = await app.service.processor.preview(data, "full")
    said = (
        f"The original ({image.mime_type}, {len(data):,} bytes) is too large for this connection. This is a JPEG of "
        f"{shown.width}×{shown.height}. The original is at {client.location(image)}"
    )
    return [
        ReadResourceContents(content=shown.bytes, mime_type=shown.mime_type),
        ReadResourceContents(content=said, mime_type="text/plain"),
    ]


# ---- JSON ----


def _as_json(data: dict[str, Any]) -> ReadResourceContents:
    return ReadResourceContents(content=json.dumps(data, indent=1, ensure_ascii=False), mime_type=JSON)


async def _gallery(app: AppContext, uri: str, client: ClientInfo) -> dict[str, Any]:
    query, after = _asked(uri)
    kept, more = await app.gallery.search.page(ImageQuery(query, client.owner), after=after)
    following = {**({"q": query} if query else {}), "after": kept[-1].image.id} if more else None
    return {
        "query": query,
        "pictures": [_picture_data(each, client) for each in kept],
        "next": f"{GALLERY}?{urlencode(following)}" if following else None,
    }


def _asked(uri: str) -> tuple[str, str]:
    """The words of a gallery URI, and the id of the picture before its page."""
    asked = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
    if unknown := [name for name in asked if name not in {"q", "after"}]:
        said = f"The gallery takes q and after, not {named(unknown[0])}"
        raise InvalidArguments(said, next_step=f"Read {TEMPLATES[-1].uri_template}")
    query, after = (asked.get(name, "").strip() for name in ("q", "after"))
    return "" if is_blank(query) else query, "" if is_blank(after) else after


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
    """The gallery's page with its Content-Security-Policy; the page is the MCP App, too."""
    meta = f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{view_policy()}">'
    return _page().replace('<meta charset="utf-8">', meta, 1)


@cache
def view_policy() -> str:
    """The Content-Security-Policy of the page: only its own script and style run, and it asks its own server only."""
    hashes = {name: f"'sha256-{b64encode(sha256(_inline(name).encode()).digest()).decode()}'" for name in INLINE}
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src 'self'; "
        "connect-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


@cache
def _page() -> str:
    return (files("mcp_vega.server") / "static" / "gallery.html").read_text(encoding="utf-8")


def _inline(element: str) -> str:
    """The text of the page's only script or style, as browsers hash it."""
    return _page().partition(f"<{element}>")[2].partition(f"</{element}>")[0]
