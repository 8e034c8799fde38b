"""How many calls a second the ledger in PostgreSQL can begin and end, and what the rows cost that all calls change.

    python benchmarks/replicas/contention.py [--processes 2] [--seconds 6] [--at-once 8] [--rounds 2] [--behind 18000]

Processes make calls through the job store, without drawing: `begin`, `mark_sent`, `save`, and the note that the caller
has the result. Each case has its own ledger. The cases are compared with the first one: many callers, no limits.

"Lock waits" is how many connections wait for a lock of another transaction, on average. The slots, the calls of a
minute and the sums of money are rows that all calls change: "dead rows" is how many old versions these tables have at
the end, and kB how large they are with their indexes.

Then another transaction reads all the time, as a backup does, so that PostgreSQL cannot remove old versions. The
program changes these rows as `--behind` calls do, and then makes calls one after the other.

The processes share this machine's cores with PostgreSQL, so calls a second are less than PostgreSQL can do. Processor
time for each call depends little on how busy the machine is.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import cycle
from typing import Any

import team
from in_process import KEY
from large_ledger import call, new_job

from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

MANY = 200
FREE = Limits(calls_at_once=1000)
MONEY, MINUTE = Decimal(100_000), 10_000_000
HOT = "('slots', 'calls', 'spending')"
WAITS = """
    SELECT count(*)::float8 AS waits FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'
"""
DEAD = f"""
    SELECT (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname IN {HOT})::float8 AS dead,
        sum(pg_total_relation_size(oid))::float8 / 1000 AS size,
        (SELECT sum(deadlocks) FROM pg_stat_database)::float8 AS deadlocks
    FROM pg_class WHERE relname IN {HOT} AND relkind = 'r'
"""  # noqa: S608


# What calls change in these tables, without their jobs.
CHURN = """
    CREATE PROCEDURE churn(many integer) LANGUAGE plpgsql AS $$ BEGIN
        FOR n IN 1..many LOOP
            UPDATE spending SET spent = spent + 1 WHERE owner = 'caller' || n % 200;
            INSERT INTO slots VALUES (1 + n % 16, 'churn' || n, 'churn', 'churn');
            INSERT INTO calls (caller, time) VALUES ('churn', extract(epoch FROM clock_timestamp()) - 70);
            COMMIT;
            DELETE FROM slots WHERE job = 'churn' || n;
            COMMIT;
        END LOOP;
        DELETE FROM calls WHERE caller = 'churn';
    END $$
"""
SPENT = """
    SELECT sum(total_exec_time)::float8 AS ms, sum(shared_blks_hit + shared_blks_read)::float8 AS pages
    FROM pg_stat_statements
"""


@dataclass(frozen=True)
class Case:
    """The callers and the limits of the calls."""

    callers: int = MANY
    limits: Limits = FREE


CASES = {
    "many callers, no limits": Case(),
    "one caller": Case(callers=1),
    "limit of money a day": Case(limits=replace(FREE, usd_a_day=MONEY)),
    "limit of calls a minute": Case(limits=replace(FREE, calls_a_minute=MINUTE)),
    "both limits": Case(limits=replace(FREE, usd_a_day=MONEY, calls_a_minute=MINUTE)),
    "both limits, 16 slots": Case(limits=Limits(MONEY, MINUTE)),
}


@dataclass
class Figures:
    """The figures of a case, one for each round."""

    calls: list[float] = field(default_factory=list[float])
    begin: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    dead: list[float] = field(default_factory=list[float])
    size: list[float] = field(default_factory=list[float])
    deadlocks: list[float] = field(default_factory=list[float])


# ---- in a process of its own ----


async def calls(url: str, number: int, case: Case, at_once: int, seconds: float) -> list[float]:
    """Make calls at the same time for some seconds; returns the milliseconds of each `begin`."""
    store = JobStore.in_postgres(url)
    account = await store.accounts.of_key(KEY)
    numbers, callers = cycle(range(1_000_000 * number, 1_000_000 * (number + 1))), cycle(range(case.callers))
    template = replace(new_job("caller0"), account=account)
    end, times = time.monotonic() + seconds, list[float]()

    async def one_after_the_other() -> None:
        while time.monotonic() < end:
            unique = f"{next(numbers):032x}"
            job = replace(template, local_id=f"local-{unique}", remote_id=unique, owner=f"caller{next(callers)}")
            job = replace(job, receipt=replace(job.receipt, request_id=unique))
            job = replace(job, images=(replace(job.images[0], id=job.image_id(0)),))
            times.append((await call(store, job, case.limits))["begin"])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(one_after_the_other())
    await store.leave()
    await store.close()
    return times


def work(results: Any, *arguments: Any) -> None:
    """Make calls, and report."""
    results.put(asyncio.run(calls(*arguments)))


# ---- in this process ----


def measure(case: Case, figures: Figures, processes: int, at_once: int, seconds: float) -> None:
    """Measure one case."""
    spawn = multiprocessing.get_context("spawn")
    with team.Postgres.running() as postgres:
        asyncio.run(calls(postgres.url, 0, case, 1, 0.2))  # makes the tables
        results = spawn.Queue()
        before = postgres.processor_seconds()
        workers = [
            spawn.Process(target=work, args=(results, postgres.url, number + 1, case, at_once, seconds))
            for number in range(processes)
        ]
        for each in workers:
            each.start()
        waits, end = list[float](), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            waits += [row["waits"] for row in postgres.rows(WAITS)]
        times = [each for _ in workers for each in results.get()]
        for each in workers:
            each.join()
        used = postgres.processor_seconds() - before
        time.sleep(1)  # PostgreSQL writes its statistics
        (found,) = postgres.rows(DEAD)
    figures.calls.append(len(times) / seconds)
    figures.begin.append(statistics.median(times))
    figures.cpu.append(used / len(times) * 1000)
    figures.waits.append(statistics.mean(waits))
    for name in ("dead", "size", "deadlocks"):
        getattr(figures, name).append(found[name])


def during_a_backup(behind: int) -> None:
    """Measure calls before and while another transaction reads, and print."""
    import psycopg

    case = CASES["both limits"]
    with team.Postgres.running() as postgres, psycopg.connect(postgres.url) as reader:
        postgres.rows("CREATE EXTENSION pg_stat_statements")
        asyncio.run(calls(postgres.url, 0, case, 1, 0.5))
        postgres.rows(CHURN)
        print(f"\n{'calls one after the other':42}{'ms in PG':>11}{'pages':>11}   for each call")
        for number, when in enumerate(("before", "during a backup", f"during a backup, after {behind} more calls"), 1):
            if number == 2:
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                reader.execute("SELECT count(*) FROM jobs")
            if number == 3:
                postgres.rows(f"CALL churn({behind})")
            postgres.rows("SELECT pg_stat_statements_reset()")
            count = len(asyncio.run(calls(postgres.url, number, case, 1, 2)))
            (found,) = postgres.rows(SPENT)
            print(f"{when:42}{found['ms'] / count:11.2f}{found['pages'] / count:11.0f}", flush=True)
        reader.rollback()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--at-once", type=int, default=8, help="calls at the same time in each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--behind", type=int, default=18_000, help="calls during a backup: five minutes, 60 a second")
    options = parser.parse_args()
    found = {name: Figures() for name in CASES}
    for _ in range(options.rounds):
        for name, figures in found.items():
            measure(CASES[name], figures, options.processes, options.at_once, options.seconds)
    report(found)
    during_a_backup(options.behind)


def report(found: Mapping[str, Figures]) -> None:
    """Print the table."""
    columns = ("calls/s", "ratio", "begin ms", "CPU ms", "lock waits", "dead rows", "kB", "deadlocks")
    print(f"{'':26}" + "".join(f"{column:>11}" for column in columns))
    first = next(iter(found.values()))
    for name, each in found.items():
        ratio = [mine / other for mine, other in zip(each.calls, first.calls, strict=True)]
        values = (each.calls, ratio, each.begin, each.cpu, each.waits, each.dead, each.size, each.deadlocks)
        print(f"{name:26}" + "".join(f"{statistics.median(value):11.2f}" for value in values), flush=True)


if __name__ == "__main__":
    main()
