"""Decides whether a row of the API's request history certainly is a job's call, and whether it may be.

These are two questions. A row certainly is the call only with proof. A row certainly is not the call only if it belongs
to another job, is from another time, or has both another prompt and another seed. Everything else is in doubt. A value
that is missing or written differently is not a difference: a user who is wrongly told that a call never ran pays again.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from mcp_vega.job import Job, State
from mcp_vega.parameters import MODELS
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.history_reader import ANY_TIME_ZONE
from mcp_vega.segmind.values import parse_number

# The time in a row may be that of the call, of the drawing or of its end.
DRAWN = timedelta(hours=1)
# If the clock was wrong when the call was sent, the search begins this long before the first look.
WRONG_CLOCK = timedelta(days=10)
# Numbers from this size on may be rounded, and then differ by less than this fraction.
LARGE, ROUNDING = Decimal(10**6), Decimal("1e-2")
# How many letters of two texts are compared; and from which similarity on they may be the same text.
COMPARED, ALIKE = 500, 0.5


@dataclass(frozen=True)
class TimeSpan:
    """When a job's call can have been sent (UTC). `known` means: by the API's clock, to within some minutes."""

    earliest: datetime
    latest: datetime
    known: bool

    @classmethod
    def of(cls, job: Job) -> "TimeSpan":
        """The time span of a job's call, as far as it is known."""
        search, sent = job.search, job.sent or job.created
        if search.earliest and search.latest:
            return cls(search.earliest, search.latest, known=True)
        latest = search.latest or sent
        # If the call was sent after the API's time at the first look, this machine's clock was ahead.
        return cls(sent if sent <= latest else latest - WRONG_CLOCK, latest, known=False)

    def contains(self, row: HistoryRow) -> bool | None:
        """Whether a row's call is from this time span; None if that is not certain."""
        if row.created is None:
            return None
        if self.known and row.names_zone:
            return self.earliest <= row.created <= self.latest + DRAWN
        near = self.earliest - ANY_TIME_ZONE <= row.created <= self.latest + ANY_TIME_ZONE
        return None if near else False

    def is_after(self, row: HistoryRow) -> bool:
        """Whether this time span is certainly after the call of a row."""
        return self.known and row.names_zone and row.created is not None and row.created < self.earliest


def is_call_of(row: HistoryRow, job: Job, *, copied: bool = False) -> bool:
    """Whether a row certainly is a job's call.

    A seed that was drawn here belongs to one job only. So it is proof enough anywhere in the row, unless it was
    `copied` into another job. If the caller chose the seed, the complete recipe and the time must match.
    """
    is_model = _is_model(row.model, job.model)
    if job.drew_seed:
        holds_seed = re.search(rf"(?<!\d){job.parameters.seed}(?!\d)", row.text) is not None
        return holds_seed and is_model is not False and (not copied or _matches(row, job, "prompt") is True)
    if not is_model or not all(_matches(row, job, name) for name in _recipe(job)):
        return False
    in_time = TimeSpan.of(job).contains(row)
    # If the time zone is not known or the clock was wrong, this may be another call with the same recipe. Its picture
    # is the same, so that does no harm. But if it failed, this job's call may not have failed.
    return in_time or (in_time is None and row.created is not None and row.state == State.COMPLETED)


def may_be_call_of(row: HistoryRow, job: Job) -> bool:
    """Whether a row that belongs to no other job may be a job's call, as far as the row shows."""
    if TimeSpan.of(job).contains(row) is False:
        return False
    return not (_matches(row, job, "seed") is False and _matches(row, job, "prompt") is False)


def _recipe(job: Job) -> list[str]:
    """The names of the parameters that were sent. The seed comes first, because few rows match it."""
    names = [name for name in type(job.parameters).model_fields if name != "base64"]
    if not job.parameters.negative:
        names = [name for name in names if name != "negative_prompt"]
    return sorted(names, key=lambda name: name != "seed")


def _matches(row: HistoryRow, job: Job, name: str) -> bool | None:
    """Whether a row has the value of a parameter that was sent for a job; None if that is not certain."""
    shown, sent = row.inputs.get(name), getattr(job.parameters, name)
    if shown is None:
        return None
    return _is_same_text(str(shown), sent) if isinstance(sent, str) else _is_same_number(shown, Decimal(str(sent)))


def _is_model(shown: str, slug: str) -> bool | None:
    """Whether a row's model is the one with a slug; None for an unknown name, which may be the API's name for it."""
    known = _MODEL_NAMES.get(_letters(shown))
    return None if known is None else known == slug


def _is_same_text(shown: str, sent: str) -> bool | None:
    if shown.split() == sent.split():
        return True
    one, other = _letters(html.unescape(shown)), _letters(sent)
    if one.startswith(other) or other.startswith(one) or re.fullmatch(r"\s*[\[<(*].*[\]>)*]\s*", shown):
        return None  # in another spelling, cut short, or hidden for privacy
    ratio = SequenceMatcher(None, one[:COMPARED], other[:COMPARED], autojunk=False).ratio()
    return None if ratio >= ALIKE else False


def _is_same_number(shown: Any, sent: Decimal) -> bool | None:
    number = parse_number(shown)
    if number == sent:
        return True
    if number is None or number <= 0 or "," in str(shown):  # missing, left to the API, or in another notation
        return None
    rounded = sent >= LARGE and abs(number - sent) < sent * ROUNDING
    return None if rounded else False


@lru_cache(maxsize=1000)
def _letters(text: str) -> str:
    """The letters and digits of a text in one form."""
    return "".join(each for each in unicodedata.normalize("NFKC", text).casefold() if each.isalnum())


_MODEL_NAMES = {_letters(name): model.slug for model in MODELS.values() for name in (model.slug, model.title)}
