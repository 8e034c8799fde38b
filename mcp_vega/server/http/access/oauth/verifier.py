"""Checks access tokens: JSON Web Tokens that an issuer has signed."""

from typing import Any

import jwt
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings

from mcp_vega.server.http.access.oauth.claims import (
    BadClaim,
    client_of,
    require_times,
    resource_of,
    scopes_of,
    subject_of,
)
from mcp_vega.server.http.access.oauth.issuer import ALGORITHMS
from mcp_vega.server.http.access.oauth.keys import IssuerKeys
from mcp_vega.server.http.access.rejections import InvalidToken

# By how much the clocks of issuer and server may differ (s).
LEEWAY_SECONDS = 30
REQUIRED = ("exp", "iss", "aud", "sub")
# The types of a token that may be an access token. Many issuers use the general type, or none.
TYPES = ("at+jwt", "application/at+jwt", "jwt", "application/jwt")
# With these, a token brings its own key, or says where to get it: nobody but the issuer may say that.
KEYS_IN_TOKENS = ("jku", "jwk", "x5u", "x5c")
REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "its time has not come yet: compare the clocks of the issuer and of this server",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidSignatureError: "its signature is wrong",
}


class OAuthTokenVerifier:
    """The SDK's `TokenVerifier` for one issuer and one resource."""

    def __init__(self, settings: AuthSettings, resource: str, keys: IssuerKeys) -> None:
        self._issuer = str(settings.issuer_url)
        self._resource = resource
        self._keys = keys

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token says; None if it is not valid. Raises an `AuthUnavailable` as `verify` does."""
        try:
            return await self.verify(token)
        except InvalidToken:
            return None

    async def verify(self, token: str) -> AccessToken:
        """Return what a token says.

        Raises:
            InvalidToken: It is not a valid token of this issuer for this resource.
            AuthUnavailable: The issuer's keys are not known, and the issuer does not answer.
        """
        try:
            key = await self._keys.find(_key_name(jwt.get_unverified_header(token)))
            if key is None:
                raise BadClaim("it is signed with a key that its issuer does not have")
            claims = self._claims(token, key)
            return AccessToken(
                token=token,
                client_id=client_of(claims),
                scopes=scopes_of(claims),
                expires_at=int(claims["exp"]) + LEEWAY_SECONDS,
                resource=resource_of(claims, self._resource),
                subject=subject_of(claims),
                claims={"iss": self._issuer},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidToken(f"The access token is not valid: {_reason(error)}") from error

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        options: Any = {"require": [*REQUIRED], "verify_aud": False, "enforce_minimum_key_length": True}
        claims = jwt.decode(
            token, key, algorithms=[*ALGORITHMS], options=options, issuer=self._issuer, leeway=LEEWAY_SECONDS
        )
        require_times(claims)
        return claims


def _key_name(header: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the algorithm of the key that has signed a token.

    Raises:
        BadClaim: No token of an issuer has such a header.
    """
    algorithm, name = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise BadClaim(f"its alg is not one of {', '.join(ALGORITHMS)}")
    if not isinstance(name, str) or not name:
        raise BadClaim("it does not name its key (kid)")
    if found := [each for each in ("crit", *KEYS_IN_TOKENS) if each in header]:
        raise BadClaim(f"its header has {found[0]}, which is not allowed")
    if str(header.get("typ") or TYPES[0]).lower() not in TYPES:
        raise BadClaim("its typ is not that of an access token")
    return name, algorithm


def _reason(error: Exception) -> str:
    if isinstance(error, BadClaim):
        return str(error)
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it has no {error.claim}"
    return next((said for kind, said in REASONS.items() if isinstance(error, kind)), "it is not a signed JWT")
