"""One line of the doctor's page."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from mcp_vega.redaction import redacted
from mcp_vega.segmind.api_key import is_placeholder

# What is shorter is no secret, and stands in other words by chance.
SECRET_LENGTH = 4


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

    def without(self, secrets: Iterable[str]) -> Self:
        """The check whose words hold no key or token, whoever said them, and nothing that a terminal would obey."""
        hidden = [*secrets]
        return replace(self, detail=without(self.detail, hidden), mend=without(self.mend, hidden))


def without(text: str, secrets: Iterable[str]) -> str:
    """A text that holds no key or token, whoever said it, and nothing that a terminal would obey."""
    for secret in secrets:
        if len(secret.strip()) >= SECRET_LENGTH and not is_placeholder(secret):
            text = text.replace(secret.strip(), "…")
    return redacted("".join(each if each.isprintable() else " " for each in text))


def unknown(name: str, reason: str) -> Check:
    """A check that another one stands in the way of."""
    return Check(name, State.NOTE, f"not known, see {reason}")
