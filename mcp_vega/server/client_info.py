"""The client that sent a request: its name, the limits of its transport, how it reaches a picture, what it may see."""

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
from mcp_vega.storage.images.store import place_of

IMAGES_PATH = "/images"
SSE_MESSAGES_PATH = "/messages"
SESSION_ID = "mcp-session-id"
# The keys of a request's ASGI scope: its owner, and the function that signs links for that owner.
OWNER, SIGNED = "mcp_vega.owner", "mcp_vega.signed"
# Clients whose model gets a result as JSON: `_meta` first, pictures as base64, all of it cut to 8,000 characters.
TEXT_ONLY_CLIENTS = {"@cline/core"}
# The beginning of a path or of a store's address, up to its last name; a bucket alone; or a quotation, which is left as
# it is.
_PATHS = re.compile(
    r"“[^”]*”|(?<![^\s(])(?:/|[A-Za-z]:[\\/]|(?:s3|gs|az|file)://)(?:[^\s/\\]+[/\\])+"
    r"|(?<![^\s(])(?P<bucket>(?:s3|gs|az|file)://[\w.-]*\w)"
)


@dataclass(frozen=True)
class ClientInfo:
    """A client, as far as a result depends on it.

    Attributes:
        name: The name in its `clientInfo`; empty if it is not known. Over Streamable HTTP before the protocol of 2026,
            it is only known of clients that get text alone, from the id of their session (`http/messages.py`).
        base_url: The address at which it reaches this server over HTTP; None for a client on the same machine.
        read_limit: How many bytes of a resource reach it; None if there is no limit.
        has_channel: Whether the server can notify it unasked.
        owner: The owner of the jobs that it begins and may see.
        signed: Signs a picture's id, so that a browser opens the picture's address without a token.
    """

    name: str = ""
    base_url: str | None = None
    read_limit: int | None = None
    has_channel: bool = True
    owner: str = OPERATOR
    signed: Callable[[str], str] = str

    @classmethod
    def of(cls, context: ServerRequestContext[Any, Any]) -> "ClientInfo":
        """The client that a request came from."""
        params = context.session.client_params
        name = params.client_info.name if params else ""
        if not isinstance(context.request, Request):
            return cls(name)
        request = cast("Request[Any]", context.request)
        # Without the prefix that a proxy may have added.
        path = request.url.path.removeprefix(request.base_url.path.rstrip("/"))
        # Answers over SSE are events whatever the protocol says; over Streamable HTTP only older clients limit them.
        over_sse = path.startswith(SSE_MESSAGES_PATH)
        limited = over_sse or context.protocol_version not in MODERN_PROTOCOL_VERSIONS
        limit = MESSAGE_BYTES if limited else None
        in_session = request.headers.get(SESSION_ID, "").partition(".")[2]
        name = name or (in_session if in_session in TEXT_ONLY_CLIENTS else "")
        return replace(cls.of_request(request), name=name, read_limit=limit, has_channel=over_sse)

    @classmethod
    def of_request(cls, request: Request) -> "ClientInfo":
        """The client that sent a request over HTTP; its name is not known here."""
        base_url = str(request.base_url).rstrip("/")
        return cls(base_url=base_url, owner=owner_of(request.scope), signed=request.scope.get(SIGNED, str))

    @property
    def text_only(self) -> bool:
        """Whether pictures and `_meta` would only hide the text of a result from its model."""
        return self.name in TEXT_ONLY_CLIENTS

    def location(self, image: Image) -> str | None:
        """The place of a picture for this client: a path or a bucket's address on the same machine, else a URL."""
        if self.base_url is not None:
            return f"{self.base_url}{IMAGES_PATH}/{self.signed(image.id)}"
        return place_of(image.location)

    def told(self, text: str, folders: Mapping[Path | str, str]) -> str:
        """A text as this client may see it: only an operator sees paths. For `folders` see `without_paths`."""
        return text if self.owner == OPERATOR else without_paths(text, folders)


def without_paths(text: str, folders: Mapping[Path | str, str]) -> str:
    """A text without the paths of this machine, and without the addresses of buckets.

    Each of the `folders`, which may be a bucket's address, is replaced by its word. Of any other path or address only
    the last name is left.
    """
    if "/" not in text and "\\" not in text:  # to resolve the folders takes long for a note of each waiting job
        return text
    words = {str(folder): word for folder, word in folders.items()}
    words |= {os.path.realpath(folder): word for folder, word in folders.items() if isinstance(folder, Path)}
    for folder in sorted(words, key=len, reverse=True):  # one may be inside another
        if len(Path(folder).parts) > 1:
            text = re.sub(rf"{re.escape(folder)}(?!\.?[\w-])", words[folder], text)
    return _PATHS.sub(lambda found: found[0] if found[0].startswith("“") else "…" if found["bucket"] else "…/", text)


def owner_of(scope: Mapping[str, Any]) -> str:
    """The owner of a request over HTTP, from its ASGI scope."""
    return scope.get(OWNER, OPERATOR)


# The client whose request is being answered, for code that the SDK gives no context.
CURRENT_CLIENT = ContextVar("asking", default=ClientInfo())  # noqa: B039  nothing in it changes
