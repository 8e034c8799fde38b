"""A person signs in once with an access token. Then the browser has a cookie, which does not contain the token.

The cookie is valid only for the requests of the gallery's page, never for MCP. Without the page's key, it only opens
pictures by their ids. For everything else the page also sends a key, which it got together with the cookie. The key is
needed because browsers send a cookie to every port of a host, where other programs may listen. The browser keeps the
key for this port only.
"""

import json
import re

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from mcp_vega.job import OPERATOR
from mcp_vega.server.client_info import IMAGES_PATH
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.access.links import DAY, READING
from mcp_vega.server.http.access.rejections import CrossSiteRequest, InvalidToken, answer_to
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.http.limits import HttpLimits

GALLERY_PATH = "/gallery"
SIGN_IN_PATH, SIGN_OUT_PATH = f"{GALLERY_PATH}/sign-in", f"{GALLERY_PATH}/sign-out"
# The key in the ASGI scope that says that the caller was found by a cookie.
SIGNED_IN = "mcp_vega.signed_in"
# A header that another site's page cannot send, unless the server allows it.
OWN_HEADER = "x-mcp-vega"
# The header with the page's key: in the answer to a sign-in, and then in the page's requests.
PAGE_KEY = "x-mcp-vega-page"
SECONDS = 30 * DAY
_PURPOSE, _PAGE = "session", "page"
# When the cookie expires, and its signature, which is never longer.
_COOKIE = re.compile(r"([0-9]+)\.([\w-]{1,100})", re.ASCII)


class SignIn:
    """Gives browsers their cookies, removes them, and finds the caller of a cookie."""

    def __init__(self, signatures: Signatures, limits: HttpLimits) -> None:
        self._signatures = signatures
        self._limits = limits

    async def caller(self, scope: Scope) -> Caller | None:
        """Return the caller who has signed in with the browser; None if nobody has, or if cookies do not count here.

        If the browser sends several cookies of this name, none counts: one of them may come from another program.
        """
        if not _takes_cookie(scope):
            return None
        name = _cookie_name(scope)
        given = "; ".join(Headers(scope=scope).getlist("cookie")).split(";")
        values = [value for key, _, value in (each.strip().partition("=") for each in given) if key == name]
        match = _COOKIE.fullmatch(values[0]) if len(values) == 1 else None
        if not match:
            return None
        caller = self._signatures.caller(await self._signatures.callers.signers(), match[2], match[1], _PURPOSE)
        if caller is None or int(match[1]) <= self._signatures.now:
            return None
        if is_of_gallery(scope) and not self._has_key(scope, caller, match[1]):
            return None
        scope[SIGNED_IN] = True
        return caller

    def _has_key(self, scope: Scope, caller: Caller, expires: str) -> bool:
        """Whether a request has the page's key that was given with the cookie."""
        keys = Headers(scope=scope).getlist(PAGE_KEY)
        return len(keys) == 1 and self._signatures.caller([caller], keys[0], expires, _PAGE) is caller

    async def sign_in(self, request: Request) -> Response:
        """Check the token in a request, and answer with a cookie."""
        try:
            caller = await self._signatures.callers.with_token(await _given_token(request))
        except InvalidToken:
            await anyio.sleep(self._limits.wrong_token_seconds)
            step = "Ask the person who runs the server for your token"
            return answer_to(InvalidToken("The server does not know this access token", next_step=step))
        expires = self._signatures.now + SECONDS
        # The operator's token is made for one run of a command, on any free port. Its cookies must not pile up.
        kept = None if caller.owner == OPERATOR else SECONDS
        answer = _answer(request.scope, f"{expires}.{self._signatures.sign(caller, expires, _PURPOSE)}", kept)
        answer.headers[PAGE_KEY] = self._signatures.sign(caller, expires, _PAGE)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Remove the browser's cookie."""
        return _answer(request.scope, "", 0)


def _answer(scope: Scope, cookie: str, seconds: int | None) -> Response:
    """Return an answer that sets the cookie for so many seconds; with None, until the browser is closed."""
    answer = Response(status_code=204)
    path, secure = scope.get("root_path") or "/", scope["scheme"] == "https"
    answer.set_cookie(_cookie_name(scope), cookie, seconds, path=path, secure=secure, httponly=True, samesite="lax")
    return answer


def _cookie_name(scope: Scope) -> str:
    """Return the cookie's name. It contains the port, because browsers send a cookie to every port of a host.

    Browsers accept a name with `__Secure-` only over TLS, and a name with `__Host-` only from this very host.
    """
    port = re.search(":([0-9]+)$", Headers(scope=scope)["host"])
    name = f"mcp_vega_{port[1]}" if port else "mcp_vega"
    if scope["scheme"] != "https":
        return name
    return f"__Secure-{name}" if scope.get("root_path") else f"__Host-{name}"


def require_own_page(scope: Scope) -> None:
    """Check that a request under /gallery/ comes from a page that may send it.

    A request that changes something must come from the gallery's own page. An allowed origin is not enough: all pages
    on this machine have one, on any port. A request that only reads may come from any allowed page. But a request
    without an origin may come from any site. Such a page cannot read the answer, but it could measure how long a search
    takes, and keep the server searching forever.

    Raises:
        CrossSiteRequest: The page may not send it, or the browser is too old to say where it comes from.
    """
    if not is_of_gallery(scope):
        return
    headers = Headers(scope=scope)
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if scope["method"] in READING:
        if not origins and not {*sites} <= {"same-origin", "none"}:
            raise CrossSiteRequest("A request under /gallery/ comes from another site's page, and has no origin")
        return
    own_origins = [[f"{scheme}://{headers.get('host')}"] for scheme in ("http", "https")]
    if headers.getlist(OWN_HEADER) != ["1"]:
        raise CrossSiteRequest("A request that changes something under /gallery/ has no header X-MCP-Vega: 1")
    if sites != ["same-origin"] and (sites or origins not in own_origins):
        raise CrossSiteRequest("A request that changes something under /gallery/ is not from this server's own page")


def _takes_cookie(scope: Scope) -> bool:
    is_reading_image = scope["method"] in READING and route_of(scope).startswith(f"{IMAGES_PATH}/")
    return is_reading_image or is_of_gallery(scope)


def is_of_gallery(scope: Scope) -> bool:
    """Whether a request is for the data of the gallery's page, or to sign in or out."""
    return route_of(scope).startswith(f"{GALLERY_PATH}/")


async def _given_token(request: Request) -> str:
    """Return the token in the body of a sign-in; empty if there is none."""
    try:
        match json.loads(await request.body()):
            case {"token": str(token)}:
                return token.strip()
            case _:
                return ""
    except (ValueError, RecursionError):
        return ""
