"""The ledger: several servers share it, whatever database it is in."""

import re
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import anyio
import pytest
from conftest import HANG_SECONDS, KEY, Sandbox, app_over, begun, job_of, until
from mcp.client import Client
from stores import API, NO_LIMITS, NOW, Ledger, PostgresLedger, Server, a_job, complete, the_only

from mcp_vega.errors import (
    InvalidArguments,
    MediaError,
    OutcomeUnknown,
    ServerClosing,
    SpendingLimitReached,
)
from mcp_vega.imaging.preview import Mode, Preview
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.ledger.job_store import SUBMITTED, WANTED, JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql import image_queries, job_queries
from mcp_vega.storage.ledger.transactions import Begun

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"


NEWEST = (
    f"SELECT * FROM jobs {job_queries.LATEST}",  # noqa: S608
    image_queries.NEWEST_REQUEST_IDS,
    image_queries.NEWEST_IMAGE_IDS,
)


@pytest.mark.parametrize("statement", NEWEST)
async def test_what_a_caller_has_is_found_without_reading_what_others_have(ledger: Ledger, statement: str) -> None:
    statement = statement.format(shown=job_queries.shown_to("alice"))
    for name, value in {":owner": "'alice'", ":since": "'2026-11-20'", ":limit": "9"}.items():
        statement = statement.replace(name, value)
    async with ledger.servers(1) as (server,):
        await server.begin()
        explain = "EXPLAIN QUERY PLAN"
        if isinstance(ledger, PostgresLedger):
            explain = "EXPLAIN"
            # Small tables are usually read completely, without an index.
            for option in ("enable_seqscan", "enable_bitmapscan"):
                change = f"format('ALTER DATABASE %I SET {option} = off', current_database())"
                ledger.execute(f"DO $$ BEGIN EXECUTE {change}; END $$")
        plan = ledger.execute(f"{explain} {statement}")
        assert any("_by_owner" in str(value) for row in plan for value in row.values()), plan


async def test_a_job_is_read_as_it_was_written(tmp_path: Path, ledger: Ledger) -> None:
    location = ImageLocation(str(tmp_path), "2026-11-20/ü.jpg")
    image = Image(id="0" * 32, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    error = MediaError("gone from s3://ours", next_step="Look")
    error.public = "gone"
    async with ledger.servers() as (one, other):
        job = await one.begin()
        job = replace(
            job,
            sent=NOW,
            ended=NOW + timedelta(seconds=2),
            next_try=NOW + timedelta(seconds=9),
            remote_id="r1",
            state=State.FAILED,
            receipt=Receipt("r1", Decimal("0.0020"), Decimal("9.81"), Decimal("1.7"), 7),
            images=(image,),
            notes=("one", "two"),
            error=error,
        )
        await one.store.save(job)
        found = await other.store.get("r1")
        assert found is not None
        assert found.error is not None
        assert (found.error, found.error.text, found.error.public) == (error, error.text, "gone")
        assert replace(found, error=None) == replace(job, error=None, held=True)
        kept = await other.store.search.image("0" * 32)
        assert kept is not None
        assert (kept[0].local_id, kept[1]) == (job.local_id, image)
        assert [each.local_id for each in await other.store.latest(5)] == [job.local_id]


CALLS: list[Parameters] = [
    VegaRTParameters(prompt="a fox"),
    VegaRTParameters(prompt="a fox", seed=-1, num_inference_steps=4, base64=False),
    VegaParameters(prompt="a fox", seed=7, samples=1, scheduler="DPM2 Karras", guidance_scale=7.5, negative_prompt=""),
    VegaParameters(
        prompt="a fox", samples=4, scheduler="Euler a", guidance_scale=9.0, negative_prompt="b", base64=True
    ),
]


@pytest.mark.parametrize("parameters", CALLS, ids=str)
async def test_a_call_is_read_as_it_was_given_with_what_was_left_out(ledger: Ledger, parameters: Parameters) -> None:
    async with ledger.servers() as (one, other):
        job = Job.of_call(parameters, route=Route.V2, base_url=API, created=NOW)
        await one.store.begin(job, NO_LIMITS)
        found = await other.store.get(job.local_id)
    assert found is not None
    assert (found.parameters, found.arguments) == (job.parameters, parameters.model_dump(exclude_unset=True))


async def test_an_old_row_is_read_with_the_values_of_its_time_whatever_the_defaults_are_now(ledger: Ledger) -> None:
    usual = {"img_width": 1024, "img_height": 1024, "base64": False, "samples": 1}
    usual |= {"negative_prompt": "", "scheduler": "DPM2 Karras", "guidance_scale": 7.5}
    async with ledger.servers(1) as (server,):
        job = replace(a_job(), parameters=VegaParameters(prompt="a fox", seed=7, samples=3))
        await server.store.begin(job, NO_LIMITS)
        ledger.execute("UPDATE jobs SET parameters = '{\"num_inference_steps\": 30}'")
        found = await server.store.get(job.local_id)
    assert found is not None
    assert found.parameters.model_dump() == {"prompt": "a fox", "seed": 7, "num_inference_steps": 30, **usual}


async def test_a_picture_or_job_is_found_by_any_of_its_names(tmp_path: Path, ledger: Ledger) -> None:
    image_id, remote_id = "0123abcd" + "e" * 24, "Req_7f3a9-2b"
    location = ImageLocation(str(tmp_path), "2026-11-20/a-fox-7-0123abcd.jpg")
    image = Image(id=image_id, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    async with ledger.servers(1) as (server,):
        job = await server.begin(owner="alice", local_id=f"local-{'9386a069' * 4}")
        job = replace(job, sent=NOW, state=State.COMPLETED, remote_id=remote_id, images=(replace(image, deleted=NOW),))
        await server.store.save(job)
        named = server.store.search.id_named
        for name in (
            *(image_id, image_id.upper(), image_id[:8], image.uri, f"{image.uri}/preview", location.key),
            *(location.path, "file:///a/a-fox-7-0123abcd.png", "C:\\a\\a-fox-7-0123ABCD (1).jpg", " a-7-0123abcd "),
            *(f"https://pictures.example/vega/images/{image_id}?sig=1#2", f"2-{image_id}.webp"),
        ):
            assert await named(str(name)) == image_id, name
        for name in (remote_id, remote_id[:8], job.local_id, "9386a069", "LOCAL-9386A069", *job.uris):
            assert await named(name, "alice") == remote_id, name
        for name in ("Req_7f3", "0123abc", "0123abcf", "a-fox-7.jpg", "", "/", "9386a0691"):
            assert await named(name) == name.rpartition("/")[2]
        assert await named("9386a069", "bob") == "9386a069", "another owner's job must not be visible"


async def test_several_ids_with_the_same_beginning_are_listed_and_a_complete_id_is_unique(ledger: Ledger) -> None:
    async with ledger.servers(1) as (server,):
        for number, remote_id in enumerate(("request-1", "request-10", "request-11")):
            job = await server.begin(prompt=str(number))
            await server.store.save(replace(job, sent=NOW, remote_id=remote_id))
        named = server.store.search.id_named
        with pytest.raises(InvalidArguments, match="begin with 'request-': request-1, request-10, request-11"):
            await named("request-")
        assert (await named("request-1"), await named("vega://jobs/request-11")) == ("request-1", "request-11")


async def test_only_one_server_works_on_a_job_until_that_server_dies_or_leaves(ledger: Ledger) -> None:
    async with ledger.servers(3) as (one, two, three):
        job = await one.begin()
        assert (await two.store.accounts.orphans(API, "")).left == []
        assert await two.store.claim(job.local_id) is None
        one.die()
        assert (await two.store.accounts.orphans(API, "")).left == [job.local_id]
        assert await two.store.claim(job.local_id) is not None
        assert await three.store.claim(job.local_id) is None
        assert await one.sends(job) is Sending.TAKEN, "the server learns that the job is no longer its own"
        await two.store.leave()
        assert await three.store.claim(job.local_id) is not None


async def test_a_finished_job_cannot_be_claimed(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        await one.store.save(replace(job, open=False, state=State.COMPLETED), release=True)
        assert await two.store.claim(job.local_id) is None


async def test_only_one_of_many_servers_gets_a_job(ledger: Ledger) -> None:
    async with ledger.servers(8) as (first, *others):
        job = await first.begin()
        await first.store.leave()
        takers: list[Job] = []

        async def take(server: Server) -> None:
            takers.extend([taken] if (taken := await server.store.claim(job.local_id)) else [])

        async with anyio.create_task_group() as tasks:
            for each in others:
                tasks.start_soon(take, each)
        assert len(takers) == 1


@pytest.mark.parametrize("state", [State.COMPLETED, State.UNKNOWN])
async def test_a_job_that_the_ledger_lost_is_written_again_by_the_server_that_works_on_it(
    ledger: Ledger, state: State
) -> None:
    location = ImageLocation("/pictures", "2026-11-20/a-fox.jpg")
    image = Image(id="0" * 32, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    async with ledger.servers() as (one, two):
        job = await one.begin()
        assert await one.sends(job) is Sending.SENT
        for table in ("slots", "jobs", "spending", "servers"):
            ledger.execute(f"DELETE FROM {table}")  # noqa: S608  as after a crash
        images = (image,) if state is State.COMPLETED else ()
        job = replace(job, sent=NOW, state=state, images=images, receipt=Receipt("r1", Decimal("0.002")))
        assert await one.store.save(job) is not None
        assert (await two.store.accounts.orphans(API, "")).left == [], "the first server still works on it"
        saved = await one.store.save(replace(job, open=False), release=True)
        found = await two.store.get("r1")
        assert saved is not None
        assert found is not None
        assert (found.local_id, found.images, found.held, found.open) == (job.local_id, images, False, False)
        assert await two.store.spending.on(NOW.date()) == Decimal("0.002")
        assert (await two.store.begin(a_job(), NO_LIMITS)).joined, "the same call must not be paid for again"


async def test_a_server_that_lost_a_job_may_save_only_its_pictures(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        one.die()
        assert await two.store.claim(job.local_id) is not None
        assert not await one.store.save(replace(job, state=State.FAILED, open=False), release=True)
        assert (await the_only(one)).state is State.QUEUED
        await one.store.save(replace(job, state=State.COMPLETED, open=False), release=True)
        assert (await the_only(one)).state is State.COMPLETED
        await two.store.save(replace(job, state=State.UNKNOWN), release=True)
        await one.store.save(replace(job, state=State.FAILED))
        assert (await the_only(one)).state is State.COMPLETED


async def test_a_job_reads_the_same_each_time(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        await one.begin(state=State.UNKNOWN, error=OutcomeUnknown("lost"))
        assert await the_only(one) == await the_only(two)


async def test_a_job_of_the_api_is_added_once(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        assert await one.store.add_known(a_job(remote_id="r1", sent=NOW))
        assert not await two.store.add_known(a_job(remote_id="r1", sent=NOW))
        assert len(await one.store.latest(5)) == 1


async def test_many_servers_can_create_a_ledger_at_the_same_time(ledger: Ledger) -> None:
    async with ledger.servers(12) as several, anyio.create_task_group() as tasks:
        for each in several:
            tasks.start_soon(each.store.latest, 1)


async def test_a_call_is_sent_once_by_its_holder_while_it_is_open(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        assert await two.sends(job) is Sending.TAKEN
        assert await one.sends(job) is Sending.SENT
        assert await one.sends(job) is Sending.SENT, "the answer to the first commit may have been lost"
        later = replace(job, sent=NOW + timedelta(seconds=3))
        assert await one.store.mark_sent(later, NO_LIMITS) is Sending.TAKEN
        ended = await one.begin(prompt="ended")
        await one.store.save(replace(ended, state=State.FAILED, open=False, error=ServerClosing("over")), release=True)
        assert await one.sends(ended) is Sending.TAKEN


@pytest.mark.parametrize("ahead", [timedelta(minutes=9), timedelta(minutes=-9)])
async def test_a_repeat_joins_while_the_end_of_its_call_is_noted_even_if_the_clocks_of_the_machines_differ(
    ledger: Ledger, ahead: timedelta
) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        arrived = two.store.uptime() - 1
        one.store.end_wait(job, NOW, delivered=False, cancelled=True)  # noted a moment after the same call has come
        await one.store.written()
        again = await two.store.begin(a_job(created=NOW + ahead), NO_LIMITS, arrived=arrived)
        assert again.joined


@pytest.mark.parametrize("ahead", [timedelta(minutes=9), timedelta(minutes=-9)])
async def test_two_calls_at_the_same_moment_are_two_even_if_the_clocks_of_the_machines_differ(
    ledger: Ledger, ahead: timedelta
) -> None:
    async with ledger.servers() as (one, two):
        arrived = two.store.uptime() - 1
        await one.begin()
        assert not (await two.store.begin(a_job(created=NOW + ahead), NO_LIMITS, arrived=arrived)).joined


@pytest.mark.parametrize(
    ("wanted", "cancelled", "after", "outcome"),
    [
        (WANTED, False, timedelta(seconds=119), Sending.SENT),
        (WANTED, False, timedelta(seconds=121), Sending.UNWANTED),
        (SUBMITTED, False, timedelta(minutes=59), Sending.SENT),
        (SUBMITTED, False, timedelta(minutes=61), Sending.UNWANTED),
        (WANTED, True, timedelta(seconds=3), Sending.UNWANTED),
        (WANTED, True, timedelta(minutes=-9), Sending.UNWANTED),  # the clock of the other server's machine is behind
    ],
)
async def test_another_server_sends_a_call_only_while_someone_expects_it(
    ledger: Ledger, wanted: timedelta, after: timedelta, outcome: Sending, *, cancelled: bool
) -> None:
    async with ledger.servers() as (one, two):
        job = a_job()
        await one.store.begin(job, NO_LIMITS, wanted=wanted)
        if cancelled:
            one.store.end_wait(job, NOW, delivered=False, cancelled=True)
        await one.store.leave()
        assert await two.store.claim(job.local_id)
        late = replace(job, sent=NOW + after)
        assert await two.store.mark_sent(late, NO_LIMITS, begun_here=False) is outcome


async def test_a_cancelled_call_that_is_repeated_is_expected_again(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        one.store.end_wait(job, NOW, delivered=False, cancelled=True)
        await one.store.leave()
        begun = await two.store.begin(a_job(), NO_LIMITS)
        assert (begun.joined, begun.job.local_id) == (True, job.local_id)
        await two.store.claim(job.local_id)
        assert await two.sends(job, begun_here=False) is Sending.SENT


async def test_a_call_joins_the_same_call_of_a_server_that_has_died(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        assert not (await two.store.begin(a_job(), NO_LIMITS)).joined, "the first caller is still waiting"
        one.die()
        begun = await two.store.begin(a_job(), NO_LIMITS)
        assert (begun.joined, begun.job.local_id, begun.job.held) == (True, job.local_id, False)


async def test_a_call_of_a_dead_server_is_joined_for_as_long_as_a_call_can_take(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        await one.sends(job)
        one.die()
        now = time.monotonic()
        assert not (await two.store.begin(a_job(), NO_LIMITS, arrived=now + 11 * 60)).joined
        assert (await two.store.begin(a_job(), NO_LIMITS, arrived=now + 9 * 60)).joined


async def test_the_end_of_a_call_without_its_result_is_written_immediately(ledger: Ledger) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        one.store.end_wait(job, NOW, delivered=False, cancelled=True)

        async def joined() -> bool:
            begun = await two.store.begin(a_job(), NO_LIMITS)
            return begun.joined and begun.job.local_id == job.local_id

        await until(joined)


class Hasty(JobStore):
    """A store whose caller leaves as soon as a job has been begun."""

    scope: anyio.CancelScope

    async def begin(self, *given: Any, **more: Any) -> Begun:
        begun = await super().begin(*given, **more)
        self.scope.cancel()
        return begun


async def test_a_call_that_is_cancelled_while_it_begins_is_not_sent_and_leaves_no_job(
    sandbox: Sandbox, tmp_path: Path, ledger: Ledger
) -> None:
    store = ledger.store(Hasty)
    async with app_over(sandbox.url, tmp_path, store=store, limits=Limits(usd_a_day=Decimal(1))) as app:
        with anyio.CancelScope() as store.scope:
            await begun(app.service, VegaRTParameters(prompt="a fox"))
        assert store.scope.cancelled_caught

        async def forgotten() -> bool:
            return not await store.latest(9)

        await until(forgotten)
        budget = await app.service.budget()
        assert budget is not None
        assert budget.spent == 0
    assert sandbox.paid_requests == 0


class Slow(ImageProcessor):
    """Works in a thread that cannot be cancelled, and ends after the cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.started = anyio.Event()

    async def previews(self, data: list[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
        made = await super().previews(data, mode, taken)
        if not self.started.is_set():
            self.started.set()
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep_forever()
        return made


async def test_an_answer_that_is_cancelled_while_it_is_made_counts_as_not_delivered(
    sandbox: Sandbox, tmp_path: Path, ledger: Ledger
) -> None:
    store = ledger.store(JobStore)
    async with app_over(sandbox.url, tmp_path, store=store) as app, Client(build_server(app)) as agent:
        processor = app.service.processor = Slow()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.call_tool, RT, {"prompt": "a fox"})
            await until(processor.started.is_set)
            tasks.cancel_scope.cancel()
        (first,) = await app.service.store.latest(1)

        async def ended() -> bool:
            return ledger.execute("SELECT awaited_by FROM jobs") == [{"awaited_by": None}]

        await until(ended)
        assert job_of(await agent.call_tool(RT, {"prompt": "a fox"}))["request_id"] == first.request_id
    assert sandbox.paid_requests == 1


async def test_a_result_that_was_delivered_is_not_joined_by_the_next_call(ledger: Ledger) -> None:
    async with ledger.servers(1) as (server,):
        job = await server.begin()
        server.store.end_wait(job, NOW, delivered=True, cancelled=False)
        assert not (await server.store.begin(a_job(), NO_LIMITS)).joined, "nothing waited for the note of the delivery"


async def test_no_call_that_waits_in_a_restored_ledger_is_sent_after_the_documented_statement(ledger: Ledger) -> None:
    """It may have been sent after the backup was made."""
    page = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
    (statement,) = re.findall("UPDATE jobs .*;", page)
    async with ledger.servers() as (one, two):
        waiting = await one.begin(created=NOW)
        one.die()
        ledger.execute(statement)
        claimed = await two.store.claim(waiting.local_id)
        assert claimed
        assert claimed.sent == NOW  # so the API's history is searched for it
        assert await two.sends(claimed, begun_here=False) is Sending.TAKEN


@pytest.mark.parametrize("limit", ["usd_a_day", "usd_a_day_each"])
async def test_unsent_calls_of_a_dead_server_use_neither_budget_nor_slots(ledger: Ledger, limit: str) -> None:
    limits = replace(Limits(calls_at_once=1), **{limit: Decimal("0.005")})
    async with ledger.servers() as (one, two):
        sent, unsent = await one.begin(limits), await one.begin(limits, prompt="another")
        assert await one.sends(sent, limits) is Sending.SENT
        with pytest.raises(SpendingLimitReached):
            await two.begin(limits, prompt="a third")
        one.die()
        third = await two.begin(limits, prompt="a third")
        assert await two.store.spending.on(NOW.date()) == Decimal("0.004"), "only the sent call and the third one count"
        assert await two.sends(third, limits) is Sending.SENT, "the slot is free again"
        await two.store.claim(unsent.local_id)
        with pytest.raises(SpendingLimitReached):
            await two.sends(unsent, replace(limits, calls_at_once=9), begun_here=False)


async def test_the_slot_of_a_dead_server_goes_to_a_waiting_job(ledger: Ledger) -> None:
    limits, later = Limits(calls_at_once=1), NOW + timedelta(seconds=2)
    async with ledger.servers() as (one, two):
        assert await one.sends(await one.begin(limits), limits) is Sending.SENT
        job = await two.begin(limits, prompt="it waits")
        assert not (await two.store.turns(limits, later)).free
        one.die()
        assert (await two.store.turns(limits, later)).jobs == {job.local_id}


async def test_a_server_that_continues_a_job_keeps_its_limit_of_calls_a_minute(ledger: Ledger) -> None:
    limits = Limits(calls_a_minute=1)
    async with ledger.servers() as (one, two):
        assert await one.sends(await one.begin(limits), limits) is Sending.SENT
        orphan = await two.begin(prompt="left behind")
        two.die()
        await one.store.claim(orphan.local_id)
        kept = ledger.execute("SELECT calls_a_minute FROM servers JOIN jobs ON holder = id")
        assert kept == [{"calls_a_minute": 1}] * 2, (
            "otherwise others would leave slots to its jobs that may not be sent"
        )


async def test_a_slot_that_a_stopped_server_does_not_use_is_taken_out_of_turn(ledger: Ledger) -> None:
    limits = Limits(calls_at_once=1)
    async with ledger.servers() as (one, two):
        first = await one.begin(limits, prompt="one's first")
        await one.store.save(replace(first, state=State.COMPLETED, open=False), release=True)
        second = await two.begin(limits, prompt="two's first")
        next_of_one = await one.begin(limits, prompt="one's next")
        job = await two.begin(limits, prompt="two's next")
        await two.store.save(replace(second, state=State.COMPLETED, open=False), release=True)
        looks = [await each.store.turns(limits, NOW + timedelta(seconds=2)) for each in (one, two)]
        assert [(len(look.jobs), look.free) for look in looks] == [(1, True), (0, True)]
        assert await two.sends(job, limits) is Sending.SENT
        assert await one.sends(next_of_one, limits) is Sending.NO_SLOT


class Stuck(JobStore):
    """A store that gives no job to a server while it is stuck."""

    stuck, asked = True, False

    async def claim(self, local_id: str) -> Job | None:
        self.asked = True
        if self.stuck:
            await anyio.sleep_forever()
        return await super().claim(local_id)


async def test_if_a_call_is_cancelled_while_it_joins_a_job_the_next_call_can_join_that_job(
    sandbox: Sandbox, tmp_path: Path, ledger: Ledger
) -> None:
    died = ledger.server()
    parameters = VegaRTParameters(prompt="a fox")
    account = await died.store.accounts.of_key(KEY)
    job = Job.of_call(parameters, route=Route.V1, base_url=sandbox.url, account=account, created=datetime.now(UTC))
    await died.store.begin(job, NO_LIMITS)
    died.die()
    store = ledger.store(Stuck)
    async with app_over(sandbox.url, tmp_path, store=store) as app:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.service.generate, parameters)
            await until(lambda: store.asked)
            tasks.cancel_scope.cancel()
        store.stuck = False
        joined = await begun(app.service, parameters)
        assert joined.local_id == job.local_id
        await until(lambda: complete(app.service, job))
    await died.store.close()
    assert sandbox.paid_requests == 1


# ---- a clock that is wrong ----


async def test_operations_at_the_same_time_never_share_a_transaction(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limiter of anyio before 4.14 sometimes lets in one too many. This limiter always does."""
    generous = anyio.CapacityLimiter(8)
    monkeypatch.setattr(anyio, "CapacityLimiter", MagicMock(return_value=generous))
    async with ledger.servers(1) as (server,), anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(partial(server.begin, prompt=f"{number}"))
            tasks.start_soon(server.store.latest, 100)
    async with ledger.servers(1) as (server,):
        assert len(await server.store.latest(100)) == 60


@pytest.mark.parametrize("by", [timedelta(hours=-2), timedelta(hours=2), timedelta(days=-40)])
async def test_a_clock_that_is_changed_while_a_job_runs_loses_nothing(
    sandbox: Sandbox, tmp_path: Path, ledger: Ledger, by: timedelta
) -> None:
    error = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + error

    async with (
        app_over(sandbox.url, tmp_path, store=ledger.store(JobStore), clock=clock, wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        sandbox.hold()
        sandbox.account.speed = 0.2
        queued = job_of(await agent.call_tool("submit_job", {"prompt": "queued"}))
        lost = job_of(await agent.call_tool(RT, {"prompt": "[fault:504-after]"}))
        await until(lambda: len(sandbox.account.calls) == 2)
        error = by
        sandbox.let_go()
        for job in (queued, lost):
            result = await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
            assert job_of(result)["images"]
    assert sandbox.paid_requests == 2


async def test_no_other_read_waits_for_a_slow_read(ledger: Ledger) -> None:
    started, may_end = threading.Event(), threading.Event()

    def search(_: Connection) -> bool:
        started.set()
        return may_end.wait(HANG_SECONDS)

    async with ledger.servers(1) as (server,), anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.database.read, search, slow=True))
        await anyio.to_thread.run_sync(started.wait)
        assert await server.store.get("nothing") is None
        may_end.set()
