"""Draws pictures by way of the job service, as every call is made, and asks the questions that cost nothing."""

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

# Each has a prompt of its own, so that none is taken for another one that was interrupted.
PICTURES = (
    Picture(VegaRTParameters(prompt="a lighthouse at dusk"), Route.V1),
    Picture(VegaParameters(prompt="a fox in the snow"), Route.V2),
    Picture(VegaRTParameters(prompt="a harbour in the morning"), Route.V2),
)
DAY = timedelta(days=1)
# Seconds before each look whether the history shows a call: a minute and a half in all.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 25.0, 35.0)
# The history is given up where it cannot be read so often.
FAILURES = 3
# What another picture would fail with as well.
HOPELESS = (errors.Unauthorized, errors.InsufficientCredits, errors.Unreachable)


async def try_out(
    app: AppContext,
    pictures: Sequence[Picture],
    most_usd: Decimal,
    tell: Callable[[str], None],
    pauses: Sequence[float] = PAUSES,
) -> Observations:
    """Draw pictures, as far as they cost no more than `most_usd` together, and see what the API says.

    Args:
        app: With an open service. Its client's answers are noted from now on.
        pictures: What to draw, in this order.
        most_usd: US dollars.
        tell: Is told what is being done.
        pauses: Seconds before each look whether the history shows a call.
    """
    client = app.service.client
    seen = Observations(client.base_url, client.history_url, app.wait_seconds)
    client.observe(seen.record)
    trial = _Trial(app, seen, tell, pauses)
    await trial.ask(observation.BALANCE, client.credits())
    await trial.draw_each(pictures, most_usd)
    if any(drawn.job for drawn in seen.drawn):
        tell("Looking at the request history once more …")
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
        """The answer to a question that costs nothing; None where there is none, which is noted."""
        self._seen.doing = doing
        try:
            return await question
        except SegmindError as error:
            self._seen.problems[doing] = error
            return None

    # ---- drawing ----

    async def draw_each(self, pictures: Sequence[Picture], most_usd: Decimal) -> None:
        """Draw one picture after the other, until one fails with what the next would fail with, too."""
        seen, stopped = self._seen, ""
        for picture in pictures:
            if not stopped and seen.cost + picture.parameters.expected_cost > most_usd:
                seen.left_out[picture.name] = f"it would have passed --max-usd {dollars(most_usd)}"
            elif stopped:
                seen.left_out[picture.name] = stopped
            else:
                drawn = await self._draw(picture)
                if drawn.job and drawn.job.images:
                    await self._look_for(drawn, drawn.job)
                if drawn.error and (not isinstance(drawn.error, SegmindError) or isinstance(drawn.error, HOPELESS)):
                    stopped = f"{picture.name} failed before it ({drawn.error.code})"

    async def _draw(self, picture: Picture) -> Drawn:
        """Draw one picture, however long that takes."""
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
        """A job when nobody works on it any more."""
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
        """Look into the history until it shows a call; only once where it did not show an earlier one in time."""
        self._tell(f"Looking for it in the request history, for {sum(self._pauses):.0f} s at most …")
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
        """Look into the history for all calls."""
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
        """What the history says of the time since the first call; None where it cannot be read."""
        first = self._seen.drawn[0].begun - DAY
        query = HistoryQuery(first.date(), (datetime.now(UTC) + DAY).date(), back_to=first, model=model, thorough=True)
        reader = HistoryReader(self._client, query)

        async def read() -> HistoryReader:
            async for _ in reader.read():
                pass
            return reader

        return await self.ask(doing, read())

    async def ask_more(self) -> None:
        """Ask what else there is to know, of the history and of a job that there is not."""
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
        """Fetch the picture that the history names, as if the call's answer had been lost."""
        url = next((url for row in drawn.rows for url in row.urls), None)
        if url is None:
            return
        self._seen.may_fetch[url] = self._client.may_fetch(url)
        if data := await self.ask(observation.PICTURE, self._client.download(url)):
            drawn.fetched = True
            with suppress(VegaError):  # the kept one cannot be read
                kept = [await self._gallery.read(image) for image in job.images[:1]]
                drawn.same_picture = metadata.strip(kept[0]) == metadata.strip(data) if kept else None


def _rows_of(rows: Sequence[HistoryRow], job: Job) -> list[HistoryRow]:
    """A call's rows: those with its id, else with its seed and prompt, else with its seed alone."""
    found = [row for row in rows if job.remote_id and row.request_id == job.remote_id]
    found = found or [row for row in rows if is_call_of(row, job)]
    return found or [row for row in rows if str(job.parameters.seed) in row.text]
