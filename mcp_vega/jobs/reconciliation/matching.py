"""Tells whether a row of the API's request history is a job's call, or may be.

Both questions have an answer of their own. A call is known by what surely says so; that it is not one is believed only
of a row that belongs to another job, is of another time, or tells another prompt as well as another seed. All else is
doubt: what a row does not say, or says in other words, is no difference, and who is told wrongly that a call never ran
pays for it again.
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

# A row's time may be that of the drawing, or of its end.
DRAWN = timedelta(hours=1)
# For how long before the first look a call is looked for that was sent by a wrong clock.
WRONG_CLOCK = timedelta(days=10)
# Numbers from here on may come rounded, and then differ by less than this part of them.
LARGE, ROUNDING = Decimal(10**6), Decimal("1e-2")
# Texts whose first letters have so much in common may be one text, told in other letters.
COMPARED, ALIKE = 500, 0.5


@dataclass(frozen=True)
class TimeSpan:
    """When a job's call can have left (UTC); `known` says that this is by the API's clock, to some minutes."""

    earliest: datetime
    latest: datetime
    known: bool

    @classmethod
    def of(cls, job: Job) -> "TimeSpan":
        """What is known of a job's."""
        search, sent = job.search, job.sent or job.created
        if search.earliest and search.latest:
            return cls(search.earliest, search.latest, known=True)
        latest = search.latest or sent
        # A call that was sent later than it was asked for was sent by a clock that was ahead.
        return cls(sent if sent <= latest else latest - WRONG_CLOCK, latest, known=False)

    def holds(self, row: HistoryRow) -> bool | None:
        """Whether a row's call is of this time; None where that cannot be told."""
        if row.created is None:
            return None
        if self.known and row.names_zone:
            return self.earliest <= row.created <= self.latest + DRAWN
        near = self.earliest - ANY_TIME_ZONE <= row.created <= self.latest + ANY_TIME_ZONE
        return None if near else False

    def begins_after(self, row: HistoryRow) -> bool:
        """Whether a row surely is of an earlier call."""
        return self.known and row.names_zone and row.created is not None and row.created < self.earliest


def is_call_of(row: HistoryRow, job: Job, *, copied: bool = False) -> bool:
    """Whether a row surely is a job's call.

    A seed that was drawn here belongs to one job alone, so that it says enough wherever it stands in the row; unless it
    was `copied` into another job. With one that the caller chose, all of the recipe and the time must fit.
    """
    is_model = _is_model(row.model, job.model)
    if job.drew_seed:
        holds_seed = re.search(rf"(?<!\d){job.parameters.seed}(?!\d)", row.text) is not None
        return holds_seed and is_model is not False and (not copied or _tells(row, job, "prompt") is True)
    if not is_model or not all(_tells(row, job, name) for name in _recipe(job)):
        return False
    in_time = TimeSpan.of(job).holds(row)
    # In a time zone that is not told, or by a clock that was wrong, a call of the same recipe may be one from
    # elsewhere. Its picture is the same one, so that does no harm; its failure might be only its own.
    return in_time or (in_time is None and row.created is not None and row.state == State.COMPLETED)


def may_be_call_of(row: HistoryRow, job: Job) -> bool:
    """Whether a row that belongs to no other job may be a job's call, as far as it tells."""
    if TimeSpan.of(job).holds(row) is False:
        return False
    return not (_tells(row, job, "seed") is False and _tells(row, job, "prompt") is False)


def _recipe(job: Job) -> list[str]:
    """The names of what was sent, the seed first: few rows have it."""
    names = [name for name in type(job.parameters).model_fields if name != "base64"]
    if not job.parameters.negative:
        names = [name for name in names if name != "negative_prompt"]
    return sorted(names, key=lambda name: name != "seed")


def _tells(row: HistoryRow, job: Job, name: str) -> bool | None:
    """Whether a row tells the value of a parameter that was sent for a job; None where that cannot be told."""
    told, sent = row.inputs.get(name), getattr(job.parameters, name)
    if told is None:
        return None
    return _is_same_text(str(told), sent) if isinstance(sent, str) else _is_same_number(told, Decimal(str(sent)))


def _is_model(told: str, slug: str) -> bool | None:
    """Whether a row's model is the one with a slug; the API may have another name for it."""
    named = _MODEL_NAMES.get(_letters(told))
    return None if named is None else named == slug


def _is_same_text(told: str, sent: str) -> bool | None:
    if told.split() == sent.split():
        return True
    one, other = _letters(html.unescape(told)), _letters(sent)
    if one.startswith(other) or other.startswith(one) or re.fullmatch(r"\s*[\[<(*].*[\]>)*]\s*", told):
        return None  # in other letters, cut short, or left out for privacy
    ratio = SequenceMatcher(None, one[:COMPARED], other[:COMPARED], autojunk=False).ratio()
    return None if ratio >= ALIKE else False


def _is_same_number(told: Any, sent: Decimal) -> bool | None:
    number = parse_number(told)
    if number == sent:
        return True
    if number is None or number <= 0 or "," in str(told):  # not told, the API's to draw, or in another notation
        return None
    rounded = sent >= LARGE and abs(number - sent) < sent * ROUNDING
    return None if rounded else False


@lru_cache(maxsize=1000)
def _letters(text: str) -> str:
    """The letters and digits of a text in one form."""
    return "".join(each for each in unicodedata.normalize("NFKC", text).casefold() if each.isalnum())


_MODEL_NAMES = {_letters(name): model.slug for model in MODELS.values() for name in (model.slug, model.title)}
