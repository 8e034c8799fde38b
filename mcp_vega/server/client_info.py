"""The client at the other end of a request: what its transport carries, how it reaches a picture, what it may know."""

import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from mcp_vega.imaging.preview import MESSAGE_BYTES
from mcp_vega.job import OPERATOR, Image

IMAGES_PATH = "/images"
SSE_MESSAGES_PATH = "/messages"
# Where a request over HTTP says whose it is, and has what signs links for whoever that is.
OWNER, SIGNED = "mcp_vega.owner", "mcp_vega.signed"
# What a path begins with, up to its last name; or a quotation, which is left as it is.
_PATHS = re.compile(r"“[^”]*”|(?<![^\s(])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\]+[/\\])+")


@dataclass(frozen=True)
class ClientInfo:
    """A client, as far as a result depends on it.

    Attributes:
        base_url: The address under which it reaches this server; None on the same machine, not over HTTP.
        read_limit: How many bytes a resource may have to reach it; None where there is no limit.
        has_channel: Whether it can be told something that it did not ask for.
        owner: Whose jobs it begins and may see.
        signed: Adds to a picture's id what makes a link of its address, which a browser opens without a token.
    """

    base_url: str | None = None
    read_limit: int | None = None
    has_channel: bool = True
    owner: str = OPERATOR
    signed: Callable[[str], str] = str

    @classmethod
    def of(cls, context: ServerRequestContext[Any, Any]) -> "ClientInfo":
        """The client that a request came from."""
        if not isinstance(context.request, Request):
            return cls()
        request = cast("Request[Any]", context.request)
        # Without the prefix under which a proxy may have it.
        path = request.url.path.removeprefix(request.base_url.path.rstrip("/"))
        # Answers over SSE are events whatever the protocol says; over Streamable HTTP only older clients limit them.
        over_sse = path.startswith(SSE_MESSAGES_PATH)
        limited = over_sse or context.protocol_version not in MODERN_PROTOCOL_VERSIONS
        limit = MESSAGE_BYTES if limited else None
        return replace(cls.of_request(request), read_limit=limit, has_channel=over_sse)

    @classmethod
    def of_request(cls, request: Request) -> "ClientInfo":
        """Who sent a request over HTTP."""
        base_url = str(request.base_url).rstrip("/")
        return cls(base_url, owner=owner_of(request.scope), signed=request.scope.get(SIGNED, str))

    def location(self, image: Image) -> str | None:
        """Where the client finds a picture's file: its path on the same machine, else a URL of this server."""
        if self.base_url is not None:
            return f"{self.base_url}{IMAGES_PATH}/{self.signed(image.id)}"
        return str(image.path) if image.path else None

    def told(self, text: str, folders: Mapping[Path, str]) -> str:
        """A text as it may have it: where files lie is nobody's business but that of those who work at the machine.

        For `folders` see `without_paths`.
        """
        return text if self.owner == OPERATOR else without_paths(text, folders)


def without_paths(text: str, folders: Mapping[Path, str]) -> str:
    """A text that does not tell where files lie on this machine.

    In the place of one of the `folders` stands the word for it; of any other path only its last name is left.
    """
    words = {str(each): word for folder, word in folders.items() for each in (folder, Path(os.path.realpath(folder)))}
    for folder in sorted(words, key=len, reverse=True):  # one may be inside another
        if len(Path(folder).parts) > 1:
            text = re.sub(rf"{re.escape(folder)}(?!\.?[\w-])", words[folder], text)
    return _PATHS.sub(lambda found: found[0] if found[0].startswith("“") else "…/", text)


def owner_of(scope: Mapping[str, Any]) -> str:
    """Whose a request over HTTP is, from its ASGI scope."""
    return scope.get(OWNER, OPERATOR)


# Who asked what is being answered, for those whom the SDK does not tell.
CURRENT_CLIENT = ContextVar("asking", default=ClientInfo())  # noqa: B039  nothing in it changes
