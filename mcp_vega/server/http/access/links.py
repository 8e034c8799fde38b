"""Addresses that open a picture in a browser, which sends no token: signed, and good for a day."""

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
# Where a request that came by a link says how much longer that is good (s).
SECONDS_LEFT = "mcp_vega.link_seconds_left"
_PURPOSE = "image"
# A picture, and its preview.
_IMAGE = re.compile(f"{IMAGES_PATH}/([^/]+)(?:/preview)?")


class Links:
    """Makes links, and knows whose they are."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    def signed(self, caller: Caller, image_id: str) -> str:
        """A picture's id with the query of a link to it; the same for an hour, for the sake of browsers' caches."""
        expires = self._signatures.now // HOUR * HOUR + HOUR + DAY
        return (
            f"{image_id}?{EXPIRES}={expires}&{SIGNATURE}={self._signatures.sign(caller, expires, _PURPOSE, image_id)}"
        )

    def open(self, scope: Scope) -> Caller | None:
        """For whom the link was made that a request came by; None where it came by none.

        Raises:
            InvalidLink: It was changed, or whoever made it has no token any more.
            LinkExpired: It is over.
        """
        found, query = _IMAGE.fullmatch(route_of(scope)), QueryParams(scope["query_string"])
        if scope["method"] not in READING or not found or not {EXPIRES, SIGNATURE} & {*query}:
            return None
        expires, signature = (",".join(query.getlist(name)) for name in (EXPIRES, SIGNATURE))
        caller = self._signatures.caller(signature, expires, _PURPOSE, found[1])
        if caller is None:
            raise InvalidLink("This link to a picture was changed, or its access token is not taken any more")
        scope[SECONDS_LEFT] = int(expires) - self._signatures.now
        if scope[SECONDS_LEFT] <= 0:
            raise LinkExpired("This link to a picture has expired; it was good for a day")
        return caller
