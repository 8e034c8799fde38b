"""Searches the API's request history for a job's call, by its id or else by model, seed and prompt."""

from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mcp_vega.errors import LedgerError, SegmindError, ServiceUnavailable
from mcp_vega.job import LOCAL, Job, Search, State
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.reconciliation.matching import TimeSpan, is_call_of, may_be_call_of
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow, merge_rows
from mcp_vega.segmind.history_reader import ANY_TIME_ZONE, HistoryQuery, HistoryReader
from mcp_vega.storage.ledger.job_store import JobStore

# How far this machine's clock and the API's may differ.
SKEW = timedelta(minutes=10)
# This long after it was sent, a call that ran is in the history.
LISTED_AFTER = timedelta(days=1)
# A query begins this long before the call and ends this long after it, so that it has the call in any time zone; and
# how many days one query may span.
MARGIN, LONGEST_SPAN = timedelta(days=2), timedelta(days=30)
# A query ends now, but at the latest this long after the call; and how far back the calls before it are searched for.
AFTER, BEFORE = timedelta(days=10), timedelta(days=15)
# How many of the calls just before a call and just after it the history must show.
NEIGHBOURS = 20


@dataclass
class Finding:
    """The result of the search for a call.

    Attributes:
        search: How far the search has come.
        row: The call, if it was found.
        server_time: The API's time when it answered (UTC), if it is known.
        doubts: Why the call may have run although it was not found.
    """

    search: Search
    row: HistoryRow | None = None
    server_time: datetime | None = None
    doubts: list[str] = field(default_factory=list[str])


class CallFinder:
    """Searches for the calls of jobs. No two jobs get the same call."""

    def __init__(self, client: SegmindClient, store: JobStore, config: JobConfig) -> None:
        self._client = client
        self._store = store
        self._config = config

    def clock_agrees(self, server_time: datetime) -> bool:
        """Whether this machine's clock agrees with the time that the API sent just now."""
        return abs(server_time - self._config.clock()) < SKEW

    async def find(self, job: Job, finding: Finding, *, thorough: bool) -> None:
        """Search for the call of a job, and write the result into `finding`.

        It searches the calls of the job's model. If `thorough`, it then searches all calls, because the history may
        have another name for the model. Only a thorough search without a call and without doubts proves something.

        Raises:
            SegmindError: The history cannot be read.
            LedgerError: The store cannot be used.
        """
        span, now = TimeSpan.of(job), self._config.clock()
        of_model = HistoryReader(self._client, _query(span, now, model=job.model))
        if job.remote_id:
            await self._find_by_id(job.remote_id, job, of_model, finding)
            if thorough and not finding.row:  # the id may come from a gateway in front of the API
                await self._find_by_recipe(job, HistoryReader(self._client, of_model.query), finding)
            return
        await self._find_by_recipe(job, of_model, finding)
        if thorough and not finding.row:
            before = await self._store.accounts.that_ran_before(job, NEIGHBOURS)
            back_to = max(before[0].created, span.earliest - BEFORE) if before else span.earliest
            of_all = HistoryReader(self._client, _query(span, now, back_to=back_to))
            await self._find_by_recipe(job, of_all, finding)
            if not finding.row:
                await self._note_doubts(job, of_all, before, finding)

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
        # An engine draws the same picture for the same recipe, so any of its calls will do.
        rivals = [each for each in with_seed if _is_rival(each, job) and job.base_url != LOCAL]
        found: HistoryRow | None = None
        try:
            async with aclosing(reader.read()) as rows:
                async for row in rows:
                    job = await self._note_time(job, reader, finding)
                    is_its = is_call_of(row, job, copied=bool(with_seed))
                    if found is None:
                        found = row if is_its and not await self._belongs_to_another(row, job) else None
                    elif row.request_id == found.request_id and (row.request_id or is_its):
                        found = merge_rows(found, row)
                    if found and not rivals and len(found.urls) >= job.parameters.pictures:
                        break
        except SegmindError:
            if found is None:  # if it was found, only some of its pictures may be missing
                raise
        finally:
            job = await self._note_time(job, reader, finding)
        shown = {row.request_id for row in reader.rows}
        if found and all(rival.remote_id in shown for rival in rivals):
            may_have = await self._store.assign(job, found.request_id) if found.request_id else job.drew_seed
            finding.row = found if may_have else None

    async def _note_time(self, job: Job, reader: HistoryReader, finding: Finding) -> Job:
        """Note the API's time and, by that, when the call was sent. Returns the job with that."""
        finding.server_time = finding.server_time or reader.server_time
        if finding.server_time and finding.search.latest is None:
            finding.search = await self._bounds(job, finding.server_time)
        return replace(job, search=finding.search)

    async def _bounds(self, job: Job, server_time: datetime) -> Search:
        """When the call of a job was sent, by the API's clock. If this machine's was wrong: only the latest time."""
        passed = None
        with suppress(LedgerError):
            passed = await self._store.accounts.seconds_since_sent(job)
        now = self._config.clock()
        if job.sent is None or passed is None or not self.clock_agrees(server_time):
            return Search(latest=server_time)
        # The clock is right now. It was right then if the clock that nobody sets has measured the same time since.
        was_right = abs(now - job.sent - timedelta(seconds=passed)) < SKEW
        return Search(job.sent - SKEW, job.sent + SKEW) if was_right else Search(latest=server_time)

    async def _belongs_to_another(self, row: HistoryRow, job: Job) -> bool:
        """Whether a row is the call of another job. An imported job does not count: it may be this one."""
        other = await self._store.get(row.request_id) if row.request_id else None
        return other is not None and other.local_id != job.local_id and bool(other.arguments)

    async def _note_doubts(self, job: Job, reader: HistoryReader, before: list[Job], finding: Finding) -> None:
        """Note why the call may have run although no row that was read is this call."""
        for row in reader.rows:
            if may_be_call_of(row, job) and not await self._belongs_to_another(row, job):
                finding.doubts.append("the request history has calls with too few details to be sure")
                break
        if any(_is_rival(other, job) for other in await self._store.accounts.with_seed_of(job)):
            finding.doubts.append("the same call was made twice, and it is not known which of them the history shows")
        if reader.gap:
            finding.doubts.append(f"the request history may be incomplete: {reader.gap}")
        span, listed = TimeSpan.of(job), finding.server_time and finding.server_time - LISTED_AFTER
        if listed is None or listed < span.latest:
            return  # it is too early for a proof
        # If the history shows a call from before and one of this account from after, it also has this one, if it ran.
        after = await self._store.accounts.that_ran_after(job, NEIGHBOURS)
        if not (_any_shown(before, reader) or any(span.is_after(row) for row in reader.rows)):
            finding.doubts.append("the request history shows no call from before this one")
        if not _any_shown(after, reader):
            finding.doubts.append("the request history shows no call that was made here after this one")
        known = [each for each in (*before, *after) if reader.query.back_to <= each.created < listed]
        if not all(_any_shown([each], reader) for each in known):
            finding.doubts.append("the request history does not show all calls that are known to have run")


def _query(span: TimeSpan, now: datetime, *, model: str | None = None, back_to: datetime | None = None) -> HistoryQuery:
    """What to read: the calls of a model, or all. With `back_to`, back to that moment before the call."""
    until = min(max(span.latest, now), span.latest + AFTER) + MARGIN
    since = max(min(span.earliest, back_to or now) - MARGIN, until - LONGEST_SPAN)
    first = min(span.earliest, back_to or span.earliest)
    return HistoryQuery(since.date(), until.date(), back_to=first, model=model, thorough=model is None)


def _is_rival(other: Job, job: Job) -> bool:
    """Whether the call of another job with the same seed could be confused with the call of this one.

    A call in progress has no id yet. A call that ran may have another id in the history than in its answer.
    """
    under_way = other.open and other.remote_id is None and other.error is None
    same = other.parameters.prompt == job.parameters.prompt and abs(other.created - job.created) < ANY_TIME_ZONE
    return same and (under_way or other.state == State.COMPLETED)


def _any_shown(jobs: list[Job], reader: HistoryReader) -> bool:
    """Whether at least one of these jobs, which ran, is in the rows that were read."""
    ids = {row.request_id for row in reader.rows}
    return any(job.remote_id in ids for job in jobs) or any(is_call_of(row, job) for job in jobs for row in reader.rows)
