"""How a call ended."""

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from mcp_vega.cli.draw.arguments import Call
from mcp_vega.errors import VegaError
from mcp_vega.server.results.records import error_data
from mcp_vega.storage.ledger.spending import dollars


class Problem(NamedTuple):
    """An error in words, and as JSON."""

    text: str
    data: dict[str, str]

    @classmethod
    def of(cls, error: VegaError) -> "Problem":
        """An error of this command."""
        return cls(error.text, error_data(error))


@dataclass
class Picture:
    """A picture of a call.

    Attributes:
        id: Its id.
        name: The name of its file in the gallery.
        kept: Its file in the gallery; None if it is in a bucket, or no disk took it.
        address: Its address in a bucket; empty if it is not in one.
        data: Its bytes, if it has no file.
        written: The place to name: the copy that was asked for, else the one in the gallery; None if there is neither.
    """

    id: str
    name: str
    kept: Path | None
    address: str = ""
    data: bytes | None = None
    written: Path | str | None = None

    def read(self) -> bytes:
        """Its bytes. Raises an `OSError` if they cannot be read."""
        if self.data is not None:
            return self.data
        if self.kept is None:
            raise OSError(f"it could not be read from {self.address}" if self.address else "no disk has it")
        return self.kept.read_bytes()


@dataclass
class Outcome:
    """How a call ended.

    Attributes:
        call: The call.
        job: What the result says of its job, as JSON; None if the call failed.
        pictures: Its pictures.
        notes: What is worth knowing about it, one line each.
        limit: The line about the spending limit; empty if there is none.
        problems: What went wrong.
    """

    call: Call
    job: dict[str, Any] | None = None
    pictures: list[Picture] = field(default_factory=list[Picture])
    notes: list[str] = field(default_factory=list[str])
    limit: str = ""
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def files(self) -> list[Path | str]:
        """The files or addresses to name, one for each picture that has one."""
        return [picture.written for picture in self.pictures if picture.written]

    @property
    def data(self) -> dict[str, Any]:
        """It as JSON."""
        error = {"error": self.problems[0].data} if self.problems else {}
        if self.job is None:
            return {"prompt": self.call.arguments["prompt"], **error}
        return {**self.job, "files": [str(file) for file in self.files], **error}

    def facts(self, *, pretend: bool) -> list[str]:
        """What it cost and its seed: for the call and its first picture, then one for each further picture."""
        if self.job is None:
            return []
        cost, seed, drawn = self.job["cost_usd"], self.job["seed"], len(self.job["images"])
        amount = "cost unknown" if cost is None else dollars(Decimal(str(cost)), pretend=pretend)
        first = f"{amount}{f' for {drawn} pictures' if drawn > 1 else ''}, seed {seed}"
        return [first, *(f"picture {number} of {drawn}, seed {seed}" for number in range(2, len(self.pictures) + 1))]
