"""One line of the doctor's page."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check came out; a note is neither good nor bad."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True)
class Check:
    """One line of the page: what was looked at, how it is and, where that is not good, what to do about it."""

    name: str
    state: State
    detail: str
    mend: str = ""


def unknown(name: str, reason: str) -> Check:
    """A check that another one stands in the way of."""
    return Check(name, State.NOTE, f"not known, see {reason}")
