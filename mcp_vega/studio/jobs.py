"""A job: one paid call, from the moment it is begun to its kept pictures or its error."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mcp_vega.errors import VegaError
from mcp_vega.segmind.answers import Receipt, State
from mcp_vega.segmind.parameters import Parameters


def new_id() -> str:
    """32 hex digits that nobody can guess."""
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture in the gallery. `width` and `height` are pixels; `sha256` is that of the file."""

    id: str
    path: Path
    mime_type: str
    width: int
    height: int
    bytes: int
    sha256: str

    @property
    def uri(self) -> str:
        """The picture's address as an MCP resource."""
        return f"vega://images/{self.id}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One paid call. `parameters` carry the seed that was really sent; `note` says what a success lacks."""

    parameters: Parameters
    created: datetime
    local_id: str = field(default_factory=lambda: f"local-{new_id()}")
    remote_id: str | None = None
    state: State = State.QUEUED
    receipt: Receipt = field(default_factory=Receipt)
    images: tuple[Image, ...] = ()
    note: str = ""
    error: VegaError | None = None

    @property
    def request_id(self) -> str:
        """The id that users see: the API's once it is known."""
        return self.remote_id or self.local_id

    @property
    def begun(self) -> bool:
        """Whether the API has given it an id, or it has left the queue."""
        return self.remote_id is not None or self.state is not State.QUEUED

    @property
    def model(self) -> str:
        """The model's slug."""
        return self.parameters.slug

    @property
    def seed(self) -> int:
        """The seed of the first picture: the API's word where it gave one, else the one that was sent."""
        return self.parameters.seed if self.receipt.seed is None else self.receipt.seed
