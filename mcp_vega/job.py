"""A job: one paid call, from its beginning to its kept pictures or its error."""

import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self

from mcp_vega.errors import Charged, VegaError
from mcp_vega.parameters import Parameters

# What an id of a job or of a request looks like.
REQUEST_ID = "[A-Za-z0-9_-]{1,64}"
# The seeds that are drawn here have 15 digits, so that a call is known by its seed wherever that is written.
DRAWN_SEEDS = range(10**14, 10**15)
# More than any call draws; what a job has too many stands behind its own.
MOST_PICTURES = 100
# What the ledger calls the sandbox inside a server, whose port is another each time.
SANDBOX = "sandbox"
# The address of the store of pictures that ends with the server.
MEMORY = "memory"
# Who works at the machine itself: over stdio, on the command line, or over HTTP where no tokens are asked for. All
# jobs are theirs to see; an access token sees its own alone.
OPERATOR = ""


def new_id() -> str:
    """32 hex digits that nobody can guess."""
    return uuid.uuid4().hex


class Route(StrEnum):
    """How a job travels: v1 answers with the picture, v2 queues."""

    V1 = "v1"
    V2 = "v2"


class State(StrEnum):
    """The four states that the API documents, and that of a call whose outcome is not known (yet)."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self in (State.COMPLETED, State.FAILED)


@dataclass(frozen=True)
class Receipt:
    """What the API says about a call; None is unknown, never zero.

    `cost` and `credits_left` are US dollars, `seconds` is the time of the drawing on the API's machine.
    """

    request_id: str | None = None
    cost: Decimal | None = None
    credits_left: Decimal | None = None
    seconds: Decimal | None = None
    seed: int | None = None

    def or_else(self, other: "Receipt") -> "Receipt":
        """What either receipt knows; where both do, this one."""
        known = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(other, **known)


class ImageLocation(NamedTuple):
    """Where a picture lies: in which store, and under which key there.

    `store` is the store's address: the absolute path of a folder, or `MEMORY`. A name like "the gallery" would not do:
    when the setting changes, the pictures that are kept already stay where they are. `key` is a relative path with
    slashes, such as `2026-11-20/a-fox-7-0123abcd.jpg`.
    """

    store: str
    key: str

    @property
    def path(self) -> Path | None:
        """The absolute path of the picture's file; None where the store is no folder."""
        folder = Path(self.store)
        return folder / self.key if folder.is_absolute() else None


@dataclass(frozen=True, kw_only=True)
class Image:
    """A kept picture. `width` and `height` are pixels; `sha256` is that of the file.

    `fallback` says that it lies where it does because the first store would not take it, `starred` that somebody wants
    to keep it. Once its file was deleted from the gallery, `deleted` is when that was (UTC).
    """

    id: str
    location: ImageLocation
    fallback: bool = False
    mime_type: str
    width: int
    height: int
    bytes: int
    sha256: str
    starred: bool = False
    deleted: datetime | None = None

    @property
    def uri(self) -> str:
        """The picture's address as an MCP resource."""
        return f"vega://images/{self.id}"

    @property
    def path(self) -> Path | None:
        """The absolute path of its file; None where it has none."""
        return self.location.path

    @property
    def name(self) -> str:
        """What its file is called, or would be."""
        return PurePosixPath(self.location.key).name

    @property
    def in_memory(self) -> bool:
        """Whether no disk would take it, so that it ends with the server."""
        return self.location.store == MEMORY


@dataclass(frozen=True)
class Search:
    """How far the search for a call in the request history has come; all times are the API's own (UTC)."""

    earliest: datetime | None = None  # the call did not leave before; None where that is not sure
    latest: datetime | None = None  # it had left by then
    absent: datetime | None = None  # a look at the whole history, a day after that at least, first did not find it


@dataclass(frozen=True, kw_only=True)
class Job:
    """One paid call.

    Attributes:
        parameters: The recipe, with the seed that was really sent.
        arguments: What the caller gave, before the seed was drawn.
        route: How it travels.
        base_url: The API that draws it.
        account: What stands for the account there that pays for it.
        owner: Who began it: `OPERATOR`, or what stands for an access token.
        created: When it was begun; `sent` when its call last left (None: it surely has not), `ended` when it came to
            its end, `next_try` when it is to be tried again (UTC).
        open: Whether more can be learnt or fetched, at the latest at the next start.
        held: Whether a server is working on it.
        notes: What is worth knowing about it beside its state.
        error: What it failed with, or why its outcome is not known.
        search: How its call is being looked for, where its answer was lost.
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
        """A new job. A seed of -1 is drawn here, so that the picture can be made again and the call be found again."""
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
        """Whether its seed was drawn here, so that no other call has it unless it was copied."""
        return bool(self.arguments) and self.arguments.get("seed", -1) == -1

    @property
    def request_id(self) -> str:
        """The id that users see: the API's once it is known."""
        return self.remote_id or self.local_id

    @property
    def uri(self) -> str:
        """The job's address as an MCP resource."""
        return self.uris[0]

    @property
    def uris(self) -> tuple[str, ...]:
        """All addresses that it has, by the id that users see and by the one it had before that was known."""
        return tuple(f"vega://jobs/{each}" for each in dict.fromkeys((self.request_id, self.local_id)))

    def is_shown_to(self, owner: str) -> bool:
        """Whether it is one that they may know of."""
        return owner in (OPERATOR, self.owner)

    @property
    def accepted(self) -> bool:
        """Whether the API has given it an id, or it has left the queue."""
        return self.remote_id is not None or self.state is not State.QUEUED

    @property
    def complete(self) -> bool:
        """Whether all its pictures are here."""
        return self.state is State.COMPLETED and len(self.images) >= self.parameters.pictures

    @property
    def done(self) -> bool:
        """Whether there is nothing more to wait for: it is complete, or nothing more can be learnt."""
        return self.complete or not self.open

    @property
    def has_outcome(self) -> bool:
        """Whether there is something to say about how it ended, be it that this is not known."""
        return self.state.finished or self.error is not None

    @property
    def charged(self) -> Charged:
        """Whether it was paid for, as far as that is known."""
        if self.error:
            return self.error.charged
        return Charged.YES if self.state is State.COMPLETED else Charged.UNKNOWN

    @property
    def problem(self) -> VegaError | None:
        """Its error in the words of this moment: what is being done about it, or can be."""
        error = self.error
        if error is None:
            return None
        said = "; ".join(dict.fromkeys((error.what, *self.notes)))
        if not self.open:
            return error.reworded(said)
        asking = f"all check_job with the request_id {self.request_id}"
        if not self.held:
            step = f"{error.next_step}; or c{asking} to have it looked up again"
        elif error.charged is Charged.UNKNOWN:
            step = f"C{asking} in about a minute to see how it ended. Do not repeat the call"
        else:
            step = f"{error.next_step}; or c{asking} in about a minute: its picture is being looked for"
        return error.reworded(said, step)

    @property
    def model(self) -> str:
        """The model's slug."""
        return self.parameters.slug

    @property
    def seed(self) -> int:
        """The seed of the first picture: the API's word where it gave one, else the one that was sent."""
        return self.parameters.seed if self.receipt.seed is None else self.receipt.seed

    def age(self, now: datetime) -> float:
        """Seconds since its call was sent or, if it was not, since it was begun; never less than 0."""
        sent, latest = self.sent or self.created, self.search.latest
        return max((now - (min(sent, latest) if latest else sent)).total_seconds(), 0)

    def index_of(self, image: Image) -> int:
        """Which of its pictures one is, from 0; `MOST_PICTURES` where it is none."""
        return next((index for index in range(MOST_PICTURES) if self.image_id(index) == image.id), MOST_PICTURES)

    def in_order(self, images: Iterable[Image]) -> tuple[Image, ...]:
        """Pictures of it in the order in which they were asked for, however they arrived."""
        return tuple(sorted(images, key=self.index_of))

    def image_id(self, index: int) -> str:
        """The id of its picture number `index`, from 0: always the same, so that none is kept twice."""
        return sha256(f"{self.local_id}/{index}".encode()).hexdigest()[:32]


class JobImage(NamedTuple):
    """A kept picture and the job that it is one of."""

    job: Job
    image: Image
