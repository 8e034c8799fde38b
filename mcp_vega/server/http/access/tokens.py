"""Callers with access tokens, as MCP_VEGA_AUTH_TOKENS lists them."""

import hmac
import re
from collections.abc import Sequence

from pydantic import SecretStr

from mcp_vega.errors import InvalidSettings
from mcp_vega.job import OPERATOR
from mcp_vega.server.http.access.callers import HASH, NAME, Caller, Callers, hash_of
from mcp_vega.server.http.access.rejections import InvalidToken

# The characters that a header can carry.
TOKEN = re.compile("[!-~]+")
# A shorter token can be guessed, even if it is random.
SAFE_LENGTH = 16


def callers_of(
    entries: Sequence[SecretStr], source: str = "The environment variable MCP_VEGA_AUTH_TOKENS"
) -> list[Caller]:
    """Return the callers in a list. An entry is `token` or `name:token`; a name may have several tokens.

    Errors name the `source` of the list.

    Raises:
        InvalidSettings: An entry has neither form, or two callers have the same token. The error shows no part of an
            entry.
    """
    owners: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        name, token = _parts(entry)
        if name is not None and (not NAME.fullmatch(name) or HASH.fullmatch(name)):
            rule = "use 1 to 64 letters, digits and _.@+-, but not 32 hex digits"
            raise _unusable(source, number, f"the part before the first colon is not a valid name: {rule}")
        if not TOKEN.fullmatch(token):
            raise _unusable(source, number, "its token is empty or cannot be sent: use letters, digits and punctuation")
        owner = hash_of(token) if name is None else name
        if owners.setdefault(token, owner) != owner:
            raise _unusable(source, number, "its token already belongs to another caller")
    return [caller_with(token, owner) for token, owner in owners.items()]


def has_short_token(entries: Sequence[SecretStr]) -> bool:
    """Whether a token in a list, as `callers_of` takes it, can be guessed."""
    return any(len(_parts(entry)[1]) < SAFE_LENGTH for entry in entries)


def _parts(entry: SecretStr) -> tuple[str | None, str]:
    """Return the name in an entry, or None, and its token."""
    first, colon, rest = entry.get_secret_value().partition(":")
    return (first, rest) if colon else (None, first)


def _unusable(source: str, number: int, why: str) -> InvalidSettings:
    return InvalidSettings(f"{source} cannot be used: in entry {number}, {why}")


def caller_with(token: str, owner: str) -> Caller:
    """Return the caller with an access token."""
    return Caller(owner, hash_of(token))


# The caller of every request if the server asks for no tokens. No request can have an empty token.
ANYONE = caller_with("", OPERATOR)


class TokenCallers(Callers):
    """The `Callers` who have an access token. If there are none, everybody may use the server, as its operator."""

    def __init__(self, callers: Sequence[Caller] = ()) -> None:
        self._callers = tuple(callers)
        self._required = bool(callers)

    def replace(self, callers: Sequence[Caller]) -> None:
        """Accept only these callers from the next request on. Earlier links and cookies of the others end as well."""
        self._callers = tuple(callers)

    @property
    def required(self) -> bool:
        """Whether a request must show who its caller is. This never changes."""
        return self._required

    async def with_token(self, token: str) -> Caller:
        """Return the caller with an access token. Raises `InvalidToken` if there is none."""
        given = hash_of(token.strip(" \t"))
        # All are compared, each to its end, so that the time reveals nothing.
        found = [each for each in self._callers if hmac.compare_digest(each.identity, given)]
        if not found:
            raise InvalidToken("The request has an access token that the server does not know")
        return found[0]

    async def signers(self, image_id: str | None = None) -> Sequence[Caller]:  # noqa: ARG002  any of them may have signed
        """Return the callers for whom a signature can have been made."""
        return self._callers if self._required else (ANYONE,)
