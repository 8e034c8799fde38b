"""Accounts: a server sends, joins and finishes only the jobs of its own API key, but shows and counts all jobs."""

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, Sandbox, Time, app_over, job_of, text_of, until
from mcp.client import Client
from stores import ledger_at
from test_promises import RT, VEGA, checked, id_in, listed, rows

from mcp_vega.job import Job, Route
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.ledger.spending import Limits

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_ledger")]

OTHER_KEY = "SG_another0123456789"
ANOTHERS = "begun with another API key; only a server with that SEGMIND_API_KEY can finish it"


async def test_a_lost_call_is_left_to_a_server_with_the_key_that_paid_for_it(sandbox: Sandbox, tmp_path: Path) -> None:
    """Fault A4: the history of another account has no such call."""
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        sandbox.account.history_status = 503
        request_id = id_in(await agent.call_tool(RT, {"prompt": "a fox [fault:504-after]"}))
        await checked(agent, request_id)
        sandbox.account.history_status = 200
    async with app_over(sandbox.url, tmp_path, key=OTHER_KEY, **time.clocks) as app, Client(build_server(app)) as agent:
        for hours in (0, 25, 2, 2):
            time.let_pass(hours=hours)
            said = text_of(await checked(agent, request_id))
            assert ANOTHERS in said
            assert "Charged: unknown." in said
            assert "check_job" not in said, "check_job cannot help here"
        assert [job["request_id"] for job in await listed(agent)] == [request_id]
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, Client(build_server(app)) as agent:
        assert job_of(await checked(agent, request_id))["images"]
    assert sandbox.paid_requests == 1


async def test_a_job_of_another_account_says_which_key_can_finish_it(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        begun = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
    asked = sandbox.account.requests.copy()
    async with app_over(sandbox.url, tmp_path, key=OTHER_KEY) as app, Client(build_server(app)) as agent:
        assert ANOTHERS in text_of(await agent.call_tool("check_job", {"request_id": begun}))
    assert sandbox.account.requests == asked


async def test_the_same_call_of_another_account_is_a_separate_call(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0) as one,
        app_over(sandbox.url, tmp_path, wait_seconds=0, key=OTHER_KEY) as other,
        Client(build_server(one)) as first,
        Client(build_server(other)) as second,
    ):
        seeds = {job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["seed"] for agent in (first, second, first)}
        assert len(seeds) == 2
        await until(lambda: not one.service.active and not other.service.active)
    assert sandbox.paid_requests == 2


async def test_an_unsent_call_of_a_dead_server_is_not_sent_for_another_account(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    died = ledger_at(home).server()
    account = await died.store.accounts.of_key(KEY)
    async with app_over(sandbox.url, tmp_path, key=OTHER_KEY, home=home) as app, Client(build_server(app)) as agent:
        parameters, now = VegaRTParameters(prompt="left behind"), app.service.config.clock()
        facts: dict[str, Any] = {"route": Route.V1, "base_url": sandbox.url, "account": account, "created": now}
        job = Job.of_call(parameters, owner="alice", **facts)
        await died.store.begin(job, Limits())
        died.die()
        assert not (await app.service.generate(parameters, "alice")).joined
        assert ANOTHERS in text_of(await agent.call_tool("check_job", {"request_id": job.local_id}))
        assert job_of(await agent.call_tool(RT, {"prompt": "another"}))["images"]
        assert (await app.service.store.accounts.orphans(sandbox.url, account)).left == [job.local_id]
    assert sandbox.paid_requests == 2
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        assert job_of(await checked(agent, job.local_id))["images"]
    await died.store.close()


async def test_the_spending_of_all_accounts_counts_towards_one_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    limits = Limits(usd_a_day=Decimal("0.003"))
    async with (
        app_over(sandbox.url, tmp_path, limits=limits) as one,
        app_over(sandbox.url, tmp_path, limits=limits, key=OTHER_KEY) as other,
        Client(build_server(one)) as first,
        Client(build_server(other)) as second,
    ):
        kept = job_of(await first.call_tool(RT, {"prompt": "a fox"}))
        assert "spending_limit_reached" in text_of(await second.call_tool(RT, {"prompt": "an owl"}))
        assert job_of(await second.call_tool("check_job", {"request_id": kept["request_id"]})) == kept


async def test_a_server_with_a_new_key_reports_at_its_start_the_jobs_that_it_cannot_finish(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        for number in range(2):
            await agent.call_tool("submit_job", {"prompt": f"{number} [fault:stuck]"})
    with caplog.at_level(logging.WARNING):
        async with app_over(sandbox.url, tmp_path, key=OTHER_KEY) as app, Client(build_server(app)):
            await until(lambda: "begun with another API key: 2." in caplog.text)


async def test_the_ledger_has_a_hash_of_the_key_that_is_different_in_each_ledger(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    accounts: list[str] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        async with app_over(sandbox.url, folder) as app, Client(build_server(app)) as agent:
            job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        accounts += [row["account"] for row in rows(folder, "SELECT account FROM jobs")]
    assert accounts[0] != accounts[1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


async def test_servers_that_create_a_ledger_at_the_same_time_make_the_same_hash_of_a_key(tmp_path: Path) -> None:
    servers = [ledger_at(tmp_path).server() for _ in range(6)]
    found = {await server.store.accounts.of_key(KEY) for server in servers}
    assert len(found) == 1
    assert await servers[0].store.accounts.of_key(OTHER_KEY) not in found
    for server in servers:
        await server.store.close()


async def test_without_a_key_an_open_job_says_what_is_missing(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        begun = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
    async with app_over(sandbox.url, tmp_path, key=None) as app, Client(build_server(app)) as agent:
        assert "missing_key" in text_of(await agent.call_tool("check_job", {"request_id": begun}))
