"""Who the callers of the server over HTTP are, and which owner's jobs and pictures are theirs."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from mcp_vega.job import OPERATOR
from mcp_vega.redaction import is_visible

if TYPE_CHECKING:  # the commands that need only names do not wait for these imports
    from mcp.server.auth.provider import AccessToken
    from starlette.routing import Route

    from mcp_vega.server.http.access.rejections import RequestRejected

# The form of the owner of a token without a name: the hash of the token. No name may have this form.
HASH = re.compile("[0-9a-fA-F]{32}")
NAME = re.compile(r"[\w.@+-]{1,64}")
# The URL of an issuer of OAuth. It has no #, so the first # in an owner is the one before the subject.
_ISSUER = re.compile('https?://[!"$-~]{1,500}')
_LONGEST_SUBJECT = 255


@dataclass(frozen=True)
class Caller:
    """A caller.

    Attributes:
        owner: The owner whose jobs and pictures the caller sees: a name, the hash of a token without a name, issuer and
            subject of OAuth, or `OPERATOR`, who sees all.
        identity: A hash of what proves who the caller is. If it changes, earlier links and cookies of the caller are no
            longer valid.
        access_token: What a token of OAuth says; None for other callers, and for the caller of a link.
    """

    owner: str
    identity: str
    access_token: "AccessToken | None" = field(default=None, compare=False, repr=False)


class Callers(Protocol):
    """Finds the caller of a request.

    Attributes:
        routes: Routes that everybody may ask, from any web page: they say how to get a token.
        can_sign_in: Whether people can sign in to the gallery's page.
    """

    routes: "Sequence[Route]" = ()
    can_sign_in: bool = True

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

    def explained(self, error: "RequestRejected") -> "RequestRejected":
        """Return an error with the next step and the headers for these callers."""
        return error


def hash_of(text: str) -> str:
    """Return the hash of a text, such as a token: 32 hex digits. It does not reveal a long random text."""
    return sha256(f"mcp-vega {text}".encode(errors="surrogatepass")).hexdigest()[:32]


def name_of(owner: str) -> str | None:
    """Return an owner's name; None for the operator, and for the owner of a token without a name."""
    return None if owner == OPERATOR or HASH.fullmatch(owner) else owner


def owner_with(issuer: str, subject: str) -> str:
    """Return the owner of the jobs of an issuer's subject."""
    return f"{issuer}#{subject}"


def is_owner(text: str) -> bool:
    """Whether a text can be the owner of a caller's jobs: a name, the hash of a token, or issuer and subject."""
    issuer, _, subject = text.partition("#")
    return bool(NAME.fullmatch(text)) or (bool(_ISSUER.fullmatch(issuer)) and is_subject(subject))


def is_subject(text: str) -> bool:
    """Whether a text can be the subject of an issuer.

    Every character must be visible, or a single space between two others. So no two subjects look the same only because
    of something invisible, and none controls a terminal.
    """
    is_short = 0 < len(text) <= _LONGEST_SUBJECT
    is_shown = all(each == " " or is_visible(each) for each in text) and " ".join(text.split()) == text
    return is_short and is_shown and unicodedata.is_normalized("NFC", text)
