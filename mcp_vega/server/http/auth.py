"""Who may use the server over HTTP, and how large and how slow a request may be: an ASGI middleware.

Starlette and the MCP SDK have middlewares for most of this, but they answer without a code and a next step, and each
lacks something: TrustedHostMiddleware ports and origins, TransportSecurityMiddleware the other routes and exact names,
RequireAuthMiddleware use without an OAuth issuer, RequestBodyLimitMiddleware a time limit and an answer that is seen.
"""

import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import ClassVar

import anyio
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import AccessToken
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.errors import VegaError
from mcp_vega.redaction import quoted
from mcp_vega.server.client_info import OWNER
from mcp_vega.server.http.capacity import Activity, Connection, connection_of
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.limits import HttpLimits

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEALTH_PATH = "/health"


class RequestRejected(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An HTTP request was turned away. `status` and `headers` are those of the answer."""

    status: ClassVar[int] = 403
    headers: ClassVar[Mapping[str, str]] = {}


class MissingToken(RequestRejected):
    """The request brings no access token in its Authorization header."""

    status = 401
    headers: ClassVar = {"www-authenticate": "Bearer"}
    next_step = (
        "Send the header `Authorization: Bearer TOKEN` with one of the tokens in the server's MCP_VEGA_AUTH_TOKENS; a "
        "token in the URL does not count"
    )


class InvalidToken(RequestRejected):
    """The request brings an access token that the server does not know, or more than one."""

    status = 401
    headers: ClassVar = {"www-authenticate": 'Bearer error="invalid_token"'}
    next_step = "Compare the token with those in the server's MCP_VEGA_AUTH_TOKENS, and send one of them"


class HostNotAllowed(RequestRejected):
    """The request's Host header names neither this machine nor a host that the settings allow."""

    status = 421
    next_step = "Add the host to MCP_VEGA_ALLOWED_HOSTS and start the server again"


class OriginNotAllowed(RequestRejected):
    """A web page of neither this machine nor a host that the settings allow sent the request."""

    next_step = "Add the page's host to MCP_VEGA_ALLOWED_HOSTS and start the server again, if you trust it"


class RequestTooLarge(RequestRejected):
    """The request's body or headers are larger than any that the server needs."""

    status = 413
    next_step = "Send a shorter request"


class RequestTooSlow(RequestRejected):
    """The request's body took too long to arrive."""

    status = 408
    next_step = "Send the request again over a faster connection"


class TooManyConnections(RequestRejected):
    """There are as many connections as the server has room for, and on each a call is being answered."""

    status = 503
    headers: ClassVar = {"retry-after": "10"}
    next_step = "Close connections that you do not need, or call again in a minute"


class AllowedHosts:
    """The hosts whose names requests may bring: loopback, and others with a port or, for any port, without."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = {name.lower().removesuffix(":*") for name in (*LOOPBACK, *hosts)}

    def __contains__(self, host: str) -> bool:
        name = host.lower()
        return name in self._hosts or re.sub(r":\d{1,5}$", "", name) in self._hosts


class AuthMiddleware:
    """Lets a request in, as whose it is, or answers it.

    Without `tokens` everyone who reaches the server is its operator.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, tokens: Sequence[SecretStr], limits: HttpLimits) -> None:
        self._app = app
        self._hosts = hosts
        self._bearer = BearerAuthBackend(_TokenVerifier(tokens)) if tokens else None
        self._limits = limits

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
                self._check_host(Headers(scope=scope))
                await self._authenticate(scope)
                _admit(connection, scope)
                if scope["method"] == "POST":  # no other has a use for one
                    body = await self._read_body(scope, receive)
        except ClientDisconnect:
            return
        except RequestRejected as error:
            await reject(error, self._limits, scope, receive, send)
        else:
            connection.turn_to(Activity.ANSWERING)
            await self._app(scope, _with_body(body, receive), send)

    # ---- who sent it ----

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise HostNotAllowed(f"The Host header {quoted(', '.join(hosts), 100)} is not allowed")

    async def _authenticate(self, scope: Scope) -> None:
        """Write into a request whose it is; by `user` the SDK keeps one token from a session of another's."""
        if not self._bearer:
            return
        given = Headers(scope=scope).getlist("authorization")
        # The SDK takes the first of several headers; a proxy in front may have looked at another.
        if len(given) > 1:
            raise InvalidToken(f"The request brings {len(given)} Authorization headers")
        if not re.match(r"bearer +\S", given[0] if given else "", re.IGNORECASE):
            raise MissingToken("The request brings no access token")
        found = await self._bearer.authenticate(HTTPConnection(scope))
        if not found:
            raise InvalidToken("The request brings an access token that the server does not know")
        scope["auth"], scope["user"] = found
        scope[OWNER] = found[1].access_token.client_id

    # ---- what it brings ----

    def _check_header_size(self, scope: Scope) -> None:
        size, most = sum(len(name) + len(value) for name, value in scope["headers"]), self._limits.header_bytes
        if size > most:
            raise RequestTooLarge(f"The request's headers have {size:,} bytes, and at most {most:,} are taken")

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body of a request; raises `ClientDisconnect` where its sender has left."""
        limits, body = self._limits, bytearray()
        try:
            with anyio.fail_after(limits.body_seconds):
                async for piece in Request(scope, receive).stream():
                    body += piece
                    if len(body) > limits.body_bytes:
                        raise RequestTooLarge(f"The request's body is larger than {limits.body_bytes:,} bytes")
        except TimeoutError as error:
            what = f"The body of a request to {quoted(scope['path'], 100)} took over {limits.body_seconds:g} s"
            raise RequestTooSlow(what) from error
        return bytes(body)


async def reject(error: RequestRejected, limits: HttpLimits, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, then read and drop what follows of it, and end the connection.

    If that ended at once, a client that is still writing would get a reset in the place of the answer.
    """
    logger.info(error.what)

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    headers = {**error.headers, "connection": "close"}
    await PlainTextResponse(f"{error.text}\n", error.status, headers)(scope, receive, hold_open)
    left = 0 if isinstance(error, RequestTooSlow) else limits.drained_bytes
    with anyio.move_on_after(limits.body_seconds):
        while left > 0 and (message := await receive()).get("more_body"):
            left -= len(message["body"])
    await send({"type": "http.response.body", "body": b""})


def _admit(connection: Connection, scope: Scope) -> None:
    """Count a connection as its caller's: the token's owner, or where there are no tokens, who is at the address."""
    address = scope["client"][0] if scope.get("client") else ""
    if not connection.capacity.admit(connection, scope.get(OWNER, address)):
        raise TooManyConnections("The server has no connection left that only waits")


class _TokenVerifier:
    """Knows an access token by its hash, as the SDK asks for it."""

    def __init__(self, tokens: Sequence[SecretStr]) -> None:
        self._hashes = [_hash(token.get_secret_value()) for token in tokens]

    async def verify_token(self, token: str) -> AccessToken | None:
        given = _hash(token.strip(" \t"))
        # Each is compared, and each to its end, so that the time tells nothing.
        matches = [each for each in self._hashes if hmac.compare_digest(each, given)]
        return AccessToken(token=matches[0], client_id=matches[0], scopes=[]) if matches else None


def _hash(token: str) -> str:
    """What stands for a token in the ledger; a long random token cannot be had from it."""
    return sha256(f"mcp-vega {token}".encode(errors="surrogateescape")).hexdigest()[:32]


def _with_body(body: bytes, receive: Receive) -> Receive:
    """A channel that brings a body that was read already, then what follows."""
    ahead: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return ahead.pop() if ahead else await receive()

    return receive_again
