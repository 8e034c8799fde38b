"""The client at the other end of a request: what its transport carries, and how it reaches a picture's file."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_vega.imaging.preview import MESSAGE_BYTES
from mcp_vega.job import OPERATOR, Image

IMAGES_PATH = "/images"
SSE_MESSAGES_PATH = "/messages"
# Where a request over HTTP says whose it is.
OWNER = "mcp_vega.owner"


@dataclass(frozen=True)
class ClientInfo:
    """A client, as far as a result depends on it.

    Attributes:
        base_url: The address under which it reaches this server; None on the same machine, not over HTTP.
        read_limit: How many bytes a resource may have to reach it; None where there is no limit.
        has_channel: Whether it can be told something that it did not ask for.
        owner: Whose jobs it begins and may see.
    """

    base_url: str | None = None
    read_limit: int | None = None
    has_channel: bool = True
    owner: str = OPERATOR

    @classmethod
    def of(cls, context: ServerRequestContext[Any, Any]) -> "ClientInfo":
        """The client that a request came from."""
        request = context.request
        if not isinstance(request, Request):
            return cls()
        # Without the prefix under which a proxy may have it.
        path = request.url.path.removeprefix(request.base_url.path.rstrip("/"))
        # Answers over SSE are events whatever the protocol says; over Streamable HTTP only older clients limit them.
        over_sse = path.startswith(SSE_MESSAGES_PATH)
        limited = over_sse or context.protocol_version not in MODERN_PROTOCOL_VERSIONS
        limit = MESSAGE_BYTES if limited else None
        return cls(str(request.base_url).rstrip("/"), limit, over_sse, owner_of(request.scope))

    def location(self, image: Image) -> str | None:
        """Where the client finds a picture's file: its path on the same machine, else a URL of this server."""
        if self.base_url is not None:
            return f"{self.base_url}{IMAGES_PATH}/{image.id}"
        return str(image.path) if image.path else None


def owner_of(scope: Mapping[str, Any]) -> str:
    """Whose a request over HTTP is, from its ASGI scope."""
    return scope.get(OWNER, OPERATOR)


# Who asked what is being answered, for those whom the SDK does not tell.
CURRENT_CLIENT = ContextVar("asking", default=ClientInfo())  # noqa: B039  nothing in it changes
