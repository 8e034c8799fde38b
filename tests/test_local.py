"""`--local`: servers join the engine of their user or start one, and lose no job without a word if it ends.

The engine here is a process without weights (`stub_engine.py`).
"""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import HANG_SECONDS, images_of, job_of, text_of, until, wait_until
from mcp.client import Client
from stub_engine import DRAWN, HOLD, KEY, STARTS, VARIABLES

from mcp_vega.cli.application import open_application
from mcp_vega.cli.engine import launcher, requirements, transport
from mcp_vega.cli.engine.registration import FILE, RunningEngine, registered, running_engine
from mcp_vega.job import LOCAL
from mcp_vega.jobs.recovery import REPORTED_LOOK_SECONDS
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.settings import Settings

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
STUB = [sys.executable, str(Path(__file__).with_name("stub_engine.py"))]
SECRETS = {"SEGMIND_API_KEY": "SG_of_the_user", "AWS_SECRET_ACCESS_KEY": "x", "PGPASSWORD": "x", "HF_TOKEN": "x"}


@dataclass
class Machine:
    """A user's machine: the home folder, and the engines that ran there."""

    folder: Path
    hand_started: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def variables(self) -> dict[str, str]:
        gallery = str(self.folder / "pictures")
        return {"MCP_VEGA_LOCAL": "1", "MCP_VEGA_HOME": str(self.home), "MCP_VEGA_GALLERY": gallery}

    @property
    def starts(self) -> list[int]:
        """The processes of all engines that ran, in order."""
        return [int(pid) for pid in self._lines(STARTS)]

    @property
    def drawn(self) -> list[str]:
        """The prompts of the drawings that were begun."""
        return self._lines(DRAWN)

    def _lines(self, name: str) -> list[str]:
        file = self.home / name
        return file.read_text().splitlines() if file.exists() else []

    def hold(self) -> None:
        """Let drawings not end, until `go_on`."""
        self.home.mkdir(exist_ok=True)
        (self.home / HOLD).touch()

    def go_on(self) -> None:
        (self.home / HOLD).unlink()

    def start_engine(self) -> RunningEngine:
        """Start an engine by hand."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        environment = {**os.environ, "MCP_VEGA_HOME": str(self.home)}
        self.hand_started.append(subprocess.Popen(STUB, env=environment))  # noqa: S603
        return wait_until(lambda: running_engine(self.home))

    def kill_engine(self) -> None:
        """Kill the engine that runs. When this returns, it holds nothing any more."""
        engine = running_engine(self.home)
        assert engine
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: running_engine(self.home) is None)

    @asynccontextmanager
    async def server(self, **variables: str) -> AsyncGenerator[AppContext]:
        """A server with `--local`."""
        async with open_application(Settings.from_environment({**self.variables, **variables})) as app:
            yield app

    @asynccontextmanager
    async def agent(self, **variables: str) -> AsyncGenerator[Client]:
        async with self.server(**variables) as app, Client(build_server(app)) as agent:
            yield agent


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with all that an engine needs. Its engines end with the test."""
    monkeypatch.setattr(launcher, "COMMAND", STUB)
    monkeypatch.setattr(launcher, "require_weights", lambda _: None)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    machine = Machine(tmp_path)
    yield machine
    if running := running_engine(machine.home):
        os.kill(running.pid, signal.SIGKILL)
    for each in machine.hand_started:
        each.kill()
        each.wait()


# ---- to find or to start ----


async def test_a_server_draws_by_the_engine_that_the_user_has_started(machine: Machine) -> None:
    """It has a port and a key of its own."""
    machine.start_engine()
    async with machine.agent() as agent:
        result = await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7})
        two = await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 2})
        submission = await agent.call_tool("submit_job", {"prompt": "a fox", "seed": 7, "model": "segmind-vega-rt-v1"})
        question = {"request_id": job_of(submission)["request_id"], "wait_seconds": 45}
        await agent.call_tool("check_job", question)
        listed = await agent.call_tool("check_job", {})
    assert "Note: Drawn on this machine (Stub 9000)." in text_of(result)
    assert (len(images_of(result)), len(images_of(two))) == (1, 2)
    assert text_of(listed).count(" done ") == 3
    assert len(machine.starts) == 1


async def test_an_engine_is_started_by_the_first_call_and_not_before(machine: Machine) -> None:
    async with machine.agent() as agent:
        await agent.call_tool("check_job", {})
        assert machine.starts == []
        for prompt in ("a fox", "an owl"):
            assert images_of(await agent.call_tool(RT, {"prompt": prompt}))
    async with machine.agent() as agent:
        assert images_of(await agent.call_tool(RT, {"prompt": "a wolf"})), "it outlives the server that started it"
    assert len(machine.starts) == 1


async def test_a_started_engine_is_on_its_own_and_knows_no_secret(machine: Machine) -> None:
    async with machine.agent(MCP_VEGA_ENGINE_KEY="SG_of_the_engine") as agent:
        await agent.call_tool(RT, {"prompt": "a fox"})
    (pid,) = machine.starts
    log = machine.home / launcher.LOG
    assert "started by a server" in log.read_text()
    if sys.platform != "win32":
        assert os.getsid(pid) == pid, "a signal to the server's group does not reach it"
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    variables = {*(machine.home / VARIABLES).read_text().splitlines()}
    assert not variables & SECRETS.keys()
    assert {each for each in variables if each.startswith("MCP_VEGA")} == {"MCP_VEGA_HOME"}


def test_an_engine_gets_the_settings_that_concern_it() -> None:
    given = {
        "PATH": "/bin",
        "HF_HOME": "/models",
        "TOKENIZERS_PARALLELISM": "false",
        "MCP_VEGA_ENGINE_KEY": "SG_of_the_engine",
        "MCP_VEGA_LOG_LEVEL": "INFO",
    }
    withheld = {**SECRETS, "MCP_VEGA_LOCAL": "1", "MCP_VEGA_AUTH_TOKENS": "x", "MCP_VEGA_LEDGER": "x", "api_key": "x"}
    found = launcher.engine_environment({**given, **withheld}, Path("/home"), Path("/weights"))
    assert found == {**given, "MCP_VEGA_HOME": str(Path("/home")), "MCP_VEGA_WEIGHTS": str(Path("/weights"))}


def draw_command(machine: Machine, prompt: str) -> list[str]:
    """`mcp-vega draw PROMPT --local` on this machine, which has weights."""
    program = (
        f"from mcp_vega.cli.engine import launcher; launcher.COMMAND = {STUB}; "
        "launcher.require_weights = lambda _: None; from mcp_vega.cli import main; raise SystemExit(main.main())"
    )
    return [sys.executable, "-c", program, "draw", prompt, "--model", "vegart", "--local"]


def test_commands_at_the_same_time_start_one_engine_and_print_their_pictures(machine: Machine) -> None:
    environment = {**os.environ, **machine.variables, "MCP_VEGA_LOCAL": ""}
    started = [
        subprocess.Popen(  # noqa: S603
            draw_command(machine, prompt), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for prompt in ("a fox", "an owl", "a wolf")
    ]
    answers = [each.communicate(timeout=HANG_SECONDS) for each in started]
    assert [each.returncode for each in started] == [0, 0, 0], answers
    assert len({path for path, _ in answers if Path(path.strip()).is_file()}) == 3
    assert len(machine.starts) == 1


# ---- an engine that ends ----


async def test_after_the_end_of_an_engine_the_next_call_starts_another_one(machine: Machine) -> None:
    async with machine.agent() as agent:
        await agent.call_tool(RT, {"prompt": "a fox"})
        os.kill(machine.starts[0], signal.SIGTERM)
        assert images_of(await agent.call_tool(RT, {"prompt": "an owl"})), "even if it is just ending"
        machine.kill_engine()
        assert images_of(await agent.call_tool(RT, {"prompt": "a wolf"}))
    assert len(machine.starts) == 3


@pytest.mark.parametrize("samples", [1, 2])
async def test_a_call_whose_engine_is_killed_fails_at_once_and_is_not_charged(machine: Machine, samples: int) -> None:
    """By v1, and by v2."""
    machine.hold()
    results: list[Any] = []
    async with machine.agent() as agent, anyio.create_task_group() as tasks:

        async def draw() -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7, "samples": samples}))

        tasks.start_soon(draw)
        await until(lambda: machine.drawn)
        machine.kill_engine()
        await until(lambda: results)
        assert results[0].is_error
        assert "ended" in text_of(results[0]) or "restarted" in text_of(results[0])
        assert "Charged: no.\nNext: Call again" in text_of(results[0])
        assert len(machine.starts) == 1, "no engine is worth a start for the question how a call ended"
        machine.go_on()
        again = await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7, "samples": samples})
        assert len(images_of(again)) == samples
        listed = text_of(await agent.call_tool("check_job", {}))
    assert " failed " in listed
    assert "unknown" not in listed


async def test_a_job_is_not_taken_for_one_of_an_engine_that_was_started_since(machine: Machine) -> None:
    machine.hold()
    async with machine.agent() as agent:
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "a fox"}))["request_id"]
        await until(lambda: machine.drawn)
        machine.kill_engine()
        machine.start_engine()
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert result.is_error
    assert "restarted" in text_of(result)
    assert "Charged: no" in text_of(result)


# ---- a server that ends ----


async def left_behind(machine: Machine, tool: str) -> str:
    """The id of a job that is being drawn, and whose server has ended."""
    machine.hold()
    async with machine.agent(MCP_VEGA_WAIT_SECONDS="0") as agent:
        result = await agent.call_tool(tool, {"prompt": "a fox", "seed": 7})
        await until(lambda: machine.drawn)
    return job_of(result)["request_id"]


@pytest.mark.parametrize("tool", [RT, "submit_job"])
async def test_a_job_of_a_server_that_has_ended_gets_its_picture_from_the_same_engine(
    machine: Machine, tool: str
) -> None:
    request_id = await left_behind(machine, tool)
    async with machine.agent() as agent:
        machine.go_on()

        async def is_done() -> bool:
            result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
            return bool(images_of(result))

        await until(is_done)
    assert machine.drawn == ["a fox"], "it is drawn once"


@pytest.mark.parametrize("tool", [RT, "submit_job"])
async def test_a_job_that_was_left_behind_and_whose_engine_has_ended_fails_at_once(machine: Machine, tool: str) -> None:
    """The API's jobs need two looks for that, a day after the call and an hour apart."""
    request_id = await left_behind(machine, tool)
    machine.kill_engine()
    async with machine.server() as app:
        job = await app.service.check(request_id)
        await until(lambda: app.service.active == [])
        job = await app.service.get(job.request_id)
        assert (job.state, job.charged, job.open, job.base_url) == ("FAILED", "no", False, LOCAL)
    assert len(machine.starts) == 1
