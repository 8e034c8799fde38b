"""Reads what a reverse proxy says about the original request: an ASGI middleware."""

import logging
import re
from collections.abc import Mapping
from typing import Any, cast

from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mcp_vega.redaction import quoted

logger = logging.getLogger(__name__)

# A path of plain names. No name consists of dots only. It needs no escaping in URLs, and leads to no other host.
_PREFIX = re.compile(r"((?:/(?!\.+(?:/|$))[A-Za-z0-9._~-]{1,100}){1,10})/?")


class ForwardedMiddleware(ProxyHeadersMiddleware):
    """As uvicorn's middleware; also reads the path prefix that a trusted proxy removed (`X-Forwarded-Prefix`).

    The prefix becomes the `root_path`, so the URLs for clients contain it. `X-Forwarded-Host` is ignored: those URLs
    contain the host whose name was checked.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        # Read before uvicorn's middleware replaces it by the address of the proxy's client.
        sender = scope["client"][0] if scope.get("client") else None
        if scope["type"] == "http" and sender in self.trusted_hosts and (prefix := _prefix_of(scope)):
            scope["root_path"] = prefix + scope["root_path"]
            scope["path"] = prefix + scope["path"]
        await super().__call__(scope, receive, send)


def _prefix_of(scope: Mapping[str, Any]) -> str:
    """Return the path prefix that a proxy removed; empty if there is none, or if it is not valid."""
    said = ", ".join(Headers(scope=cast("Any", scope)).getlist("x-forwarded-prefix")).strip()
    if not said or said == "/":
        return ""
    match = _PREFIX.fullmatch(said)
    if not match:
        logger.info("X-Forwarded-Prefix is ignored: it is not a plain path")
        logger.debug("X-Forwarded-Prefix: %s", quoted(said, 100))
        return ""
    return match[1]


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the path of a request, without the prefix of the proxy."""
    return scope["path"].removeprefix(scope.get("root_path", ""))
