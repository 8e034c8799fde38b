"""What a proxy in front says of the address that its client asked: an ASGI middleware."""

import logging
import re
from collections.abc import Mapping
from typing import Any, cast

from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mcp_vega.redaction import quoted

logger = logging.getLogger(__name__)

# A path of plain names, none of which is made of dots alone: it stands in URLs as it is, and leads to no other host.
_PREFIX = re.compile(r"((?:/(?!\.+(?:/|$))[A-Za-z0-9._~-]{1,100}){1,10})/?")


class ForwardedMiddleware(ProxyHeadersMiddleware):
    """Beside what uvicorn's takes from a trusted proxy, the path prefix that it took away (`X-Forwarded-Prefix`).

    The prefix becomes the `root_path`, so that it stands in the URLs that clients are told. `X-Forwarded-Host` is not
    heeded: the host in those URLs is the one whose name was checked.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        # Before uvicorn's writes the client's own address there.
        sender = scope["client"][0] if scope.get("client") else None
        if scope["type"] == "http" and sender in self.trusted_hosts and (prefix := _prefix_of(scope)):
            scope["root_path"] = prefix + scope["root_path"]
            scope["path"] = prefix + scope["path"]
        await super().__call__(scope, receive, send)


def _prefix_of(scope: Mapping[str, Any]) -> str:
    """The path prefix that a proxy took away; empty where it says none that can be used."""
    said = ", ".join(Headers(scope=cast("Any", scope)).getlist("x-forwarded-prefix")).strip()
    if not said or said == "/":
        return ""
    match = _PREFIX.fullmatch(said)
    if not match:
        logger.info("X-Forwarded-Prefix is %s, which is no plain path", quoted(said, 100))
        return ""
    return match[1]


def route_of(scope: Mapping[str, Any]) -> str:
    """The path that was asked for, without the prefix under which the server is reached."""
    return scope["path"].removeprefix(scope.get("root_path", ""))
