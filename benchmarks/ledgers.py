"""Ledgers with any number of pictures, for benchmarks: written by the job store itself, in one transaction."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from in_process import API, KEY

from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.parameters import VegaParameters
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.sqlite.database import SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.images.store import file_name, names_of
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 500
FOLDER = "/home/ada/Pictures/mcp-vega"
# Invented words of two or three syllables, the most frequent first. They contain no x and no q.
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = ["".join(random.Random(rank).choices(SYLLABLES, k=2 + rank % 2)) for rank in range(3000)]  # noqa: S311
RARE, UNUSED = "xylophone", "quixotry"
# The ends of the oldest prompts: each is found by parts of it, and only there.
ENDS = (RARE, "狐狸在雪地里奔跑", "лисица в снегу", "crème brûlée")


def drawn(count: int) -> Iterator[Job]:
    """Finished jobs with one picture each, the oldest first. The first prompts end with `ENDS`."""
    rng = random.Random(count)  # noqa: S311  no secret
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(WORDS) + 1)))
    for number in range(count):
        words = rng.choices(WORDS, cum_weights=weights, k=rng.randint(8, 41))
        words += ENDS[number : number + 1]
        parameters = VegaParameters(prompt=" ".join(words))  # pyright: ignore[reportUnknownVariableType]
        remote_id, cost = rng.randbytes(16).hex(), Decimal("0.00225")
        begun = FIRST_DAY + timedelta(days=DAYS) * number / count
        job = Job.of_call(
            parameters,
            route=Route.V1,
            base_url=API,
            created=begun,
            sent=begun + timedelta(milliseconds=2),
            ended=begun + timedelta(seconds=3),
            local_id=f"local-{rng.randbytes(16).hex()}",
            remote_id=remote_id,
            state=State.COMPLETED,
            open=False,
        )
        receipt = Receipt(remote_id, cost, Decimal("9.99775"), Decimal("2.362"), job.parameters.seed)
        name, _ = names_of(file_name(parameters.prompt, job.parameters.seed, ".jpg"), job.image_id(0))
        image = Image(
            id=job.image_id(0),
            location=ImageLocation(FOLDER, f"{begun.date().isoformat()}/{name}"),
            mime_type="image/jpeg",
            width=1024,
            height=1024,
            bytes=rng.randint(80_000, 400_000),
            sha256=rng.randbytes(32).hex(),
        )
        yield replace(job, receipt=receipt, images=(image,))


class OneTransaction(SqliteDatabase):
    """Does all work in a transaction that is open already, without threads: a transaction each would take an hour."""

    def __init__(self, connector: SqliteFile, connection: Connection) -> None:
        super().__init__(connector)
        self._open = connection

    async def read(self, work: Work[Any], **_: Any) -> Any:
        """Do the work now."""
        return work(self._open)

    async def write(self, work: Work[Any], **_: Any) -> Any:
        """Do the work now."""
        return work(self._open)

    def defer(self, work: Work[Any], **_: Any) -> None:
        """Do the work now."""
        work(self._open)


async def fill(folder: Path, jobs: Sequence[Job]) -> None:
    """Create the ledger's file, and write all jobs step by step, as a server does while it draws them."""
    file, time, limits = folder / "home" / "ledger.sqlite3", 0.0, Limits()
    connector = SqliteFile(file, SCHEMA, lambda: time)
    connection = connector.connect(write=True, wait=1)
    connection.execute("PRAGMA cache_size = -400000")
    store = JobStore(OneTransaction(connector, connection), ServerLock(file.with_name("servers")), uptime=lambda: time)
    with connection.transaction(write=True, durable=False, wait=1):
        account = await store.accounts.of_key(KEY)
        for done in jobs:
            time += 61  # the calls of the last minute are kept
            job = replace(done, account=account)
            begun = replace(job, sent=None, ended=None, remote_id=None, receipt=Receipt(), images=(), open=True)
            await store.begin(replace(begun, state=State.QUEUED), limits)
            await store.mark_sent(replace(begun, sent=job.sent, state=State.PROCESSING), limits)
            await store.save(job, release=True)
            store.end_wait(job, job.ended or job.created, delivered=True, cancelled=False)
        await store.leave()
    connection.close()
