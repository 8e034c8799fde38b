"""One line of the doctor's page."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from mcp_vega.redaction import redacted
from mcp_vega.segmind.api_key import is_placeholder

# A shorter text is not a secret, and can be part of other words by chance.
SECRET_LENGTH = 4


class State(StrEnum):
    """How a check came out; a note is neither good nor bad."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True)
class Check:
    """One line of the page: the name of the check, what was found and, if that is not good, how to fix it."""

    name: str
    state: State
    detail: str
    fix: str = ""

    def without(self, secrets: Iterable[str]) -> Self:
        """The check without keys, tokens and control characters."""
        hidden = [*secrets]
        return replace(self, detail=without(self.detail, hidden), fix=without(self.fix, hidden))


def without(text: str, secrets: Iterable[str]) -> str:
    """A text without these secrets, other keys and control characters."""
    for secret in secrets:
        if len(secret.strip()) >= SECRET_LENGTH and not is_placeholder(secret):
            text = text.replace(secret.strip(), "…")
    return redacted("".join(each if each.isprintable() else " " for each in text))


def unknown(name: str, reason: str) -> Check:
    """A check that could not be made because another one failed."""
    return Check(name, State.NOTE, f"not known, see {reason}")
