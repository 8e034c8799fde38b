"""The same call again while nobody has the result of the first: it joins that one's job, and nothing is paid again."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import HANG_SECONDS, Sandbox, app_over, job_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from test_promises import ASKED, RT, VEGA, checked, id_in, listed, rows

from mcp_vega.imaging.preview import Mode, Preview
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio


def awaited(folder: Path) -> list[dict[str, Any]]:
    """The jobs that a caller waits for."""
    return rows(folder, "SELECT local_id FROM jobs WHERE awaited_by IS NOT NULL")


async def cancelled(agent: Client, sandbox: Sandbox) -> None:
    """A host that gives up on its call."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.call_tool, VEGA, ASKED)
        await until(lambda: sandbox.account.calls)
        tasks.cancel_scope.cancel()


async def still_running(agent: Client, sandbox: Sandbox) -> None:
    """A call that takes longer than the wait."""
    assert job_of(await agent.call_tool(VEGA, ASKED))["state"] != "COMPLETED"
    await until(lambda: sandbox.account.calls)


@pytest.mark.parametrize(("leave", "wait"), [(cancelled, 45), (still_running, 0)])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("same", [True, False])
async def test_a_repeated_call_joins_the_one_whose_result_nobody_received(  # noqa: PLR0913, PLR0917  a table
    sandbox: Sandbox,
    tmp_path: Path,
    leave: Callable[[Client, Sandbox], Awaitable[None]],
    wait: float,
    finished: bool,  # noqa: FBT001
    same: bool,  # noqa: FBT001
) -> None:
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=wait) as first_app,
        app_over(sandbox.url, tmp_path) as second_app,
        Client(build_server(first_app)) as first,
        Client(build_server(second_app)) as second,
    ):
        sandbox.hold()
        await leave(first, sandbox)
        (begun,) = await listed(first)
        await until(lambda: not awaited(tmp_path))
        agent = first if same and wait else second
        if finished:
            sandbox.let_go()
            job = await first_app.service.check(begun["request_id"])
            async for _ in first_app.service.follow(job, 45):
                pass
        results: list[CallToolResult] = []

        async def repeat() -> None:
            results.append(await agent.call_tool(VEGA, ASKED))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(repeat)
            if not finished:
                await until(lambda: awaited(tmp_path))
                sandbox.let_go()
        job = job_of(results[0])
        assert (job["state"], job["seed"]) == ("COMPLETED", begun["seed"])
        assert len(sandbox.account.calls) == 1
        another = job_of(await agent.call_tool(VEGA, ASKED))
        assert another["seed"] != begun["seed"]
    assert len(sandbox.account.calls) == 2


async def test_other_arguments_are_never_joined(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, wait_seconds=0) as app, Client(build_server(app)) as agent:
        for arguments in ({"prompt": "a fox"}, {"prompt": "a fox", "seed": 1}, {"prompt": "a fox", "samples": 2}):
            await agent.call_tool(VEGA, arguments)
        await agent.call_tool(RT, {"prompt": "a fox"})
        assert len(await listed(agent)) == 4


async def test_a_call_is_not_joined_two_minutes_later(sandbox: Sandbox, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0, clock=lambda: now) as app,
        Client(build_server(app)) as agent,
    ):
        for _ in range(2):
            await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 1
        now += timedelta(minutes=3)
        await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 2


async def test_calls_at_the_same_time_with_the_same_arguments_are_calls_of_their_own(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        async with anyio.create_task_group() as tasks:
            for tool in (VEGA, VEGA, "submit_job", "submit_job"):
                tasks.start_soon(agent.call_tool, tool, ASKED)
        assert len({job["seed"] for job in await listed(agent)}) == 4


async def test_a_call_whose_outcome_is_unknown_is_joined_instead_of_paid_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    arguments = {"prompt": "a fox [fault:504-after]"}
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        request_id = id_in(await agent.call_tool(RT, arguments))
        await checked(agent, request_id)
        failed = await agent.call_tool(RT, arguments)
        assert id_in(failed) != request_id, "the first result was delivered by check_job"

        async def drawn() -> CallToolResult | None:
            result = await agent.call_tool(RT, arguments)
            return None if result.is_error else result

        assert job_of(await until(drawn))["images"]
    assert sandbox.paid_requests == 2


class StuckProcessor(ImageProcessor):
    """Makes no preview for as long as anyone waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = anyio.Event()

    async def previews(self, data: list[bytes], mode: Mode) -> list[Preview | None]:
        self.reached.set()
        await anyio.sleep_forever()
        return await super().previews(data, mode)


async def test_a_call_that_is_cancelled_just_before_its_answer_leaves_is_joined(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    stuck = StuckProcessor()
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        usual, app.service.processor = app.service.processor, stuck
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.call_tool, RT, ASKED)
            with anyio.fail_after(HANG_SECONDS):
                await stuck.reached.wait()
            tasks.cancel_scope.cancel()
        await until(lambda: not awaited(tmp_path))
        app.service.processor = usual
        (job,) = await listed(agent)
        assert job["state"] == "COMPLETED"
        assert job_of(await agent.call_tool(RT, ASKED))["seed"] == job["seed"]
    assert sandbox.paid_requests == 1


async def test_a_refused_call_is_not_joined(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        assert (await agent.call_tool(RT, {"prompt": "a fox [fault:402*1]"})).is_error
        assert job_of(await agent.call_tool(RT, {"prompt": "a fox [fault:402*1]"}))["images"]
