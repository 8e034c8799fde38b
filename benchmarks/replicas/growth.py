"""What a call and the questions cost PostgreSQL with a small and with a large ledger, and how large its tables are.

    python benchmarks/replicas/growth.py [--jobs 2000 100000 1000000] [--calls 200]

The ledger is filled to each number of jobs in turn, one picture each, all of the last day, by 1,000 callers. Then one
server makes calls through the job store, one after the other: `begin`, `mark_sent`, `save` and the note that the caller
has the result. And it asks what servers and agents ask.

Statements, bytes of the log (WAL), pages and processor time do not depend on how busy the machine is; milliseconds do.
A page has 8 kB. "Log bytes" are without, and then with, the copies of whole pages that PostgreSQL writes when a page
changes for the first time after a checkpoint: here a checkpoint is just before the calls, so this is the most.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import team
from in_process import API
from large_ledger import RARE_CALLER, call, fill, make_originals, new_job
from ledgers import RARE, UNUSED, WORDS
from team import Postgres

from mcp_vega.job import OPERATOR, Job
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.search import ImageQuery
from mcp_vega.storage.ledger.spending import Limits

# High limits, so that each call checks them.
LIMITS = Limits(usd_a_day=Decimal(10_000), calls_a_minute=1_000_000)
ROUNDS = 5
COUNTS = """
    SELECT sum(calls)::float8 AS statements, sum(shared_blks_hit + shared_blks_read)::float8 AS pages,
        sum(total_exec_time)::float8 AS milliseconds,
        (pg_current_wal_insert_lsn() - '0/0')::float8 AS log
    FROM pg_stat_statements
"""
# As many calls in the last minute as at 60 a second.
CALLS = """
    INSERT INTO calls (caller, time)
    SELECT 'caller' || n % 100, extract(epoch FROM clock_timestamp()) - n / 60.0 FROM generate_series(1, 3600) AS n
"""
SIZES = """
    SELECT relname::text AS name, pg_relation_size(oid)::float8 AS bytes FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') ORDER BY bytes DESC
"""


class Asked(NamedTuple):
    """A question's statements, pages and milliseconds in PostgreSQL, and its milliseconds in all."""

    statements: float
    pages: float
    milliseconds: float
    total: float


def counts(postgres: Postgres) -> dict[str, float]:
    """What PostgreSQL has done since its start."""
    (row,) = postgres.rows(COUNTS)
    return row


# ---- calls ----


async def calls(store: JobStore, postgres: Postgres, number: int, account: str) -> tuple[dict[str, float], list[float]]:
    """Make calls; returns the median milliseconds of each transaction, and the counts for each call."""
    jobs = [replace(new_job(f"caller{index}"), account=account) for index in range(number)]
    for statement in ("DELETE FROM calls", CALLS, "VACUUM ANALYZE calls", "CHECKPOINT"):
        postgres.rows(statement)
    before, processor = counts(postgres), postgres.processor_seconds()
    times = [await call(store, job, LIMITS) for job in jobs]
    await store.written()
    used = (postgres.processor_seconds() - processor) * 1000
    done = {name: value - before[name] for name, value in counts(postgres).items()}
    medians = {name: statistics.median(each[name] for each in times) for name in times[0]}
    per_call = [done["statements"], used, done["milliseconds"], done["log"]]
    return medians, [each / number for each in per_call]


# ---- questions ----


Question = Callable[[], Awaitable[Any]]


def questions_of_servers(store: JobStore, account: str, some: Job) -> dict[str, Question]:
    """What servers ask while they work."""
    moment = some.created + timedelta(minutes=1)
    return {
        "turns": lambda: store.turns(LIMITS, moment),
        "orphans": lambda: store.accounts.orphans(API, account, moment),
        "a job by its id": lambda: store.get(some.local_id),
        "20 jobs before a job": lambda: store.accounts.that_ran_before(some, 20),
        "spent on this day": lambda: store.spending.on(some.created.date()),
    }


def questions_of_callers(store: JobStore, owner: str) -> dict[str, Question]:
    """What agents and the page ask."""
    search = store.search
    return {
        "latest 10 jobs": lambda: store.latest(10, owner),
        "first page": lambda: search.page(ImageQuery(owner=owner)),
        "the number of pictures": lambda: search.page_and_count(ImageQuery(owner=owner)),
        "search, common word": lambda: search.page(ImageQuery(WORDS[0], owner)),
        "search and count, common word": lambda: search.page_and_count(ImageQuery(WORDS[0], owner)),
        "search, rare word": lambda: search.page(ImageQuery(RARE, owner)),
        "search, unused word": lambda: search.page(ImageQuery(UNUSED, owner)),
        "completion, image ids": lambda: search.image_ids("", 100, owner),
        "completion, image id begins": lambda: search.image_ids("ab", 100, owner),
        "completion, request ids": lambda: search.request_ids("", 100, owner),
        "completion, request id begins": lambda: search.request_ids("ab", 100, owner),
        "completion, names": lambda: search.names("a", 20, owner),
        "an id that begins": lambda: search.image_ids("abcdef01", 100, owner),
    }


async def ask(postgres: Postgres, question: Question) -> Asked:
    """Ask a question some times, and count for each time."""
    await question()  # not counted: it reads from the disk
    before, times = counts(postgres), list[float]()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await question()
        times.append((time.perf_counter() - began) * 1000)
    done = {name: (value - before[name]) / ROUNDS for name, value in counts(postgres).items()}
    return Asked(done["statements"], done["pages"], done["milliseconds"], statistics.median(times))


# ---- all ----


async def measure(postgres: Postgres, store: JobStore, account: str, jobs: int, number: int) -> None:
    """Fill the ledger, measure, print."""
    await fill(postgres, jobs)
    print(f"\n{jobs:,} jobs\n\nbytes for each job: a table or an index")
    sizes = postgres.rows(SIZES)
    for row in sizes:
        if row["bytes"] / jobs >= 1:
            print(f"  {row['name']:30} {row['bytes'] / jobs:8.0f}")
    print(f"  {'all':30} {sum(row['bytes'] for row in sizes) / jobs:8.0f}")
    print("\na call                         statements  CPU ms   ms in PG  log bytes")
    last = replace(new_job("caller1"), account=account)
    for whole in ("off", "on"):
        postgres.rows(f"ALTER SYSTEM SET full_page_writes = {whole}")
        postgres.rows("SELECT pg_reload_conf()")
        await asyncio.sleep(1)  # PostgreSQL reads its settings
        medians, values = await calls(store, postgres, number, account)
        print(f"  full_page_writes {whole:12} " + "".join(f"{value:10.1f}" for value in values))
    print("  milliseconds: " + ", ".join(f"{name} {value:.1f}" for name, value in medians.items()))
    await call(store, last, LIMITS)
    await store.written()
    asked = {"servers": questions_of_servers(store, account, last)}
    owners = {"operator": OPERATOR, "a caller": "caller1", "a caller with 4 pictures": RARE_CALLER}
    asked |= {name: questions_of_callers(store, owner) for name, owner in owners.items()}
    for asker, questions in asked.items():
        print(f"\n{asker:34} {'statements':>11}{'pages':>11}{'ms in PG':>11}{'ms':>11}")
        for name, question in questions.items():
            found = await ask(postgres, question)
            print(f"  {name:32} " + "".join(f"{value:11.1f}" for value in found), flush=True)


async def run(jobs: list[int], number: int) -> None:
    """Measure with each number of jobs."""
    with team.Postgres.running() as postgres:
        postgres.rows("CREATE EXTENSION pg_stat_statements")
        store = JobStore.in_postgres(postgres.url)
        account = await make_originals(store)
        for each in jobs:
            await measure(postgres, store, account, each, number)
        await store.leave()
        await store.close()


def main() -> None:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2_000, 100_000, 1_000_000])
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(run(options.jobs, options.calls))


if __name__ == "__main__":
    main()
