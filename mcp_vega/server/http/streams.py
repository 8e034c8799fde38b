"""Which streams only wait for news, and which of them have a call in flight: an ASGI middleware and one of the SDK's.

Over SSE a call comes in a request of its own, and its answer goes into the stream that its session began with.
"""

import re
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.server.client_info import SSE_MESSAGES_PATH
from mcp_vega.server.http.capacity import Activity, Connection, connection_of
from mcp_vega.server.http.forwarded import route_of

# Where a call over SSE has the connection of its stream.
STREAM = "mcp_vega.stream"
# The request of the 2026 protocol whose answer is a stream; the SDK sees to it that its header says what its body is.
LISTEN = "subscriptions/listen"
# How the SDK tells a client where to send its calls, first of all in its stream.
_SESSION = re.compile(rb"[?&]session_id=([0-9a-f]{32})\b")


class SseStreams:
    """The connections of the streams over SSE, by their sessions."""

    def __init__(self) -> None:
        self.connections: dict[UUID, Connection] = {}

    def of_call(self, scope: Scope) -> Connection | None:
        """The connection of the stream into which the answer to a call goes."""
        with suppress(ValueError):
            return self.connections.get(UUID(hex=Request(scope).query_params.get("session_id", "")))
        return None

    async def follow(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """A middleware of the SDK's server: keeps a stream in use for as long as a call is in flight."""
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
    """Notes which requests are answered with a stream; `path` is where a GET opens one."""

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
            connection.turn_to(Activity.LISTENING)
            await self._stream(connection, scope, receive, send)
            return
        if Request(scope).headers.get("mcp-method") == LISTEN:
            connection.turn_to(Activity.LISTENING)
        elif route.startswith(SSE_MESSAGES_PATH) and (stream := self._streams.of_call(scope)):
            stream.use_stream()
            scope[STREAM] = stream
        await self._app(scope, receive, send)

    async def _stream(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stream, and note its session if it says one."""
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
