"""The errors that reject a request over HTTP, and how they are answered."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from mcp_vega.errors import VegaError
from mcp_vega.server.http.limits import HttpLimits

logger = logging.getLogger(__name__)


class RequestRejected(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An HTTP request was rejected. `status` and `headers` are those of the answer."""

    status: ClassVar[int] = 403
    headers: Mapping[str, str] = MappingProxyType({})


class MissingToken(RequestRejected):
    """The request has no access token in its Authorization header, and no valid link or cookie."""

    status = 401
    headers = MappingProxyType({"www-authenticate": "Bearer"})
    next_step = (
        "Send the header `Authorization: Bearer TOKEN` with one of the tokens in the server's MCP_VEGA_AUTH_TOKENS. A "
        "token in the URL does not count"
    )


class InvalidToken(RequestRejected):
    """The request has an access token that is not valid, or more than one token."""

    status = 401
    headers = MappingProxyType({"www-authenticate": 'Bearer error="invalid_token"'})
    next_step = "Compare the token with those in the server's MCP_VEGA_AUTH_TOKENS, and send one of them"


class InsufficientScope(RequestRejected):
    """The access token does not have all scopes in the server's MCP_VEGA_OAUTH_SCOPES."""

    next_step = "Sign in again, and allow what the MCP client asks for. If that does not help, ask your administrator"


class AuthUnavailable(RequestRejected):
    """The server cannot find out who sent the request, because the OAuth issuer or the ledger does not answer."""

    status = 503
    headers = MappingProxyType({"retry-after": "5"})
    next_step = "Send the request again in a minute"


class PageOff(RequestRejected):
    """People sign in to the server with OAuth, and the gallery page does not work with OAuth."""

    status = 404
    next_step = (
        "Ask your agent for the resource vega://gallery. At the server's own machine, the operator can run "
        "`mcp-vega gallery`"
    )


class InvalidLink(RequestRejected):
    """The link to a picture was changed, or its access token was removed from the server."""

    next_step = "Ask check_job for a new link, and open it unchanged"


class LinkExpired(RequestRejected):
    """The link to a picture has expired: it was valid for a day."""

    next_step = "Ask check_job for a new link"


class CrossSiteRequest(RequestRejected):
    """A request under /gallery/ did not come from the gallery's own page."""

    next_step = (
        "Use the page at this server's address. In a program, send the headers `X-MCP-Vega: 1` and "
        "`Sec-Fetch-Site: same-origin`"
    )


class HostNotAllowed(RequestRejected):
    """The request's Host header names neither this machine nor a host that the settings allow."""

    status = 421
    next_step = "Add the host to MCP_VEGA_ALLOWED_HOSTS and restart the server"


class OriginNotAllowed(RequestRejected):
    """The request came from a web page that is neither on this machine nor on a host that the settings allow."""

    next_step = "If you trust the page, add its host to MCP_VEGA_ALLOWED_HOSTS and restart the server"


class RequestTooLarge(RequestRejected):
    """The request's body or headers are too large: no call needs so much."""

    status = 413
    next_step = "Send a shorter request"


class RequestTooSlow(RequestRejected):
    """The request's body took too long to arrive."""

    status = 408
    next_step = "Send the request again over a faster connection"


class TooManyConnections(RequestRejected):
    """There are too many connections to the server, and it cannot close an idle one for the new request."""

    status = 503
    headers = MappingProxyType({"retry-after": "10"})
    next_step = "Close connections that you do not need, or call again in a minute"


def answer_to(error: RequestRejected, **headers: str) -> PlainTextResponse:
    """Return the answer with an error."""
    return PlainTextResponse(f"{error.text}\n", error.status, {**error.headers, **headers})


async def reject(error: RequestRejected, limits: HttpLimits, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, then read and drop the rest of the request, and close the connection.

    If the connection were closed immediately, a client that is still writing would get a reset instead of the answer.
    """
    logger.info("A request was rejected with HTTP %s: %s", error.status, error.code)
    logger.debug(error.what)  # it may quote a header

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await answer_to(error, connection="close")(scope, receive, hold_open)
    left = 0 if isinstance(error, RequestTooSlow) else limits.drained_bytes
    with anyio.move_on_after(limits.body_seconds):
        while left > 0 and (message := await receive()).get("more_body"):
            left -= len(message["body"])
    await send({"type": "http.response.body", "body": b""})
