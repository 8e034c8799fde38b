"""Default headers for browsers and caches, unless an answer has its own: an ASGI middleware."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULTS = {
    # An answer is for its caller only. Without this header a cache may keep it, even if the request had a cookie.
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


class DefaultHeaders:
    """Adds the default headers that an answer does not have.

    A request that names two lengths (Content-Length and Transfer-Encoding) is the last one of its connection, as RFC
    9112 demands: a proxy in front may have read another length, and then the rest is the request of somebody else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        given = Headers(raw=scope.get("headers", []))
        has_two_lengths = "content-length" in given and "transfer-encoding" in given

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if has_two_lengths:
                    headers["connection"] = "close"
                for name, value in DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_on)
