"""Looks for a job's call in the API's request history, by its id or else by model, seed and prompt."""

from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mcp_vega.errors import LedgerError, SegmindError, ServiceUnavailable
from mcp_vega.job import Job, Search, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.reconciliation.matching import TimeSpan, is_call_of, may_be_call_of
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow, merge_rows
from mcp_vega.segmind.history_reader import ANY_TIME_ZONE, HistoryQuery, HistoryReader
from mcp_vega.storage.ledger.job_store import JobStore

# How far this machine's clock and the API's may differ.
SKEW = timedelta(minutes=10)
# A call that ran is in the history this long after it was sent.
LISTED = timedelta(days=1)
# How far the days that are asked about reach beyond what is looked for, so that it is among them in any time zone; and
# how many days may be asked about at once.
MARGIN, LONGEST_SPAN = timedelta(days=2), timedelta(days=30)
# How long after a call the history is read up to now; how far back the calls before it are looked for.
AFTER, BEFORE = timedelta(days=10), timedelta(days=15)
# How many of the calls just before a call and just after it the history must show.
NEIGHBOURS = 20


@dataclass
class Finding:
    """What came of looking for a call.

    Attributes:
        search: How far the search has come.
        row: The call, where it was found.
        asked: The API's own time then (UTC), where it told it.
        doubts: Why the call may have run although it was not found.
    """

    search: Search
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

        It is looked for among those of its model; when `thorough`, then among all, whatever the history calls the
        model. Only after that does it say something that nothing was found and nothing is in doubt.

        Raises:
            SegmindError: The history could not be read.
            LedgerError: The store cannot be used.
        """
        span, now = TimeSpan.of(job), self._config.clock()
        of_model = HistoryReader(self._client, _query(span, now, model=job.model))
        if job.remote_id:
            await self._find_by_id(job.remote_id, job, of_model, finding)
            if thorough and not finding.row:  # the id may be none of the API's, but that of a gateway before it
                await self._find_by_recipe(job, HistoryReader(self._client, of_model.query), finding)
            return
        await self._find_by_recipe(job, of_model, finding)
        if thorough and not finding.row:
            before = await self._store.accounts.that_ran_before(job, NEIGHBOURS)
            back_to = max(before[0].created, span.earliest - BEFORE) if before else span.earliest
            of_all = HistoryReader(self._client, _query(span, now, back_to=back_to))
            await self._find_by_recipe(job, of_all, finding)
            if not finding.row:
                await self._doubt(job, of_all, before, finding)

    async def _find_by_id(self, request_id: str, job: Job, reader: HistoryReader, finding: Finding) -> None:
        with suppress(ServiceUnavailable):
            async with aclosing(reader.read()) as rows:
                async for row in rows:
                    if row.request_id == request_id:
                        finding.row = merge_rows(finding.row, row) if finding.row else row
                        if len(finding.row.urls) >= job.parameters.pictures:
                            break
        await self._note_time(job, reader, finding)
        finding.row = finding.row or await self._client.history_entry(request_id)

    async def _find_by_recipe(self, job: Job, reader: HistoryReader, finding: Finding) -> None:
        with_seed = await self._store.accounts.with_seed_of(job)
        rivals = [each for each in with_seed if _is_rival(each, job)]
        found: HistoryRow | None = None
        try:
            async with aclosing(reader.read()) as rows:
                async for row in rows:
                    job = await self._note_time(job, reader, finding)
                    is_its = is_call_of(row, job, copied=bool(with_seed))
                    if found is None:
                        found = row if is_its and not await self._is_anothers(row, job) else None
                    elif row.request_id == found.request_id and (row.request_id or is_its):
                        found = merge_rows(found, row)
                    if found and not rivals and len(found.urls) >= job.parameters.pictures:
                        break
        except SegmindError:
            if found is None:  # else only some of its pictures may be missing
                raise
        finally:
            job = await self._note_time(job, reader, finding)
        shown = {row.request_id for row in reader.rows}
        if found and all(rival.remote_id in shown for rival in rivals):
            may_have = await self._store.assign(job, found.request_id) if found.request_id else job.drew_seed
            finding.row = found if may_have else None

    async def _note_time(self, job: Job, reader: HistoryReader, finding: Finding) -> Job:
        """Note the API's time, and by that when the call left; returns the job with it."""
        finding.asked = finding.asked or reader.asked
        if finding.asked and finding.search.latest is None:
            finding.search = await self._bounds(job, finding.asked)
        return replace(job, search=finding.search)

    async def _bounds(self, job: Job, asked: datetime) -> Search:
        """When the call of a job left by the API's clock, which this machine's was right by then or was not."""
        passed = None
        with suppress(LedgerError):
            passed = await self._store.accounts.seconds_since_sent(job)
        now = self._config.clock()
        if job.sent is None or passed is None or not self.is_right(asked):
            return Search(latest=asked)
        # By the clock that nobody sets as much time has passed since as by this one, which is right now.
        was_right = abs(now - job.sent - timedelta(seconds=passed)) < SKEW
        return Search(job.sent - SKEW, job.sent + SKEW) if was_right else Search(latest=asked)

    async def _is_anothers(self, row: HistoryRow, job: Job) -> bool:
        """Whether a row is the call of another job; one that was imported may be this one, whose id was not known."""
        other = await self._store.get(row.request_id) if row.request_id else None
        return other is not None and other.local_id != job.local_id and bool(other.arguments)

    async def _doubt(self, job: Job, reader: HistoryReader, before: list[Job], finding: Finding) -> None:
        """Note why the call may have run although it was not found in all that was read."""
        for row in reader.rows:
            if may_be_call_of(row, job) and not await self._is_anothers(row, job):
                finding.doubts.append("the request history has calls of which it does not tell enough to be sure")
                break
        if any(_is_rival(other, job) for other in await self._store.accounts.with_seed_of(job)):
            finding.doubts.append("the same call was made twice, and it is not known which of them the history shows")
        if reader.gap:
            finding.doubts.append(f"the request history may have more than it shows: {reader.gap}")
        span, listed = TimeSpan.of(job), finding.asked and finding.asked - LISTED
        if listed is None or listed < span.latest:
            return  # it is too early for a proof
        # A history that shows a call from before and one of this account from after has this one, if there is one.
        after = await self._store.accounts.that_ran_after(job, NEIGHBOURS)
        if not (_any_shown(before, reader) or any(span.begins_after(row) for row in reader.rows)):
            finding.doubts.append("the request history shows no call from before this one")
        if not _any_shown(after, reader):
            finding.doubts.append("the request history shows no call that was made here after this one")
        known = [each for each in (*before, *after) if reader.query.back_to <= each.created < listed]
        if not all(_any_shown([each], reader) for each in known):
            finding.doubts.append("the request history lacks calls that are known to have run")


def _query(span: TimeSpan, now: datetime, *, model: str | None = None, back_to: datetime | None = None) -> HistoryQuery:
    """What to read: the calls of a model, or all; back to a moment before the call, if one is given."""
    until = min(max(span.latest, now), span.latest + AFTER) + MARGIN
    since = max(min(span.earliest, back_to or now) - MARGIN, until - LONGEST_SPAN)
    first = min(span.earliest, back_to or span.earliest)
    return HistoryQuery(since.date(), until.date(), back_to=first, model=model, thorough=model is None)


def _is_rival(other: Job, job: Job) -> bool:
    """Whether the call of a job with the same seed may be taken for that of this one.

    One that is under way has no id yet; one that ran may be shown by another id than it was told here.
    """
    under_way = other.open and other.remote_id is None and other.error is None
    same = other.parameters.prompt == job.parameters.prompt and abs(other.created - job.created) < ANY_TIME_ZONE
    return same and (under_way or other.state == State.COMPLETED)


def _any_shown(jobs: list[Job], reader: HistoryReader) -> bool:
    """Whether one of some jobs that ran is in what was read."""
    ids = {row.request_id for row in reader.rows}
    return any(job.remote_id in ids for job in jobs) or any(is_call_of(row, job) for job in jobs for row in reader.rows)
