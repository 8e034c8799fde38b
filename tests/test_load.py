"""Many calls at the same time: whose turn it is, what the ledger is asked, and what stays in memory."""

import gc
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Sandbox, app_over, job_of, text_of, until
from mcp.client import Client
from stores import NOW, Ledger, a_job
from test_cancellation import MODERN, HttpClient, serving_http

from mcp_vega.job import Image, Job, State
from mcp_vega.jobs.running import RunningJob
from mcp_vega.server.app import build_server
from mcp_vega.server.context import PREVIEWED_AT_ONCE
from mcp_vega.server.requests_in_flight import REMEMBERED_SECONDS, RequestInFlight
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

RT = "generate_image_vegart"


async def test_a_new_call_takes_no_slot_for_which_another_waits_unless_it_is_its_turn(ledger: Ledger) -> None:
    limits, soon = Limits(calls_at_once=1), NOW + timedelta(seconds=1)
    async with ledger.servers() as (one, two):
        first = await one.begin(limits, prompt="the first")
        waiting = await one.begin(limits, prompt="it waits")
        await one.store.save(replace(first, state=State.COMPLETED, open=False), release=True)
        new = await two.store.begin(a_job(prompt="a new one"), limits)
        assert not new.may_send, "the ledger is not asked for the order of all waiting jobs while a call begins"
        turns = [(await each.store.turns(limits, soon)).jobs for each in (one, two)]
        assert turns == [frozenset(), {new.job.local_id}], "the server with the fewest calls is next"
        assert await two.sends(new.job, limits) is Sending.SENT
        assert await one.sends(waiting, limits) is Sending.NO_SLOT
        await two.store.save(replace(new.job, state=State.COMPLETED, open=False), release=True)
        assert (await one.store.turns(limits, soon)).jobs == {waiting.local_id}


async def test_the_ledger_is_not_asked_for_the_end_of_a_job_that_this_server_has_ended(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Watched(JobStore):
        async def get(self, request_id: str) -> Job | None:
            asked.append(request_id)
            return await super().get(request_id)

    store = Watched.in_file(tmp_path / "home" / "ledger.sqlite3")
    async with app_over(sandbox.url, tmp_path, store=store) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        assert not [each for each in asked if each.startswith("local-")]


async def test_nothing_is_kept_of_calls_that_ended_a_while_ago(sandbox: Sandbox, tmp_path: Path) -> None:
    uptime = [1000.0]

    def kept() -> Counter[str]:
        gc.collect()
        kinds = RunningJob, RequestInFlight
        return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))

    before = kept()
    async with (
        serving_http(sandbox, tmp_path, MODERN, uptime=lambda: uptime[0]) as server,
        server.client() as client,
    ):

        async def call(client: HttpClient, number: int) -> None:
            assert (await client.call(number, arguments={"prompt": f"picture {number}"})).pictures == 1

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(call, client, number)
        uptime[0] += REMEMBERED_SECONDS + 1
        await call(client, 30)
        # Threads and timers may still have the last of them in their context.
        await until(lambda: kept() - before <= Counter(RequestInFlight=10))


async def test_only_a_few_results_hold_their_pictures_while_they_wait_for_previews(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    calls, read = PREVIEWED_AT_ONCE + 4, list[str]()

    class Watched(Gallery):
        async def read_in_time(self, image: Image) -> bytes:
            read.append(image.id)
            return await super().read_in_time(image)

    async with app_over(sandbox.url, tmp_path, gallery=Watched) as app, Client(build_server(app)) as agent:
        job = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        read.clear()
        results: list[Any] = []

        async def check() -> None:
            results.append(await agent.call_tool("check_job", {"request_id": job["request_id"]}))

        makers, holder = app.service.processor.limiter, [object() for _ in range(8)]
        used = holder[: int(makers.total_tokens)]
        for each in used:
            await makers.acquire_on_behalf_of(each)
        async with anyio.create_task_group() as tasks:
            for _ in range(calls):
                tasks.start_soon(check)
            await until(lambda: app.previewing.statistics().tasks_waiting == calls - PREVIEWED_AT_ONCE)
            assert len(read) == PREVIEWED_AT_ONCE
            for each in used:
                makers.release_on_behalf_of(each)
    assert len(results) == calls
    assert not [each for each in results if "no preview" in text_of(each) or each.is_error]
