"""Which web pages may use the server from a browser, and read its answers: an ASGI middleware."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_vega.redaction import quoted
from mcp_vega.server.http.access.auth import AllowedHosts
from mcp_vega.server.http.access.rejections import OriginNotAllowed, reject
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.health import HEALTH_PATHS
from mcp_vega.server.http.limits import HttpLimits

METHODS = ("GET", "HEAD", "POST", "DELETE")
# The headers that MCP clients send, in addition to those that need no permission.
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
)
# The headers that a page may read, in addition to those that need no permission.
RESPONSE_HEADERS = ("Content-Disposition", "Mcp-Session-Id", "Retry-After", "WWW-Authenticate")


class OriginMiddleware:
    """Rejects the requests of pages that are not allowed, and lets allowed pages read the answers.

    It is outside of everything that may reject a request, so that a page can read why its request was rejected.
    Any page may ask the `open_paths`, and whether the server is up.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, limits: HttpLimits, open_paths: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits
        self._open_paths = {*HEALTH_PATHS, *open_paths}
        # It only gets requests of allowed pages and requests without an origin. By itself it would add some of its
        # headers to the answers for other pages, too.
        self._cors = CORSMiddleware(
            app,
            allow_origin_regex=".*",
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
            # The user allowed the page's host. Browsers that do not ask this first let the page in as well.
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        origins = Headers(scope=scope).getlist("origin") if scope["type"] == "http" else []
        not_allowed = [origin for origin in origins if not self._is_allowed(origin)]
        if not not_allowed:
            await self._cors(scope, receive, send)
        elif route_of(scope) in self._open_paths:
            await self._app(scope, receive, send)
        else:
            error = OriginNotAllowed(f"A page of {quoted(not_allowed[0], 100)} may not use this server")
            await reject(error, self._limits, scope, receive, send)

    def _is_allowed(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        return scheme in {"http", "https"} and host in self._hosts
