"""Who may use the server over HTTP, and how large and how slow a request may be: an ASGI middleware.

Starlette and the MCP SDK have middlewares for most of this, but they answer without a code and a next step, and each
lacks something: TrustedHostMiddleware ports and origins, TransportSecurityMiddleware the other routes and exact names,
RequireAuthMiddleware use without an OAuth issuer, RequestBodyLimitMiddleware a time limit and an answer that is seen.
"""

import hmac
import logging
import re
from collections.abc import Sequence
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
from mcp_vega.server.http.limits import HttpLimits

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEALTH_PATH = "/health"


class RequestRejected(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An HTTP request was turned away. `status` is that of the answer."""

    status: ClassVar[int] = 403


class MissingToken(RequestRejected):
    """The request brings none of the access tokens in its Authorization header."""

    status = 401
    next_step = (
        "Send the header `Authorization: Bearer TOKEN` with one of the tokens in the server's MCP_VEGA_AUTH_TOKENS; a "
        "token in the URL does not count"
    )


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


class AuthMiddleware:
    """Lets a request in, as whose it is, or answers it.

    `hosts` are accepted beside loopback, with a port or, for any port, without. Without `tokens` everyone who reaches
    the server is its operator.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], tokens: Sequence[SecretStr], limits: HttpLimits) -> None:
        self._app = app
        self._hosts = {name.lower().removesuffix(":*") for name in (*LOOPBACK, *hosts)}
        self._bearer = BearerAuthBackend(_TokenVerifier(tokens)) if tokens else None
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_header_size(scope)
            if scope["path"] != HEALTH_PATH:
                self._check_sender(Headers(scope=scope))
                await self._authenticate(scope)
            body = await self._read_body(scope, receive)
        except ClientDisconnect:
            return
        except RequestRejected as error:
            logger.info(error.what)
            # What may still come of the request is not waited for.
            headers = {"connection": "close"}
            if isinstance(error, MissingToken):
                headers["www-authenticate"] = "Bearer"
            await PlainTextResponse(f"{error.text}\n", error.status, headers)(scope, receive, send)
        else:
            await self._app(scope, _with_body(body, receive), send)

    # ---- who sent it ----

    def _check_sender(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            raise HostNotAllowed(f"The Host header {quoted(', '.join(hosts), 100)} is not allowed")
        for origin in headers.getlist("origin"):
            scheme, _, host = origin.partition("://")
            if scheme not in {"http", "https"} or not self._is_allowed(host):
                raise OriginNotAllowed(f"A page of {quoted(origin, 100)} may not use this server")

    def _is_allowed(self, host: str) -> bool:
        name = host.lower()
        return name in self._hosts or re.sub(r":\d{1,5}$", "", name) in self._hosts

    async def _authenticate(self, scope: Scope) -> None:
        """Write into a request whose it is; by `user` the SDK keeps one token from a session of another's."""
        if not self._bearer:
            return
        given = Headers(scope=scope).getlist("authorization")
        # The SDK takes the first of several headers; a proxy in front may have looked at another.
        found = await self._bearer.authenticate(HTTPConnection(scope)) if len(given) == 1 else None
        if not found:
            some = "an access token that it does not know" if given else "no access token"
            raise MissingToken(f"The request brings {some}")
        scope["auth"], scope["user"] = found
        scope[OWNER] = found[1].access_token.client_id

    # ---- what it brings ----

    def _check_header_size(self, scope: Scope) -> None:
        size, most = sum(len(name) + len(value) for name, value in scope["headers"]), self._limits.header_bytes
        if size > most:
            raise RequestTooLarge(f"The request's headers have {size:,} bytes, and at most {most:,} are taken")

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body of a request; raises `ClientDisconnect` where its sender has left."""
        limits = self._limits
        body, length = bytearray(), 0
        try:
            with anyio.fail_after(limits.body_seconds):
                async for piece in Request(scope, receive).stream():
                    length += len(piece)
                    if length <= limits.body_bytes:
                        body += piece
                    elif length > limits.drained_bytes:
                        break
        except TimeoutError as error:
            what = f"The body of a request to {quoted(scope['path'], 100)} took over {limits.body_seconds:g} s"
            raise RequestTooSlow(what) from error
        if length > limits.body_bytes:
            raise RequestTooLarge(f"The request's body is larger than {limits.body_bytes:,} bytes")
        return bytes(body)


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
