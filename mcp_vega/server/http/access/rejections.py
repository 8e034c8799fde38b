"""How a request over HTTP is turned away."""

import logging
from collections.abc import Mapping
from typing import ClassVar

import anyio
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from mcp_vega.errors import VegaError
from mcp_vega.server.http.limits import HttpLimits

logger = logging.getLogger(__name__)


class RequestRejected(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An HTTP request was turned away. `status` and `headers` are those of the answer."""

    status: ClassVar[int] = 403
    headers: ClassVar[Mapping[str, str]] = {}


class MissingToken(RequestRejected):
    """The request brings no access token in its Authorization header, and nothing else that opens the address."""

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


class InvalidLink(RequestRejected):
    """The address of a picture was changed, or its access token is none of the server's any more."""

    next_step = "Ask check_job for a new one, and open it as it is"


class LinkExpired(RequestRejected):
    """The address of a picture was good for a day, and that is over."""

    next_step = "Ask check_job for a new one"


class CrossSiteRequest(RequestRejected):
    """A request under /gallery/ came from elsewhere than the gallery's own page."""

    next_step = (
        "Use the page at this server's address; a program sends the headers `X-MCP-Vega: 1` and "
        "`Sec-Fetch-Site: same-origin`"
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


class TooManyConnections(RequestRejected):
    """There are as many connections as the server has room for, and on each a call is being answered."""

    status = 503
    headers: ClassVar = {"retry-after": "10"}
    next_step = "Close connections that you do not need, or call again in a minute"


def answer_to(error: RequestRejected, **headers: str) -> PlainTextResponse:
    """The answer that says an error."""
    return PlainTextResponse(f"{error.text}\n", error.status, {**error.headers, **headers})


async def reject(error: RequestRejected, limits: HttpLimits, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error, then read and drop what follows of it, and end the connection.

    If that ended at once, a client that is still writing would get a reset in the place of the answer.
    """
    logger.info(error.what)

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await answer_to(error, connection="close")(scope, receive, hold_open)
    left = 0 if isinstance(error, RequestTooSlow) else limits.drained_bytes
    with anyio.move_on_after(limits.body_seconds):
        while left > 0 and (message := await receive()).get("more_body"):
            left -= len(message["body"])
    await send({"type": "http.response.body", "body": b""})
