"""The callers of the server over HTTP: who has an access token, and which owner's jobs and pictures are theirs."""

import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from pydantic import SecretStr

from mcp_vega.errors import InvalidSettings
from mcp_vega.job import OPERATOR

# The form of the hash that is the owner of a token without a name. No name may have this form.
HASH = re.compile("[0-9a-fA-F]{32}")
NAME = re.compile(r"[\w.@+-]{1,64}")
# The characters that a header can carry.
TOKEN = re.compile("[!-~]+")


@dataclass(frozen=True)
class Caller:
    """A caller with an access token.

    Attributes:
        owner: The owner whose jobs and pictures the caller sees: a name, the hash of a token without a name, or
            `OPERATOR`, who sees all.
        token: The access token.
    """

    owner: str
    token: SecretStr

    @cached_property
    def token_hash(self) -> str:
        """The hash of the token: 32 hex digits. It does not reveal a long random token."""
        return _hash(self.token.get_secret_value())


def callers_of(entries: Sequence[SecretStr]) -> list[Caller]:
    """Return the callers in MCP_VEGA_AUTH_TOKENS. An entry is `token` or `name:token`; a name may have several tokens.

    Raises:
        InvalidSettings: An entry has neither form, or two callers have the same token. The error shows no part of an
            entry.
    """
    owners: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        first, colon, rest = entry.get_secret_value().partition(":")
        name, token = (first, rest) if colon else (None, first)
        if name is not None and (not NAME.fullmatch(name) or HASH.fullmatch(name)):
            rule = "use 1 to 64 letters, digits and _.@+-, but not 32 hex digits"
            raise _unusable(number, f"the part before the first colon is not a valid name: {rule}")
        if not TOKEN.fullmatch(token):
            raise _unusable(number, "its token is empty or cannot be sent: use letters, digits and punctuation")
        owner = _hash(token) if name is None else name
        if owners.setdefault(token, owner) != owner:
            raise _unusable(number, "its token already belongs to another caller")
    return [Caller(owner, SecretStr(token)) for token, owner in owners.items()]


def _unusable(number: int, why: str) -> InvalidSettings:
    return InvalidSettings(f"The environment variable MCP_VEGA_AUTH_TOKENS cannot be used: in entry {number}, {why}")


# The caller of every request if the server asks for no tokens. No request can have an empty token.
ANYONE = Caller(OPERATOR, SecretStr(""))


class Callers:
    """The callers who may use a server. If there are none, everybody may use it, as its operator."""

    def __init__(self, callers: Sequence[Caller] = ()) -> None:
        self._callers = tuple(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers or (ANYONE,))

    def with_token(self, token: str) -> Caller | None:
        """Return the caller with an access token; None if there is none."""
        given = _hash(token.strip(" \t"))
        # All are compared, each to its end, so that the time reveals nothing.
        found = [each for each in self._callers if hmac.compare_digest(each.token_hash, given)]
        return found[0] if found else None


def name_of(owner: str) -> str | None:
    """Return an owner's name; None for the operator, and for the owner of a token without a name."""
    return None if owner == OPERATOR or HASH.fullmatch(owner) else owner


def _hash(token: str) -> str:
    return sha256(f"mcp-vega {token}".encode(errors="surrogatepass")).hexdigest()[:32]
