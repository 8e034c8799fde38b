"""What an access token must say about its owner, its time, its audience and its scopes."""

import re
from collections.abc import Mapping
from typing import Any, cast

from mcp_vega.server.http.access.callers import is_subject

# The end of the year 9999. Later times are mistakes.
LATEST = 253_402_300_799
TIMES = ("exp", "nbf", "iat")
# The claims in which issuers name the program that uses a token: RFC 9068, OpenID Connect, Entra, Okta.
CLIENTS = ("client_id", "azp", "appid", "cid")
# The usual form of a resource: scheme, host, port and path.
_RESOURCE = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]+))?(/.*)?", re.IGNORECASE | re.ASCII)
_USUAL_PORTS = {"http": "80", "https": "443"}


class BadClaim(ValueError):  # noqa: N818  it says what is wrong with a claim
    """A claim cannot be used. The text says why."""


def require_times(claims: Mapping[str, Any]) -> None:
    """Check that the times are numbers. JSON numbers may be a fraction, infinite, or true in Python.

    Raises:
        BadClaim: One is not.
    """
    for name in TIMES:
        value = claims.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadClaim(f"its {name} is not a number")
        if not 0 <= value <= LATEST:  # this also refuses NaN
            raise BadClaim(f"its {name} is not a time")


def subject_of(claims: Mapping[str, Any]) -> str:
    """Return the subject. Raises a `BadClaim` if nobody can be called so."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_subject(subject):
        raise BadClaim("its sub is not a text of 1 to 255 visible characters, with single spaces between them only")
    return subject


def resource_of(claims: Mapping[str, Any], resource: str) -> str:
    """Return the audience that means this server.

    The case of scheme and host, a usual port and a slash at the end do not matter. Other spellings that a browser would
    take for the same URL do not count: the issuer compares texts when it decides who may have a token for which server.

    Raises:
        BadClaim: There is no such audience.
    """
    said = claims.get("aud")
    for each in cast("list[Any]", said) if isinstance(said, list) else [said]:
        if isinstance(each, str) and _plain(each) == _plain(resource):
            return each
    raise BadClaim(f"its aud does not contain {resource}")


def _plain(url: str) -> str:
    """Return a resource in one spelling; unchanged if it does not have the usual form."""
    if not (found := _RESOURCE.fullmatch(url)):
        return url
    scheme, host, port, path = (each or "" for each in found.groups())
    authority = f"{scheme}://{host}".lower()
    return f"{authority}:{port or _USUAL_PORTS[scheme.lower()]}{path.removesuffix('/')}"


def scopes_of(claims: Mapping[str, Any]) -> list[str]:
    """Return the scopes, in the order of the token: in `scope` (RFC 9068) or `scp` (Entra, Okta), as text or list."""
    found: list[str] = []
    for name in ("scope", "scp"):
        said = claims.get(name)
        parts = cast("list[Any]", said) if isinstance(said, list) else [said]
        found += (scope for part in parts if isinstance(part, str) for scope in part.split(" ") if scope)
    return list(dict.fromkeys(found))


def client_of(claims: Mapping[str, Any]) -> str:
    """Return the id of the program that uses the token; if the token names none, the subject."""
    named = (claims.get(name) for name in CLIENTS)
    return next((each for each in named if isinstance(each, str) and each), claims["sub"])
