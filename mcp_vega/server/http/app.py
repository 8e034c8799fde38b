"""The server over HTTP: MCP at its path, the page, the pictures' files, and health checks."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Lifespan

from mcp_vega.server.app import build_server
from mcp_vega.server.client_info import SSE_MESSAGES_PATH
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.auth import AllowedHosts, AuthMiddleware
from mcp_vega.server.http.access.callers import Callers
from mcp_vega.server.http.access.cors import OriginMiddleware
from mcp_vega.server.http.access.headers import DefaultHeaders
from mcp_vega.server.http.access.sign_in import SIGN_IN_PATH, SIGN_OUT_PATH, SignIn
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.access.tokens import TokenCallers
from mcp_vega.server.http.cancellation.canceller import Canceller
from mcp_vega.server.http.cancellation.middleware import CancellationMiddleware
from mcp_vega.server.http.cancellation.requests_in_flight import RequestsInFlight
from mcp_vega.server.http.health import health_routes
from mcp_vega.server.http.images import image_routes
from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits
from mcp_vega.server.http.messages import MessageMiddleware
from mcp_vega.server.http.page import page_routes
from mcp_vega.server.http.streams import SseStreams, StreamMiddleware

PATHS = {"http": "/mcp", "sse": "/sse"}
# AuthMiddleware and OriginMiddleware check host and origin already.
UNCHECKED = TransportSecuritySettings(enable_dns_rebinding_protection=False)


def build_application(
    app: AppContext,
    transport: str,
    hosts: Sequence[str] = (),
    callers: Callers | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
) -> Starlette:
    """Return the server as an ASGI application over `http` (Streamable HTTP) or `sse`, with the page at `/`.

    The service in `app` must stay open while the application runs. For `hosts` see `AllowedHosts`. Without `callers`,
    everybody is the operator.
    """
    requests, streams = RequestsInFlight(app.service.take_back, app.service.store.uptime), SseStreams()
    server = build_server(app, [requests.follow if transport == "http" else streams.follow])
    path = PATHS[transport]
    if transport == "sse":
        asgi = server.sse_app(sse_path=path, message_path=f"{SSE_MESSAGES_PATH}/", transport_security=UNCHECKED)
    else:
        asgi = server.streamable_http_app(streamable_http_path=path, stateless_http=True, transport_security=UNCHECKED)
        canceller = Canceller(requests, app.service.store.notices)
        asgi.add_middleware(CancellationMiddleware, canceller=canceller)
        asgi.router.lifespan_context = _connected(canceller, asgi.router.lifespan_context)
    asgi.add_middleware(MessageMiddleware, path=SSE_MESSAGES_PATH if transport == "sse" else path)
    asgi.add_middleware(StreamMiddleware, path=path, streams=streams)
    return _with_page(asgi, app, AllowedHosts(hosts), callers or TokenCallers(), limits)


def _connected(canceller: Canceller, lifespan: Lifespan[Any]) -> Lifespan[Any]:
    """Return a lifespan during which the servers cancel each other's calls."""

    @asynccontextmanager
    async def connected(asgi: Any) -> AsyncGenerator[Any]:
        async with canceller.connected(), lifespan(asgi) as state:
            yield state

    return connected


def build_page(app: AppContext, callers: Callers) -> Starlette:
    """Return an application with the page only, for requests from this machine."""
    return _with_page(Starlette(), app, AllowedHosts(()), callers, DEFAULT_LIMITS)


def _with_page(
    asgi: Starlette, app: AppContext, hosts: AllowedHosts, callers: Callers, limits: HttpLimits
) -> Starlette:
    """Add the page, the pictures' files, the health checks, and the access control to an application."""
    signatures = Signatures(callers, app.service.store.secrets, app.service.config.clock)
    sign_in = SignIn(signatures, limits)
    asgi.router.routes += [
        *health_routes(app),
        Route(SIGN_IN_PATH, sign_in.sign_in, methods=["POST"]),
        Route(SIGN_OUT_PATH, sign_in.sign_out, methods=["POST"]),
        *callers.routes,
        *page_routes(app, can_sign_in=callers.can_sign_in),
        *image_routes(app),
    ]
    asgi.add_middleware(AuthMiddleware, hosts=hosts, limits=limits, signatures=signatures, sign_in=sign_in)
    open_paths = [route.path for route in callers.routes]
    asgi.add_middleware(OriginMiddleware, hosts=hosts, limits=limits, open_paths=open_paths)
    asgi.add_middleware(DefaultHeaders)
    return asgi
