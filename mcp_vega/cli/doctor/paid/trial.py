"""Draws pictures with the job service, like every other call, and asks the questions that cost nothing."""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import uuid4

import anyio

from mcp_vega import errors
from mcp_vega.cli.doctor.paid import observation
from mcp_vega.cli.doctor.paid.observation import Drawn, Observations, Picture, media_urls
from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.imaging import metadata
from mcp_vega.job import Job, Route
from mcp_vega.jobs.reconciliation.matching import is_call_of
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.history_reader import HistoryQuery, HistoryReader
from mcp_vega.server.context import AppContext
from mcp_vega.storage.ledger.spending import dollars

T = TypeVar("T")

# Each has its own prompt, so that none is joined with another one that was interrupted.
PICTURES = (
    Picture(VegaRTParameters(prompt="a lighthouse at dusk"), Route.V1),
    Picture(VegaParameters(prompt="a fox in the snow"), Route.V2),
    Picture(VegaRTParameters(prompt="a harbour in the morning"), Route.V2),
)
DAY = timedelta(days=1)
# The seconds before each look into the history for a call: a minute and a half in all.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 25.0, 35.0)
# After so many failures to read the history, it is given up.
FAILURES = 3
# With these errors the next picture would fail as well.
HOPELESS = (errors.Unauthorized, errors.InsufficientCredits, errors.Unreachable)


async def try_out(
    app: AppContext,
    pictures: Sequence[Picture],
    most_usd: Decimal,
    tell: Callable[[str], None],
    pauses: Sequence[float] = PAUSES,
) -> Observations:
    """Draw pictures that together cost no more than `most_usd`, and record what the API says.

    Args:
        app: An open service. Its client's answers are recorded from now on.
        pictures: The pictures, in the order in which they are drawn.
        most_usd: US dollars.
        tell: Called with a text that says what is being done.
        pauses: The seconds before each look into the history for a call.
    """
    client = app.service.client
    seen = Observations(client.base_url, client.history_url, app.wait_seconds)
    client.observe(seen.record)
    trial = _Trial(app, seen, tell, pauses)
    await trial.ask(observation.BALANCE, client.credits())
    await trial.draw_each(pictures, most_usd)
    if any(drawn.job for drawn in seen.drawn):
        tell("Reading the request history once more …")
        await trial.look_again()
        await trial.ask_more()
    await trial.ask(observation.BALANCE, client.credits())
    return seen


class _Trial:
    """One run over an open service."""

    def __init__(
        self, app: AppContext, seen: Observations, tell: Callable[[str], None], pauses: Sequence[float]
    ) -> None:
        self._service = app.service
        self._gallery = app.gallery
        self._client = app.service.client
        self._seen = seen
        self._tell = tell
        self._pauses = pauses

    async def ask(self, doing: str, question: Awaitable[T]) -> T | None:
        """The answer to a question that costs nothing; None if it failed, in which case the error is recorded."""
        self._seen.doing = doing
        try:
            return await question
        except SegmindError as error:
            self._seen.problems[doing] = error
            return None

    # ---- drawing ----

    async def draw_each(self, pictures: Sequence[Picture], most_usd: Decimal) -> None:
        """Draw one picture after the other, until one fails in a way that the next would fail as well."""
        seen, stopped = self._seen, ""
        for picture in pictures:
            if not stopped and seen.cost + picture.parameters.expected_cost > most_usd:
                seen.left_out[picture.name] = f"it would have exceeded --max-usd {dollars(most_usd)}"
            elif stopped:
                seen.left_out[picture.name] = stopped
            else:
                drawn = await self._draw(picture)
                if drawn.job and drawn.job.images:
                    await self._look_for(drawn, drawn.job)
                if drawn.error and (not isinstance(drawn.error, SegmindError) or isinstance(drawn.error, HOPELESS)):
                    stopped = f"{picture.name} failed before it ({drawn.error.code})"

    async def _draw(self, picture: Picture) -> Drawn:
        """Draw one picture, without a limit of time."""
        self._tell(f"Drawing {picture.name} …")
        self._seen.doing = picture.name
        begun, drawn = time.monotonic(), Drawn(picture, datetime.now(UTC))
        self._seen.drawn.append(drawn)
        begin = self._service.generate if picture.route is Route.V1 else self._service.submit
        try:
            job = (await begin(picture.parameters)).job
        except VegaError as error:
            drawn.error = error
        else:
            drawn.job = await self._followed(job)
            drawn.error = drawn.job.problem
        drawn.seconds = time.monotonic() - begun
        return drawn

    async def _followed(self, job: Job) -> Job:
        """The job, once no server works on it."""
        ended = False
        try:
            async for current in self._service.follow(job, math.inf):
                job = current
            ended = True
        finally:
            self._service.end_wait(job, delivered=ended and job.done, cancelled=not ended)
        return job

    # ---- the history ----

    async def _look_for(self, drawn: Drawn, job: Job) -> None:
        """Look into the history until it shows a call; only once if it did not show an earlier call in time."""
        self._tell(f"Looking for the call in the request history, for up to {sum(self._pauses):.0f} s …")
        ended = time.monotonic()
        earlier = [each for each in self._seen.drawn[:-1] if each.job and each.job.images]
        pauses = self._pauses if all(each.rows for each in earlier) else self._pauses[:1]
        failures = 0
        for pause in pauses:
            await anyio.sleep(pause)
            reader = await self._read(observation.LOOKS)
            failures = 0 if reader else failures + 1
            if failures == FAILURES:
                return
            drawn.rows = _rows_of(reader.rows, job) if reader else []
            if drawn.rows:
                drawn.shown_after = time.monotonic() - ended
                return

    async def look_again(self) -> None:
        """Read the history for all calls."""
        seen = self._seen
        reader = await self._read(observation.AGAIN)
        if reader is None:
            return
        seen.listing, seen.gap = reader.rows, reader.gap
        for drawn in seen.drawn:
            if drawn.job:
                drawn.again = _rows_of(reader.rows, drawn.job)
                drawn.rows = drawn.rows or drawn.again

    async def _read(self, doing: str, model: str | None = None) -> HistoryReader | None:
        """The history since the first call; None if it cannot be read."""
        first = self._seen.drawn[0].begun - DAY
        query = HistoryQuery(first.date(), (datetime.now(UTC) + DAY).date(), back_to=first, model=model, thorough=True)
        reader = HistoryReader(self._client, query)

        async def read() -> HistoryReader:
            async for _ in reader.read():
                pass
            return reader

        return await self.ask(doing, read())

    async def ask_more(self) -> None:
        """Ask the rest: how the history lists calls, and how an unknown job is answered."""
        seen, client = self._seen, self._client
        for _, exchange in seen.results():
            seen.may_fetch |= {url: client.may_fetch(url) for url in media_urls(exchange.response.fields)}
        if seen.listing is not None:
            await self._ask_history()
        await self.ask(observation.UNKNOWN_ID, client.status(str(uuid4())))

    async def _ask_history(self) -> None:
        seen, client = self._seen, self._client
        days = {"since": (seen.drawn[0].begun - DAY).date(), "until": (datetime.now(UTC) + DAY).date()}
        for number, doing in observation.PAGES.items():
            await self.ask(doing, client.history(model=None, page=number, per_page=1, **days))
        for drawn in seen.drawn:
            if drawn.rows and drawn.job:
                reader = await self._read(observation.FILTER, drawn.job.model)
                drawn.of_model = reader and bool(_rows_of(reader.rows, drawn.job))
                drawn.entry = await self.ask(observation.ENTRY, client.history_entry(drawn.rows[0].request_id))
                await self._fetch(drawn, drawn.job)

    async def _fetch(self, drawn: Drawn, job: Job) -> None:
        """Fetch the picture from the address in the history, as after a lost answer."""
        url = next((url for row in drawn.rows for url in row.urls), None)
        if url is None:
            return
        self._seen.may_fetch[url] = self._client.may_fetch(url)
        if data := await self.ask(observation.PICTURE, self._client.download(url)):
            drawn.fetched = True
            with suppress(VegaError):  # if the kept picture cannot be read
                kept = [await self._gallery.read(image) for image in job.images[:1]]
                drawn.same_picture = metadata.strip(kept[0]) == metadata.strip(data) if kept else None


def _rows_of(rows: Sequence[HistoryRow], job: Job) -> list[HistoryRow]:
    """The rows of a call: those with its id; else those with its seed and prompt; else those with its seed."""
    found = [row for row in rows if job.remote_id and row.request_id == job.remote_id]
    found = found or [row for row in rows if is_call_of(row, job)]
    return found or [row for row in rows if str(job.parameters.seed) in row.text]
