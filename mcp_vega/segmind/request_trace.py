"""What httpcore reports of a request on its way: whether any of it was written to the API.

A call that failed before its own headers were written reached a proxy at most, so nobody charged it. httpcore tells its
extension `trace` of every step; a proxy is asked for a tunnel with a request of its own, whose method is CONNECT.
"""

import time
from collections.abc import Mapping
from typing import Any

import httpx

from mcp_vega import errors
from mcp_vega.segmind.connection_errors import unreachable

# What shows by itself that nothing was sent, where the transport reports no steps.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
_PORTS = {"http": 80, "https": 443}


class RequestTrace:
    """Follows one request to `url`, as its extension `trace`."""

    def __init__(self, url: httpx.URL) -> None:
        self._url = url
        self._begun = time.monotonic()
        self._reported = False
        self._headers_begun = False
        self._headers_written = False
        self._proxied = False

    @property
    def seconds(self) -> float:
        """How long ago it was begun."""
        return time.monotonic() - self._begun

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Note a step, such as `http11.send_request_headers.started`."""
        self._reported = True
        match event.partition(".")[2]:
            case "connect_tcp.started":
                target = (self._url.raw_host.decode(), self._url.port or _PORTS.get(self._url.scheme))
                self._proxied = (info["host"], info["port"]) != target
            case "send_request_headers.started":
                self._headers_begun = info["request"].method != b"CONNECT"
            case "send_request_headers.complete":
                self._headers_written = self._headers_begun
            case _:
                pass

    def nothing_sent(self, error: Exception) -> bool:
        """Whether the request failed with an error before any of it was written to the API."""
        if not self._reported:
            return isinstance(error, _NEVER_SENT)
        # Headers that are not allowed are noticed before the first byte of them is written.
        illegal = isinstance(error, httpx.LocalProtocolError) and not self._headers_written
        return illegal or not self._headers_begun

    def unreachable(self, error: Exception) -> errors.Unreachable:
        """What to say of a request of which nothing was sent."""
        return unreachable(error, scheme=self._url.scheme, by_proxy=self._proxied)
