"""Notes which streams only wait for notifications, and which have a call in flight.

Has an ASGI middleware and a middleware of the SDK. Over SSE a call comes in a request of its own, and its answer goes
into the stream that began the session.
"""

import re
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.server.client_info import SSE_MESSAGES_PATH
from mcp_vega.server.http.connections.capacity import Activity, Connection, connection_of
from mcp_vega.server.http.forwarded import route_of

# The key in the ASGI scope of a call over SSE for the connection of its stream.
STREAM = "mcp_vega.stream"
# The request of the 2026 protocol whose answer is a stream. The SDK makes sure that its `Mcp-Method` header is true.
LISTEN = "subscriptions/listen"
# The first event of a stream: there the SDK says where the client must send its calls.
_SESSION = re.compile(rb"[?&]session_id=([0-9a-f]{32})\b")


class SseStreams:
    """The connections of the SSE streams, by session."""

    def __init__(self) -> None:
        self.connections: dict[UUID, Connection] = {}

    def of_call(self, scope: Scope) -> Connection | None:
        """Return the connection of the stream into which the answer to a call goes; None if it is not known."""
        with suppress(ValueError):
            return self.connections.get(UUID(hex=Request(scope).query_params.get("session_id", "")))
        return None

    async def follow(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK's server: marks a stream as in use while a call is in flight."""
        stream: Connection | None = None
        if ctx.method != LISTEN and isinstance(ctx.request, Request):
            stream = cast("Request[Any]", ctx.request).scope.get(STREAM)
        if not stream:
            return await call_next(ctx)
        stream.calls += 1
        try:
            return await call_next(ctx)
        finally:
            stream.calls -= 1
            stream.use_stream()


class StreamMiddleware:
    """Notes which requests are answered with a stream. A GET of `path` opens a stream."""

    def __init__(self, app: ASGIApp, path: str, streams: SseStreams) -> None:
        self._app = app
        self._path = path
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection, route = connection_of(scope), route_of(scope)
        if scope["method"] == "GET" and route == self._path:
            connection.set_activity(Activity.LISTENING)
            await self._stream(connection, scope, receive, send)
            return
        if Request(scope).headers.get("mcp-method") == LISTEN:
            connection.set_activity(Activity.LISTENING)
        elif route.startswith(SSE_MESSAGES_PATH) and (stream := self._streams.of_call(scope)):
            stream.use_stream()
            scope[STREAM] = stream
        await self._app(scope, receive, send)

    async def _stream(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stream, and note its session if the stream names one."""
        session: UUID | None = None

        async def send_on(message: Message) -> None:
            nonlocal session
            if session is None and (found := _SESSION.search(message.get("body", b""))):
                session = UUID(hex=found[1].decode())
                self._streams.connections[session] = connection
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            if session:
                del self._streams.connections[session]
