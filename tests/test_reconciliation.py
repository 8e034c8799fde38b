"""How the server finds out what happened to a call whose answer was lost. It says "never ran" only with proof."""

import importlib
import json
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest
from conftest import (
    API,
    HISTORY,
    KEY,
    NO_PAUSE,
    Sandbox,
    Time,
    app_over,
    begun,
    job_of,
    serving_sandbox,
    text_of,
    until,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client import Client
from test_promises import RT, SLOW, UNTIL_DRAWN, VEGA, change, checked, id_in, listed, submitted_elsewhere

from mcp_vega.job import Job
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.sandbox.account import Call
from mcp_vega.sandbox.faults import Faults
from mcp_vega.sandbox.history import history_rows
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext

pytestmark = pytest.mark.anyio

NOT_SHOWN = "the request history does not show the call"
LACKS = "the request history does not show all calls that are known to have run"
NONE_OF_OURS = "the request history shows no call that was made here after this one"
UNCLEAR = "with too few details to be sure"


# ---- what is found ----


@pytest.mark.parametrize("fault", ["504-after", "cut", "truncated", "html", "error-200", "empty"])
async def test_a_call_that_ran_and_lost_its_answer_ends_with_its_picture_paid_once(
    sandbox: Sandbox, tmp_path: Path, fault: str
) -> None:
    """The sandbox's media are complete even if the answer was not, unless the fault is in the picture itself."""
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        failed = await agent.call_tool(RT, {"prompt": f"a fox [fault:{fault}]"})
        assert failed.is_error
        assert "Charged: no" not in text_of(failed)
        request_id = id_in(failed)
        if fault in ("truncated", "empty"):
            await drop_faults(sandbox)
        result = await checked(agent, request_id)
        job = job_of(result)
        assert job["images"][0]["path"]
        assert job["cost_usd"] == 0.002
        assert job["request_id"] in sandbox.account.calls
        assert text_of(await agent.call_tool("check_job", {"request_id": request_id})) == text_of(result)
    assert sandbox.paid_requests == 1


async def drop_faults(sandbox: Sandbox) -> None:

    for call in sandbox.account.calls.values():
        call.faults = Faults("", 0)


async def test_a_call_that_failed_at_the_api_ends_as_failed_with_the_words_of_the_api(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        failed = await agent.call_tool(RT, {"prompt": "a fox [fault:failed]"})
        assert "Charged: unknown." in text_of(failed)
        settled = text_of(await checked(agent, id_in(failed)))
        assert "The API could not draw this: “The model ran out of memory”" in settled
        assert "Charged: no." in settled


async def test_an_outcome_that_cannot_be_looked_up_stays_unknown_and_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.history_status = 503
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, {"prompt": "a fox [fault:504-after]"}))
        unknown = await checked(agent, request_id)
        assert unknown.is_error
        assert "HTTP 504; the request history could not be read: The API answered with HTTP 503" in text_of(unknown)
        assert "Charged: unknown." in text_of(unknown)
        assert "https://cloud.segmind.com" in text_of(unknown)
        sandbox.account.history_status = 200
        assert job_of(await checked(agent, request_id))["images"]
    assert sandbox.paid_requests == 1


async def test_each_of_two_calls_with_the_same_recipe_finds_its_own_row(sandbox: Sandbox, tmp_path: Path) -> None:
    arguments = {"prompt": "a fox [fault:504-after*1]", "seed": 5}
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        delivered = job_of(await agent.call_tool(RT, {"prompt": "warm up", "seed": 5}))
        failed = await agent.call_tool(RT, arguments)
        first = job_of(await checked(agent, id_in(failed)))
        second = job_of(await agent.call_tool(RT, arguments))
    assert len({job["request_id"] for job in (delivered, first, second)}) == 3
    assert {job["request_id"] for job in (delivered, first, second)} == set(sandbox.account.calls)


async def test_a_history_that_does_not_show_the_inputs_of_its_calls_proves_nothing(
    tmp_path: Path,
) -> None:
    silent = True

    def changed(call: Call, base: str, now: float) -> list[dict[str, Any]]:
        every = history_rows(call, base, now)
        return [{**row, "request_body": None} for row in every] if silent else every

    async with (
        serving_sandbox(history_rows=changed) as sandbox,
        app_over(sandbox.url, tmp_path) as app,
        Client(build_server(app)) as agent,
    ):
        failed = await agent.call_tool(RT, {"prompt": "a fox [fault:504-after]"})
        text = text_of(await checked(agent, id_in(failed)))
        assert "with too few details to be sure" in text
        assert "Charged: unknown." in text
        silent = False
        assert job_of(await checked(agent, id_in(failed)))["images"]


async def test_an_earlier_call_with_the_same_recipe_is_not_taken_for_this_one(sandbox: Sandbox, tmp_path: Path) -> None:
    arguments = {"prompt": "a fox", "seed": 5}
    await submitted_elsewhere(sandbox, slug="segmind-vega-rt-v1", **arguments)
    (call,) = sandbox.account.calls.values()
    call.created -= 3600
    async with (
        app_over(sandbox.url, tmp_path, transport=LosingPosts()) as app,
        Client(build_server(app)) as agent,
    ):
        failed = await agent.call_tool(RT, arguments)
        text = text_of(await checked(agent, id_in(failed)))
    assert "drew “" not in text
    assert "Charged: unknown." in text


class LosingPosts(httpx.AsyncHTTPTransport):
    """A transport that loses paid calls after they were sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            raise httpx.ReadError("", request=request)
        return await super().handle_async_request(request)


async def test_a_submission_whose_answer_was_lost_is_followed_by_its_id_once_that_is_known(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.account.speed = SLOW
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        failed = await agent.call_tool("submit_job", {"prompt": "a fox [fault:504-after]"})
        await until(lambda: sandbox.account.requests["GET status"])
        sandbox.account.skip(UNTIL_DRAWN)
        job = job_of(await checked(agent, id_in(failed)))
        assert job["request_id"] in sandbox.account.calls
        assert job["seconds"] is not None, "the record in the queue says more than the history"
    assert sandbox.paid_requests == 1


async def test_a_job_whose_record_expired_is_found_in_the_history(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]", "samples": 2}))[
            "request_id"
        ]
    call = sandbox.account.calls[request_id]
    call.queue_seconds = 0
    sandbox.account.skip(2 * 3600)
    later = datetime.now(UTC) + timedelta(hours=2)
    async with app_over(sandbox.url, tmp_path, clock=lambda: later) as app, Client(build_server(app)) as agent:
        job = job_of(await checked(agent, request_id))
    assert len(job["images"]) == 2
    assert sandbox.paid_requests == 1


async def test_a_job_whose_pictures_are_gone_from_the_api_stays_paid_and_says_so(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
    sandbox.account.calls[request_id].queue_seconds = 0
    sandbox.account.skip(8 * 24 * 3600)
    later = datetime.now(UTC) + timedelta(days=8)
    async with app_over(sandbox.url, tmp_path, clock=lambda: later) as app, Client(build_server(app)) as agent:
        text = text_of(await checked(agent, request_id))
    assert "answered with HTTP 404" in text
    assert "Charged: yes." in text


async def test_a_call_never_takes_the_row_of_an_earlier_call_that_failed(sandbox: Sandbox, tmp_path: Path) -> None:
    arguments = {"prompt": "a fox [fault:failed*1] [fault:504-after]", "seed": 5}
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        first = await agent.call_tool(RT, arguments)
        assert "ran out of memory" in text_of(await checked(agent, id_in(first)))
        second = await agent.call_tool(RT, arguments)
        assert job_of(await checked(agent, id_in(second)))["images"]
    assert len(sandbox.account.calls) == 2


async def test_two_lost_calls_with_the_same_recipe_each_find_a_row_of_their_own(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    arguments = {"prompt": "a fox [fault:504-after]", "seed": 5}
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(agent.call_tool, RT, arguments)
        for job in await listed(agent):
            await checked(agent, job["request_id"])
        jobs = await listed(agent)
    assert {job["request_id"] for job in jobs} == set(sandbox.account.calls)
    assert [job["state"] for job in jobs] == ["COMPLETED"] * 2


# ---- proof ----


async def test_a_call_never_ran_after_two_looks_at_the_history_a_day_later_and_an_hour_apart(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "before"})
        request_id = id_in(await agent.call_tool(RT, {"prompt": "a fox [fault:500]"}))
        await agent.call_tool(RT, {"prompt": "after"})
        for hours in (0, 0.1, 5, 18.9, 0.5, 0.9):  # 25.4 hours in total
            time.let_pass(hours=hours)
            said = text_of(await checked(agent, request_id))
            assert "Charged: unknown." in said
            assert NOT_SHOWN in said
        day = (await app.service.get(request_id)).created.date()
        assert await app.service.store.spending.on(day) == Decimal("0.006")
        time.let_pass(hours=0.2)
        proven = text_of(await checked(agent, request_id))
        assert proven.endswith(
            "and a day later the API's request history had no such call (never_ran).\nCharged: no.\nNext: Call again."
        )
        assert await app.service.store.spending.on(day) == Decimal("0.004")
        asked = sandbox.account.requests.copy()
        assert text_of(await checked(agent, request_id)) == proven
        assert sandbox.account.requests == asked, "the job is closed"
    assert sandbox.paid_requests == 3


async def test_any_earlier_call_shows_how_far_back_the_history_goes(sandbox: Sandbox, tmp_path: Path) -> None:
    call_elsewhere(sandbox, "by another program", hours=-1, seed=1)
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, DID_NOT))
        await agent.call_tool(RT, {"prompt": "after"})
        await checked(agent, request_id)
        for hours in (25, 2):
            time.let_pass(hours=hours)
            said = text_of(await checked(agent, request_id))
        assert "Charged: no." in said


@pytest.mark.parametrize("missing", ["before", "after"])
async def test_a_history_without_an_earlier_call_and_a_later_one_proves_nothing(
    sandbox: Sandbox, tmp_path: Path, missing: str
) -> None:
    """Neither does an empty history, nor one that stopped or has only the latest calls."""
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        if missing == "after":
            await agent.call_tool(RT, {"prompt": "before"})
        request_id = id_in(await agent.call_tool(RT, DID_NOT))
        if missing == "before":
            await agent.call_tool(RT, {"prompt": "after"})
        await checked(agent, request_id)
        for hours in (25, 2, 2):
            time.let_pass(hours=hours)
            said = text_of(await checked(agent, request_id))
            assert f"{missing} this one" in said
            assert "Charged: unknown." in said


async def test_a_server_that_is_started_later_can_prove_it_too(sandbox: Sandbox, tmp_path: Path) -> None:
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "before"})
        request_id = id_in(await agent.call_tool(RT, {"prompt": "a fox [fault:500]"}))
        await agent.call_tool(RT, {"prompt": "after"})
        await checked(agent, request_id)
    for hours, said in ((25, "unknown"), (0.5, "unknown"), (1, "no")):
        time.let_pass(hours=hours)
        async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
            assert f"Charged: {said}." in text_of(await checked(agent, request_id))


async def test_the_server_looks_for_a_lost_call_by_itself_until_there_is_proof(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.jobs.recovery.LOOK_SECONDS", 0.01)
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "before"})
        request_id = id_in(await agent.call_tool(RT, {"prompt": "a fox [fault:500]"}))
        await agent.call_tool(RT, {"prompt": "after"})
        job = await app.service.get(request_id)
        pauses: list[timedelta] = []
        while job.open:
            now = time.now()
            job = await until(partial(at_rest, app.service, job, now))
            if job.next_try:
                pauses.append(job.next_try - now)
                time.let_pass(seconds=pauses[-1].total_seconds() + 1)
        assert job.error is not None
        assert job.error.code == "never_ran"
    assert pauses[0] < timedelta(minutes=6)
    assert max(pauses) < timedelta(minutes=61)
    assert timedelta(hours=25) < sum(pauses, timedelta()) < timedelta(hours=28)


async def at_rest(service: JobService, job: Job, now: datetime) -> Job | None:
    """The job, if it is closed or its next try is later than now."""
    job = await service.get(job.local_id)
    later = job.next_try is not None and job.next_try > now
    return job if not job.held and (later or not job.open) else None


PROOF = {"hours": 25}, {"hours": 2}, {"hours": 2}, {"days": 3}


async def end_after(sandbox: Sandbox, folder: Path, arguments: dict[str, Any], tool: str = RT, **options: Any) -> str:
    """The text about a lost call between two other calls, after enough time for a proof."""
    time = Time(sandbox)
    async with (
        app_over(sandbox.url, folder, **{**time.clocks, **options}) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool(RT, {"prompt": "the one before"}))
        request_id = id_in(await agent.call_tool(tool, arguments))
        job_of(await agent.call_tool(RT, {"prompt": "the one after"}))
        said = text_of(await checked(agent, request_id))
        for span in PROOF:
            time.let_pass(**span)
            said = text_of(await checked(agent, request_id))
            if "Charged: unknown." not in said:
                break
    return said


RAN = {"prompt": "a fox [fault:504-after]"}
DID_NOT = {"prompt": "a fox [fault:504]"}


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ({"error": True}, "came in an unknown form (“The request history cannot be read at the moment”)"),
        ({"date": False}, NOT_SHOWN),
        ({"date_off": 8 * 24 * 3600}, "this machine's clock says"),
        ({"date_off": -3600}, "this machine's clock says"),
        ({"account": "another"}, NONE_OF_OURS),
    ],
)
@pytest.mark.parametrize("ran", [True, False])
async def test_a_history_that_proves_nothing_leaves_the_outcome_unknown(
    sandbox: Sandbox, tmp_path: Path, behaviour: dict[str, Any], reason: str, *, ran: bool
) -> None:
    sandbox.account.history = HistoryBehaviour(**behaviour)
    said = await end_after(sandbox, tmp_path, RAN if ran else DID_NOT)
    if ran and "date" in str(behaviour):
        assert "drew “" in said
    else:
        assert "Charged: unknown." in said
        assert reason in said


async def test_after_a_week_an_unknown_outcome_stays_unknown_and_counts_as_spent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    time = Time(sandbox)
    sandbox.account.history = HistoryBehaviour(inputs="missing")
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, RAN))
        await checked(agent, request_id)
        (job,) = await app.service.store.latest(1)
        time.let_pass(days=6)
        await checked(agent, request_id)
        assert (await app.service.get(request_id)).open
        time.let_pass(days=2)
        said = text_of(await checked(agent, request_id))
        assert UNCLEAR in said
        assert "Charged: unknown." in said
        assert not (await app.service.get(request_id)).open
        assert await app.service.store.spending.on(job.created.date()) == Decimal("0.002")


async def test_after_a_week_without_a_server_it_still_looks_twice_before_it_gives_up(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "before"})
        request_id = id_in(await agent.call_tool(RT, DID_NOT))
        await agent.call_tool(RT, {"prompt": "after"})
        await checked(agent, request_id)
    for hours, said in ((8 * 24, "unknown"), (2, "no")):
        time.let_pass(hours=hours)
        async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
            assert f"Charged: {said}." in text_of(await checked(agent, request_id))


async def test_a_later_import_of_an_earlier_call_does_not_count_as_a_call_after_this_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    earlier = call_elsewhere(sandbox, "of the same day", hours=-1, seed=3)
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, DID_NOT))
        await checked(agent, request_id)
        assert job_of(await checked(agent, earlier.id))["images"]
        for hours in (25, 2, 2):
            time.let_pass(hours=hours)
            said = text_of(await checked(agent, request_id))
            assert NONE_OF_OURS in said
            assert "Charged: unknown." in said


async def test_a_next_look_with_the_time_of_a_clock_that_was_ahead_is_not_waited_for(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.jobs.recovery.LOOK_SECONDS", 0.01)
    time = Time(sandbox)
    sandbox.account.history_status = 503
    time.ahead = timedelta(days=8)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, RAN))
        await checked(agent, request_id)
        sandbox.account.history_status = 200
        time.ahead = timedelta()
        await until(partial(has_pictures, app.service, request_id))


async def has_pictures(service: JobService, request_id: str) -> bool:
    return bool((await service.get(request_id)).images)


@pytest.mark.parametrize("inputs", ["missing", "no-seed", "null-seed", "cut"])
async def test_a_row_that_lacks_inputs_leaves_the_outcome_unknown(
    sandbox: Sandbox, tmp_path: Path, inputs: Any
) -> None:
    sandbox.account.history = HistoryBehaviour(inputs=inputs)
    said = await end_after(sandbox, tmp_path, RAN)
    assert UNCLEAR in said
    assert "Charged: unknown." in said


async def test_rows_of_other_jobs_that_lack_inputs_leave_no_doubt(sandbox: Sandbox, tmp_path: Path) -> None:
    time = Time(sandbox)
    sandbox.account.history = HistoryBehaviour(inputs="missing")
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "another"})
    assert "Charged: no." in await end_after(sandbox, tmp_path, DID_NOT)


async def test_a_history_that_lacks_one_call_that_ran_proves_nothing_about_another(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        first = job_of(await agent.call_tool(RT, {"prompt": "this one is hidden"}))["request_id"]
        sandbox.account.calls[first].key = "another"
        await agent.call_tool(RT, {"prompt": "this one is not"})
    assert LACKS in await end_after(sandbox, tmp_path, DID_NOT)


async def test_a_submission_that_was_accepted_is_never_reported_as_one_that_did_not_run(tmp_path: Path) -> None:
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += request.method == "GET"
        date = (datetime.now(UTC) + passed).strftime("%a, %d %b %Y %H:%M:%S GMT")
        if request.method == "POST":
            return httpx.Response(200, text="?")
        return httpx.Response(200, json={"data": []}, headers={"date": date})

    passed = timedelta()
    given: dict[str, Any] = {"clock": lambda: datetime.now(UTC) + passed, "transport": httpx.MockTransport(answer)}
    async with app_over(API, tmp_path, **given) as app, Client(build_server(app)) as agent:
        await agent.call_tool("submit_job", {"prompt": "a fox"})
        (job,) = await app.service.store.latest(1)
        for hours in (0, 49, 2, 2):
            passed += timedelta(hours=hours)
            last = text_of(await checked(agent, job.local_id))
    assert "Charged: unknown." in last
    assert asked > 4


# ---- the complete history ----


def call_elsewhere(sandbox: Sandbox, prompt: str, *, hours: float = 0, slug: str = "segmind-vega", **body: Any) -> Call:
    """A call that another program makes with the same key, this many hours later by the sandbox's clock."""
    call = sandbox.account.take("v1", slug, {"prompt": prompt, **body}, KEY)
    call.created += hours * 3600
    return call


@pytest.mark.parametrize("late", [62, 90, 12 * 3600, 23 * 3600])
async def test_the_server_waits_for_a_row_that_appears_late(sandbox: Sandbox, tmp_path: Path, late: float) -> None:
    """Fault A1: the row of the call appears only after a minute, or after nearly a day."""
    sandbox.account.history = HistoryBehaviour(late=late)
    assert "drew “" in await end_after(sandbox, tmp_path, RAN)


@pytest.mark.parametrize(
    "behaviour",
    [
        {"per_page": 20},
        {"per_page": 20, "total": False},
        {"per_page": 3, "first_page": 0},
        {"per_page": 20, "first_page": 0, "total": False},
        {"per_page": 3, "order": "ascending"},
        {"per_page": 20, "order": "ascending", "first_page": 0, "total": False},
        {"per_page": 3, "models": "titles", "total": False},
        {"per_page": 20, "models": "titles", "first_page": 0, "order": "ascending"},
    ],
)
async def test_a_row_is_found_on_any_page(sandbox: Sandbox, tmp_path: Path, behaviour: dict[str, Any]) -> None:
    """Fault A2: pages have fewer rows than requested, and the call is behind the end of the first one."""
    sandbox.account.history = HistoryBehaviour(**behaviour)
    for number in range(sandbox.account.history.per_page + 1):
        call_elsewhere(sandbox, "later", hours=number / 60, seed=number)
        call_elsewhere(sandbox, "before", hours=-number / 60 - 1, seed=number)
    assert "drew “" in await end_after(sandbox, tmp_path, RAN)


@pytest.mark.parametrize("time_zone", [-11, -5, 5.5, 13])
@pytest.mark.parametrize("inputs", ["full", "nested"])
async def test_a_row_with_the_drawn_seed_is_found_whatever_else_it_says(
    sandbox: Sandbox, tmp_path: Path, time_zone: float, inputs: Any
) -> None:
    """Fault A3, and times in a time zone that the history does not name."""
    for number in range(30):
        call_elsewhere(sandbox, "others", hours=number - 15, seed=number, slug="segmind-vega-rt-v1")
    sandbox.account.history = HistoryBehaviour(time_zone=time_zone, inputs=inputs, per_page=5)
    assert "drew “" in await end_after(sandbox, tmp_path, RAN)


async def test_a_row_with_only_the_seed_is_enough(tmp_path: Path) -> None:
    def bare(call: Call, base: str, now: float) -> list[dict[str, Any]]:
        kept = ("request_id", "model_status", "generation_url")
        return [
            {**{name: row[name] for name in kept}, "remark": f"drawn with seed {call.seed}."}
            for row in history_rows(call, base, now)
        ]

    async with serving_sandbox(history_rows=bare) as sandbox:
        assert "drew 2 pictures" in await end_after(sandbox, tmp_path, {**RAN, "samples": 2}, VEGA)


# ---- what is compared ----


@pytest.mark.parametrize(
    ("theirs", "is_doubt"),
    [
        ({"prompt": "1920, Paris street"}, True),  # fault A12: read as numbers, both are equal
        ({"prompt": "a boat", "seed": 8}, False),
        ({"prompt": "1920, Berlin street", "seed": 8}, True),
        ({"guidance_scale": 9}, True),
        ({"guidance_scale": "7,5"}, True),
        ({"negative_prompt": "cars"}, True),
        ({"prompt": "1920, BERLIN street"}, True),
        ({"prompt": "1920, Ber"}, True),
        ({"prompt": "[redacted]", "seed": 0}, True),
    ],
)
async def test_a_call_from_another_program_is_not_taken_for_this_one(
    tmp_path: Path, theirs: dict[str, Any], *, is_doubt: bool
) -> None:
    """A chosen seed needs an equal recipe. A difference leaves doubt, unless both the prompt and the seed differ."""

    def changed(call: Call, base: str, now: float) -> list[dict[str, Any]]:
        every = history_rows(call, base, now)
        if call.slug != "segmind-vega":
            return every
        return [{**row, "request_body": json.dumps({**call.body, **theirs})} for row in every]

    async with serving_sandbox(history_rows=changed) as sandbox:
        recipe = VegaParameters(prompt="1920, Berlin street", seed=7).body(base64=False)
        call_elsewhere(sandbox, **recipe)
        said = await end_after(sandbox, tmp_path, {"prompt": "1920, Berlin street [fault:504]", "seed": 7}, VEGA)
    assert "drew “" not in said
    assert ("Charged: unknown." in said) is is_doubt, said


async def test_the_same_call_of_another_program_an_hour_earlier_is_not_taken_for_this_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    recipe = VegaRTParameters(prompt=DID_NOT["prompt"], seed=5).body(base64=False)
    call = call_elsewhere(sandbox, "the same", hours=-1, slug="segmind-vega-rt-v1")
    call.body = recipe
    said = await end_after(sandbox, tmp_path, {**DID_NOT, "seed": 5})
    assert "drew “" not in said
    assert "Charged: no." in said


async def test_a_call_at_another_time_leaves_no_doubt(sandbox: Sandbox, tmp_path: Path) -> None:
    call_elsewhere(sandbox, DID_NOT["prompt"].replace("504", "504-after"), hours=-2, slug="segmind-vega-rt-v1", seed=7)
    assert "Charged: no." in await end_after(sandbox, tmp_path, {**DID_NOT, "seed": 7})


@pytest.mark.parametrize("known", [True, False])
async def test_a_lost_call_and_a_call_that_copied_its_seed_each_get_their_own_picture(
    sandbox: Sandbox, tmp_path: Path, *, known: bool
) -> None:
    """The answer to the second call may have another id than the history has."""
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        sandbox.account.history_status = 503
        lost = id_in(await agent.call_tool(RT, RAN))
        seed = (await app.service.get(lost)).parameters.seed
        copied = job_of(await agent.call_tool(RT, {"prompt": "a red bus", "seed": seed}))["request_id"]
        if not known:
            change(tmp_path, "UPDATE jobs SET remote_id = 'another' WHERE remote_id = ?", copied)
        sandbox.account.history_status = 200
        found = job_of(await checked(agent, lost))
    assert found["request_id"] not in (copied, lost)
    assert sandbox.account.calls[found["request_id"]].body["prompt"] == RAN["prompt"]


class HeldHistory(httpx.AsyncHTTPTransport):
    """A transport that holds back the request history, but not requests for a single call by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = anyio.Event(), anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == HISTORY:
            self.asked.set()
            await self.may_answer.wait()
        return await super().handle_async_request(request)


async def test_a_lost_call_whose_id_is_checked_while_the_server_looks_for_it_stays_one_job(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    history = HeldHistory()
    async with app_over(sandbox.url, tmp_path, transport=history) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, RAN)
        (call,) = sandbox.account.calls
        await until(history.asked.is_set)
        await agent.call_tool("check_job", {"request_id": call})
        history.may_answer.set()
        assert job_of(await checked(agent, call))["images"]
        assert [job["request_id"] for job in await listed(agent)] == [call]


async def test_if_two_lost_calls_with_one_recipe_have_one_row_neither_counts_as_never_run(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    time, arguments = Time(sandbox), {"prompt": "a fox [fault:504*1] [fault:504-after]", "seed": 5}
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "before"})
        sandbox.account.history_status = 503
        lost = [id_in(await agent.call_tool(RT, arguments))]
        await checked(agent, lost[0])
        time.let_pass(minutes=3)
        lost.append(id_in(await agent.call_tool(RT, arguments)))
        await checked(agent, lost[1])
        sandbox.account.history_status = 200
        await agent.call_tool(RT, {"prompt": "after"})
        assert len(set(lost)) == 2
        for hours in (1, 25, 2, 2):
            time.let_pass(hours=hours)
            said = [text_of(await checked(agent, each)) for each in lost]
            assert not any("Charged: no." in each for each in said)
        assert sum("drew “" in each for each in said) == 1
        assert "the same call was made twice" in "".join(said)


async def test_a_lost_call_whose_id_is_checked_stays_one_job(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        sandbox.account.history_status = 503
        lost = id_in(await agent.call_tool(RT, RAN))
        await checked(agent, lost)
        sandbox.account.history_status = 200
        sandbox.account.history = HistoryBehaviour(inputs="nested", models="titles")
        (call,) = sandbox.account.calls
        assert job_of(await checked(agent, call))["images"]
        assert [job["request_id"] for job in await listed(agent)] == [call]


async def test_a_row_of_the_other_model_does_not_prove_anything_about_this_call(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    call_elsewhere(sandbox, DID_NOT["prompt"].replace("504", "504*0"), seed=7)
    said = await end_after(sandbox, tmp_path, {**DID_NOT, "seed": 7})
    assert "Charged: unknown." in said


# ---- clocks ----


@pytest.mark.parametrize("days", [8, -8, 0.5])
async def test_no_job_is_closed_while_the_clock_is_wrong(sandbox: Sandbox, tmp_path: Path, days: float) -> None:
    """Fault A5: the clock is days ahead at one start, and right at the next."""
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        sandbox.account.history = HistoryBehaviour(late=3 * 3600)
        request_id = id_in(await agent.call_tool(RT, RAN))
        await checked(agent, request_id)
        time.ahead = timedelta(days=days)
        for _ in range(2):
            time.let_pass(hours=1)
            said = text_of(await checked(agent, request_id))
            assert "this machine's clock says" in said
            assert "Charged: unknown." in said
        time.ahead = timedelta()
        time.let_pass(hours=1.1)
        assert job_of(await checked(agent, request_id))["images"]


@pytest.mark.parametrize("days", [8, -8, -30])
async def test_a_call_that_was_sent_while_the_clock_was_wrong_is_found(
    sandbox: Sandbox, tmp_path: Path, days: float
) -> None:
    time = Time(sandbox)
    sandbox.account.history = HistoryBehaviour(late=12 * 3600)
    time.ahead = timedelta(days=days)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, RAN))
    time.ahead = timedelta()
    for hours in (0, 1.1, 1.1):
        time.let_pass(hours=hours)
        async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
            assert "Charged: unknown." in text_of(await checked(agent, request_id))
    time.let_pass(hours=12)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        assert job_of(await checked(agent, request_id))["images"]


@pytest.mark.parametrize("time_zone", [-11, -5, 5.5, 13])
@pytest.mark.parametrize("off", [0, 3600, -3600])
async def test_a_call_with_a_chosen_seed_is_found_in_any_time_zone_and_with_a_wrong_clock(
    sandbox: Sandbox, tmp_path: Path, time_zone: float, off: float
) -> None:
    sandbox.account.history = HistoryBehaviour(time_zone=time_zone, date_off=off)
    assert "drew “" in await end_after(sandbox, tmp_path, {**RAN, "seed": 5})


async def test_the_failure_of_another_programs_call_is_not_taken_for_the_failure_of_this_one(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The other call is the same, an hour earlier, and the times in the history have no zone."""
    sandbox.account.history = HistoryBehaviour(time_zone=0, late=12 * 3600)
    call = call_elsewhere(sandbox, RAN["prompt"], hours=-1, slug="segmind-vega-rt-v1", seed=5)
    call.created, call.error = call.created - 11.5 * 3600, "out of memory"
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, {**RAN, "seed": 5}))
        assert "Charged: unknown." in text_of(await checked(agent, request_id))
        time.let_pass(hours=13)
        assert job_of(await checked(agent, request_id))["images"]


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_that_is_always_wrong_does_not_hide_a_call_that_ran(
    sandbox: Sandbox, tmp_path: Path, hours: float
) -> None:
    time = Time(sandbox)
    time.ahead = timedelta(hours=hours)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        failed = await agent.call_tool(RT, RAN)
        assert job_of(await checked(agent, id_in(failed)))["images"]
        chosen = await agent.call_tool(RT, {**RAN, "seed": 5})
        await checked(agent, id_in(chosen))
        time.let_pass(hours=1)
        assert job_of(await checked(agent, id_in(chosen)))["images"]


# ---- random histories ----


@pytest.fixture(scope="module")
def histories() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        return importlib.import_module("histories")
    finally:
        sys.path.pop(0)


BEHAVIOURS = st.builds(
    HistoryBehaviour,
    late=st.sampled_from((0, 62, 90)) | st.floats(0, 23 * 3600),
    per_page=st.sampled_from((100, 20)) | st.integers(1, 100),
    first_page=st.sampled_from((0, 1)),
    time_zone=st.none() | st.floats(-12, 14),
    inputs=st.sampled_from(("full", "missing", "nested", "no-seed", "null-seed", "cut")),
    models=st.sampled_from(("slugs", "titles")),
    total=st.booleans(),
    date=st.booleans(),
    date_off=st.just(0) | st.floats(-1e7, 1e7),
    error=st.booleans(),
    account=st.sampled_from(("own", "another")),
    order=st.sampled_from(("as-asked", "ascending")),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    behaviour=BEHAVIOURS,
    queued=st.booleans(),
    seed_chosen=st.booleans(),
    calls=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 30)),
    clocks=st.tuples(*[st.just(0) | st.floats(-1e6, 1e6)] * 2),
)
async def test_no_history_makes_a_call_that_ran_look_like_one_that_never_ran(  # noqa: PLR0913, PLR0917  what is drawn
    histories: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
    behaviour: HistoryBehaviour,
    queued: bool,  # noqa: FBT001
    seed_chosen: bool,  # noqa: FBT001
    calls: tuple[int, int, int],
    clocks: tuple[float, float],
) -> None:
    case = histories.Case(behaviour, queued, seed_chosen, *calls, *clocks)
    end = await histories.end_of(case, tmp_path_factory.mktemp("case"), ran=True)
    assert end.posts == 1
    assert end.job.images or end.job.charged == "unknown", (case, end)


async def test_a_job_whose_work_breaks_is_not_tried_again_immediately(
    app: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(RunningJobs, "fail", broken)
    job = await begun(app.service, VegaRTParameters(prompt="a fox [fault:500]"))

    async def left() -> Job | None:
        found = await app.service.store.get(job.local_id)
        return found if found and not found.held else None

    found = await until(left)
    assert found.next_try
    assert found.next_try > job.created + timedelta(minutes=1)
