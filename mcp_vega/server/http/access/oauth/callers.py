"""The callers whom an issuer has signed in."""

from collections.abc import Sequence

from mcp.server.auth.provider import AccessToken
from mcp.server.auth.routes import build_resource_metadata_url, create_protected_resource_routes
from mcp.server.auth.settings import AuthSettings
from starlette.routing import Route

from mcp_vega.errors import LedgerError, UnknownImage
from mcp_vega.server.http.access.callers import Caller, Callers, hash_of, owner_with
from mcp_vega.server.http.access.oauth.keys import IssuerKeys
from mcp_vega.server.http.access.oauth.verifier import OAuthTokenVerifier
from mcp_vega.server.http.access.rejections import (
    AuthUnavailable,
    InsufficientScope,
    InvalidLink,
    InvalidToken,
    MissingToken,
    RequestRejected,
)
from mcp_vega.storage.gallery import Gallery

METADATA_PATH = "/.well-known/oauth-protected-resource"


def auth_settings(issuer: str, resource: str, scopes: Sequence[str]) -> AuthSettings:
    """Return the SDK's settings of a resource server."""
    return AuthSettings.model_validate(
        {
            "issuer_url": issuer,
            "resource_server_url": resource,
            "required_scopes": [*scopes] or None,
            "validate_token_resource": True,
        }
    )


class OAuthCallers(Callers):
    """The `Callers` with access tokens of an issuer. None of them is the operator."""

    can_sign_in = False

    def __init__(self, settings: AuthSettings, keys: IssuerKeys, gallery: Gallery) -> None:
        if settings.resource_server_url is None:
            raise ValueError("a resource server has a URL")
        resource = settings.resource_server_url
        self._issuer, self._scopes = str(settings.issuer_url), settings.required_scopes or []
        self._resource = resource
        self._verifier = OAuthTokenVerifier(settings, str(resource), keys)
        self._gallery = gallery
        self._metadata_url = str(build_resource_metadata_url(resource))
        (route,) = create_protected_resource_routes(
            resource, [settings.issuer_url], settings.required_scopes, "mcp-vega"
        )
        # Clients that know only the server's host look at the second path.
        self.routes = (route, Route(METADATA_PATH, route.endpoint, methods=["GET", "OPTIONS"]))

    @property
    def required(self) -> bool:
        """Whether a request must show who its caller is."""
        return True

    async def with_token(self, token: str) -> Caller:
        """Return the caller with an access token.

        Raises:
            InvalidToken: The token is not valid.
            InsufficientScope: It lacks a scope.
            AuthUnavailable: It cannot be checked now.
        """
        access = await self._verifier.verify(token.strip(" \t"))
        missing = [each for each in self._scopes if each not in access.scopes]
        if missing:
            raise InsufficientScope(f"The access token does not have the scope {' '.join(missing)}")
        return _caller(owner_with(self._issuer, access.subject or ""), access)

    async def signers(self, image_id: str | None = None) -> Sequence[Caller]:
        """Return the callers for whom a link to a picture can have been made: its owner. There are no cookies.

        Raises:
            AuthUnavailable: The ledger cannot be read.
        """
        if image_id is None:
            return []
        try:
            owner = (await self._gallery.find(image_id)).job.owner
        except UnknownImage:
            return []
        except LedgerError as error:
            raise AuthUnavailable("The ledger cannot be read, so this link cannot be checked") from error
        return [_caller(owner)] if owner.startswith(owner_with(self._issuer, "")) else []

    def explained(self, error: RequestRejected) -> RequestRejected:
        """Return an error with what an MCP client needs to get a token."""
        match error:
            case MissingToken():
                step = (
                    "Sign in with an MCP client that supports OAuth. It finds the issuer in "
                    f"{self._metadata_url} and sends its tokens in the header `Authorization: Bearer TOKEN`"
                )
                return self._challenged(error.reworded(error.what, step))
            case InvalidToken():
                step = f"Sign in again. The token must be from {self._issuer}, for {self._resource}"
                return self._challenged(error.reworded(error.what, step), "invalid_token")
            case InsufficientScope():
                return self._challenged(error, "insufficient_scope")
            case InvalidLink():
                return error.reworded("This link to a picture was changed, or there is no such picture")
            case _:
                return error

    def _challenged(self, error: RequestRejected, code: str = "") -> RequestRejected:
        fields = {"error": code, "scope": " ".join(self._scopes), "resource_metadata": self._metadata_url}
        said = ", ".join(f'{name}="{value}"' for name, value in fields.items() if value)
        error.headers = {"www-authenticate": f"Bearer {said}"}
        return error


def _caller(owner: str, access: AccessToken | None = None) -> Caller:
    """Return a caller. Their identity does not depend on the token, so their links outlast it."""
    identity = hash_of(owner)
    # The token itself is needed no more.
    return Caller(owner, identity, access and access.model_copy(update={"token": identity}))
