"""What up to a hundred servers cost PostgreSQL while they wait, and what a notice to all of them costs.

    python benchmarks/replicas/crowd.py [--servers 1 10 100] [--seconds 10] [--open 3] [--notices 600]

The servers are job stores in this process, each with a session, a lock and connections of its own. As a real server
does, each looks once a second for jobs that nobody works on, and every five seconds for pictures to move. Each holds
some open jobs. Then one server sends notices of changes, 60 a second, and all others receive them.

Counts and processor time do not depend on how busy the machine is. "Client" is the processor time of this process: for
a notice, this is what all servers need to receive and parse it. Memory is that of PostgreSQL's processes, with the part
of the shared memory that they touch counted once (PSS). It needs Linux.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import team
from in_process import API, KEY
from large_ledger import begun, new_job
from team import Postgres

from mcp_vega.job import State
from mcp_vega.jobs.changes import TOPIC, Change
from mcp_vega.jobs.recovery import LOOK_SECONDS, REPORTED_LOOK_SECONDS
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

LIMITS = Limits(calls_at_once=1000)
COUNTS = """
    SELECT sum(calls)::float8 AS statements, sum(total_exec_time)::float8 AS milliseconds,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::float8 - 1 AS connections
    FROM pg_stat_statements
"""
LOCKS = """
    SELECT mean_exec_time::float8 AS milliseconds, calls FROM pg_stat_statements
    WHERE query LIKE '%pg_locks%' ORDER BY calls DESC LIMIT 1
"""


@dataclass
class Used:
    """Statements, milliseconds of statements, and processor seconds of PostgreSQL and of this process."""

    statements: float
    milliseconds: float
    postgres: float
    client: float


async def used_by(postgres: Postgres, work: Callable[[], Awaitable[None]]) -> Used:
    """Do some work; returns what was used meanwhile."""

    def look() -> Used:
        (row,) = postgres.rows(COUNTS)
        cpu = postgres.processor_seconds()
        return Used(row["statements"], row["milliseconds"], cpu, time.process_time())

    before = look()
    await work()
    after = look()
    return Used(*(getattr(after, name) - getattr(before, name) for name in Used.__dataclass_fields__))


def memory(postgres: Postgres) -> float:
    """The memory of PostgreSQL's processes in MB."""
    total = 0
    for pid in postgres.pids:
        with suppress(OSError):  # it has ended
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
            total += int(text.split("Pss:")[1].split()[0]) * 1024
    return total / 1e6


async def begin(store: JobStore, account: str, number: int) -> None:
    """Begin jobs and mark them as sent: then they are open, and this server holds them."""
    for _ in range(number):
        job = replace(begun(new_job("caller1")), account=account)
        await store.begin(job, LIMITS)
        await store.mark_sent(replace(job, sent=datetime.now(UTC), state=State.PROCESSING), LIMITS)


async def rest(stores: list[JobStore], account: str, seconds: float) -> None:
    """Let all servers wait for some seconds."""
    end = time.monotonic() + seconds

    async def repeat(ask: Callable[[], Awaitable[object]], pause: float, delay: float) -> None:
        await asyncio.sleep(delay)
        while time.monotonic() < end:
            await ask()
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as tasks:
        for number, store in enumerate(stores):
            delay = number / len(stores)
            orphans = lambda store=store: store.accounts.orphans(API, account, datetime.now(UTC))  # noqa: E731
            tasks.create_task(repeat(orphans, REPORTED_LOOK_SECONDS, delay))
            pending = lambda store=store: store.locations.pending(datetime.now(UTC))  # noqa: E731
            tasks.create_task(repeat(pending, LOOK_SECONDS, delay))


async def notify(stores: list[JobStore], number: int) -> list[float]:
    """Send notices, 60 a second; returns how many milliseconds each took until the last server had it."""
    content = asdict(Change.of(new_job("caller1"), kept=True))
    sent, times, missing = 0.0, list[float](), 0
    all_have_it = asyncio.Event()

    def receive(_: object) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            times.append((time.perf_counter() - sent) * 1000)
            all_have_it.set()

    async with AsyncExitStack() as stack:
        for store in stores[1:]:
            stack.enter_context(store.notices.listening(TOPIC, receive))
        for _ in range(number):
            began, missing = time.perf_counter(), len(stores) - 1
            sent = began
            all_have_it.clear()
            stores[0].notices.send(TOPIC, content)
            await asyncio.wait_for(all_have_it.wait(), 30)
            await asyncio.sleep(max(0.0, began + 1 / 60 - time.perf_counter()))
    return times


async def measure(servers: int, seconds: float, opened: int, notices: int) -> None:
    """Measure with this many servers, and print."""
    with team.Postgres.running(connections=servers * 9 + 20) as postgres:
        postgres.rows("CREATE EXTENSION pg_stat_statements")
        empty = memory(postgres)
        stores = [JobStore.in_postgres(postgres.url) for _ in range(servers)]
        account = await stores[0].accounts.of_key(KEY)
        for store in stores:
            await begin(store, account, opened)
        await rest(stores, account, 2)
        postgres.rows("SELECT pg_stat_statements_reset()")
        resting = await used_by(postgres, lambda: rest(stores, account, seconds))
        (locks,) = postgres.rows(LOCKS) or [{"milliseconds": 0.0, "calls": 0}]
        (counts,) = postgres.rows(COUNTS)
        size = memory(postgres) - empty
        print(
            f"{servers:7} {servers * opened:9} {counts['connections']:11.0f} {size:9.0f}"
            f" {resting.statements / seconds:13.1f} {resting.milliseconds / seconds:11.1f}"
            f" {resting.postgres / seconds * 1000:9.1f} {locks['milliseconds']:8.3f}",
            end="",
        )
        if servers > 1:
            times = list[float]()

            async def send() -> None:
                times.extend(await notify(stores, notices))

            sending = await used_by(postgres, send)
            print(
                f" {sending.postgres / notices * 1000:12.2f} {sending.client / notices * 1000:12.2f}"
                f" {statistics.median(times):10.1f}",
                end="",
            )
        print(flush=True)
        for store in stores:
            await store.leave()
            await store.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--open", type=int, default=3, help="open jobs of each server")
    parser.add_argument("--notices", type=int, default=600)
    options = parser.parse_args()
    print(
        f"{'servers':>7} {'open jobs':>9} {'connections':>11} {'memory MB':>9} {'statements/s':>13} {'ms/s in PG':>11}"
        f" {'CPU ms/s':>9} {'pg_locks':>8} {'notice: CPU':>12} {'client':>12} {'ms':>10}"
    )
    for servers in options.servers:
        asyncio.run(measure(servers, options.seconds, options.open, options.notices))


if __name__ == "__main__":
    main()
