"""What may be spent: the limit a day, the calls a minute and at the same time, over all servers that share a ledger."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import API, HANG_SECONDS, HISTORY, Sandbox, app_over, begun, handle, job_of, noise, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from pydantic import SecretStr
from stores import ledger_at
from test_http_access import served

from mcp_vega import errors
from mcp_vega.job import Job
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.http.access.tokens import callers_of
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Turns
from mcp_vega.storage.ledger.spending import DailySpending, Limits

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_ledger")]

VEGA, RT = "generate_image_vega", "generate_image_vegart"


def code_of(result: CallToolResult) -> str | None:
    return (result.meta or {}).get("mcp-vega/error", {}).get("code")


def a_day(usd: str) -> Limits:
    return Limits(Decimal(usd))


def waits(service: JobService, job: Job) -> bool:
    """Whether the job waits for its turn and says so."""
    return any(each.notes for each in service.active if each.local_id == job.local_id)


# ---- the day's limit ----


async def test_a_call_that_would_exceed_the_limit_is_refused_with_the_figures(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path, limits=a_day("0.005")) as app,
        Client(build_server(app)) as agent,
    ):
        for seed in (1, 2):
            job_of(await agent.call_tool(VEGA, {"prompt": "a fox", "seed": seed}))
        refused = await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 3})
        said = "The call is likely to cost $0.00225, and $0.0045 of today's $0.005 (UTC) are spent"
        assert text_of(refused).splitlines() == [
            f"Error: {said} (spending_limit_reached).",
            "Charged: no.",
            "Next: Call again after midnight UTC, or ask the user to raise MCP_VEGA_SPENDING_LIMIT_USD.",
        ]
        assert refused.is_error
        smaller = await agent.call_tool("submit_job", {"prompt": "a fox", "samples": 4})
        assert code_of(smaller) == "spending_limit_reached"
    assert sandbox.paid_requests == 2


async def test_every_result_says_what_it_cost_and_how_much_is_left(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, limits=a_day("1")) as app, Client(build_server(app)) as agent:
        drawn = await agent.call_tool(VEGA, {"prompt": "a fox"})
        assert "Cost: $0.00225\nCredits left: $9.99775\n" in text_of(drawn)
        *_, limit, uri, image = text_of(drawn).splitlines()
        assert limit == "Spending limit: $0.99775 of $1.00 left today (UTC)"
        assert (uri[:5], image[:7]) == ("URI: ", "Image: ")
        spending = {"limit_usd": 1.0, "spent_usd": 0.00225, "left_usd": 0.99775}
        assert (drawn.meta or {})["mcp-vega/spending"] == spending
        queued = await agent.call_tool("submit_job", {"prompt": "an owl", "samples": 2})
        assert "\nCost: about $0.0045\nSpending limit: $0.99325 of $1.00 left today (UTC)" in text_of(queued)


async def test_the_list_of_jobs_says_how_much_is_left_too(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, limits=a_day("1")) as app, Client(build_server(app)) as agent:
        for left in ("$1.00", "$0.998"):
            listed = await agent.call_tool("check_job", {})
            assert text_of(listed).endswith(f"\nSpending limit: {left} of $1.00 left today (UTC)")
            await agent.call_tool(RT, {"prompt": "a fox"})


async def test_without_a_limit_no_text_mentions_one(agent: Client) -> None:
    result = await agent.call_tool(VEGA, {"prompt": "a fox"})
    assert "Spending limit" not in text_of(result)
    assert set(result.meta or {}) >= {"mcp-vega/job"}
    assert "mcp-vega/spending" not in (result.meta or {})


async def test_a_limit_of_zero_allows_no_call(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, limits=a_day("0")) as app, Client(build_server(app)) as agent:
        assert code_of(await agent.call_tool(RT, {"prompt": "a fox"})) == "spending_limit_reached"
    assert sandbox.paid_requests == 0


async def test_two_servers_that_share_a_ledger_keep_one_limit_however_many_calls_come_at_the_same_time(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    results: list[CallToolResult] = []

    async def call(agent: Client, seed: int) -> None:
        results.append(await agent.call_tool(VEGA, {"prompt": "a fox", "seed": seed}))

    home, limits = tmp_path / "home", a_day("0.0115")  # enough for five calls, and a little more
    async with (
        app_over(sandbox.url, tmp_path / "one", home=home, limits=limits) as one,
        app_over(sandbox.url, tmp_path / "two", home=home, limits=limits) as two,
        Client(build_server(one)) as first,
        Client(build_server(two)) as second,
        anyio.create_task_group() as tasks,
    ):
        for seed in range(10):
            tasks.start_soon(call, first, seed)
            tasks.start_soon(call, second, 100 + seed)
    assert Counter(map(code_of, results)) == {None: 5, "spending_limit_reached": 15}
    assert sandbox.paid_requests == 5


async def test_a_call_that_was_certainly_not_charged_does_not_count_as_spent(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path, limits=a_day("0.0025")) as app,
        Client(build_server(app)) as agent,
    ):
        for fault in ("402", "failed", "moderation"):
            assert (await agent.call_tool("submit_job", {"prompt": f"a fox [fault:{fault}]"})) is not None
            await until(lambda: not app.service.active)
        job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))


async def test_a_call_with_an_unknown_outcome_counts_as_spent_until_the_outcome_is_known(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.account.history_status = 503
    async with app_over(sandbox.url, tmp_path, limits=a_day("0.0025")) as app, Client(build_server(app)) as agent:
        lost = await agent.call_tool("submit_job", {"prompt": "a fox [fault:504-after] [fault:failed]", "seed": 1})
        assert "Charged: unknown." in text_of(lost)
        assert code_of(await agent.call_tool(VEGA, {"prompt": "an owl"})) == "spending_limit_reached"
        sandbox.account.history_status = 200
        (job,) = await app.service.store.latest(1)
        settled = await agent.call_tool("check_job", {"request_id": job.local_id, "wait_seconds": 30})
        assert code_of(settled) == "generation_failed", "the request history has the cost"
        job_of(await agent.call_tool(VEGA, {"prompt": "an owl"}))


async def test_the_cost_that_the_api_reports_replaces_the_estimate(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        response = handle(noise("JPEG", 64))(request)
        if request.method == "POST":
            response.headers["x-cost"] = "0.0101"
        return response

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer), limits=a_day("0.02")) as app,
        Client(build_server(app)) as agent,
    ):
        drawn = await agent.call_tool(VEGA, {"prompt": "a fox"})
        assert "\nSpending limit: $0.0099 of $0.02 left today (UTC)\n" in text_of(drawn)
        job_of(await agent.call_tool(VEGA, {"prompt": "an owl"}))
        refused = await agent.call_tool(VEGA, {"prompt": "a cat"})
        assert "$0.0202 of today's $0.02" in text_of(refused)


async def test_each_day_has_a_limit_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    now = [datetime(2026, 11, 21, 23, 59, 59, 999_999, UTC)]
    async with (
        app_over(sandbox.url, tmp_path, limits=a_day("0.0025"), clock=lambda: now[0]) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))
        assert code_of(await agent.call_tool(VEGA, {"prompt": "an owl"})) == "spending_limit_reached"
        now[0] += timedelta(microseconds=1)
        job_of(await agent.call_tool(VEGA, {"prompt": "an owl"}))


async def test_each_caller_has_a_limit_and_sees_what_is_left_of_it_but_not_what_others_spent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    limits, cost = Limits(Decimal("0.0115"), usd_a_day_each=Decimal("0.005")), "The call is likely to cost $0.00225"
    callers = callers_of([SecretStr("alice:alices-token"), SecretStr("bob:bobs-token"), SecretStr("eve:eves-token")])
    async with (
        app_over(sandbox.url, tmp_path, limits=limits) as app,
        served(app, "http", callers=callers) as server,
        server.agent("alices-token") as alice,
        server.agent("bobs-token") as bob,
        server.agent("eves-token") as eve,
        Client(build_server(app)) as operator,
    ):
        for prompt, left in (("a fox", "$0.00275"), ("an owl", "$0.0005")):
            drawn = await alice.call_tool(VEGA, {"prompt": prompt})
            assert f"\nSpending limit: {left} of $0.005 left today (UTC)\n" in text_of(drawn)
        refused = await alice.call_tool(VEGA, {"prompt": "a cat"})
        assert text_of(refused).splitlines() == [
            f"Error: {cost}, and $0.0045 of this caller's $0.005 for today (UTC) are spent (spending_limit_reached).",
            "Charged: no.",
            "Next: Call again after midnight UTC, or ask the user to raise MCP_VEGA_SPENDING_LIMIT_USD_EACH.",
        ]
        # The operator is a caller like others.
        for prompt in ("a fox", "an owl"):
            job_of(await operator.call_tool(VEGA, {"prompt": prompt}))
        assert "this caller's $0.005" in text_of(await operator.call_tool(VEGA, {"prompt": "a cat"}))
        job_of(await bob.call_tool(VEGA, {"prompt": "a fox"}))
        # Less is left of what all may spend together.
        listed = await eve.call_tool("check_job", {})
        assert text_of(listed).endswith("\nSpending limit: $0.00025 of $0.005 left today (UTC)")
        spending = {"limit_usd": 0.005, "spent_usd": 0.0, "left_usd": 0.00025}
        assert (listed.meta or {})["mcp-vega/spending"] == spending
        state = await server.ask("GET", "/gallery/state", headers={"authorization": "Bearer eves-token"})
        assert {"today_usd": 0.0, "limit_usd": 0.005, "left_usd": 0.00025}.items() <= state.json()["spent"].items()
        refused = text_of(await eve.call_tool(VEGA, {"prompt": "a cat"}))
        said = "and less is left of what all callers together may spend today (UTC) (spending_limit_reached)."
        assert refused.splitlines()[0] == f"Error: {cost}, {said}"
        assert refused.endswith("to raise MCP_VEGA_SPENDING_LIMIT_USD.")
        assert sandbox.paid_requests == 5


async def test_a_call_that_joins_another_one_is_not_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path, limits=a_day("0.0025"), wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        first = await agent.call_tool(VEGA, {"prompt": "a fox"})
        again = await agent.call_tool(VEGA, {"prompt": "a fox"})
        await until(lambda: sandbox.paid_requests)
    assert not first.is_error
    assert not again.is_error
    assert sandbox.paid_requests == 1


# ---- turns ----


class Api:
    """An API that draws until it is told to go on. It counts the calls that are under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.prompts: list[str] = []
        self.go = anyio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return httpx.Response(503) if request.url.path == HISTORY else httpx.Response(404)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.prompts.append(json.loads(request.content)["prompt"])
        await self.go.wait()
        self.under_way -= 1
        return httpx.Response(200, content=noise("JPEG", 64), headers={"x-cost": "0.002"})

    async def reached(self, count: int) -> None:
        await until(lambda: len(self.prompts) >= count)


async def ended(service: JobService, jobs: list[Job]) -> list[Job]:
    found: list[Job] = []
    for job in jobs:
        seen = job
        async for each in service.follow(job, HANG_SECONDS):
            seen = each
        found.append(seen)
    return found


async def test_the_number_of_calls_at_the_same_time_is_limited(tmp_path: Path) -> None:
    api, home = Api(), tmp_path / "home"
    transport = httpx.MockTransport(api)
    async with (
        app_over(API, tmp_path / "one", home=home, transport=transport, limits=Limits(calls_at_once=3)) as one,
        app_over(API, tmp_path / "two", home=home, transport=transport, limits=Limits(calls_at_once=3)) as two,
    ):
        jobs = [
            await begun(app.service, VegaRTParameters(prompt=f"picture {number}"))
            for number in range(5)
            for app in (one, two)
        ]
        await api.reached(3)
        await until(lambda: sum(waits(one.service, job) or waits(two.service, job) for job in jobs) == 7)
        assert (api.under_way, api.most) == (3, 3)
        waiting = [job for job in [await one.service.get(job.local_id) for job in jobs] if job.notes]
        assert waiting[0].notes == ("it waits for its turn: at most 3 paid calls at the same time are allowed",)
        api.go.set()
        done = await ended(one.service, jobs[::2]) + await ended(two.service, jobs[1::2])
    assert {job.state for job in done} == {"COMPLETED"}
    assert (api.most, len(api.prompts)) == (3, 10)


async def test_calls_beyond_the_limit_a_minute_wait_for_their_turn_and_say_so(tmp_path: Path) -> None:
    api, uptime, limits = Api(), [1000.0], Limits(calls_a_minute=2)
    api.go.set()
    async with (
        app_over(
            API,
            tmp_path,
            transport=httpx.MockTransport(api),
            limits=limits,
            uptime=lambda: uptime[0],
        ) as app,
        Client(build_server(app)) as agent,
    ):
        for number in range(2):
            job_of(await agent.call_tool(RT, {"prompt": f"picture {number}"}))
        last = await begun(app.service, VegaRTParameters(prompt="picture 2"))
        await until(lambda: waits(app.service, last))
        late = await agent.call_tool("check_job", {"request_id": last.local_id})
        assert "(it waits for its turn: at most 16 paid calls at the same time and 2 a minute" in text_of(late)
        assert len(api.prompts) == 2
        uptime[0] += 60.5  # the API may have received the first two calls a second after they were noted
        assert not (await app.service.store.turns(limits, app.service.config.clock())).free
        uptime[0] += 1
        question = {"request_id": last.local_id, "wait_seconds": 45}
        assert job_of(await agent.call_tool("check_job", question))["state"] == "COMPLETED"
    assert len(api.prompts) == 3


async def test_one_callers_waiting_calls_do_not_delay_anothers(tmp_path: Path) -> None:
    api = Api()
    async with app_over(API, tmp_path, transport=httpx.MockTransport(api), limits=Limits(calls_at_once=1)) as app:
        jobs = [
            await begun(app.service, VegaRTParameters(prompt=f"loop {number}"), "a caller in a loop")
            for number in range(6)
        ]
        await api.reached(1)
        jobs.append(await begun(app.service, VegaRTParameters(prompt="the other's"), "another"))
        await until(lambda: waits(app.service, jobs[-1]))
        api.go.set()
        await ended(app.service, jobs)
    assert api.prompts.index("the other's") == 1
    assert len(api.prompts) == 7


async def test_a_server_that_calls_in_a_loop_does_not_delay_another_server(tmp_path: Path) -> None:
    api, home = Api(), tmp_path / "home"
    transport, limits = httpx.MockTransport(api), Limits(calls_at_once=1)
    async with (
        app_over(API, tmp_path / "one", home=home, transport=transport, limits=limits) as one,
        app_over(API, tmp_path / "two", home=home, transport=transport, limits=limits) as two,
    ):
        jobs = [await begun(one.service, VegaRTParameters(prompt=f"loop {number}")) for number in range(6)]
        await api.reached(1)
        other = await begun(two.service, VegaRTParameters(prompt="the other's"))
        await until(lambda: waits(two.service, other))
        api.go.set()
        await ended(two.service, [other])
        await ended(one.service, jobs)
    assert api.prompts.index("the other's") == 1


async def test_a_call_that_gets_no_turn_in_time_costs_nothing(tmp_path: Path) -> None:
    api, home = Api(), tmp_path / "home"
    transport, limits = httpx.MockTransport(api), Limits(calls_at_once=1)
    async with (
        app_over(API, tmp_path / "one", home=home, transport=transport, limits=limits) as app,
        app_over(API, tmp_path / "two", home=home, transport=transport, limits=limits, longest_wait=0) as hurried,
        Client(build_server(app)) as agent,
        Client(build_server(hurried)) as hurried_agent,
    ):
        first = await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        late = await hurried_agent.call_tool(RT, {"prompt": "too late"})
        assert code_of(late) == "too_many_calls"
        assert "Charged: no." in text_of(late)
        api.go.set()
        (done,) = await ended(app.service, [first])
        job_of(await agent.call_tool(RT, {"prompt": "in time"}))
    assert done.complete
    assert api.prompts == ["the first", "in time"]


async def test_calls_that_cannot_get_a_turn_in_time_are_refused_immediately(tmp_path: Path) -> None:
    api = Api()
    async with app_over(API, tmp_path, transport=httpx.MockTransport(api), limits=Limits(calls_a_minute=1)) as app:
        first = await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        waiting = [await begun(app.service, VegaRTParameters(prompt=f"{number}"), "bob") for number in range(5)]
        await until(lambda: all(waits(app.service, job) for job in waiting))
        with pytest.raises(errors.TooManyCalls, match="5 calls are already waiting"):
            await begun(app.service, VegaParameters(prompt="one too many"), "bob")
        api.go.set()
        await ended(app.service, [first])
    assert api.prompts == ["the first"]


async def test_a_call_that_still_waits_when_its_server_ends_is_not_sent_and_not_charged(tmp_path: Path) -> None:
    api = Api()
    async with app_over(API, tmp_path, transport=httpx.MockTransport(api), limits=Limits(calls_at_once=1)) as app:
        first = await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        waiting = [await begun(app.service, VegaRTParameters(prompt=f"{number}")) for number in range(3)]
        await until(lambda: all(waits(app.service, job) for job in waiting))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.service.finish, HANG_SECONDS)
            await until(lambda: len(app.service.active) == 1)
            api.go.set()
        ends = [await app.service.get(job.local_id) for job in (first, *waiting)]
    assert ends[0].complete
    assert {(job.error and job.error.code, str(job.charged), job.open) for job in ends[1:]} == {
        ("server_closing", "no", False)
    }
    assert api.prompts == ["the first"]


class OnceBroken(JobStore):
    """A store in which one request for slots fails."""

    broken = False

    async def turns(self, limits: Limits, moment: datetime) -> Turns:
        if not self.broken:
            self.broken = True
            raise MemoryError
        return await super().turns(limits, moment)


async def test_an_error_while_slots_are_requested_ends_neither_the_server_nor_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    given: dict[str, Any] = {"transport": httpx.MockTransport(api), "limits": Limits(calls_at_once=1)}
    store = ledger_at(tmp_path / "home").store(OnceBroken)
    async with app_over(API, tmp_path, store=store, **given) as app:
        jobs = [await begun(app.service, VegaRTParameters(prompt=f"{number}")) for number in range(2)]
        await until(lambda: "No slot can be taken" in caplog.text)
        api.go.set()
        assert all(job.complete for job in await ended(app.service, jobs))


async def test_an_api_whose_clock_is_behind_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    asked: list[float] = []

    def refuse(_: httpx.Request) -> httpx.Response:
        asked.append(anyio.current_time())
        past = datetime.now(UTC) - timedelta(seconds=90)
        return httpx.Response(429, headers={"x-rate-limit-reset-at-utc": past.isoformat()})

    async with app_over(API, tmp_path, transport=httpx.MockTransport(refuse)) as app:
        await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: len(asked) == 3)
    assert asked[1] - asked[0] >= 1
    assert asked[2] - asked[1] >= 2


async def test_calls_that_the_api_refuses_count_towards_the_limit_a_minute(tmp_path: Path) -> None:
    asked: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(429, headers={"x-rate-limit-reset-at-utc": datetime.now(UTC).isoformat()})

    # By this clock the minute never ends.
    given: dict[str, Any] = {"limits": Limits(calls_a_minute=2), "uptime": lambda: 1000.0}
    async with app_over(API, tmp_path, transport=httpx.MockTransport(refuse), **given) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: len(asked) == 2)
        await until(lambda: "2 a minute" in "".join(app.service.active[0].notes))
        assert (await app.service.get(job.local_id)).state == "QUEUED"
    assert len(asked) == 2


async def test_a_server_that_shuts_down_gives_its_turns_back_before_it_ends(tmp_path: Path) -> None:
    api, other, home, limits = Api(), Api(), tmp_path / "home", Limits(calls_at_once=1)
    async with (
        app_over(API, tmp_path / "one", home=home, transport=httpx.MockTransport(api), limits=limits) as one,
        app_over(API, tmp_path / "two", home=home, transport=httpx.MockTransport(other), limits=limits) as two,
    ):
        first = await begun(one.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        late = await begun(one.service, VegaRTParameters(prompt="late"))
        await until(lambda: waits(one.service, late))
        next_one = await begun(two.service, VegaRTParameters(prompt="the next"))
        await until(lambda: waits(two.service, next_one))
        slow = await one.service.get(first.local_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.service.finish, HANG_SECONDS)
            await until(lambda: one.service.closing)
            api.go.set()
            await other.reached(1)
            other.go.set()
        (done,) = await ended(two.service, [next_one])
    assert slow.state == "PROCESSING"
    assert done.complete


async def test_submit_job_answers_immediately_for_a_job_that_has_to_wait_and_says_why(tmp_path: Path) -> None:
    api = Api()
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001  a callback
        heard.append(message)

    # A server that does not answer immediately answers after an hour.
    given: dict[str, Any] = {"limits": Limits(calls_at_once=1), "wait_seconds": 3600}
    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(api), **given) as app,
        Client(build_server(app)) as agent,
    ):
        await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        with anyio.fail_after(HANG_SECONDS):
            queued = await agent.call_tool("submit_job", {"prompt": "the next"}, progress_callback=hear)
        assert text_of(queued).startswith("Queued: Segmind-Vega will draw “the next” (it waits for its turn: ")
        assert (heard[-1] or "").startswith("Waiting to be sent (it waits for its turn: ")
        api.go.set()


async def test_a_negative_cost_does_not_raise_the_limit(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        response = handle(noise("JPEG", 64))(request)
        response.headers["x-cost"] = "-1"
        return response

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer), limits=a_day("0.005")) as app,
        Client(build_server(app)) as agent,
    ):
        codes = [code_of(await agent.call_tool(VEGA, {"prompt": f"{number}"})) for number in range(4)]
    assert codes == [None, None, "spending_limit_reached", "spending_limit_reached"]


async def test_all_calls_of_a_burst_are_counted_before_one_of_them_waits(tmp_path: Path) -> None:
    api = Api()
    refused: list[errors.TooManyCalls] = []

    async def draw(number: int) -> None:
        try:
            await begun(app.service, VegaRTParameters(prompt=f"{number}"))
        except errors.TooManyCalls as error:
            refused.append(error)

    async with app_over(API, tmp_path, transport=httpx.MockTransport(api), limits=Limits(calls_a_minute=1)) as app:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(draw, number)
        assert len(refused) == 35
        api.go.set()


async def test_the_turn_of_a_server_that_died_becomes_free(sandbox: Sandbox, tmp_path: Path) -> None:
    api, home, limits = Api(), tmp_path / "home", Limits(calls_at_once=1)
    async with app_over(API, tmp_path, home=home, transport=httpx.MockTransport(api), limits=limits) as app:
        await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
    async with (
        app_over(sandbox.url, tmp_path, home=home, limits=limits) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool(RT, {"prompt": "the next"}))


async def test_spending_is_added_up_by_day_and_model(sandbox: Sandbox, tmp_path: Path) -> None:
    now = [datetime(2026, 11, 20, 12, tzinfo=UTC)]
    home = tmp_path / "home"
    async with (
        app_over(sandbox.url, tmp_path, home=home, clock=lambda: now[0]) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 2})
        await agent.call_tool(RT, {"prompt": "a fox [fault:402]"})
        now[0] += timedelta(days=1)
        await agent.call_tool(VEGA, {"prompt": "an owl"})
        await agent.call_tool(RT, {"prompt": "an owl"})
        await agent.call_tool(RT, {"prompt": "an owl [fault:no-cost]"})
        store = ledger_at(home).store(JobStore)
        spent = await store.spending.by_day("model")
        await store.close()
    later, earlier = now[0].date(), now[0].date() - timedelta(days=1)
    assert spent == [
        DailySpending(later, "segmind-vega", 1, Decimal("0.00225"), Decimal(0)),
        DailySpending(later, "segmind-vega-rt-v1", 2, Decimal("0.004"), Decimal("0.002")),
        DailySpending(earlier, "segmind-vega", 1, Decimal("0.0045"), Decimal(0)),
    ]
