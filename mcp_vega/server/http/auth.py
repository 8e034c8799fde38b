"""The door of the server over HTTP: what it does not let in, and as whom it lets in the rest.

NotAdmitted              an HTTP request was turned away
├── MissingToken         it brings none of the access tokens
├── HostNotAllowed       its Host header is on no list
├── OriginNotAllowed     a web page of another site sent it
├── RequestTooLarge      its body or its headers are too large
└── RequestTooSlow       its body takes too long to arrive
"""

import hmac
import logging
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import ClassVar

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.errors import VegaError
from mcp_vega.redaction import quoted
from mcp_vega.server.client_info import OWNER

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEALTH_PATH = "/health"
# No call is larger, by far; what is larger is read and dropped up to the second figure, so that its sender, who writes
# before he reads, gets to see the answer.
BODY_BYTES, DRAINED_BYTES = 1_000_000, 16_000_000
BODY_SECONDS = 30.0
HEADER_BYTES = 16_000


class RequestRejected(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An HTTP request was turned away at the door. `status` is that of the answer."""

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
    """An ASGI middleware around the whole application.

    Args:
        app: The application.
        hosts: Host names that are accepted beside loopback, with a port or, for any port, without.
        tokens: The access tokens; without any, everyone who reaches the server is its operator.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], tokens: Sequence[SecretStr]) -> None:
        self._app = app
        self._hosts = {name.lower().removesuffix(":*") for name in (*LOOPBACK, *hosts)}
        self._owners = [_fingerprint(token.get_secret_value()) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            _check_size(headers)
            if scope["path"] != HEALTH_PATH:
                self._check_sender(headers)
                self._name(scope)
            body = await _body(scope, receive)
        except RequestRejected as error:
            logger.info(error.what)
            # What may still come of the request is not waited for.
            said = {"connection": "close"}
            said |= {"www-authenticate": "Bearer"} if isinstance(error, MissingToken) else {}
            await PlainTextResponse(f"{error.text}\n", error.status, said)(scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), send)

    # ---- who sent it ----

    def _check_sender(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise HostNotAllowed(f"The Host header {quoted(', '.join(hosts), 100)} is not allowed")
        for origin in headers.getlist("origin"):
            scheme, _, host = origin.partition("://")
            if scheme not in {"http", "https"} or not self._knows(host):
                raise OriginNotAllowed(f"A page of {quoted(origin, 100)} may not use this server")

    def _knows(self, host: str) -> bool:
        name = host.lower()
        return name in self._hosts or re.sub(r":\d{1,5}$", "", name) in self._hosts

    def _name(self, scope: Scope) -> None:
        """Write into a request whose it is.

        Raises:
            MissingToken: It brings no token, or none of this server's.
        """
        if not self._owners:
            return
        given = Headers(scope=scope).getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        fingerprint = _fingerprint(token.strip(" \t"))
        # Each is compared, and each to its end, so that the time tells nothing.
        matches = [owner for owner in self._owners if hmac.compare_digest(owner, fingerprint)]
        if scheme.lower() != "bearer" or not matches:
            some = "an access token that it does not know" if given else "no access token"
            raise MissingToken(f"The request brings {some}")
        scope[OWNER] = matches[0]
        # By this the SDK keeps one token from a session of another's.
        access = AccessToken(token=matches[0], client_id=matches[0], scopes=[])
        scope["user"] = AuthenticatedUser(access)


def _fingerprint(token: str) -> str:
    """What stands for a token in the ledger; a long random token cannot be had from it."""
    return sha256(f"mcp-vega {token}".encode(errors="surrogateescape")).hexdigest()[:32]


# ---- what it brings ----


def _check_size(headers: Headers) -> None:
    """Check that a request's headers are no larger than any that the server needs.

    Raises:
        RequestTooLarge: They are.
    """
    size = sum(len(name) + len(value) for name, value in headers.raw)
    if size > HEADER_BYTES:
        raise RequestTooLarge(f"The request's headers have {size:,} bytes, and at most {HEADER_BYTES:,} are taken")


async def _body(scope: Scope, receive: Receive) -> Message:
    """The whole body of a request, as one message.

    Raises:
        RequestTooLarge: It is too large.
        RequestTooSlow: It takes too long.
    """
    body = bytearray()
    length, more = 0, True
    with anyio.move_on_after(BODY_SECONDS) as scope_of_time:
        while more and length <= DRAINED_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                return message  # its sender has left
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
            if length <= BODY_BYTES:
                body += message.get("body", b"")
    if scope_of_time.cancelled_caught:
        raise RequestTooSlow(f"The body of a request to {quoted(scope['path'], 100)} took over {BODY_SECONDS:.0f} s")
    if length > BODY_BYTES:
        raise RequestTooLarge(f"The request's body is larger than {BODY_BYTES:,} bytes")
    return {"type": "http.request", "body": bytes(body), "more_body": False}


def _replayed(first: Message, receive: Receive) -> Receive:
    """A channel that brings a message that was read already, then what follows."""
    ahead = [first]

    async def again() -> Message:
        return ahead.pop() if ahead else await receive()

    return again
