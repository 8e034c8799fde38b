"""The server over HTTP: MCP at its path, the pictures' files beside it, and whether it is up."""

import logging
from collections.abc import Sequence
from urllib.parse import quote

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_vega import __version__
from mcp_vega.errors import UnknownImage, VegaError
from mcp_vega.server.app import build_server
from mcp_vega.server.client_info import IMAGES_PATH, SSE_MESSAGES_PATH, owner_of
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.auth import HEALTH_PATH, AllowedHosts, AuthMiddleware
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.server.http.access.cors import OriginMiddleware
from mcp_vega.server.http.access.links import SECONDS_LEFT
from mcp_vega.server.http.access.sign_in import SIGN_IN_PATH, SIGN_OUT_PATH, SignIn
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.cancellation import CancellationMiddleware
from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits
from mcp_vega.server.http.messages import MessageMiddleware
from mcp_vega.server.http.streams import SseStreams, StreamMiddleware
from mcp_vega.server.requests_in_flight import RequestsInFlight
from mcp_vega.storage.images.store import ascii_name

logger = logging.getLogger(__name__)

PATHS = {"http": "/mcp", "sse": "/sse"}
# AuthMiddleware and OriginMiddleware have checked that already.
UNCHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)


def build_application(
    app: AppContext,
    transport: str,
    hosts: Sequence[str] = (),
    callers: Sequence[Caller] = (),
    limits: HttpLimits = DEFAULT_LIMITS,
) -> Starlette:
    """The server as an ASGI application over `http` (Streamable HTTP) or `sse`.

    The service in `app` must stay open while it runs. For `hosts` see `AllowedHosts`, for `callers` `Callers`.
    """
    known = Callers(callers)
    signatures = Signatures(known, app.service.store.secrets, app.service.config.clock)
    requests, streams = RequestsInFlight(app.service.take_back, app.service.store.uptime), SseStreams()
    server = build_server(app, [requests.follow if transport == "http" else streams.follow])
    _add_routes(server, app)
    sign_in = SignIn(known, signatures, limits)
    server.custom_route(SIGN_IN_PATH, methods=["POST"])(sign_in.sign_in)
    server.custom_route(SIGN_OUT_PATH, methods=["POST"])(sign_in.sign_out)
    path = PATHS[transport]
    if transport == "sse":
        asgi = server.sse_app(sse_path=path, message_path=f"{SSE_MESSAGES_PATH}/", transport_security=UNCHECKED)
    else:
        asgi = server.streamable_http_app(streamable_http_path=path, stateless_http=True, transport_security=UNCHECKED)
        asgi.add_middleware(CancellationMiddleware, requests=requests)
    asgi.add_middleware(MessageMiddleware, path=SSE_MESSAGES_PATH if transport == "sse" else path)
    asgi.add_middleware(StreamMiddleware, path=path, streams=streams)
    allowed = AllowedHosts(hosts)
    asgi.add_middleware(AuthMiddleware, hosts=allowed, callers=known, limits=limits, signatures=signatures)
    asgi.add_middleware(OriginMiddleware, hosts=allowed, limits=limits)
    return asgi


def _add_routes(server: MCPServer, app: AppContext) -> None:
    @server.custom_route(HEALTH_PATH, methods=["GET"])
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    @server.custom_route(f"{IMAGES_PATH}/{{id}}", methods=["GET"])
    async def image_file(request: Request) -> Response:
        try:
            _, image = await app.service.get_image(request.path_params["id"], owner_of(request.scope))
            data = await app.service.read_image(image)
        except UnknownImage as error:
            return PlainTextResponse(error.text, 404)
        except VegaError as error:
            logger.warning(error.what)  # which may name a path: that is no news for the other end of a network
            return PlainTextResponse("The picture cannot be read; the server's log says why.", 500)
        headers = {
            # The bytes of an id never change; what a link opens is not kept for longer than the link is good.
            "cache-control": f"private, max-age={request.scope.get(SECONDS_LEFT, 31_536_000)}, immutable",
            "content-disposition": _disposition(image.name),
            "referrer-policy": "no-referrer",  # the address may be a link
            "x-content-type-options": "nosniff",
        }
        return Response(data, media_type=image.mime_type, headers=headers)


def _disposition(name: str) -> str:
    """The header that names a file, as RFC 6266 says it for a name beyond ASCII."""
    beyond = "" if name.isascii() else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'inline; filename="{ascii_name(name)}"{beyond}'
