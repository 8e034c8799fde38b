"""Links that open a picture in a browser, which sends no token. They are signed, and valid for a day."""

import re

from starlette.datastructures import QueryParams
from starlette.types import Scope

from mcp_vega.server.client_info import IMAGES_PATH
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.access.rejections import InvalidLink, LinkExpired
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.forwarded import route_of

HOUR, DAY = 3_600, 86_400
EXPIRES, SIGNATURE = "expires", "signature"
READING = ("GET", "HEAD")
# The key in the ASGI scope for how much longer the link of a request is valid (s).
SECONDS_LEFT = "mcp_vega.link_seconds_left"
_PURPOSE = "image"
# The path of a picture, or of its preview.
_IMAGE = re.compile(f"{IMAGES_PATH}/([^/]+)(?:/preview)?")


class Links:
    """Makes links, and finds the caller of a link."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    def signed(self, caller: Caller, image_id: str) -> str:
        """Return a picture's id with the query of a link to it; the same for an hour, so that browsers can cache it."""
        expires = self._signatures.now // HOUR * HOUR + HOUR + DAY
        return (
            f"{image_id}?{EXPIRES}={expires}&{SIGNATURE}={self._signatures.sign(caller, expires, _PURPOSE, image_id)}"
        )

    async def open(self, scope: Scope) -> Caller | None:
        """Return the caller for whom a request's link was made; None if the request has no link.

        Raises:
            InvalidLink: The link was changed, or the caller's token was removed from the server.
            LinkExpired: The link has expired.
        """
        found, query = _IMAGE.fullmatch(route_of(scope)), QueryParams(scope["query_string"])
        if scope["method"] not in READING or not found or not {EXPIRES, SIGNATURE} & {*query}:
            return None
        expires, signature = (",".join(query.getlist(name)) for name in (EXPIRES, SIGNATURE))
        callers = await self._signatures.callers.signers(found[1])
        caller = self._signatures.caller(callers, signature, expires, _PURPOSE, found[1])
        if caller is None:
            raise InvalidLink("This link to a picture was changed, or its access token was removed from the server")
        scope[SECONDS_LEFT] = int(expires) - self._signatures.now
        if scope[SECONDS_LEFT] <= 0:
            raise LinkExpired("This link to a picture has expired; it was valid for a day")
        return caller
