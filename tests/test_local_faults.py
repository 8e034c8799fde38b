"""`--local` when something is damaged, hangs, or belongs to another API.

The engines are processes, as in `test_local`.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import images_of, job_of, serving_in_thread, text_of, until
from mcp.client import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from stub_painter import StubPainter
from test_local import PYTHON, VEGA, Machine, machine, refusal_of

from mcp_vega.cli import api_client
from mcp_vega.cli.application import open_application
from mcp_vega.cli.engine import launcher
from mcp_vega.cli.engine.command import run_engine
from mcp_vega.cli.engine.registration import FILE, RunningEngine, registered, running_engine
from mcp_vega.engine.app import build_engine
from mcp_vega.engine.drawings import Drawings
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.http import TimeLimits
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings

__all__ = ["machine"]  # a fixture

pytestmark = pytest.mark.anyio

REAL_KEY = "SG_0123456789_of_the_user"


# ---- damaged files ----


@pytest.mark.parametrize(
    "text",
    [
        '{"url": 5, "key": "SG_x", "pid": 1, "version": "0"}',
        '{"url": "", "key": "SG_x", "pid": 1, "version": "0"}',
        '{"url": "http://127.0.0.1:9", "key": "SG_\u00fc", "pid": 1, "version": "0"}',
        '{"url": "http://127.0.0.1:99999", "key": "SG_x", "pid": 1, "version": "0"}',
        "[]",
    ],
)
async def test_a_damaged_file_of_an_engine_is_named(machine: Machine, text: str) -> None:
    with registered(machine.home) as publish:
        publish(RunningEngine("http://127.0.0.1:9", "SG_x", 1, "0"))
        (machine.home / FILE).write_text(text, encoding="utf-8")
        error, step = await refusal_of(machine)
    assert f"{FILE} is not one that this version writes" in error
    assert "End the engine, and start it again" in step


@pytest.mark.parametrize("text", [None, "{}"], ids=["deleted", "changed"])
async def test_an_engine_repairs_its_file_and_no_drawing_is_lost_meanwhile(machine: Machine, text: str | None) -> None:
    """Else the next question would count the engine as restarted, and no further call would find it."""
    machine.start_engine()
    machine.backend.hold()
    file = machine.home / FILE
    written = file.read_text()
    async with machine.agent() as agent:
        submission = await agent.call_tool("submit_job", {"prompt": "a fox"})
        await until(lambda: machine.drawn)
        file.write_text(text) if text else file.unlink()
        machine.backend.go_on()
        question = {"request_id": job_of(submission)["request_id"], "wait_seconds": 45}
        assert images_of(await agent.call_tool("check_job", question))
        await until(lambda: file.exists() and file.read_text() == written)
        assert images_of(await agent.call_tool(VEGA, {"prompt": "an owl"}))
    assert machine.drawn == ["a fox", "an owl"]
    assert machine.starts == 0


async def test_a_log_that_cannot_be_written_is_named(machine: Machine) -> None:
    (machine.home / launcher.LOG).mkdir(parents=True)
    error, _ = await refusal_of(machine)
    assert str(machine.home / launcher.LOG) in error


def test_an_engine_refuses_a_key_that_no_client_can_send(machine: Machine) -> None:
    variables = {"MCP_VEGA_HOME": str(machine.home), "MCP_VEGA_ENGINE_KEY": "schlüssel"}
    with pytest.raises(InvalidSettings, match="MCP_VEGA_ENGINE_KEY contains a character"):
        run_engine(Namespace(host="127.0.0.1"), variables)


# ---- starts ----


async def test_calls_that_wait_for_a_start_fail_with_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each of them would try the same start again, one after the other."""
    may_end = machine.folder / "may_end"
    program = (
        f"import pathlib, time\nwhile not pathlib.Path({str(may_end)!r}).exists(): time.sleep(0.01)\n"
        "raise SystemExit('it is broken')"
    )
    monkeypatch.setattr(launcher, "COMMAND", [*PYTHON, program])
    looks, results = list[None](), list[Any]()

    def look(home: Path) -> RunningEngine | None:
        looks.append(None)
        return running_engine(home)

    monkeypatch.setattr(launcher, "running_engine", look)
    async with (
        machine.server() as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):

        async def call(number: int) -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": f"fox {number}"}))

        for number in range(4):
            tasks.start_soon(call, number)
        await until(lambda: sum(job.sent is not None for job in app.service.active) == 4)
        # The first call looks again and again. Each other call looks once, and then waits.
        enough = len(looks) + 10
        await until(lambda: len(looks) > enough)
        may_end.touch()
    assert all("it is broken" in text_of(each) for each in results)
    assert machine.starts == 1


async def test_a_start_that_comes_after_the_users_own_joins_that_engine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's engine does not accept calls yet when the one that a server has started gives up."""
    begun, may_end = machine.folder / "begun", machine.folder / "may_end"
    program = (
        f"import pathlib, time; pathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(may_end)!r}).exists(): time.sleep(0.01)\n"
        "raise SystemExit('Error: This user already has an engine')"
    )
    monkeypatch.setattr(launcher, "COMMAND", [*PYTHON, program])
    elsewhere = Machine(machine.folder / "elsewhere", machine.backend, machine.hand_started)
    engine = elsewhere.start_engine()
    results: list[Any] = []
    async with machine.agent() as agent, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": "a fox"}))

        tasks.start_soon(call)
        await until(begun.exists)
        with registered(machine.home) as publish:
            may_end.touch()
            await anyio.sleep(1)  # the program ends meanwhile, and nobody tells
            publish(engine)
            await until(lambda: results)
    assert not results[0].is_error, text_of(results[0])


# ---- engines that hang or end ----


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process")
async def test_a_call_to_an_engine_that_hangs_names_its_process_and_ends_with_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = TimeLimits(reaching=30, read=1, asking=1, drawing_read=1)
    monkeypatch.setattr(api_client, "LOCAL_LIMITS", limits)
    engine = machine.start_engine()
    os.kill(engine.pid, signal.SIGSTOP)
    async with machine.agent() as agent:
        text = text_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))
        assert f"(process {engine.pid}) does not answer; if it hangs, end that process" in text
        assert "Charged: no." in text
        machine.end_engine()

        async def is_over() -> bool:
            return " failed " in text_of(await agent.call_tool("check_job", {}))

        await until(is_over)


async def test_an_engine_that_ends_asks_its_callers_to_come_later() -> None:
    """Its painter may take seconds to free its memory, and the port still accepts calls then."""
    closing, may_close = anyio.Event(), anyio.Event()

    class Slow(StubPainter):
        async def close(self) -> None:
            closing.set()
            await may_close.wait()

    drawings = Drawings(Slow())
    app = build_engine(drawings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:

        async def run() -> None:
            async with drawings.open():
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await closing.wait()
            answer = await http.post("/v1/segmind-vega", json={"prompt": "a fox"}, headers={"x-api-key": "SG_x"})
            assert answer.status_code == 429
            assert "retry-after" in answer.headers
            may_close.set()
    assert not drawings.is_busy


async def test_the_engines_own_reason_is_shown_with_its_next_step(machine: Machine) -> None:
    """The step is the end of a long text, and it is no word about the prompt or about moderation."""
    reason = "blocked by " + "x" * 600
    machine.backend.answer = lambda _: JSONResponse({"detail": reason}, 500)
    async with machine.agent() as agent:
        text = text_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))
    assert text.startswith("Error: The engine could not draw this: ")
    assert "then call again" in text.splitlines()[0]
    assert "content_blocked" not in text
    assert "Next: Call again when you have done what the engine says" in text


# ---- another API in the same ledger ----


class Api:
    """An API that queues each call, and draws nothing."""

    def __init__(self) -> None:
        self.requests: list[str] = []

    async def answer(self, request: Request) -> JSONResponse:
        self.requests.append(request.method)
        if "history" in request.url.path:
            return JSONResponse({"data": [], "page": 1, "per_page": 20, "total": 0})
        return JSONResponse({"request_id": "api-1", "status": "QUEUED", "metrics": {}})


@asynccontextmanager
async def paying_agent(machine: Machine, url: str) -> AsyncGenerator[Client]:
    variables = {**machine.variables, "MCP_VEGA_LOCAL": "", "SEGMIND_BASE_URL": url, "SEGMIND_API_KEY": REAL_KEY}
    async with open_application(Settings.from_environment(variables)) as app, Client(build_server(app)) as agent:
        yield agent


async def test_a_local_server_neither_pays_nor_ends_what_the_api_draws(machine: Machine) -> None:
    api = Api()
    routes = [Route("/{path:path}", api.answer, methods=["GET", "POST", "DELETE"])]
    with serving_in_thread(Starlette(routes=routes)) as url:
        async with paying_agent(machine, url) as agent:
            await agent.call_tool("submit_job", {"prompt": "a fox", "seed": 7})
        before = len(api.requests)
        variables = {"SEGMIND_API_KEY": REAL_KEY, "SEGMIND_BASE_URL": url, "MCP_VEGA_SPENDING_LIMIT_USD": "0"}
        async with machine.agent(**variables) as agent:
            same = await agent.call_tool("submit_job", {"prompt": "a fox", "seed": 7})
            paid = text_of(await agent.call_tool("check_job", {"request_id": "api-1"}))
            unknown = text_of(await agent.call_tool("check_job", {"request_id": "nobodys"}))
        assert len(api.requests) == before
    assert job_of(same)["request_id"] != "api-1", "it does not join the call of the API"
    assert f"begun with the API at {url}; only a server without --local can finish it" in paid
    assert "(unknown_job)" in unknown
    assert not any(REAL_KEY in str(each) for each in machine.backend.headers)
    assert REAL_KEY not in machine.log
