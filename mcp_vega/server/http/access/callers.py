"""Who the callers of the server over HTTP are, and which owner's jobs and pictures are theirs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mcp_vega.job import OPERATOR

# The form of the owner of a token without a name: the hash of the token. No name may have this form.
HASH = re.compile("[0-9a-fA-F]{32}")
NAME = re.compile(r"[\w.@+-]{1,64}")


@dataclass(frozen=True)
class Caller:
    """A caller.

    Attributes:
        owner: The owner whose jobs and pictures the caller sees: a name, the hash of a token without a name, or
            `OPERATOR`, who sees all.
        identity: A hash of what proves who the caller is. If it changes, earlier links and cookies of the caller are no
            longer valid.
    """

    owner: str
    identity: str


class Callers(Protocol):
    """Finds the caller of a request."""

    @property
    def required(self) -> bool:
        """Whether a request must show who its caller is. If not, everybody is the operator."""
        ...

    async def with_token(self, token: str) -> Caller:
        """Return the caller with an access token. Raises a `RequestRejected` if there is none."""
        ...

    async def signers(self, image_id: str | None = None) -> Sequence[Caller]:
        """Return the callers for whom a signature can have been made: of a cookie, or of a link to a picture."""
        ...


def name_of(owner: str) -> str | None:
    """Return an owner's name; None for the operator, and for the owner of a token without a name."""
    return None if owner == OPERATOR or HASH.fullmatch(owner) else owner
