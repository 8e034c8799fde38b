"""Changes of jobs at the same time by several servers. On PostgreSQL their transactions really run at the same time."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import count, cycle
from typing import TypeVar

import anyio
import pytest
from stores import NO_LIMITS, NOW, Ledger, Server, a_job

from mcp_vega.errors import SpendingLimitReached
from mcp_vega.job import Image, ImageLocation, Job, Receipt, State
from mcp_vega.storage.ledger.search import ImageQuery
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.transactions import Begun

pytestmark = pytest.mark.anyio

T = TypeVar("T")


async def at_once(works: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do all works at the same time, and return their results."""
    results: list[T] = []

    async def do(work: Callable[[], Awaitable[T]]) -> None:
        results.append(await work())

    async with anyio.create_task_group() as tasks:
        for each in works:
            tasks.start_soon(do, each)
    return results


async def in_turn(several: list[Server], works: Iterable[Callable[[Server], Awaitable[T]]]) -> list[T]:
    """Do all works at the same time, each at the next server."""
    return await at_once(partial(work, server) for work, server in zip(works, cycle(several), strict=False))


def finished(job: Job, *, request_id: str = "", cost: str = "0.003") -> Job:
    """A job with its picture and receipt."""
    image = Image(
        id=job.image_id(0),
        location=ImageLocation("/pictures", f"{job.local_id}.jpg"),
        mime_type="image/jpeg",
        width=1,
        height=2,
        bytes=3,
        sha256="f",
    )
    receipt = Receipt(request_id or None, Decimal(cost))
    return replace(job, state=State.COMPLETED, open=False, images=(image,), receipt=receipt, ended=NOW)


async def require_sums_fit(ledger: Ledger, server: Server) -> None:
    """The sums of the days must be those of the jobs."""
    (row,) = ledger.execute("SELECT coalesce(sum(spent), 0) AS spent FROM jobs")
    assert await server.store.spending.on(NOW.date()) == Decimal(row["spent"]) / 10**9


@pytest.mark.parametrize("how", ["cancelled", "silent"])
@pytest.mark.parametrize("jobs", [1, 6])
async def test_of_the_same_calls_at_the_same_time_each_joins_another_job(ledger: Ledger, jobs: int, how: str) -> None:
    async with ledger.servers() as several:
        one = several[0]
        left = {(await one.begin()).local_id for _ in range(jobs)}
        for job in await one.store.latest(jobs):
            if how == "cancelled":
                await one.store.take_back(job, NOW)
        if how == "silent":
            ledger.execute("UPDATE jobs SET arrived = arrived - 5")

        async def begins(server: Server) -> Begun:
            return await server.store.begin(a_job(created=NOW + timedelta(seconds=5)), NO_LIMITS)

        # Jobs whose caller may have given up can be joined again and again, so there are only as many calls as jobs.
        begun = await in_turn(several, [begins] * (10 if how == "cancelled" else jobs))
        joined = [each.job.local_id for each in begun if each.joined]
        assert (len(joined), set(joined)) == (jobs, left)
        await require_sums_fit(ledger, one)


@pytest.mark.parametrize(
    ("limits", "spent"),
    [
        (Limits(usd_a_day=Decimal("0.01")), {"all": "0.01"}),
        (Limits(usd_a_day_each=Decimal("0.01")), {"": "0.01", "ada": "0.01", "all": "0.02"}),
        (Limits(usd_a_day_each=Decimal("0.001")), {"": "0", "ada": "0", "all": "0"}),
        (Limits(usd_a_day=Decimal("0.03"), usd_a_day_each=Decimal("0.01")), {"": "0.01", "ada": "0.01", "all": "0.02"}),
    ],
    ids=str,
)
async def test_calls_at_the_same_time_never_exceed_a_limit_of_the_day_together(
    ledger: Ledger, limits: Limits, spent: dict[str, str]
) -> None:
    numbers = count()

    async def begins(server: Server) -> bool:
        number = next(numbers)
        try:
            await server.store.begin(a_job(str(number), owner=("", "ada")[number // 2 % 2]), limits)
        except SpendingLimitReached:
            return False
        return True

    async with ledger.servers() as several:
        begun = sum(await in_turn(several, [begins] * 40))
        assert begun * Decimal("0.002") == Decimal(spent["all"]), "a call costs 0.002"
        by = {owner: await several[0].store.spending.by_all_and(owner, NOW.date()) for owner in ("", "ada")}
        figures = {"all": by[""].by_all, **{owner: each.by_owner for owner, each in by.items()}}
        assert figures | {name: Decimal(usd) for name, usd in spent.items()} == figures
        await require_sums_fit(ledger, several[0])


@pytest.mark.parametrize("limits", [Limits(calls_at_once=4), Limits(calls_a_minute=4)], ids=str)
async def test_calls_at_the_same_time_never_get_more_slots_than_there_are(ledger: Ledger, limits: Limits) -> None:
    numbers, nothing = count(), replace(limits, calls_at_once=0)
    async with ledger.servers() as several:

        async def begins(server: Server) -> tuple[Server, Job]:
            return server, await server.begin(nothing, prompt=str(next(numbers)))

        begun = await in_turn(several, [begins] * 12)
        sent = await at_once(partial(server.sends, job, limits) for server, job in begun)
        assert sorted(map(str, sent)) == [str(Sending.NO_SLOT)] * 8 + [str(Sending.SENT)] * 4
        assert len(ledger.execute("SELECT job FROM slots")) == 4


async def test_the_money_of_a_dead_server_is_given_back_once(ledger: Ledger) -> None:
    async with ledger.servers(4) as (died, *others):
        for _ in range(5):
            await died.begin()
        died.die()
        await at_once([each.store.activity for each in others] * 2)
        assert await others[0].store.spending.on(NOW.date()) == 0
        await require_sums_fit(ledger, others[0])


async def test_a_request_id_is_given_to_one_job(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        jobs = [await one.begin() for _ in range(6)]
        saved = [partial(one.store.save, finished(job, request_id="r1")) for job in jobs[:3]]
        assigned = [partial(two.store.assign, job, "r1") for job in jobs[3:]]
        await at_once([*saved, *assigned, partial(two.store.add_known, a_job(remote_id="r1"))])
        assert len(ledger.execute("SELECT local_id FROM jobs WHERE remote_id = 'r1'")) == 1
        await require_sums_fit(ledger, one)


async def test_a_job_that_is_saved_several_times_at_once_counts_once(ledger: Ledger) -> None:
    async with ledger.servers() as several:
        job = await several[0].begin()
        costs = ("0.003", "0.004", "0.005", "0.006")
        await in_turn(
            several, [lambda server, cost=cost: server.store.save(finished(job, cost=cost)) for cost in costs]
        )
        await require_sums_fit(ledger, several[0])


async def test_a_picture_that_is_deleted_while_it_is_saved_again_is_not_in_the_gallery(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        jobs = [finished(await one.begin(prompt=str(number))) for number in range(5)]
        for job in jobs:
            await one.store.save(job)
        search = two.store.search
        again = [partial(one.store.save, job) for job in jobs]
        deleted = [partial(search.mark_deleted, job.images[0], NOW) for job in jobs]
        stars = [partial(search.mark_starred, job.images[0].id, starred=True) for job in jobs]
        await at_once([*again, *deleted, *stars])
        assert await two.store.search.page(ImageQuery()) == ([], False)
        assert ledger.execute("SELECT image FROM gallery") == []


async def test_a_job_that_is_claimed_while_it_is_sent_is_sent_once(ledger: Ledger) -> None:
    async with ledger.servers(4) as (died, *others):
        jobs = [await died.begin(prompt=str(number)) for number in range(4)]
        died.die()

        async def claim_and_send(server: Server) -> list[Sending]:
            claimed = [job for job in jobs if await server.store.claim(job.local_id)]
            return [await server.sends(job) for job in claimed]

        sent = [sending for each in await in_turn(others, [claim_and_send] * 3) for sending in each]
        assert sent == [Sending.SENT] * len(jobs)
        await require_sums_fit(ledger, others[0])


async def test_a_job_that_is_not_in_the_ledger_any_more_is_not_sent(ledger: Ledger) -> None:
    async with ledger.servers(1) as (server,):
        job = await server.begin()
        ledger.execute("DELETE FROM slots")
        ledger.execute("DELETE FROM jobs")
        assert await server.sends(job) is Sending.LOST
        assert await server.store.save(replace(job, state=State.FAILED, open=False)), "its failure is in the ledger"


async def test_a_discarded_job_stays_if_a_caller_of_another_server_waits_for_it(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        ledger.execute("UPDATE jobs SET arrived = arrived - 5")
        assert (await two.store.begin(a_job(created=NOW + timedelta(seconds=5)), NO_LIMITS)).joined
        one.store.discard(job)
        await one.store.take_back(a_job(), NOW)
        assert [each.local_id for each in await two.store.latest(5)] == [job.local_id]
        await require_sums_fit(ledger, one)
