"""Which web pages may use the server from a browser, and read what it answers: an ASGI middleware."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_vega.redaction import quoted
from mcp_vega.server.http.access.auth import HEALTH_PATH, AllowedHosts
from mcp_vega.server.http.access.rejections import OriginNotAllowed, reject
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.limits import HttpLimits

METHODS = ("GET", "HEAD", "POST", "DELETE")
# What MCP clients send beside the headers that need no permission.
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
)
# What a page may read beside those that need no permission.
RESPONSE_HEADERS = ("Content-Disposition", "Mcp-Session-Id", "Retry-After", "WWW-Authenticate")


class OriginMiddleware:
    """Turns away the requests of pages that are not allowed, and lets browsers show the answers to those that are.

    It goes around everything that may reject a request, so that a page is told why.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, limits: HttpLimits) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits
        # Only the requests of allowed pages, and of no page, reach it: by itself it gives others some of its headers.
        self._cors = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            # The user named the page's host, and it is let in with or without a browser that asks this first.
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        origins = Headers(scope=scope).getlist("origin") if scope["type"] == "http" else []
        foreign = [origin for origin in origins if not self._is_allowed(origin)]
        if not foreign:
            await self._cors(scope, receive, send)
        elif route_of(scope) == HEALTH_PATH:
            await self._app(scope, receive, send)
        else:
            error = OriginNotAllowed(f"A page of {quoted(foreign[0], 100)} may not use this server")
            await reject(error, self._limits, scope, receive, send)

    def _is_allowed(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        return scheme in {"http", "https"} and host in self._hosts
