"""Who may use the server over HTTP, and how large and how slow a request may be: an ASGI middleware.

Starlette and the MCP SDK have middlewares for most of this, but they answer without a code and a next step, and each
lacks something: TrustedHostMiddleware ports and origins, TransportSecurityMiddleware the other routes and exact names,
RequireAuthMiddleware use without an OAuth issuer, RequestBodyLimitMiddleware a time limit and an answer that is seen.
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
from mcp_vega.server.http.access.callers import ANYONE, Caller
from mcp_vega.server.http.access.links import READING, Links
from mcp_vega.server.http.access.rejections import (
    HostNotAllowed,
    InvalidToken,
    MissingToken,
    RequestRejected,
    RequestTooLarge,
    RequestTooSlow,
    TooManyConnections,
    reject,
)
from mcp_vega.server.http.access.sign_in import SIGN_IN_PATH, SIGN_OUT_PATH, SignIn, require_own_page
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.capacity import Activity, connection_of
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.limits import HttpLimits

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEALTH_PATH = "/health"
# What anyone may ask for: the gallery's page without what is shown on it, and what signs a person in and out of it.
OPEN_ROUTES = {
    *((method, path) for method in READING for path in ("/", "/icon.png")),
    *(("POST", path) for path in (SIGN_IN_PATH, SIGN_OUT_PATH)),
}


class AllowedHosts:
    """The hosts whose names requests may bring: loopback, and others with a port or, for any port, without."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = {name.lower().removesuffix(":*") for name in (*LOOPBACK, *hosts)}

    def __contains__(self, host: str) -> bool:
        name = host.lower()
        return name in self._hosts or re.sub(r":\d{1,5}$", "", name) in self._hosts


class AuthMiddleware:
    """Lets a request in, as whose it is, or answers it."""

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection, body = connection_of(scope), b""
        connection.turn_to(Activity.RECEIVING)
        try:
            self._check_header_size(scope)
            if route_of(scope) != HEALTH_PATH:
                body = await self._let_in(scope, receive)
        except ClientDisconnect:
            return
        except RequestRejected as error:
            await reject(error, self._limits, scope, receive, send)
        else:
            connection.turn_to(Activity.ANSWERING)
            await self._app(scope, _with_body(body, receive), send)

    async def _let_in(self, scope: Scope, receive: Receive) -> bytes:
        """Find out whose a request is; returns its body."""
        self._check_host(Headers(scope=scope))
        require_own_page(scope)
        await self._signatures.prepare()
        # A stranger's is no longer than the header would be that a token usually comes in.
        most = self._limits.header_bytes
        if (scope["method"], route_of(scope)) not in OPEN_ROUTES:
            caller = self._authenticate(scope)
            scope[OWNER], scope[SIGNED] = caller.owner, partial(self._links.signed, caller)
            self._admit(scope, caller)
            most = self._limits.body_bytes
        # No other has a use for one.
        return await self._read_body(scope, receive, most) if scope["method"] == "POST" else b""

    # ---- who sent it ----

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise HostNotAllowed(f"The Host header {quoted(', '.join(hosts), 100)} is not allowed")

    def _authenticate(self, scope: Scope) -> Caller:
        """Whose a request is: an Authorization header is judged alone, else a link, else a cookie."""
        given = Headers(scope=scope).getlist("authorization")
        if not given and (caller := self._links.open(scope)):
            return caller
        if not self._callers:
            return ANYONE
        if not given and (caller := self._sign_in.caller(scope)):
            return caller
        return self._caller_with_header(scope, given)

    def _caller_with_header(self, scope: Scope, given: Sequence[str]) -> Caller:
        # A proxy in front may have looked at one, and this server at another.
        if len(given) > 1:
            raise InvalidToken(f"The request brings {len(given)} Authorization headers")
        match = re.fullmatch(r"bearer +(\S.*)", given[0] if given else "", re.IGNORECASE)
        if not match:
            raise MissingToken("The request brings no access token")
        caller = self._callers.with_token(match[1])
        if caller is None:
            raise InvalidToken("The request brings an access token that the server does not know")
        # By it the SDK keeps one token from a session of another's.
        scope["user"] = AuthenticatedUser(AccessToken(token=caller.token_hash, client_id=caller.token_hash, scopes=[]))
        return caller

    def _admit(self, scope: Scope, caller: Caller) -> None:
        """Count a connection as its caller's; where there are no tokens, as of who is at the address."""
        connection = connection_of(scope)
        address = scope["client"][0] if scope.get("client") else ""
        if not connection.capacity.admit(connection, caller.owner if self._callers else address):
            raise TooManyConnections("The server has no connection left that only waits")

    # ---- what it brings ----

    def _check_header_size(self, scope: Scope) -> None:
        size, most = sum(len(name) + len(value) for name, value in scope["headers"]), self._limits.header_bytes
        if size > most:
            raise RequestTooLarge(f"The request's headers have {size:,} bytes, and at most {most:,} are taken")

    async def _read_body(self, scope: Scope, receive: Receive, most: int) -> bytes:
        """The whole body of a request; raises `ClientDisconnect` where its sender has left."""
        limits, body = self._limits, bytearray()
        try:
            with anyio.fail_after(limits.body_seconds):
                async for piece in Request(scope, receive).stream():
                    body += piece
                    if len(body) > most:
                        raise RequestTooLarge(f"The request's body is larger than {most:,} bytes")
        except TimeoutError as error:
            what = f"The body of a request to {quoted(scope['path'], 100)} took over {limits.body_seconds:g} s"
            raise RequestTooSlow(what) from error
        return bytes(body)


def _with_body(body: bytes, receive: Receive) -> Receive:
    """A channel that brings a body that was read already, then what follows."""
    ahead: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return ahead.pop() if ahead else await receive()

    return receive_again
