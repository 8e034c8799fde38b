"""Checks who may use the server over HTTP, and how large and how slow a request may be: an ASGI middleware.

Starlette and the MCP SDK have middlewares for most of this, but their answers have no code and no next step. Each also
lacks something: TrustedHostMiddleware does not check ports and origins; TransportSecurityMiddleware does not check
other routes and exact names; RequireAuthMiddleware knows no links and no cookies; RequestBodyLimitMiddleware has no
time limit, and its client may not see the answer.
"""

import re
from collections.abc import Sequence
from functools import partial

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.redaction import quoted
from mcp_vega.server.client_info import OWNER, SIGNED
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.access.links import READING, Links
from mcp_vega.server.http.access.rejections import (
    HostNotAllowed,
    InvalidToken,
    MissingToken,
    PageOff,
    RequestRejected,
    RequestTooLarge,
    RequestTooSlow,
    TooManyConnections,
    reject,
)
from mcp_vega.server.http.access.sign_in import SIGN_IN_PATH, SIGN_OUT_PATH, SignIn, is_of_gallery, require_own_page
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.access.tokens import ANYONE
from mcp_vega.server.http.connections.capacity import Activity, connection_of
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.health import HEALTH_PATHS
from mcp_vega.server.http.limits import HttpLimits

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Requests that anyone may send: for the gallery's page without its data, and to sign in and out.
OPEN_ROUTES = {
    *((method, path) for method in READING for path in ("/", "/icon.png")),
    *(("POST", path) for path in (SIGN_IN_PATH, SIGN_OUT_PATH)),
}


class AllowedHosts:
    """The hosts that a Host header may name: loopback, and the given ones. A host without a port allows every port."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = {name.lower().removesuffix(":*") for name in (*LOOPBACK, *hosts)}

    def __contains__(self, host: str) -> bool:
        name = host.lower()
        return name in self._hosts or re.sub(r":\d{1,5}$", "", name) in self._hosts


class AuthMiddleware:
    """Finds the caller of a request and passes the request on, or rejects it."""

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, limits: HttpLimits, signatures: Signatures, sign_in: SignIn
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits
        self._signatures = signatures
        self._callers = signatures.callers
        self._links = Links(signatures)
        self._sign_in = sign_in
        routes = {(method, each.path) for each in self._callers.routes for method in each.methods or ()}
        self._open_routes = OPEN_ROUTES | routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection, body = connection_of(scope), b""
        connection.set_activity(Activity.RECEIVING)
        try:
            self._check_header_size(scope)
            if route_of(scope) not in HEALTH_PATHS:
                body = await self._let_in(scope, receive)
        except ClientDisconnect:
            return
        except RequestRejected as error:
            await reject(self._callers.explained(error), self._limits, scope, receive, send)
        else:
            connection.set_activity(Activity.ANSWERING)
            await self._app(scope, _with_body(body, receive), send)

    async def _let_in(self, scope: Scope, receive: Receive) -> bytes:
        """Check a request, and note its caller in the scope; returns the body.

        Raises:
            RequestRejected: The request is not allowed.
            ClientDisconnect: The client has left.
        """
        self._check_host(Headers(scope=scope))
        if is_of_gallery(scope) and not self._callers.can_sign_in:
            raise PageOff("The gallery page is off, because people sign in to this server with OAuth")
        require_own_page(scope)
        await self._signatures.prepare()
        # Without a caller, only a small body is read. A sign-in's body is a token, and a token fits in a header.
        most = self._limits.header_bytes
        if (scope["method"], route_of(scope)) not in self._open_routes:
            caller = await self._authenticate(scope)
            scope[OWNER], scope[SIGNED] = caller.owner, partial(self._links.signed, caller)
            self._admit(scope, caller)
            most = self._limits.body_bytes
        # Other methods need no body.
        return await self._read_body(scope, receive, most) if scope["method"] == "POST" else b""

    # ---- the caller ----

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise HostNotAllowed(f"The Host header {quoted(', '.join(hosts), 100)} is not allowed")

    async def _authenticate(self, scope: Scope) -> Caller:
        """Return the caller of a request. An Authorization header counts alone; without it, a link or a cookie does."""
        given = Headers(scope=scope).getlist("authorization")
        if not given and (caller := await self._links.open(scope)):
            return caller
        if not self._callers.required:
            return ANYONE
        if not given and (caller := await self._sign_in.caller(scope)):
            return caller
        return await self._caller_with_header(scope, given)

    async def _caller_with_header(self, scope: Scope, given: Sequence[str]) -> Caller:
        # With several headers, a proxy in front might check one of them, and this server another.
        if len(given) > 1:
            raise InvalidToken(f"The request has {len(given)} Authorization headers")
        match = re.fullmatch(r"bearer +(\S.*)", given[0] if given else "", re.IGNORECASE)
        if not match:
            raise MissingToken("The request has no access token")
        caller = await self._callers.with_token(match[1])
        # With this the SDK does not let one token use a session of another.
        unnamed = AccessToken(token=caller.identity, client_id=caller.identity, scopes=[])
        scope["user"] = AuthenticatedUser(caller.access_token or unnamed)
        return caller

    def _admit(self, scope: Scope, caller: Caller) -> None:
        """Count a connection for its caller; if the server asks for no tokens, for the client's address.

        Raises:
            TooManyConnections: There is no place for it.
        """
        connection = connection_of(scope)
        address = scope["client"][0] if scope.get("client") else ""
        if not connection.capacity.admit(connection, caller.owner if self._callers.required else address):
            raise TooManyConnections("There are too many connections, and the server cannot close an idle one")

    # ---- size and time ----

    def _check_header_size(self, scope: Scope) -> None:
        size, most = sum(len(name) + len(value) for name, value in scope["headers"]), self._limits.header_bytes
        if size > most:
            raise RequestTooLarge(f"The request's headers have {size:,} bytes; at most {most:,} are allowed")

    async def _read_body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        """Return the complete body of a request.

        Raises:
            ClientDisconnect: The client has left.
            RequestTooLarge: The body is larger than `most` bytes.
            RequestTooSlow: The body took too long.
        """
        limits, body = self._limits, bytearray()
        try:
            with anyio.fail_after(limits.body_seconds):
                async for piece in Request(scope, receive).stream():
                    body += piece
                    if len(body) > most:
                        raise RequestTooLarge(f"The request's body is larger than {most:,} bytes")
        except TimeoutError as error:
            what = f"The body of a request to {quoted(scope['path'], 100)} took more than {limits.body_seconds:g} s"
            raise RequestTooSlow(what) from error
        return bytes(body)


def _with_body(body: bytes, receive: Receive) -> Receive:
    """Return a channel that first gives a body that was read already, then the messages that follow."""
    ahead: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return ahead.pop() if ahead else await receive()

    return receive_again
