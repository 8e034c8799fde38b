"""Cancels a call when a cancellation comes in another request: an ASGI middleware, inside of AuthMiddleware."""

import json
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.server.http.cancellation.canceller import Canceller
from mcp_vega.server.http.cancellation.requests_in_flight import CallId

METHOD = "notifications/cancelled"
# The part of the method that is in the body in any case: some clients write JSON with \/ for /.
MARK = b"/cancelled"
# No cancellation is longer (bytes).
LONGEST = 10_000


class CancellationMiddleware:
    """Applies a cancellation before it is passed on and answered."""

    def __init__(self, app: ASGIApp, canceller: Canceller) -> None:
        self._app = app
        self._canceller = canceller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Its body must come in one message."""
        if scope["type"] == "http" and scope["method"] == "POST":
            first = await receive()
            await self._cancel(scope, first.get("body", b""))
            receive = with_first(first, receive)
        await self._app(scope, receive, send)

    async def _cancel(self, scope: Scope, body: bytes) -> None:
        if MARK not in body or len(body) > LONGEST:
            return
        message = None
        with suppress(ValueError, RecursionError):
            message = json.loads(body)
        match message:
            case {"method": method, "params": {"requestId": bool()}} if method == METHOD:
                pass  # the SDK answers it
            case {"method": method, "params": {"requestId": str() | int() as request_id}} if method == METHOD:
                await self._canceller.cancel(CallId.of(Request(scope), request_id))
            case _:
                pass  # the SDK answers it


def with_first(first: Message, receive: Receive) -> Receive:
    """Return a channel that first gives a message that was read already, then the messages that follow."""
    ahead = [first]

    async def receive_again() -> Message:
        return ahead.pop() if ahead else await receive()

    return receive_again
