"""Who the callers over HTTP are: those with access tokens, or those whom an issuer has signed in."""

from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.server.http.access.tokens import callers_of
from mcp_vega.settings import Settings


def token_callers(settings: Settings) -> list[Caller]:
    """The callers with access tokens.

    Raises:
        InvalidSettings: An entry cannot be used. The error shows no part of an entry.
    """
    if settings.auth_tokens_file:
        source = f"The file {settings.auth_tokens_file}, which MCP_VEGA_AUTH_TOKENS_FILE names,"
        return callers_of(settings.auth_tokens, source)
    return callers_of(settings.auth_tokens)


def oauth_callers(settings: Settings, app: AppContext) -> Callers:
    """The callers whom the issuer has signed in."""
    from mcp_vega.server.http.access.oauth.callers import OAuthCallers, auth_settings
    from mcp_vega.server.http.access.oauth.keys import IssuerKeys

    auth = auth_settings(settings.oauth_issuer, settings.oauth_resource, settings.oauth_scopes)
    return OAuthCallers(auth, IssuerKeys(settings.oauth_issuer), app.gallery)
