"""How a call ended whose answer never came: found in the vendor's request history by model, seed and prompt."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from mcp_vega.errors import ServiceUnavailable
from mcp_vega.job import Job
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow, merge_rows
from mcp_vega.segmind.response import as_decimal
from mcp_vega.storage.database.job_store import JobStore

# More calls of a model than anyone makes in the days that are asked about.
PAGES = 50
# How far this machine's clock and the API's may differ.
SKEW = timedelta(minutes=10)
DAY = timedelta(days=1)
# The history is not asked about more days at once.
LONGEST_SPAN = timedelta(days=30)


async def find_row(client: SegmindClient, store: JobStore, job: Job, now: datetime) -> HistoryRow | None:
    """The call of a job in the request history, or None where it surely has none. No other job gets the same call.

    Args:
        client: Asks the history.
        store: Knows which calls belong to which jobs.
        job: The job.
        now: The time (UTC).

    Raises:
        SegmindError: The history could not be had, or does not tell enough to be sure.
        LedgerError: The ledger cannot be written.
    """
    if job.remote_id:
        return await _find_by_id(client, job, job.remote_id, now)
    found: HistoryRow | None = None
    doubtful = False
    twins = [twin for twin in await store.twins(job) if twin.error is None]
    async for row in _rows(client, job, now):
        if found is not None:
            found = merge_rows(found, row) if row.request_id == found.request_id else found
        elif (its := is_call_of(row, job)) is not False:
            if its and row.request_id and not twins and await store.assign(job, row.request_id):
                found = row
            elif not its or twins or not row.request_id:
                doubtful = True  # it may be this job's, or that of one with the same recipe that is under way
        if found and len(found.urls) >= job.parameters.pictures:
            break
    if found is None and doubtful:
        raise ServiceUnavailable("The request history has calls of which it does not tell enough to be sure")
    return found


async def _find_by_id(client: SegmindClient, job: Job, request_id: str, now: datetime) -> HistoryRow | None:
    found: HistoryRow | None = None
    with suppress(ServiceUnavailable):
        async for row in _rows(client, job, now):
            if row.request_id == request_id:
                found = merge_rows(found, row) if found else row
                if len(found.urls) >= job.parameters.pictures:
                    break
    return found or await client.history_entry(request_id)


async def _rows(client: SegmindClient, job: Job, now: datetime) -> AsyncIterator[HistoryRow]:
    """The calls of a job's model in the days around it, newest first."""
    last = (job.created + DAY).date()
    first = max((min(job.created, now) - DAY).date(), last - LONGEST_SPAN)
    for number in range(1, PAGES + 1):
        page = await client.history(model=job.model, since=first, until=last, page=number)
        if page.asked and abs(page.asked - now) > DAY / 2:
            raise ServiceUnavailable(
                f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC and the API's {page.asked:%Y-%m-%d %H:%M}, so "
                "the days to look at are not known",
                next_step="Set the clock right, then call check_job again",
            )
        for row in page.rows:
            yield row
        if not page.full or _reaches_before(page.rows, job.created - SKEW):
            return
    raise ServiceUnavailable(f"The request history of those days is longer than {PAGES} pages")


def _reaches_before(rows: Sequence[HistoryRow], moment: datetime) -> bool:
    """Whether rows that are seen to be ordered by time, newest first, reach back before a moment."""
    times = [row.created for row in rows if row.created]
    in_order = len(times) == len(rows) and times == sorted(times, reverse=True)
    return in_order and bool(times) and times[-1] < moment


def is_call_of(row: HistoryRow, job: Job) -> bool | None:
    """Whether a row of the history is a job's call, by the recipe.

    A seed that was drawn here belongs to one job alone. With one that the caller chose, the whole recipe and the time
    must fit.

    Returns:
        None where it cannot be told.
    """
    if row.model.casefold() != job.model:
        return False
    if not row.inputs:
        return None
    recipe = job.parameters.model_dump(exclude={"base64"})
    differing = [name for name, value in recipe.items() if not _same(row.inputs.get(name, value), value)]
    if "seed" in differing or "seed" not in row.inputs:
        return False
    if job.arguments.get("seed", -1) == -1:
        return True if "prompt" not in differing else None
    if differing:
        return False
    return True if row.created is None or row.created > job.created - SKEW else None


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same; the history may tell a number as its text, or a text with other spaces."""
    if one == other or str(one).split() == str(other).split():
        return True
    numbers: tuple[Decimal | None, Decimal | None] = as_decimal(one), as_decimal(other)
    return None not in numbers and numbers[0] == numbers[1]
