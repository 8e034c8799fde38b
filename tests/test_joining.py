"""The same call, made again before anybody has the result of the first, joins its job; nothing is paid again."""

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import HANG_SECONDS, NO_PAUSE, Sandbox, app_over, images_of, job_of, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from test_promises import ASKED, RT, SLOW, VEGA, checked, id_in, listed, rows, two_servers

from mcp_vega.imaging.preview import Mode, Preview
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_ledger")]

SUBMIT = "submit_job"


def awaited(folder: Path) -> list[dict[str, Any]]:
    """The jobs that a caller waits for."""
    return rows(folder, "SELECT local_id FROM jobs WHERE awaited_by IS NOT NULL")


class Clock:
    """The time of day of all servers, and a clock that cannot be set. Both stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)
        self.uptime = 100_000.0

    @property
    def options(self) -> dict[str, Any]:
        """For `app_over`."""
        return {"clock": lambda: self.now, "uptime": lambda: self.uptime}

    def let_pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.uptime += seconds


async def cancelled(agent: Client, sandbox: Sandbox) -> None:
    """Make a call that the host gives up."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.call_tool, VEGA, ASKED)
        await until(lambda: sandbox.account.calls)
        tasks.cancel_scope.cancel()


async def still_running(agent: Client, sandbox: Sandbox) -> None:
    """Make a call that takes longer than the wait."""
    assert job_of(await agent.call_tool(VEGA, ASKED))["state"] != "COMPLETED"
    await until(lambda: sandbox.account.calls)


@pytest.mark.parametrize(("leave", "wait"), [(cancelled, 45), (still_running, 0)])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("same", [True, False])
async def test_a_repeated_call_joins_the_job_whose_result_nobody_received(  # noqa: PLR0913, PLR0917  a table
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


async def test_a_call_is_not_joined_two_minutes_later(sandbox: Sandbox, tmp_path: Path) -> None:
    clock = Clock()
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0, **clock.options) as app,
        Client(build_server(app)) as agent,
    ):
        for _ in range(2):
            await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 1
        clock.let_pass(180)
        await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 2


@pytest.mark.parametrize("hours", [-1, 1, 2.5])
async def test_setting_the_clock_between_a_call_and_its_repeat_changes_nothing(
    sandbox: Sandbox, tmp_path: Path, hours: float
) -> None:
    clock = Clock()
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0, **clock.options) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(VEGA, ASKED)
        clock.now += timedelta(hours=hours)
        clock.let_pass(100)
        await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 1
        clock.now += timedelta(hours=hours)
        clock.let_pass(180)
        await agent.call_tool(VEGA, ASKED)
        assert len(await listed(agent)) == 2


@pytest.mark.parametrize(("minutes", "jobs"), [(1, 1), (3, 2)])
async def test_after_a_restart_of_the_machine_the_time_of_day_decides(
    sandbox: Sandbox, tmp_path: Path, minutes: float, jobs: int
) -> None:
    clock = Clock()
    for uptime in (100_000, 30):
        clock.uptime = uptime
        async with (
            app_over(sandbox.url, tmp_path, wait_seconds=0, **clock.options) as app,
            Client(build_server(app)) as agent,
        ):
            await agent.call_tool(VEGA, ASKED)
            assert len(await listed(agent)) == (1 if uptime > 30 else jobs)
        clock.now += timedelta(minutes=minutes)


async def test_equal_calls_at_the_same_time_are_separate_calls(sandbox: Sandbox, tmp_path: Path) -> None:
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
        assert id_in(failed) != request_id, "check_job has delivered the first result"

        async def drawn() -> CallToolResult | None:
            result = await agent.call_tool(RT, arguments)
            return None if result.is_error else result

        assert job_of(await until(drawn))["images"]
    assert sandbox.paid_requests == 2


class StuckProcessor(ImageProcessor):
    """An image processor whose previews never end."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = anyio.Event()

    async def previews(self, data: list[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
        self.reached.set()
        await anyio.sleep_forever()
        return await super().previews(data, mode, taken)


async def test_a_call_that_is_cancelled_just_before_its_answer_is_sent_is_joined(
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


# ---- which calls are the same ----

# Every parameter with its default: some agents send all of them.
WRITTEN_OUT = {
    **ASKED,
    "samples": 1,
    "seed": -1,
    "scheduler": VegaParameters.default("scheduler"),
    "num_inference_steps": str(VegaParameters.default("num_inference_steps")),
    "guidance_scale": VegaParameters.default("guidance_scale"),
    "negative_prompt": None,
    "img_width": 1024,
    "base64": False,
}
QUICK = {**ASKED, "model": VegaRTParameters.slug}
TWO = {**ASKED, "samples": 2}
SAME: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "defaults written out": ((VEGA, ASKED), (VEGA, WRITTEN_OUT)),
    "defaults left out": ((VEGA, WRITTEN_OUT), (VEGA, ASKED)),
    "a seed": ((RT, {**ASKED, "seed": 7}), (RT, {"seed": "7", **ASKED})),
    "submitted, then generated": ((SUBMIT, ASKED), (VEGA, WRITTEN_OUT)),
    "generated, then submitted": ((VEGA, WRITTEN_OUT), (SUBMIT, ASKED)),
    "the other model": ((RT, ASKED), (SUBMIT, QUICK)),
    "submitted twice": ((SUBMIT, {**ASKED, "model": VegaParameters.slug}), (SUBMIT, ASKED)),
    "several pictures": ((VEGA, TWO), (SUBMIT, TWO)),
}
OTHER: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "another seed": ((VEGA, {**ASKED, "seed": 1}), (VEGA, {**ASKED, "seed": 2})),
    "a seed and none": ((VEGA, {**ASKED, "seed": 1}), (VEGA, ASKED)),
    "another prompt": ((VEGA, ASKED), (VEGA, {"prompt": "a fox "})),
    "another model": ((VEGA, ASKED), (RT, ASKED)),
    "another model, submitted": ((VEGA, ASKED), (SUBMIT, QUICK)),
    "another scheduler": ((VEGA, ASKED), (VEGA, {**ASKED, "scheduler": "Euler"})),
    "more pictures": ((VEGA, ASKED), (SUBMIT, TWO)),
}


async def given_up(agent: Client, sandbox: Sandbox, folder: Path, tool: str, arguments: dict[str, Any]) -> None:
    """Make a call whose answer never comes, and cancel it after it has reached the API."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(agent.call_tool, tool, without_answer(arguments))
        await until(lambda: sandbox.account.calls)
        tasks.cancel_scope.cancel()
    await until(lambda: not awaited(folder))


@asynccontextmanager
async def patient_and_quick(sandbox: Sandbox, folder: Path) -> AsyncGenerator[tuple[Client, Client]]:
    """Agents of two servers that share a ledger: the first server waits for pictures, the second does not."""
    async with (
        app_over(sandbox.url, folder) as one,
        app_over(sandbox.url, folder, wait_seconds=0) as other,
        Client(build_server(one)) as patient,
        Client(build_server(other)) as quick,
    ):
        yield patient, quick


def without_answer(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "prompt": f"[fault:hang] {arguments['prompt']}"}


@pytest.mark.parametrize("name", SAME)
async def test_the_same_call_is_joined_in_any_spelling_and_from_any_tool(
    sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    first, second = SAME[name]
    async with patient_and_quick(sandbox, tmp_path) as (agent, other):
        await given_up(agent, sandbox, tmp_path, *first)
        (job,) = await listed(agent)
        again = await other.call_tool(second[0], without_answer(second[1]))
        assert (job_of(again)["request_id"], job_of(again)["seed"]) == (job["request_id"], job["seed"])
    assert sandbox.paid_requests == 1


@pytest.mark.parametrize("name", OTHER)
async def test_a_call_with_other_arguments_is_not_joined(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    first, second = OTHER[name]
    async with patient_and_quick(sandbox, tmp_path) as (agent, other):
        await given_up(agent, sandbox, tmp_path, *first)
        await other.call_tool(second[0], without_answer(second[1]))
        assert len(await listed(agent)) == 2
        await until(lambda: sandbox.paid_requests == 2)


async def test_the_call_of_another_owner_is_not_joined(sandbox: Sandbox, tmp_path: Path) -> None:
    """Over HTTP an owner is an access token; see tests/test_http_access.py."""
    parameters = VegaRTParameters(prompt="a fox", seed=7)
    async with app_over(sandbox.url, tmp_path) as app:
        sandbox.hold()
        first = await app.service.generate(parameters, "alice")
        app.service.end_wait(first.job, delivered=False, cancelled=True)
        assert not (await app.service.generate(parameters, "bob")).joined
        assert not (await app.service.generate(parameters)).joined
        assert (await app.service.generate(parameters, "alice")).joined
        await until(lambda: sandbox.paid_requests == 3)
        sandbox.let_go()


@pytest.mark.parametrize(("owner", "paid"), [("alice", 1), ("", 2)])
async def test_while_the_servers_of_a_team_get_a_new_key_a_call_that_was_sent_is_joined(
    sandbox: Sandbox, tmp_path: Path, owner: str, paid: int
) -> None:
    parameters = VegaRTParameters(prompt="a fox")
    async with (
        app_over(sandbox.url, tmp_path) as one,
        app_over(sandbox.url, tmp_path, key="SG_another0123456789") as other,
    ):
        sandbox.hold()
        first = await one.service.generate(parameters, owner)
        await until(lambda: sandbox.paid_requests)
        one.service.end_wait(first.job, delivered=False, cancelled=True)
        await one.service.until_noted()
        again = await other.service.generate(parameters, owner)
        assert again.joined == (paid == 1)
        sandbox.let_go()
        async for seen in other.service.follow(again.job, HANG_SECONDS):
            again = again._replace(job=seen)
        assert again.job.complete
    assert sandbox.paid_requests == paid


# ---- a call whose caller is still waiting ----


def begun_at(folder: Path, moment: datetime) -> list[dict[str, Any]]:
    """The jobs that a call began or joined at this moment."""
    # SQLite has microseconds since 1970.
    stored = (moment, round(moment.timestamp() * 1e6))
    return [row for row in rows(folder, "SELECT local_id, last_call FROM jobs") if row["last_call"] in stored]


@pytest.mark.parametrize(("seconds", "jobs"), [(3.9, 2), (4, 1)])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("tool", [VEGA, SUBMIT])
async def test_a_call_whose_caller_is_still_waiting_is_joined_when_it_is_four_seconds_old(  # noqa: PLR0913, PLR0917  a table
    sandbox: Sandbox,
    tmp_path: Path,
    seconds: float,
    jobs: int,
    elsewhere: bool,  # noqa: FBT001
    tool: str,
) -> None:
    clock = Clock()
    async with two_servers(sandbox, tmp_path, **clock.options) as (first, second):
        sandbox.hold()
        results: list[CallToolResult] = []

        async def call(agent: Client, tool: str) -> None:
            results.append(await agent.call_tool(tool, ASKED))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, first, VEGA)
            await until(lambda: sandbox.account.calls)
            clock.let_pass(seconds)
            tasks.start_soon(call, second if elsewhere else first, tool)
            await until(lambda: begun_at(tmp_path, clock.now))
            sandbox.let_go()
    assert not any(result.is_error for result in results)
    assert sandbox.paid_requests == jobs
    assert len({job_of(result)["seed"] for result in results}) == jobs
    assert sum(JOINED in text_of(result) for result in results) == 2 - jobs


@contextmanager
def locked_ledger(folder: Path) -> Generator[None]:
    """Another program locks the ledger."""
    file = folder.with_name(f"{folder.name}-home") / "ledger.sqlite3"
    with closing(sqlite3.connect(file, isolation_level=None, timeout=HANG_SECONDS)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


async def test_several_repeats_join_different_jobs_of_equal_calls(sandbox: Sandbox, tmp_path: Path) -> None:
    """The first callers have given up without saying so, and all call again."""
    clock = Clock()
    async with two_servers(sandbox, tmp_path, **clock.options) as (first, second):
        sandbox.hold()
        results: list[CallToolResult] = []

        async def repeat() -> None:
            results.append(await second.call_tool(VEGA, ASKED))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(first.call_tool, VEGA, ASKED)
            await until(lambda: sandbox.paid_requests == 5)
            clock.let_pass(5)
            for _ in range(5):
                tasks.start_soon(repeat)
            await until(lambda: len(begun_at(tmp_path, clock.now)) == 5)
            sandbox.let_go()
    assert len({job_of(result)["request_id"] for result in results}) == 5
    assert sandbox.paid_requests == 5


# ---- never joined ----


async def test_a_failed_job_is_not_joined(sandbox: Sandbox, tmp_path: Path) -> None:
    arguments = {"prompt": "a fox [fault:402*1]"}
    async with app_over(sandbox.url, tmp_path, wait_seconds=0) as app, Client(build_server(app)) as agent:
        sandbox.hold()
        first = job_of(await agent.call_tool(RT, arguments))["request_id"]
        sandbox.let_go()
        await until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'FAILED' AND NOT open"))
        second = job_of(await agent.call_tool(RT, arguments))["request_id"]
        assert second != first
        assert job_of(await checked(agent, second))["images"]
    assert sandbox.paid_requests == 2


async def test_a_submission_with_an_answer_is_not_joined(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.speed = SLOW
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        ids = {job_of(await agent.call_tool(SUBMIT, ASKED))["request_id"] for _ in range(3)}
        assert len(ids) == 3
    assert sandbox.paid_requests == 3


# ---- the note of a joined call ----

JOINED = "the same call was made shortly before, and nobody received its result"
ANOTHER = "for another picture, give another seed"


async def test_a_joined_call_says_so_and_how_to_get_another_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    async with patient_and_quick(sandbox, tmp_path) as (patient, quick):
        sandbox.hold()
        first = await quick.call_tool(RT, ASKED)
        under_way = await quick.call_tool(RT, ASKED)
        sandbox.let_go()
        drawn = await patient.call_tool(RT, ASKED)
        another = await patient.call_tool(RT, ASKED)
    assert "Do not repeat the call." in text_of(under_way)
    assert "drew “" in text_of(drawn)
    for result in (under_way, drawn):
        (note,) = (line for line in text_of(result).splitlines() if JOINED in line)
        assert note.startswith("Note: ")
        assert "nothing is paid again" in note
        assert note.endswith(f"{ANOTHER}.")
    for result in (first, another):
        assert JOINED not in text_of(result)
    assert (len(images_of(drawn)), len(images_of(another))) == (1, 1)
    assert sandbox.paid_requests == 2


async def test_a_call_that_joins_a_job_whose_outcome_is_unknown_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.history_status = 503
    arguments = {"prompt": "a fox [fault:504-after]"}
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        first = await agent.call_tool(RT, arguments)
        again = await agent.call_tool(RT, arguments)
    assert JOINED not in text_of(first)
    assert again.is_error
    assert id_in(again) == id_in(first)
    assert JOINED in text_of(again)
    assert ANOTHER in text_of(again)
    assert sandbox.paid_requests == 1
