"""The server over HTTP: MCP at its path, the pictures' files beside it, and whether it is up."""

import logging

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_vega import __version__
from mcp_vega.errors import UnknownImage, VegaError
from mcp_vega.server.app import build_server
from mcp_vega.server.desk import Desk
from mcp_vega.server.peer import IMAGES_PATH, SSE_MESSAGES_PATH

logger = logging.getLogger(__name__)

PATHS = {"http": "/mcp", "sse": "/sse"}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def build_application(desk: Desk, transport: str, allowed_hosts: tuple[str, ...] = ()) -> Starlette:
    """The server as an ASGI application.

    Args:
        desk: What the tools work with; its studio must stay open while the application runs.
        transport: `http` (Streamable HTTP) or `sse`.
        allowed_hosts: `Host` values that are accepted beside loopback.
    """
    server = build_server(desk)
    security = TransportSecuritySettings(
        allowed_hosts=[*LOOPBACK, *(f"{name}:*" for name in LOOPBACK), *allowed_hosts],
        allowed_origins=[f"http://{name}:*" for name in LOOPBACK],
    )
    _add_routes(server, desk, TransportSecurityMiddleware(security))
    if transport == "sse":
        path = PATHS["sse"]
        return server.sse_app(sse_path=path, message_path=f"{SSE_MESSAGES_PATH}/", transport_security=security)
    path = PATHS["http"]
    return server.streamable_http_app(streamable_http_path=path, stateless_http=True, transport_security=security)


def _add_routes(server: MCPServer, desk: Desk, guard: TransportSecurityMiddleware) -> None:
    @server.custom_route("/health", methods=["GET"])
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    @server.custom_route(f"{IMAGES_PATH}/{{id}}", methods=["GET"])
    async def image(request: Request) -> Response:
        return await guard.validate_request(request) or await _image(desk, request.path_params["id"])


async def _image(desk: Desk, image_id: str) -> Response:
    """A picture's file."""
    try:
        _, image = await desk.studio.find_image(image_id)
        data = await desk.studio.read(image)
    except UnknownImage as error:
        return PlainTextResponse(error.text, 404)
    except VegaError as error:
        logger.warning(error.what)  # which may name a path: that is no news for the other end of a network
        return PlainTextResponse("The picture cannot be read; the server's log says why.", 500)
    headers = {
        # The bytes of an id never change.
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": f'inline; filename="{image.path.name if image.path else image.id}"',
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type=image.mime_type, headers=headers)
