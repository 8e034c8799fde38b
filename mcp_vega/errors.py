"""Every error that this package raises on purpose, as one tree.

Each error says what went wrong, whether the call was charged, and what to do next. Programs can rely on its code, which
is the class name in lower case with underscores. docs/errors.md lists the errors for users. That list includes errors
that single packages define (server/http/access/rejections.py, server/stdio/messages.py).

    VegaError
    ├── InvalidArguments, UnknownJob, UnknownImage           the request is wrong
    ├── InvalidSettings (MissingKey, PortTaken)              the server's settings are wrong
    ├── SpendingLimitReached, TooManyCalls, ServerClosing    the call cannot be sent now
    ├── InternalError, GalleryError, LedgerError             a problem on this machine
    └── SegmindError                                         a problem of the API, or of the connection to it
        ├── Refused: the API refused the call before it drew anything (4xx)
        │   └── BadRequest, Unauthorized, InsufficientCredits, Forbidden, NotFound,
        │       MethodNotAllowed, NotAcceptable, Retired, RateLimited
        ├── GenerationFailed (ContentBlocked): the API tried to draw and failed
        ├── Unreachable, NeverRan, ServiceUnavailable
        └── OutcomeUnknown, UnreadableAnswer, MediaError: charged, or perhaps charged
"""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self, TypeVar

ErrorT = TypeVar("ErrorT", bound="VegaError")


class Charged(StrEnum):
    """Whether the user paid for a call."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class VegaError(Exception):
    """The root of the tree.

    `what` says what went wrong, and `next_step` says what to do. Each is one sentence that a person understands. Each
    class has a default for `next_step` and `charged`. If only the operator may see `what`, `public` is for others.
    """

    code: ClassVar[str] = "vega_error"
    by_code: ClassVar[dict[str, type["VegaError"]]] = {}
    charged: Charged = Charged.NO
    next_step: str = "Try again"
    public: str = ""

    def __init__(self, what: str, *, next_step: str | None = None, charged: Charged | None = None) -> None:
        super().__init__(what)
        self.what = what
        if next_step is not None:
            self.next_step = next_step
        if charged is not None:
            self.charged = charged

    def __init_subclass__(cls) -> None:
        cls.code = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        VegaError.by_code[cls.code] = cls

    @classmethod
    def from_code(cls, code: str, what: str, next_step: str, charged: Charged, public: str = "") -> "VegaError":
        """The error that was stored with this code. It does not call the class's constructor, which may differ."""
        attributes = {"what": what, "next_step": next_step, "charged": charged, "public": public}
        return _without_init(cls.by_code.get(code, VegaError), **attributes)

    def reworded(self, what: str, next_step: str | None = None) -> Self:
        """The same error with another text; all its other attributes are kept."""
        return _without_init(type(self), **{**self.__dict__, "what": what, "next_step": next_step or self.next_step})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VegaError) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[type, str, str, Charged]:
        return type(self), self.what, self.next_step, self.charged

    @property
    def text(self) -> str:
        """The three lines that users and agents see. The first line ends with the code."""
        lines = f"Error: {self.what.rstrip('. ')} ({self.code})", f"Charged: {self.charged}", f"Next: {self.next_step}"
        # Text from outside may contain line breaks, sequences for terminals, and characters that UTF-8 cannot encode.
        text = "\n".join(" ".join(line.splitlines()).rstrip(". ") + "." for line in lines)
        text = re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f]", lambda found: ascii(found[0])[1:-1], text)
        return text.encode(errors="replace").decode()


def _without_init(kind: type[ErrorT], **attributes: Any) -> ErrorT:
    error = kind.__new__(kind, attributes["what"])
    error.__dict__.update(attributes)
    return error


class InvalidArguments(VegaError):  # noqa: N818  the names below say what happened
    """An argument is missing, unknown or out of range. Nothing was sent to the API."""

    next_step = "Correct the argument and call again"


class InvalidSettings(VegaError):  # noqa: N818
    """An environment variable cannot be used."""

    next_step = "Correct the variable and start the server again"


class MissingKey(InvalidSettings):
    """No API key is set."""

    next_step = (
        "Create a key at https://cloud.segmind.com/console/api-keys and set SEGMIND_API_KEY to it. For a host, set it "
        "in the `env` block of this server's entry in the host's configuration. Or use --sandbox, which needs no key"
    )


class PortTaken(InvalidSettings):
    """The server cannot listen on the requested port."""

    next_step = "Choose another port with --port; 0 picks a free one"

    def __init__(self, host: str, port: int, error: OSError) -> None:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address to the system's text
        super().__init__(f"Port {port} on {host} is not available: {reason}")


class UnknownJob(VegaError):  # noqa: N818
    """No job has this request id."""

    next_step = "Call check_job without a request_id to list the latest jobs"


class UnknownImage(VegaError):  # noqa: N818
    """No picture has this id."""

    next_step = "Use the URI from a result's `URI:` line"


class SpendingLimitReached(VegaError):  # noqa: N818
    """The call would exceed the spending limit of the day. Nothing was sent to the API."""

    next_step = "Call again after midnight UTC, or ask the user to raise MCP_VEGA_SPENDING_LIMIT_USD"


class TooManyCalls(VegaError):  # noqa: N818
    """Too many calls are waiting to be sent, or this call waited too long. Nothing was sent to the API."""

    next_step = "Wait until calls in progress have ended (check_job without a request_id lists them), then call again"


class ServerClosing(VegaError):  # noqa: N818
    """The server is about to exit or has exited. The call was not sent."""

    next_step = "Call again when the server has been restarted"


class InternalError(VegaError):
    """The call failed because of a bug in this server."""

    charged = Charged.UNKNOWN
    next_step = "Call check_job without a request_id to see which jobs exist before you repeat the call"


class GalleryError(VegaError):
    """The folder of the pictures cannot be read or written."""

    next_step = "Set MCP_VEGA_GALLERY to a folder that this user may write to"


class LedgerError(VegaError):
    """The ledger, the database of all jobs, cannot be read or written."""

    next_step = "Set MCP_VEGA_HOME to a folder that this user may write to"


class SegmindError(VegaError):
    """The API answered with an error, or could not be reached.

    `received` is the data that the API sent instead of a picture, if any. `wait` is how long the API asked clients to
    wait, if it did.
    """

    received: bytes = b""
    wait: timedelta | None = None

    def __init__(
        self, what: str, *, next_step: str | None = None, charged: Charged | None = None, received: bytes = b""
    ) -> None:
        super().__init__(what, next_step=next_step, charged=charged)
        self.received = received


class Refused(SegmindError):  # noqa: N818
    """The API refused the call before it drew anything."""

    next_step = "Read the API's message above and correct the call"


class BadRequest(Refused):
    """HTTP 400 or 422: the API did not accept the body or a parameter."""


class Unauthorized(Refused):
    """HTTP 401: the key is missing or not valid."""

    next_step = "Check SEGMIND_API_KEY; keys are listed at https://cloud.segmind.com/console/api-keys"


class InsufficientCredits(Refused):
    """HTTP 402 or 406: the account has too few credits, or its team has reached its spending limit."""

    next_step = "Add credits at https://cloud.segmind.com/billing, then call again"


class Forbidden(Refused):
    """HTTP 403: this account may not use the model."""

    next_step = "Ask Segmind for access to the model, or use the other model"


class NotFound(Refused):
    """HTTP 404: the API does not know the model or the request id."""

    next_step = "Check the model's name and SEGMIND_BASE_URL"


class MethodNotAllowed(Refused):
    """HTTP 405: the address exists, but not for this kind of request."""

    next_step = "Check SEGMIND_BASE_URL"


class NotAcceptable(Refused):
    """HTTP 406 for a reason other than credits: a wrong content type or parameter value."""


class Retired(Refused):
    """HTTP 410: the API no longer offers the model."""

    next_step = "Use the other model"


class RateLimited(Refused):
    """HTTP 429: too many requests."""

    next_step = "Wait a minute, then call again"


class GenerationFailed(SegmindError):  # noqa: N818
    """The API tried to draw and failed."""

    next_step = "Call again, perhaps with another prompt or seed"


class ContentBlocked(GenerationFailed):
    """The API refused to draw this content."""

    next_step = "Rephrase the prompt; the API will refuse the same words again"


class Unreachable(SegmindError):  # noqa: N818
    """No connection to the API could be made, or a proxy refused it. Nothing was sent to the API."""

    next_step = "Check the network and SEGMIND_BASE_URL, then call again"
    repeatable: bool = True  # whether the same call may succeed shortly


class NeverRan(SegmindError):  # noqa: N818
    """A paid call was sent and no answer came. A day later, the API's complete request history had no such call."""

    next_step = "Call again"


class ServiceUnavailable(SegmindError):  # noqa: N818
    """The API did not answer a free request (such as for a job's state), or did not accept a call now (HTTP 409)."""

    next_step = "Call again in a minute"


class OutcomeUnknown(SegmindError):  # noqa: N818
    """A paid call was sent, but it is not known whether it ran. The server never repeats it by itself."""

    charged = Charged.UNKNOWN
    next_step = "Look for the call in your request history at https://cloud.segmind.com before you repeat it"


class UnreadableAnswer(SegmindError):  # noqa: N818
    """The API reported success, but did not send a complete picture."""

    charged = Charged.YES
    next_step = "Look for the picture in your request history at https://cloud.segmind.com before you repeat the call"


class MediaError(SegmindError):
    """The picture was drawn, but could not be downloaded. It stays at its address for seven days."""

    charged = Charged.YES
    next_step = "Call check_job with the job's request id within seven days"
