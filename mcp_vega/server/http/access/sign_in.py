"""A person signs in once with an access token, and the browser is known by a cookie that is not the token.

It is good for what the gallery's page asks for, and nothing else: never for MCP. Alone it opens pictures by their ids.
Browsers send it to each port of a host, to whatever listens there; for all else the page adds a key that it got with
the cookie and that the browser keeps for this port.
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
# Where a request says that a cookie opened it.
SIGNED_IN = "mcp_vega.signed_in"
# What another site's page cannot add to a request, unless the server allows it to.
OWN_HEADER = "x-mcp-vega"
# The header with the page's key: in the answer to a sign-in, and then in the page's requests.
PAGE_KEY = "x-mcp-vega-page"
SECONDS = 30 * DAY
_PURPOSE, _PAGE = "session", "page"
# No cookie has a longer one.
_COOKIE = re.compile(r"([0-9]+)\.([\w-]{1,100})", re.ASCII)


class SignIn:
    """Gives browsers their cookies, takes them back, and knows whose they are."""

    def __init__(self, signatures: Signatures, limits: HttpLimits) -> None:
        self._signatures = signatures
        self._limits = limits

    def caller(self, scope: Scope) -> Caller | None:
        """Who has signed in with the browser that sent a request; None where nobody has, or the path takes no cookie.

        Of several cookies of the name none counts: one may be another's.
        """
        if not _takes_cookie(scope):
            return None
        name = _cookie_name(scope)
        given = "; ".join(Headers(scope=scope).getlist("cookie")).split(";")
        values = [value for key, _, value in (each.strip().partition("=") for each in given) if key == name]
        match = _COOKIE.fullmatch(values[0]) if len(values) == 1 else None
        caller = self._signatures.caller(match[2], match[1], _PURPOSE) if match else None
        if not match or caller is None or int(match[1]) <= self._signatures.now:
            return None
        if _is_of_gallery(scope) and not self._has_key(scope, caller, match[1]):
            return None
        scope[SIGNED_IN] = True
        return caller

    def _has_key(self, scope: Scope, caller: Caller, expires: str) -> bool:
        """Whether a request brings the key that was given with a cookie."""
        keys = Headers(scope=scope).getlist(PAGE_KEY)
        return len(keys) == 1 and self._signatures.caller(keys[0], expires, _PAGE) is caller

    async def sign_in(self, request: Request) -> Response:
        """Answer a token with a cookie."""
        caller = self._signatures.callers.with_token(await _given_token(request))
        if caller is None:
            await anyio.sleep(self._limits.wrong_token_seconds)
            step = "Ask whoever runs the server for yours"
            return answer_to(InvalidToken("This access token is not known here", next_step=step))
        expires = self._signatures.now + SECONDS
        # The operator's token is drawn for one run of a command, on a port that is free: such cookies would pile up.
        kept = None if caller.owner == OPERATOR else SECONDS
        answer = _answer(request.scope, f"{expires}.{self._signatures.sign(caller, expires, _PURPOSE)}", kept)
        answer.headers[PAGE_KEY] = self._signatures.sign(caller, expires, _PAGE)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Have the browser forget its cookie."""
        return _answer(request.scope, "", 0)


def _answer(scope: Scope, cookie: str, seconds: int | None) -> Response:
    """An answer that sets the cookie, for so long; for as long as the browser runs, where that is None."""
    answer = Response(status_code=204)
    path, secure = scope.get("root_path") or "/", scope["scheme"] == "https"
    answer.set_cookie(_cookie_name(scope), cookie, seconds, path=path, secure=secure, httponly=True, samesite="lax")
    return answer


def _cookie_name(scope: Scope) -> str:
    """The cookie's name: browsers send it to each port of a host, and a host may have servers on several.

    Of a cookie whose name begins like this browsers see to it that it came by TLS, and with `__Host-` from this host.
    """
    port = re.search(":([0-9]+)$", Headers(scope=scope)["host"])
    name = f"mcp_vega_{port[1]}" if port else "mcp_vega"
    if scope["scheme"] != "https":
        return name
    return f"__Secure-{name}" if scope.get("root_path") else f"__Host-{name}"


def require_own_page(scope: Scope) -> None:
    """Check that what a request under /gallery/ changes is asked for by the gallery's own page.

    That its origin is allowed is not enough: so is every page of this machine, on whatever port. What it reads may be
    asked for by any allowed page; but one that does not say which it is may be of any site: such a page cannot read the
    answer, but it can measure how long a search takes, and have the server search without end.

    Raises:
        CrossSiteRequest: It is not, or an old browser does not say so.
    """
    if not _is_of_gallery(scope):
        return
    headers = Headers(scope=scope)
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if scope["method"] in READING:
        if not origins and not {*sites} <= {"same-origin", "none"}:
            raise CrossSiteRequest("Another site's page asks for what is under /gallery/ and does not say which")
        return
    own_origins = [[f"{scheme}://{headers.get('host')}"] for scheme in ("http", "https")]
    if headers.getlist(OWN_HEADER) != ["1"]:
        raise CrossSiteRequest("A request that changes something under /gallery/ lacks the header X-MCP-Vega: 1")
    if sites != ["same-origin"] and (sites or origins not in own_origins):
        raise CrossSiteRequest("A request that changes something under /gallery/ is not of this server's own page")


def _takes_cookie(scope: Scope) -> bool:
    is_reading_image = scope["method"] in READING and route_of(scope).startswith(f"{IMAGES_PATH}/")
    return is_reading_image or _is_of_gallery(scope)


def _is_of_gallery(scope: Scope) -> bool:
    return route_of(scope).startswith(f"{GALLERY_PATH}/")


async def _given_token(request: Request) -> str:
    """The token in the body of a sign-in; empty where there is none."""
    try:
        match json.loads(await request.body()):
            case {"token": str(token)}:
                return token.strip()
            case _:
                return ""
    except (ValueError, RecursionError):
        return ""
