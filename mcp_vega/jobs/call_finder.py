"""Finds a job's call in the API's request history, by its id or else by model, seed and prompt."""

import html
import re
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from mcp_vega.errors import SegmindError, ServiceUnavailable
from mcp_vega.job import Job, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.parameters import MODELS
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow, merge_rows
from mcp_vega.segmind.history_reader import ANY_TIME_ZONE, HistoryQuery, HistoryReader
from mcp_vega.segmind.response import as_decimal
from mcp_vega.storage.ledger.job_store import JobStore

# How far this machine's clock and the API's may differ.
SKEW = timedelta(minutes=10)
# A call that ran is in the history this long after it was sent.
LISTED = timedelta(days=1)
# How far the days that are asked about reach beyond a call, so that it is among them in any time zone; and how many
# days may be asked about at once.
MARGIN, LONGEST_SPAN = timedelta(days=2), timedelta(days=30)
# How long after a call the history is read up to now, which shows whether it is this account's.
REACH = timedelta(days=10)
# Calls that were sent this long before a job's, or this long after it, are where the whole history is read.
BEFORE, AFTER = timedelta(hours=8), timedelta(hours=1)
# Numbers from here on may come rounded, and then differ by less than this part of them.
LARGE, ROUNDING = Decimal(10**6), Decimal("1e-4")


@dataclass
class Finding:
    """What came of looking for a call.

    Attributes:
        row: The call, where it was found.
        asked: The API's own time then (UTC), where it told it.
        doubts: Why the call may have run although it was not found.
    """

    row: HistoryRow | None = None
    asked: datetime | None = None
    doubts: list[str] = field(default_factory=list[str])


class CallFinder:
    """Looks for jobs' calls. No two jobs get the same one."""

    def __init__(self, client: SegmindClient, store: JobStore, config: JobConfig) -> None:
        self._client = client
        self._store = store
        self._config = config

    def is_right(self, asked: datetime) -> bool:
        """Whether this machine's clock agrees with the API's time, which it told just now."""
        return abs(asked - self._config.clock()) < SKEW

    async def find(self, job: Job, finding: Finding, *, thorough: bool) -> None:
        """Look for the call of a job, and write into `finding` what comes of it.

        It is looked for among those of its model; when `thorough`, then among all that it can be among, whatever the
        history calls the model. Only after that does it say something that nothing was found.

        Raises:
            SegmindError: The history could not be read.
            LedgerError: The store cannot be used.
        """
        of_model, of_all = (HistoryReader(self._client, query) for query in _queries(job, self._config.clock()))
        if job.remote_id:
            await self._find_by_id(job.remote_id, job, of_model, finding)
            return
        await self._find_by_recipe(job, of_model, finding)
        if thorough and not finding.row:
            await self._find_by_recipe(job, of_all, finding)
            if not finding.row:
                await self._look_for_gaps(job, of_all, finding)

    async def _find_by_id(self, request_id: str, job: Job, reader: HistoryReader, finding: Finding) -> None:
        with suppress(ServiceUnavailable):
            async with aclosing(reader.read()) as rows:
                async for row in rows:
                    if row.request_id == request_id:
                        finding.row = merge_rows(finding.row, row) if finding.row else row
                        if len(finding.row.urls) >= job.parameters.pictures:
                            break
        finding.asked = reader.asked
        finding.row = finding.row or await self._client.history_entry(request_id)

    async def _find_by_recipe(self, job: Job, reader: HistoryReader, finding: Finding) -> None:
        with_seed = await self._store.accounts.open_with_seed_of(job)
        alike = any(other.parameters.prompt == job.parameters.prompt and not other.error for other in with_seed)
        unclear = False
        async with aclosing(self._rows(reader, finding)) as rows:
            async for row in rows:
                is_its = is_call_of(row, job, since=self._since(job, reader), copied=bool(with_seed))
                if found := finding.row:
                    if row.request_id == found.request_id and (row.request_id or is_its):
                        finding.row = merge_rows(found, row)
                elif is_its and not alike and (row.request_id or job.drew_seed):
                    if not row.request_id or await self._store.assign(job, row.request_id):
                        finding.row = row
                elif is_its is not False and not unclear:
                    # It may be this job's, or that of one with the same recipe that is under way.
                    unclear = not await self._is_anothers(row, job)
                if finding.row and len(finding.row.urls) >= job.parameters.pictures:
                    return
        if unclear and not finding.row:
            finding.doubts = ["the request history has calls of which it does not tell enough to be sure"]

    async def _is_anothers(self, row: HistoryRow, job: Job) -> bool:
        other = await self._store.get(row.request_id) if row.request_id else None
        return other is not None and other.local_id != job.local_id

    @staticmethod
    async def _rows(reader: HistoryReader, finding: Finding) -> AsyncGenerator[HistoryRow]:
        try:
            async with aclosing(reader.read()) as rows:
                async for row in rows:
                    yield row
        except SegmindError:
            if finding.row is None:  # else only some of its pictures may be missing
                raise
        finally:
            finding.asked = finding.asked or reader.asked

    def _since(self, job: Job, reader: HistoryReader) -> datetime | None:
        """When the call of a job left at the earliest, by the API's clock; None where this machine's may be wrong."""
        first_look = job.search.latest is None and reader.asked is not None and self.is_right(reader.asked)
        return job.search.earliest or (job.sent - SKEW if job.sent and first_look else None)

    async def _look_for_gaps(self, job: Job, reader: HistoryReader, finding: Finding) -> None:
        """Note why what was read may not be all that there is."""
        if reader.gap:
            finding.doubts.append(f"the request history may have more than it shows: {reader.gap}")
        if finding.asked is None or job.search.latest is None:
            return
        accounts, rows = self._store.accounts, reader.rows
        first, last = reader.query.back_to, finding.asked - LISTED
        if job.search.earliest:  # rows that are older, or newer, need not have been read
            first, last = job.search.earliest - BEFORE, min(job.search.latest + AFTER, last)
        ran = await accounts.completed_between(job, first, last)
        if any(all(_is_other(row, other) for row in rows) for other in ran):
            finding.doubts.append("the request history lacks calls that are known to have run")
        elif rows and not ran and not await accounts.knows_any(job, {row.request_id for row in rows}):
            finding.doubts.append("the request history shows none of the calls that were made here")


def _queries(job: Job, now: datetime) -> tuple[HistoryQuery, HistoryQuery]:
    """What to read: the calls of the job's model, and then all, each as far back as it can have left."""
    search, sent = job.search, job.sent or job.created
    latest = search.latest or max(sent, now)
    # This machine's clock or the API's may have been wrong; as far as there is room, both are believed.
    until = min(max(latest, now, sent), latest + REACH) + MARGIN
    since = max((search.earliest or min(sent, now)) - MARGIN, until - LONGEST_SPAN)
    if search.latest and not search.earliest:
        since = until - LONGEST_SPAN
    first, last = since.date(), until.date()
    return (
        HistoryQuery(first, last, back_to=search.earliest or min(sent, now), model=job.model),
        HistoryQuery(first, last, back_to=search.earliest or since, thorough=True),
    )


# ---- whether a row is a job's call ----
#
# Said of a row: it is (True), it is not (False), or that cannot be told (None). What a row does not say, or says in
# other words, is doubt and no difference: who is told wrongly that a call never ran pays for it again.


def is_call_of(row: HistoryRow, job: Job, *, since: datetime | None = None, copied: bool = False) -> bool | None:
    """Whether a row is a job's call.

    A seed that was drawn here belongs to one job alone, so that it says enough wherever it stands in the row; unless it
    was `copied` into another call. With one that the caller chose, all of the recipe and the time must fit.

    Args:
        row: The row.
        job: The job.
        since: The call left no earlier (by the API's clock, UTC); None where that is not known.
        copied: Whether another job has the seed, too.
    """
    model = _is_model(row.model, job.model)
    seed = job.parameters.seed
    if job.drew_seed and not copied and re.search(rf"(?<!\d){seed}(?!\d)", row.text):
        return None if model is False else True
    if model is False:
        return False
    recipe = job.parameters.model_dump(exclude={"base64"})
    same = {name: _is_same(row.inputs.get(name), value) for name, value in recipe.items()}
    if same["seed"] is False or same["prompt"] is False:
        return False
    if job.drew_seed:
        return True if same["seed"] and same["prompt"] else None
    if False in same.values():
        return False
    return True if model and same["seed"] and same["prompt"] and _is_in_time(row, job, since) else None


def _is_in_time(row: HistoryRow, job: Job, since: datetime | None) -> bool:
    """Whether a row of the same recipe can be of a call that left no earlier than `since`."""
    if row.created is None or (since and row.created >= since):
        return True
    if since and row.names_zone:
        return False
    # By a wrong clock, or in a time zone that is not told, it may be. If it is a call from elsewhere, its picture is
    # the same one, so it does no harm; its failure might be only its own.
    known = [moment for moment in (job.sent, job.search.latest) if moment]
    return row.state == State.COMPLETED and bool(known) and row.created >= min(known) - ANY_TIME_ZONE


def _is_other(row: HistoryRow, job: Job) -> bool:
    """Whether a row is surely not the call of a job that ended."""
    return row.request_id != job.remote_id and is_call_of(row, job) is False


def _is_model(told: str, slug: str) -> bool | None:
    """Whether a row's model is the one with a slug; the API may have another name for it."""
    named = next(
        (model for model in MODELS.values() if _letters(told) in map(_letters, (model.slug, model.title))), None
    )
    return None if named is None else named.slug == slug


def _is_same(told: Any, sent: Any) -> bool | None:
    """Whether a row's value of a parameter is the one that was sent."""
    if told is None:
        return None
    return _is_same_text(str(told), sent) if isinstance(sent, str) else _is_same_number(told, Decimal(str(sent)))


def _is_same_text(told: str, sent: str) -> bool | None:
    if told.split() == sent.split():
        return True
    one, other = _letters(html.unescape(told)), _letters(sent)
    # In other letters, cut short, or left out for privacy.
    in_doubt = one.startswith(other) or other.startswith(one) or re.fullmatch(r"\s*[\[<(*].*[\]>)*]\s*", told)
    return None if in_doubt else False


def _is_same_number(told: Any, sent: Decimal) -> bool | None:
    number = as_decimal(told)
    if number == sent:
        return True
    if number is None or number < 0:  # such as a seed of -1: the API's to draw
        return None
    rounded = sent >= LARGE and abs(number - sent) < sent * ROUNDING
    return None if rounded else False


def _letters(text: str) -> str:
    """The letters and digits of a text in one form."""
    return "".join(each for each in unicodedata.normalize("NFKC", text).casefold() if each.isalnum())
