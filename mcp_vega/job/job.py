"""A job: one call, from its start until its pictures are kept or it has failed."""

import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple, Self

from mcp_vega.errors import Charged, VegaError
from mcp_vega.job.free import of_free_call
from mcp_vega.job.image import Image
from mcp_vega.job.receipt import Receipt
from mcp_vega.parameters import Parameters

# The form of a job's id and of a request's id.
REQUEST_ID = "[A-Za-z0-9_-]{1,64}"
# Seeds that are drawn here have 15 digits, so that the seed identifies the call wherever it is written.
DRAWN_SEEDS = range(10**14, 10**15)
# More than any call draws. Pictures that a call did not ask for come after those that it did.
MOST_PICTURES = 100
# The ledger's names for the sandbox and for the engine on this machine, whose ports change at every start.
SANDBOX, LOCAL = "sandbox", "local"
# The owner of calls over stdio, on the command line, or over HTTP without tokens. Only the operator sees all jobs.
OPERATOR = ""


def new_id() -> str:
    """A random id: 32 hex digits that nobody can guess."""
    return uuid.uuid4().hex


class Route(StrEnum):
    """The version of the API that a call uses: v1 answers with the picture, v2 queues the call."""

    V1 = "v1"
    V2 = "v2"


class State(StrEnum):
    """The four states that the API documents, and UNKNOWN: how the call ended is not known, or not yet."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        """Whether this state is final."""
        return self in (State.COMPLETED, State.FAILED)


@dataclass(frozen=True)
class Search:
    """How far the search for a call in the request history has come. All times are by the API's clock (UTC)."""

    earliest: datetime | None = None  # the call was not sent before this; None if that is not certain
    latest: datetime | None = None  # the call had been sent by then
    absent: datetime | None = None  # when the complete history first lacked the call, at least a day after `latest`


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of the API, or of an engine of the user's own.

    Attributes:
        parameters: The recipe, with the seed that was sent.
        arguments: The arguments of the caller, before the seed was drawn.
        route: Whether its call uses v1 or v2 of the API.
        base_url: The API that draws it.
        account: The ledger's id of the API account that pays for it.
        owner: Who began it: `OPERATOR`, or the name or hash of an access token.
        created: When it began. All times are in UTC.
        sent: When its call was last sent. None means that the call was certainly not sent.
        ended: When it ended; `next_try`: when a server tries again.
        open: Whether a server may still find out or fetch something, at the latest at its next start.
        held: Whether a server is working on it.
        notes: What users should know besides its state.
        error: Why it failed, or why its outcome is not known.
        search: The search for its call, if the answer was lost.
    """

    parameters: Parameters
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    route: Route
    base_url: str
    account: str = ""
    owner: str = OPERATOR
    created: datetime
    sent: datetime | None = None
    ended: datetime | None = None
    next_try: datetime | None = None
    local_id: str = field(default_factory=lambda: f"local-{new_id()}")
    remote_id: str | None = None
    state: State = State.QUEUED
    open: bool = True
    held: bool = False
    receipt: Receipt = field(default_factory=Receipt)
    images: tuple[Image, ...] = ()
    notes: tuple[str, ...] = ()
    error: VegaError | None = None
    search: Search = Search()

    @classmethod
    def of_call(cls, parameters: Parameters, **facts: Any) -> Self:
        """A new job. A seed of -1 is drawn here, so that the picture can be repeated and the call can be found."""
        given = parameters.model_dump(mode="json", exclude_unset=True)
        if parameters.seed == -1:
            parameters = parameters.model_copy(update={"seed": DRAWN_SEEDS[secrets.randbelow(len(DRAWN_SEEDS))]})
        return cls(parameters=parameters, arguments=given, **facts)

    @property
    def asked(self) -> Parameters:
        """The recipe before the seed was drawn."""
        return self.parameters.model_copy(update={"seed": -1}) if self.drew_seed else self.parameters

    @property
    def drew_seed(self) -> bool:
        """Whether its seed was drawn here. No other call has this seed, unless somebody copied it."""
        return bool(self.arguments) and self.arguments.get("seed", -1) == -1

    @property
    def request_id(self) -> str:
        """The id that users see: the API's once that is known, else the local one."""
        return self.remote_id or self.local_id

    @property
    def uri(self) -> str:
        """The job's address as an MCP resource."""
        return self.uris[0]

    @property
    def uris(self) -> tuple[str, ...]:
        """All its addresses as MCP resources: by the id that users see, and by the local id."""
        return tuple(f"vega://jobs/{each}" for each in dict.fromkeys((self.request_id, self.local_id)))

    def is_shown_to(self, owner: str) -> bool:
        """Whether this owner may see the job."""
        return owner in (OPERATOR, self.owner)

    @property
    def accepted(self) -> bool:
        """Whether the API has given it an id, or it has left the queue."""
        return self.remote_id is not None or self.state is not State.QUEUED

    @property
    def complete(self) -> bool:
        """Whether all its pictures are kept."""
        return self.state is State.COMPLETED and len(self.images) >= self.parameters.pictures

    @property
    def in_memory(self) -> bool:
        """Whether one of its pictures is only in a server's memory."""
        return any(image.in_memory for image in self.images)

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for: it is complete, or the server can find out nothing more."""
        return self.complete or not self.open

    @property
    def has_outcome(self) -> bool:
        """Whether it has finished or has an error. The error may say that the outcome is not known."""
        return self.state.finished or self.error is not None

    @property
    def is_free(self) -> bool:
        """Whether its call certainly costs nothing: an engine of the user's own draws it, and not the API."""
        return self.base_url == LOCAL or self.receipt.cost == 0

    @property
    def drawn_by(self) -> str:
        """What draws it instead of the API: `SANDBOX`, or `LOCAL` for an engine of the user's own; else empty."""
        return SANDBOX if self.base_url == SANDBOX else LOCAL if self.is_free else ""

    @property
    def cost(self) -> Decimal | None:
        """What it cost in US dollars; None if that is not known."""
        return Decimal(0) if self.is_free else self.receipt.cost

    @property
    def expected_cost(self) -> Decimal:
        """What it is likely to cost in US dollars, before the API reports it."""
        return Decimal(0) if self.is_free else self.parameters.expected_cost

    @property
    def charged(self) -> Charged:
        """Whether the user paid for it, as far as that is known."""
        if self.is_free:
            return Charged.NO
        if self.error:
            return self.error.charged
        return Charged.YES if self.state is State.COMPLETED else Charged.UNKNOWN

    @property
    def problem(self) -> VegaError | None:
        """Its error, with the step that helps now. The step depends on whether a server is still working on the job."""
        error = self.error
        if error is None:
            return None
        repeat = "" if self.is_free else ". Do not repeat the call"
        is_unknown = error.charged is Charged.UNKNOWN
        error = of_free_call(error) if self.is_free else error
        message = "; ".join(dict.fromkeys((error.what, *self.notes)))
        if not self.open:
            return error.reworded(message)
        asking = f"all check_job with the request_id {self.request_id}"
        if not self.held:
            step = f"{error.next_step}; or c{asking} to look it up again"
        elif is_unknown:
            step = f"C{asking} in about a minute to see how it ended{repeat}"
        else:
            step = f"{error.next_step}; or c{asking} in about a minute: the server is looking for its picture"
        return error.reworded(message, step)

    @property
    def model(self) -> str:
        """The model's slug."""
        return self.parameters.slug

    @property
    def seed(self) -> int:
        """The seed of the first picture: the one that the API reported, else the one that was sent."""
        return self.parameters.seed if self.receipt.seed is None else self.receipt.seed

    def age(self, now: datetime) -> float:
        """Seconds since its call was sent. If it was not sent: seconds since the job began. Never less than 0."""
        sent, latest = self.sent or self.created, self.search.latest
        return max((now - (min(sent, latest) if latest else sent)).total_seconds(), 0)

    def index_of(self, image: Image) -> int:
        """The number of a picture in this job, from 0; `MOST_PICTURES` if it has no number."""
        return next((index for index in range(MOST_PICTURES) if self.image_id(index) == image.id), MOST_PICTURES)

    def in_order(self, images: Iterable[Image]) -> tuple[Image, ...]:
        """Pictures of this job in the order of the request, whatever order they arrived in."""
        return tuple(sorted(images, key=self.index_of))

    def image_id(self, index: int) -> str:
        """The id of its picture number `index`, from 0. It never changes, so that no picture is kept twice."""
        return sha256(f"{self.local_id}/{index}".encode()).hexdigest()[:32]


class JobImage(NamedTuple):
    """A kept picture and its job."""

    job: Job
    image: Image
