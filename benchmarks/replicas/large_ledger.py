"""Makes calls through the job store, and fills a ledger in PostgreSQL with any number of jobs, all of the last day.

A few jobs are copied many times by SQL. The copies have ids, seeds, calls and times of their own. Their prompts are
those of `benchmarks/ledgers.py`.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from team import Postgres

sys.path.append(str(Path(__file__).parents[1]))
from in_process import KEY
from ledgers import ENDS, drawn

from mcp_vega.job import Job, Receipt, State
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.postgres import PostgresDatabase
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

T = TypeVar("T")

# How many different jobs are written by the job store, and how many callers the copies belong to.
ORIGINALS, CALLERS = 2000, 1000
# A caller with a few jobs, which are the oldest; and the owner of the originals.
RARE_CALLER, FIRST_CALLER = "rare", "first"
NUMBERS = count(1_000_000)
# Columns of the copies that differ. Ids are random, as real ones are: an index of them grows everywhere.
_OWN = {
    "number": ":first + n",
    "local_id": "'local-' || md5('l' || (:first + n))",
    "remote_id": "md5('r' || (:first + n))",
    "reported_id": "md5('r' || (:first + n))",
    "call": "md5('c' || (:first + n))",
    "seed": "1 + (hashint8(:first + n)::bigint + 2147483648) * 1000 % 2147483646",
    "owner": f"'caller' || (:first + n) % {CALLERS}",
    "created": "now() - interval '1 day' + interval '1 day' * (:first + n) / :all",
    "day": "(now() AT TIME ZONE 'UTC')::date",
}
_OWN_OF_IMAGE = {
    "number": ":first + n",
    "id": "md5('i' || (:first + n))",
    "job": ":first + n",
    "key": "key || n",
    "sha256": "md5('s' || (:first + n)) || md5('t' || (:first + n))",
    "created": _OWN["created"],
    "owner": _OWN["owner"],
}
_SPENT = """
    INSERT INTO spending SELECT day, owner, sum(spent) FROM jobs GROUP BY day, owner
    ON CONFLICT (day, owner) DO UPDATE SET spent = excluded.spent
"""


def new_job(owner: str) -> Job:
    """A finished job that begins now, with one picture. It differs from all others."""
    done = next(islice(drawn(next(NUMBERS)), len(ENDS), None))
    now = datetime.now(UTC)
    return replace(done, owner=owner, created=now, sent=now, ended=now)


def begun(job: Job) -> Job:
    """A job as it is when its call begins."""
    return replace(
        job, sent=None, ended=None, remote_id=None, receipt=Receipt(), images=(), open=True, state=State.QUEUED
    )


async def call(store: JobStore, job: Job, limits: Limits) -> dict[str, float]:
    """Make the call of a job through the job store; returns the milliseconds of each transaction."""
    times: dict[str, float] = {}

    async def timed(name: str, work: Awaitable[T]) -> T:
        began = time.perf_counter()
        done = await work
        times[name] = times.get(name, 0) + (time.perf_counter() - began) * 1000
        return done

    await timed("begin", store.begin(begun(job), limits))
    sent = replace(begun(job), sent=job.sent, state=State.PROCESSING)
    while await timed("mark_sent", store.mark_sent(sent, limits)) is Sending.NO_SLOT:  # noqa: ASYNC110
        await asyncio.sleep(0.005)  # no event says that a slot is free
    await timed("save", store.save(job, release=True))
    store.end_wait(job, job.ended or job.created, delivered=True, cancelled=False)
    return times


async def make_originals(store: JobStore) -> str:
    """Write the jobs that are copied, and those of the caller with a few; returns the account."""
    account = await store.accounts.of_key(KEY)
    for number, done in enumerate(drawn(ORIGINALS)):
        job = replace(done, account=account, owner=RARE_CALLER if number < len(ENDS) else FIRST_CALLER)
        await call(store, job, Limits())
    await store.written()
    return account


async def fill(postgres: Postgres, jobs: int) -> None:
    """Add copies until the ledger has this many jobs. `make_originals` must have been called before."""
    database = PostgresDatabase(postgres.url, SCHEMA)
    (has,) = postgres.rows("SELECT count(*) AS jobs, max(number) AS last FROM jobs")
    values: dict[str, Any] = {"first": has["last"], "count": jobs - has["jobs"], "all": jobs}

    def copy(connection: Connection) -> None:
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SET LOCAL synchronous_commit = off")
        connection.execute(_copied(connection, "jobs", "number", _OWN), values)
        connection.execute(_copied(connection, "images", "job", _OWN_OF_IMAGE), values)
        connection.execute(
            "INSERT INTO gallery SELECT images.created, images.number, images.owner, FALSE, words"  # noqa: S608
            f" FROM images JOIN gallery AS first ON first.image = {_original('images.number - :first')}"
            " WHERE images.number > :first",
            values,
        )
        for table in ("jobs", "images"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'number'), max(number)) FROM {table}")  # noqa: S608
        connection.execute(_SPENT)

    if values["count"] > 0:
        await database.write(copy)
    await database.close()
    postgres.rows("VACUUM ANALYZE")
    postgres.rows("CHECKPOINT")


def _original(number: str) -> str:
    """The number of the job, or of its picture, that is copied: the first ones are those of the rare caller."""
    return f"{len(ENDS) + 1} + ({number}) % {ORIGINALS - len(ENDS)}"


def _copied(connection: Connection, table: str, key: str, own: dict[str, str]) -> str:
    columns = [
        row["name"]
        for row in connection.execute(
            "SELECT attname::text AS name FROM pg_attribute"  # noqa: S608
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
    ]
    chosen = ", ".join(f"{own[name]} AS {name}" if name in own else f"{table}.{name}" for name in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen}"  # noqa: S608
        f" FROM generate_series(1, :count) AS n JOIN {table} ON {table}.{key} = {_original('n')}"
    )
