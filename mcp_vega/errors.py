"""Every error that this package raises on purpose, as one tree.

Each knows what went wrong, whether the call was charged and what to do next, and has a code that programs can rely on:
its name in lower case, with underscores. docs/errors.md lists them for users, with those of single packages
(server/http/access/rejections.py, server/stdio/messages.py).

    VegaError
    ├── InvalidArguments, UnknownJob, UnknownImage           what was asked for
    ├── InvalidSettings (MissingKey, PortTaken)              how the server was started
    ├── SpendingLimitReached, TooManyCalls, ServerClosing    not now
    ├── InternalError, GalleryError, LedgerError             this machine
    └── SegmindError                                         the API, or the way to it
        ├── Refused: it said no before it drew (4xx)
        │   └── BadRequest, Unauthorized, InsufficientCredits, Forbidden, NotFound,
        │       MethodNotAllowed, NotAcceptable, Retired, RateLimited
        ├── GenerationFailed (ContentBlocked): it tried and failed
        ├── Unreachable, NeverRan, ServiceUnavailable
        └── OutcomeUnknown, UnreadableAnswer, MediaError: charged, or maybe
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

    `what` went wrong and the `next_step` are one sentence each, in words that a person understands. Each class has a
    default for the step, and for whether the call was `charged`.
    """

    code: ClassVar[str] = "vega_error"
    by_code: ClassVar[dict[str, type["VegaError"]]] = {}
    charged: Charged = Charged.NO
    next_step: str = "Try again"

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
    def from_code(cls, code: str, what: str, next_step: str, charged: Charged) -> "VegaError":
        """An error that was written down by its code, whatever its class takes to be made anew."""
        return _without_init(cls.by_code.get(code, VegaError), what=what, next_step=next_step, charged=charged)

    def reworded(self, what: str, next_step: str | None = None) -> Self:
        """The same error in other words; what else it knows it keeps."""
        return _without_init(type(self), **{**self.__dict__, "what": what, "next_step": next_step or self.next_step})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VegaError) and self._said == other._said

    def __hash__(self) -> int:
        return hash(self._said)

    @property
    def _said(self) -> tuple[type, str, str, Charged]:
        return type(self), self.what, self.next_step, self.charged

    @property
    def text(self) -> str:
        """The error in the three lines that every user and agent sees; its code ends the first."""
        what = self.what.rstrip(". ")
        lines = (f"Error: {what} ({self.code})", f"Charged: {self.charged}", f"Next: {self.next_step}")
        # One line each, whatever foreign text is in them, and nothing that UTF-8 cannot carry.
        said = "\n".join(" ".join(line.splitlines()).rstrip(". ") + "." for line in lines)
        return said.encode(errors="replace").decode()


def _without_init(kind: type[ErrorT], **attributes: Any) -> ErrorT:
    error = kind.__new__(kind, attributes["what"])
    error.__dict__.update(attributes)
    return error


class InvalidArguments(VegaError):  # noqa: N818  the names below say what happened; Error adds nothing
    """An argument is missing, unknown or out of range. Nothing was sent to the API."""

    next_step = "Correct the argument and call again"


class InvalidSettings(VegaError):  # noqa: N818
    """An environment variable cannot be used."""

    next_step = "Correct the variable and start the server again"


class MissingKey(InvalidSettings):
    """No API key is set."""

    next_step = (
        "Create a key at https://cloud.segmind.com/console/api-keys and set it as SEGMIND_API_KEY, for a host in the "
        "`env` block of this server's entry in its configuration; or use --sandbox to try it without a key"
    )


class PortTaken(InvalidSettings):
    """A port that was asked for cannot be listened on."""

    next_step = "Choose another with --port; 0 picks one"

    def __init__(self, host: str, port: int, error: OSError) -> None:
        # Python repeats the address behind the system's words.
        said = (error.strerror or str(error)).partition(" (while")[0]
        super().__init__(f"Port {port} on {host} cannot be had: {said}")


class UnknownJob(VegaError):  # noqa: N818
    """No job has this request id."""

    next_step = "Call check_job without a request_id to list the latest jobs"


class UnknownImage(VegaError):  # noqa: N818
    """No picture has this id."""

    next_step = "Use the URI from a result's `URI:` line"


class SpendingLimitReached(VegaError):  # noqa: N818
    """The call would pass the day's spending limit. Nothing was sent to the API."""

    next_step = "Call again after midnight UTC, or have the user raise MCP_VEGA_SPENDING_LIMIT_USD"


class TooManyCalls(VegaError):  # noqa: N818
    """Too many calls wait for their turn, or this one waited for too long. Nothing was sent to the API."""

    next_step = "Wait until those under way have ended (check_job without a request_id lists them), then call again"


class ServerClosing(VegaError):  # noqa: N818
    """The server is about to exit, or has ended, and the call was not sent."""

    next_step = "Call again when the server has been started anew"


class InternalError(VegaError):
    """The server broke: a defect of its own."""

    charged = Charged.UNKNOWN
    next_step = "Call check_job without a request_id to see which jobs there are before you repeat the call"


class GalleryError(VegaError):
    """The folder of the pictures cannot be written or read."""

    next_step = "Point MCP_VEGA_GALLERY at a folder that this user may write to"


class LedgerError(VegaError):
    """The ledger of the jobs cannot be written or read."""

    next_step = "Point MCP_VEGA_HOME at a folder that this user may write to"


class SegmindError(VegaError):
    """The API answered with an error, or could not be asked.

    `received` is what came in the place of a picture, where something did; `wait` is for how long the API asked to be
    left alone, where it did.
    """

    received: bytes = b""
    wait: timedelta | None = None

    def __init__(
        self, what: str, *, next_step: str | None = None, charged: Charged | None = None, received: bytes = b""
    ) -> None:
        super().__init__(what, next_step=next_step, charged=charged)
        self.received = received


class Refused(SegmindError):  # noqa: N818
    """The API said no before it drew anything."""

    next_step = "Read the API's words above and correct the call"


class BadRequest(Refused):
    """HTTP 400 or 422: the API did not accept the body or a parameter."""


class Unauthorized(Refused):
    """HTTP 401: the key is missing or not valid."""

    next_step = "Check SEGMIND_API_KEY; keys are listed at https://cloud.segmind.com/console/api-keys"


class InsufficientCredits(Refused):
    """HTTP 402 or 406: the account has too few credits, or its team's spending limit is reached."""

    next_step = "Add credits at https://cloud.segmind.com/billing, then call again"


class Forbidden(Refused):
    """HTTP 403: this account may not use the model."""

    next_step = "Ask Segmind for access to the model, or use the other one"


class NotFound(Refused):
    """HTTP 404: the API knows no such model or request id."""

    next_step = "Check the model's name and SEGMIND_BASE_URL"


class MethodNotAllowed(Refused):
    """HTTP 405: the address exists, but not for this kind of request."""

    next_step = "Check SEGMIND_BASE_URL"


class NotAcceptable(Refused):
    """HTTP 406 for another reason than credits: a wrong content type or parameter value."""


class Retired(Refused):
    """HTTP 410: the model is no longer served."""

    next_step = "Use the other model"


class RateLimited(Refused):
    """HTTP 429: too many requests."""

    next_step = "Wait a minute, then call again"


class GenerationFailed(SegmindError):  # noqa: N818
    """The API tried to draw and failed."""

    next_step = "Call again, perhaps with another prompt or seed"


class ContentBlocked(GenerationFailed):
    """The API would not draw this."""

    next_step = "Rephrase the prompt; the same words will be refused again"


class Unreachable(SegmindError):  # noqa: N818
    """No connection to the API could be made, or a proxy refused it, so nothing was sent."""

    next_step = "Check the network and SEGMIND_BASE_URL, then call again"
    repeatable: bool = True  # whether the same call may do better in a moment


class NeverRan(SegmindError):  # noqa: N818
    """A paid call was sent, no answer came, and the API's whole request history has no such call a day later."""

    next_step = "Call again"


class ServiceUnavailable(SegmindError):  # noqa: N818
    """The API could not answer a question that costs nothing, or did not take a call at the moment (HTTP 409)."""

    next_step = "Call again in a minute"


class OutcomeUnknown(SegmindError):  # noqa: N818
    """A paid call was sent, but whether it ran is not known. It is never sent again by itself."""

    charged = Charged.UNKNOWN
    next_step = "Look in your request history at https://cloud.segmind.com whether the call ran before you repeat it"


class UnreadableAnswer(SegmindError):  # noqa: N818
    """The API reported success, but what came is not a whole picture."""

    charged = Charged.YES
    next_step = "Look for the picture in your request history at https://cloud.segmind.com before you repeat the call"


class MediaError(SegmindError):
    """The picture was drawn, but could not be fetched. It stays at its address for seven days."""

    charged = Charged.YES
    next_step = "Call check_job with the job's request id within seven days"
