"""Which variables can be set together."""

from collections.abc import Set as AbstractSet

from mcp_vega.errors import InvalidSettings

LOCAL = "MCP_VEGA_LOCAL"
# Two names for the same thing, two ways to find out who a caller is, or two places to draw. An engine of this machine
# is no engine of a team: the team's servers use one by SEGMIND_BASE_URL.
ALTERNATIVES = (
    ("MCP_VEGA_SANDBOX", LOCAL),
    (LOCAL, "MCP_VEGA_LEDGER"),
    ("SEGMIND_API_KEY", "SEGMIND_API_KEY_FILE"),
    ("MCP_VEGA_AUTH_TOKENS", "MCP_VEGA_AUTH_TOKENS_FILE"),
    ("MCP_VEGA_AUTH_TOKENS", "MCP_VEGA_OAUTH_ISSUER"),
    ("MCP_VEGA_AUTH_TOKENS_FILE", "MCP_VEGA_OAUTH_ISSUER"),
)
# The first of these variables has no meaning without the second.
NEEDED = (
    ("MCP_VEGA_OAUTH_ISSUER", "MCP_VEGA_OAUTH_RESOURCE"),
    ("MCP_VEGA_OAUTH_RESOURCE", "MCP_VEGA_OAUTH_ISSUER"),
    ("MCP_VEGA_OAUTH_SCOPES", "MCP_VEGA_OAUTH_ISSUER"),
)


def require_consistent(names: AbstractSet[str]) -> None:
    """Check that the variables that are set go together.

    Raises:
        InvalidSettings: Two of them exclude each other, or one needs another one that is not set.
    """
    for first, second in ALTERNATIVES:
        if {first, second} <= names:
            both, step = f"The environment variables {first} and {second} are both set", "Unset one of them"
            if LOCAL in {first, second}:
                both, step = f"{both} ({LOCAL} also by --local)", f"{step}, or leave out --local"
            raise InvalidSettings(both, next_step=step)
    for first, second in NEEDED:
        if first in names and second not in names:
            raise InvalidSettings(
                f"The environment variable {first} is set, and {second} is not", next_step=f"Set {second} as well"
            )
