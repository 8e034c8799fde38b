"""The pictures' files and their previews over HTTP."""

from collections.abc import Sequence
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcp_vega.imaging.formats import recognise
from mcp_vega.server.client_info import IMAGES_PATH, owner_of
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.links import SECONDS_LEFT
from mcp_vega.server.http.answers import answering
from mcp_vega.storage.images.store import ascii_name

A_YEAR = 31_536_000


def image_routes(app: AppContext) -> Sequence[BaseRoute]:
    """Return the routes of a picture's file and its preview."""
    return [
        Route(f"{IMAGES_PATH}/{{id}}", answering(app, _file), methods=["GET"]),
        Route(f"{IMAGES_PATH}/{{id}}/preview", answering(app, _preview), methods=["GET"]),
    ]


async def _file(app: AppContext, request: Request) -> Response:
    _, image = await app.gallery.find(request.path_params["id"], owner_of(request.scope))
    data = await app.gallery.read_limited(image)
    headers = {**_headers(request), "content-disposition": _disposition(image.name)}
    return Response(data, media_type=image.mime_type, headers=headers)


async def _preview(app: AppContext, request: Request) -> Response:
    _, image = await app.gallery.find(request.path_params["id"], owner_of(request.scope))
    data = await app.gallery.preview(image)
    form = recognise(data)
    return Response(data, media_type=form and form.mime_type, headers=_headers(request))


def _headers(request: Request) -> dict[str, str]:
    vary = {} if SECONDS_LEFT in request.scope else {"vary": "Authorization, Cookie"}
    return {
        # Two callers may sign in with the same browser, one after the other. The second must not get pictures from the
        # browser's cache that the first has opened.
        **vary,
        # The bytes of a picture never change. A picture opened by a link is cached no longer than the link is valid.
        "cache-control": f"private, max-age={request.scope.get(SECONDS_LEFT, A_YEAR)}, immutable",
        "referrer-policy": "no-referrer",  # the URL may contain a signature
    }


def _disposition(name: str) -> str:
    """Return the Content-Disposition header with a file name; if that is not ASCII, in the form of RFC 6266."""
    beyond = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'inline; filename="{ascii_name(name)}"{beyond}'
