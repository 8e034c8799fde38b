"""Calls a second of some replicas, and what a job costs PostgreSQL; compared with the embedded ledger.

    python benchmarks/replicas/throughput.py [--replicas 1 2 3] [--rounds 3] [--seconds 5] [--at-once 32] [--top 12]

In each round, calls go for some seconds to one server with an SQLite file and a folder, and then, through nginx, to
different numbers of replicas with PostgreSQL (fsync on) and moto's S3 server. Each answer is followed by the next call.
The API answers immediately, with the same picture. Servers, PostgreSQL, S3, nginx, API and client share this machine's
cores: with two cores, more replicas cannot be faster, and the figures of interest are those for each call.

The program counts statements, transactions and flushes of PostgreSQL (pg_stat_statements, pg_stat_database,
pg_stat_wal), and its connections. It needs Linux, PostgreSQL with pg_stat_statements, nginx, and the packages
moto[server], obstore and psycopg.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import team
from http_client import calls
from processes import memory_of, processor_seconds
from team import Postgres, Team

EMBEDDED = "embedded"
COUNTS = """
    SELECT (SELECT sum(calls) FROM pg_stat_statements)::float8 AS statements,
           (SELECT sum(total_exec_time) FROM pg_stat_statements)::float8 AS milliseconds,
           (SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database)::float8 AS transactions,
           (SELECT wal_sync FROM pg_stat_wal)::float8 AS flushes,
           (SELECT sum(rows) FROM pg_stat_statements WHERE query LIKE '%pg_notify%')::float8 AS notices,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::float8 - 1 AS connections
"""
TOP = """
    SELECT calls, round(total_exec_time::numeric, 1) AS ms, regexp_replace(query, '\\s+', ' ', 'g') AS query
    FROM pg_stat_statements ORDER BY {order} DESC LIMIT {number}
"""


@dataclass
class Figures:
    """The figures of one kind of set-up, one for each round. Times are milliseconds for each call."""

    calls_a_second: list[float] = field(default_factory=list[float])
    p50: list[float] = field(default_factory=list[float])
    processor: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    database: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


def counts_of(postgres: Postgres) -> dict[str, float]:
    """What PostgreSQL has done since its start."""
    (row,) = postgres.rows(COUNTS)
    return row


def processor_of(set_up: Team) -> dict[str, float]:
    """The processor time of each part in seconds."""
    parts = {
        "replicas": [replica.pid for replica in set_up.replicas],
        "PostgreSQL": set_up.postgres.pids if set_up.postgres else [],
        "S3": [set_up.s3.pid] if set_up.s3 else [],
        "API": [set_up.vendor.pid],
        "client": [os.getpid()],
    }
    return {name: sum(processor_seconds(pid) for pid in pids) for name, pids in parts.items()}


def measure(set_up: Team, figures: Figures, at_once: int, seconds: float, replicas: int) -> None:
    """Make calls for some seconds."""
    url = set_up.url
    if set_up.postgres:
        set_up.nginx.reload([each.address for each in set_up.replicas[:replicas]])
        time.sleep(0.5)  # nginx starts new workers
    asyncio.run(calls(url, replicas, 0))
    before = counts_of(set_up.postgres) if set_up.postgres else {}
    processor, began = processor_of(set_up), time.monotonic()
    times = asyncio.run(calls(url, at_once, seconds))
    took = time.monotonic() - began
    after = processor_of(set_up)
    figures.calls_a_second.append(len(times) / took)
    figures.p50.append(statistics.median(times) * 1000)
    figures.processor.append({name: (after[name] - processor[name]) / len(times) * 1000 for name in after})
    if set_up.postgres:
        now = counts_of(set_up.postgres)
        done = {name: ((now[name] or 0) - (before[name] or 0)) / len(times) for name in now}
        figures.database.append({**done, "connections": now["connections"]})


def idle(set_up: Team, seconds: float) -> dict[str, float]:
    """What the replicas let PostgreSQL do in a second while nobody calls."""
    assert set_up.postgres
    before = counts_of(set_up.postgres)
    time.sleep(seconds)
    after = counts_of(set_up.postgres)
    return {name: (after[name] - before[name]) / seconds for name in ("statements", "milliseconds", "transactions")}


def report(found: Mapping[str, Figures]) -> None:
    """Print the tables."""
    first = next(iter(found.values()))
    columns = ["calls/s", "p50 ms", *(f"{name} ms" for name in first.processor[0])]
    print(f"\n{'CPU ms for each call':18}" + "".join(f"{column:>15}" for column in columns))
    for name, figures in found.items():
        parts = {part: [each[part] for each in figures.processor] for part in figures.processor[0]}
        values = [figures.calls_a_second, figures.p50, *parts.values()]
        print(f"{name:18}" + "".join(f"{statistics.median(each):15.1f}" for each in values))
    columns = ["statements", "milliseconds", "transactions", "flushes", "notices", "connections"]
    print(f"\n{'PostgreSQL':18}" + "".join(f"{column:>15}" for column in columns) + "   for each call")
    for name, figures in found.items():
        if figures.database:
            values = [statistics.median(each[column] for each in figures.database) for column in columns]
            print(f"{name:18}" + "".join(f"{each:15.2f}" for each in values))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="how long a round is for each set-up")
    parser.add_argument("--at-once", type=int, default=32, help="calls at the same time")
    parser.add_argument("--top", type=int, default=0, help="also print so many of the statements")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        team.running(Path(one), 1, speed=0, embedded=True) as embedded,
        team.running(Path(other), max(options.replicas), speed=0) as set_up,
    ):
        assert set_up.postgres
        set_up.postgres.rows("CREATE EXTENSION pg_stat_statements")
        numbers = {f"{number} replica{'s' * (number > 1)}": number for number in options.replicas}
        found = {EMBEDDED: Figures(), **{name: Figures() for name in numbers}}
        resting = idle(set_up, options.seconds)
        set_up.postgres.rows("SELECT pg_stat_statements_reset()")
        for _ in range(options.rounds):
            for name, figures in found.items():
                team_or_one = set_up if name in numbers else embedded
                measure(team_or_one, figures, options.at_once, options.seconds, numbers.get(name, 1))
        memory = {EMBEDDED: memory_of(embedded.replicas[0].pid), "replica": memory_of(set_up.replicas[0].pid)}
        top = {
            order: set_up.postgres.rows(TOP.format(order=order, number=options.top))
            for order in ("calls", "total_exec_time")
            if options.top
        }
    print(f"{options.at_once} calls at the same time, rounds of {options.seconds:g} s: {options.rounds}")
    report(found)
    print(
        f"\n{max(options.replicas)} replicas at rest, for each second: "
        + ", ".join(f"{n} {v:.1f}" for n, v in resting.items())
    )
    print("memory after that, MB: " + ", ".join(f"{name} {size:.0f}" for name, size in memory.items()))
    for order, rows in top.items():
        print(f"\nstatements by {order}")
        for row in rows:
            print(f"{row['calls']:8} {row['ms']:10} ms  {row['query'][:150]}")


if __name__ == "__main__":
    main()
