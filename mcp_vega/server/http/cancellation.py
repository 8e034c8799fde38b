"""Finds the call that a cancellation in a request of its own means: an ASGI middleware, inside of AuthMiddleware."""

import json
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.server.client_info import owner_of
from mcp_vega.server.requests_in_flight import RequestsInFlight, Sender

METHOD = "notifications/cancelled"
# What of it is in the body in any case: some write JSON with \/ for /.
MARK = b"/cancelled"
# Longer than any cancellation.
LONGEST = 10_000


class CancellationMiddleware:
    """Has a cancellation take effect before it is passed on, and with that answered."""

    def __init__(self, app: ASGIApp, requests: RequestsInFlight) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whose body comes as a whole."""
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
                pass  # for the SDK to answer
            case {"method": method, "params": {"requestId": str() | int() as request_id}} if method == METHOD:
                await self._requests.cancel(owner_of(scope), request_id, Sender.of(Request(scope)))
            case _:
                pass  # for the SDK to answer


def with_first(first: Message, receive: Receive) -> Receive:
    """A channel that brings a message that was read already, then what follows."""
    ahead = [first]

    async def receive_again() -> Message:
        return ahead.pop() if ahead else await receive()

    return receive_again
