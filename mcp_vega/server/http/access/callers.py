"""Who has an access token for the server over HTTP, and what belongs to whom."""

import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from pydantic import SecretStr

from mcp_vega.errors import InvalidSettings
from mcp_vega.job import OPERATOR

# What stands for a token whose caller has no name; so no name looks like that.
HASH = re.compile("[0-9a-fA-F]{32}")
NAME = re.compile(r"[\w.@+-]{1,64}")
# What a header can carry.
TOKEN = re.compile("[!-~]+")


@dataclass(frozen=True)
class Caller:
    """Somebody with an access token.

    Attributes:
        owner: Whose jobs and pictures are theirs: a name, the hash of a token without one, or `OPERATOR` for all.
        token: The access token.
    """

    owner: str
    token: SecretStr

    @cached_property
    def token_hash(self) -> str:
        """What stands for the token: 32 hex digits. A long random token cannot be had from it."""
        return _hash(self.token.get_secret_value())


def callers_of(entries: Sequence[SecretStr]) -> list[Caller]:
    """The callers whom MCP_VEGA_AUTH_TOKENS names, each as `token` or `name:token`; of a name there may be several.

    Raises:
        InvalidSettings: An entry is neither, or a token is given to two callers. No part of an entry is told.
    """
    owners: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        first, colon, rest = entry.get_secret_value().partition(":")
        name, token = (first, rest) if colon else (None, first)
        if name is not None and (not NAME.fullmatch(name) or HASH.fullmatch(name)):
            rule = "what stands before the first colon is no name: 1 to 64 letters, digits and _.@+-, not 32 hex digits"
            raise _unusable(number, rule)
        if not TOKEN.fullmatch(token):
            raise _unusable(number, "its token is empty or cannot be sent: use letters, digits and punctuation")
        owner = _hash(token) if name is None else name
        if owners.setdefault(token, owner) != owner:
            raise _unusable(number, "its token is another caller's already, and belongs to one alone")
    return [Caller(owner, SecretStr(token)) for token, owner in owners.items()]


def _unusable(number: int, why: str) -> InvalidSettings:
    return InvalidSettings(f"The environment variable MCP_VEGA_AUTH_TOKENS cannot be used: in entry {number}, {why}")


# Whose a request is where no tokens are asked for; no request can bring an empty one.
ANYONE = Caller(OPERATOR, SecretStr(""))


class Callers:
    """Those who may use a server; if there are none, that is everybody, as its operator."""

    def __init__(self, callers: Sequence[Caller] = ()) -> None:
        self._callers = tuple(callers)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._callers or (ANYONE,))

    def with_token(self, token: str) -> Caller | None:
        """Whose an access token is; None where it is nobody's."""
        given = _hash(token.strip(" \t"))
        # Each is compared, and each to its end, so that the time tells nothing.
        found = [each for each in self._callers if hmac.compare_digest(each.token_hash, given)]
        return found[0] if found else None


def name_of(owner: str) -> str | None:
    """The name of an owner who has one, and is not the operator."""
    return None if owner == OPERATOR or HASH.fullmatch(owner) else owner


def _hash(token: str) -> str:
    return sha256(f"mcp-vega {token}".encode(errors="surrogatepass")).hexdigest()[:32]
