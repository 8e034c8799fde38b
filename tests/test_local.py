"""`--local`: servers join the engine of their user or start one, and lose no job without a word if it ends.

Each engine here is a process, `mcp-vega engine`. It needs no weights, because it draws through a stand-in for a server
of the user's own.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import HANG_SECONDS, POLICY, TLS, app_over, images_of, job_of, text_of, unserved_port, until, wait_until
from mcp.client import Client
from txt2img_server import WEB_UI, Txt2ImgServer, serving_txt2img

from mcp_vega.cli.api_client import LOCAL_KEY, LOCAL_URL, local_policy
from mcp_vega.cli.application import open_application
from mcp_vega.cli.engine import launcher, requirements, transport
from mcp_vega.cli.engine.registration import FILE, RunningEngine, registered, running_engine
from mcp_vega.cli.engine.transport import LocalTransport
from mcp_vega.engine.errors import EngineError
from mcp_vega.job import LOCAL
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.settings import Settings

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
ENGINE = [sys.executable, "-m", "mcp_vega", "engine", "--port", "0"]
LORAS = [{"name": "Segmind-VegaRT", "path": "/loras/Segmind-VegaRT.safetensors"}]
SECRETS = {"SEGMIND_API_KEY": "SG_of_the_user", "AWS_SECRET_ACCESS_KEY": "x", "PGPASSWORD": "x", "HF_TOKEN": "x"}


@dataclass
class Machine:
    """A user's machine: the home folder, and the server that the engines draw through."""

    folder: Path
    backend: Txt2ImgServer
    hand_started: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def variables(self) -> dict[str, str]:
        gallery = str(self.folder / "pictures")
        return {"MCP_VEGA_LOCAL": "1", "MCP_VEGA_HOME": str(self.home), "MCP_VEGA_GALLERY": gallery}

    @property
    def command(self) -> list[str]:
        return [*ENGINE, "--backend", self.backend.url]

    @property
    def engine(self) -> RunningEngine | None:
        return running_engine(self.home)

    @property
    def log(self) -> str:
        """What the engines wrote that servers have started."""
        file = self.home / launcher.LOG
        return file.read_text() if file.exists() else ""

    @property
    def starts(self) -> int:
        """How many engines servers have started."""
        return self.log.count(": started by a server")

    @property
    def drawn(self) -> list[str]:
        """The prompts of the drawings that were begun."""
        return [body["prompt"] for body in self.backend.bodies]

    def start_engine(self, *options: str, **variables: str) -> RunningEngine:
        """Start an engine by hand."""
        environment = {**os.environ, "MCP_VEGA_HOME": str(self.home), **variables}
        command = [*self.command, *options]
        self.hand_started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        return wait_until(lambda: self.engine)

    def end_engine(self, number: int = signal.SIGKILL) -> None:
        """End the engine that runs."""
        engine = self.engine
        assert engine
        os.kill(engine.pid, number)
        wait_until(lambda: self.engine != engine)

    @asynccontextmanager
    async def server(self, **variables: str) -> AsyncGenerator[AppContext]:
        """A server with `--local`."""
        async with open_application(Settings.from_environment({**self.variables, **variables})) as app:
            yield app

    @asynccontextmanager
    async def agent(self, **variables: str) -> AsyncGenerator[Client]:
        async with self.server(**variables) as app, Client(build_server(app)) as agent:
            yield agent


def nothing(*_: object) -> None:
    """Find nothing wrong, or no package."""


def something(*_: object) -> object:
    """Find every package."""
    return True


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with all that an engine needs. Its engines end with the test."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with serving_txt2img(has={**WEB_UI, "loras": LORAS}) as backend:
        machine = Machine(tmp_path, backend)
        monkeypatch.setattr(launcher, "COMMAND", machine.command)
        monkeypatch.setattr(launcher, "require_weights", nothing)
        yield machine
        backend.go_on()
        if machine.engine:
            machine.end_engine()
        for each in machine.hand_started:
            each.kill()
            each.wait()


# ---- to find or to start ----


@pytest.mark.parametrize("key", ["", "a-key-of-the-users-own"])
async def test_a_server_draws_by_the_engine_that_the_user_has_started(machine: Machine, key: str) -> None:
    """It has a port of its own, and perhaps a key."""
    machine.start_engine(MCP_VEGA_ENGINE_KEY=key)
    async with machine.agent() as agent:
        result = await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7})
        two = await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 2})
        submission = await agent.call_tool("submit_job", {"prompt": "a fox", "model": "segmind-vega-rt-v1"})
        question = {"request_id": job_of(submission)["request_id"], "wait_seconds": 45}
        await agent.call_tool("check_job", question)
        listed = await agent.call_tool("check_job", {})
    assert text_of(result).splitlines()[1].startswith("Note: Drawn on this machine (segmind-vega")
    assert (len(images_of(result)), len(images_of(two))) == (1, 2)
    assert text_of(listed).count(" done ") == 3
    assert machine.starts == 0


async def test_an_engine_is_started_by_the_first_call_and_not_before(machine: Machine) -> None:
    async with machine.agent() as agent:
        await agent.call_tool("check_job", {})
        assert machine.starts == 0
        for prompt in ("a fox", "an owl"):
            assert images_of(await agent.call_tool(VEGA, {"prompt": prompt}))
    async with machine.agent() as agent:
        assert images_of(await agent.call_tool(VEGA, {"prompt": "a wolf"})), "it outlives the server that started it"
    assert machine.starts == 1


async def test_a_started_engine_is_on_its_own_and_serves_this_user_alone(machine: Machine) -> None:
    async with machine.agent() as agent:
        await agent.call_tool(RT, {"prompt": "a fox"})
    engine = machine.engine
    assert engine
    assert engine.url in machine.log
    if sys.platform != "win32":
        assert os.getsid(engine.pid) == engine.pid, "a signal to the server's group does not reach it"
        assert stat.S_IMODE((machine.home / launcher.LOG).stat().st_mode) == 0o600
    if sys.platform == "linux":
        variables = Path(f"/proc/{engine.pid}/environ").read_bytes().decode().split("\0")
        assert not {each.partition("=")[0] for each in variables} & SECRETS.keys()
    async with httpx.AsyncClient(trust_env=False, verify=TLS, base_url=engine.url) as http:
        for key, status in (("SG_of_another_user", 401), (engine.key, 200)):
            answer = await http.get("/v1/get-user-credits", headers={"x-api-key": key})
            assert answer.status_code == status, "other users of the machine cannot use it"
    assert engine.key not in machine.log


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
    without = [launcher.engine_environment({"MCP_VEGA_ENGINE_KEY": ""}, Path("/home"), None) for _ in range(2)]
    assert [each.keys() for each in without] == [{"MCP_VEGA_ENGINE_KEY", "MCP_VEGA_HOME"}] * 2
    assert without[0] != without[1]


def draw(machine: Machine, prompt: str) -> subprocess.Popen[str]:
    """`mcp-vega draw PROMPT --local` on this machine."""
    program = (
        f"from mcp_vega.cli.engine import launcher; launcher.COMMAND = {machine.command}; "
        "launcher.require_weights = lambda _: None; from mcp_vega.cli import main; raise SystemExit(main.main())"
    )
    environment = {**os.environ, **machine.variables, "MCP_VEGA_LOCAL": ""}
    command = [sys.executable, "-c", program, "draw", prompt, "--local"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_commands_at_the_same_time_start_one_engine_and_print_their_pictures(machine: Machine) -> None:
    started = [draw(machine, prompt) for prompt in ("a fox", "an owl", "a wolf")]
    answers = [each.communicate(timeout=HANG_SECONDS) for each in started]
    assert [each.returncode for each in started] == [0, 0, 0], answers
    assert len({path for path, _ in answers if Path(path.strip()).is_file()}) == 3
    assert machine.starts == 1


def test_the_command_draws_with_the_users_weights_without_another_step(tiny_weights: Path, tmp_path: Path) -> None:
    """Nothing is replaced here: it starts an engine with torch and the weights, and that draws."""
    variables = {"MCP_VEGA_HOME": str(tmp_path / "home"), "MCP_VEGA_GALLERY": str(tmp_path / "pictures")}
    environment = {**os.environ, **variables, "MCP_VEGA_WEIGHTS": str(tiny_weights), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mcp_vega", "draw", "a fox", "--model", "vegart", "--local"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        if engine := running_engine(tmp_path / "home"):
            os.kill(engine.pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()
    assert "Note: Drawn on this machine (CPU" in done.stderr


# ---- an engine that ends ----


async def test_after_the_end_of_an_engine_the_next_call_starts_another_one(machine: Machine) -> None:
    async with machine.agent() as agent:
        await agent.call_tool(VEGA, {"prompt": "a fox"})
        machine.end_engine(signal.SIGTERM)  # it no longer says where it is, but may still hold its lock
        assert images_of(await agent.call_tool(VEGA, {"prompt": "an owl"}))
        machine.end_engine()
        assert images_of(await agent.call_tool(VEGA, {"prompt": "a wolf"}))
    assert machine.starts == 3


@pytest.mark.parametrize("samples", [1, 2])
async def test_a_call_whose_engine_is_killed_fails_at_once_and_is_not_charged(machine: Machine, samples: int) -> None:
    """By v1, and by v2."""
    machine.backend.hold()
    results: list[Any] = []
    async with machine.agent() as agent, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7, "samples": samples}))

        tasks.start_soon(call)
        await until(lambda: machine.drawn)
        machine.end_engine()
        await until(lambda: results)
        assert results[0].is_error
        assert "ended" in text_of(results[0]) or "restarted" in text_of(results[0])
        assert "Charged: no.\nNext: Call again" in text_of(results[0])
        assert machine.starts == 1, "no engine is worth a start for the question how a call ended"
        machine.backend.go_on()
        again = await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7, "samples": samples})
        assert len(images_of(again)) == samples
        listed = text_of(await agent.call_tool("check_job", {}))
        assert " failed " in listed
        assert "unknown" not in listed


async def test_an_engine_that_is_ended_answers_the_calls_under_way(machine: Machine) -> None:
    machine.backend.hold()
    results: list[Any] = []
    async with machine.agent() as agent, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": "a fox"}))

        tasks.start_soon(call)
        await until(lambda: machine.drawn)
        machine.end_engine(signal.SIGTERM)
        await until(lambda: results)
    assert results[0].is_error
    assert "Charged: no" in text_of(results[0])


async def test_a_job_is_not_taken_for_one_of_an_engine_that_was_started_since(machine: Machine) -> None:
    machine.backend.hold()
    async with machine.agent() as agent:
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "a fox"}))["request_id"]
        await until(lambda: machine.drawn)
        machine.end_engine()
        machine.start_engine()
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert result.is_error
    assert "restarted" in text_of(result)
    assert "Charged: no" in text_of(result)


# ---- a server that ends ----


async def left_behind(machine: Machine, tool: str, **arguments: int) -> str:
    """The id of a job that is being drawn, and whose server has ended."""
    machine.backend.hold()
    async with machine.agent(MCP_VEGA_WAIT_SECONDS="0") as agent:
        before = len(machine.drawn)
        result = await agent.call_tool(tool, {"prompt": "a fox", **arguments})
        await until(lambda: len(machine.drawn) > before)
    return job_of(result)["request_id"]


@pytest.mark.parametrize("tool", [VEGA, "submit_job"])
async def test_a_job_of_a_server_that_has_ended_gets_its_picture_from_the_same_engine(
    machine: Machine, tool: str
) -> None:
    request_id = await left_behind(machine, tool)
    async with machine.agent() as agent:
        machine.backend.go_on()

        async def is_done() -> bool:
            result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
            return bool(images_of(result))

        await until(is_done)
    assert machine.drawn == ["a fox"], "it is drawn once"


@pytest.mark.parametrize("tool", [VEGA, "submit_job"])
async def test_a_job_that_was_left_behind_and_whose_engine_has_ended_fails_at_once(machine: Machine, tool: str) -> None:
    """For a job of the API, that takes two looks, a day after the call and an hour apart."""
    request_id = await left_behind(machine, tool)
    machine.end_engine()
    async with machine.server() as app:
        await app.service.check(request_id)
        await until(lambda: app.service.active == [])
        job = await app.service.get(request_id)
    assert (job.state, job.charged, job.open, job.base_url) == ("FAILED", "no", False, LOCAL)
    assert machine.starts == 1


async def test_a_call_is_found_even_if_an_earlier_engine_drew_the_same_picture(machine: Machine) -> None:
    """The API would have to list both calls, so that it is certain which is which."""
    async with machine.agent() as agent:
        await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7})
    machine.end_engine()
    request_id = await left_behind(machine, VEGA, seed=7)
    machine.backend.go_on()
    async with machine.agent() as agent:
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert images_of(result)


@pytest.mark.parametrize("tool", [VEGA, "submit_job"])
async def test_a_drawing_may_take_hours(machine: Machine, tool: str) -> None:
    """On a CPU it can. The API, in contrast, knows a job for an hour only."""
    request_id = await left_behind(machine, tool)
    settings = Settings.from_environment(machine.variables)
    given: dict[str, Any] = {
        "key": LOCAL_KEY.get_secret_value(),
        "transport": LocalTransport(launcher.Launcher(settings)),
        "policy": local_policy(POLICY),
        "home": machine.home,
        "api": LOCAL,
        "clock": lambda: datetime.now(UTC) + timedelta(hours=5),
    }
    async with app_over(LOCAL_URL, machine.folder / "later", **given) as app, Client(build_server(app)) as agent:
        assert await app.service.check(request_id)
        machine.backend.go_on()
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert images_of(result)
    assert machine.drawn == ["a fox"]


# ---- what prevents a start ----


async def refusal_of(machine: Machine) -> list[str]:
    """The lines of the error of a call that no engine can draw."""
    async with machine.agent() as agent:
        result = await agent.call_tool(VEGA, {"prompt": "a fox"})
        listed = text_of(await agent.call_tool("check_job", {}))
    assert result.is_error
    assert "unknown" not in listed
    lines = text_of(result).splitlines()
    assert lines[1] == "Charged: no."
    return [lines[0], lines[2]]


async def test_without_the_packages_or_the_weights_the_error_names_the_command(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "require_weights", requirements.require_weights)
    monkeypatch.setattr(requirements, "find_spec", nothing)
    error, step = await refusal_of(machine)
    assert re.search("missing: .*torch", error)
    assert "install 'mcp-vega[local]'`" in step
    monkeypatch.setattr(requirements, "find_spec", something)
    monkeypatch.setenv("HF_HOME", str(machine.folder / "empty"))
    error, step = await refusal_of(machine)
    assert "not in your Hugging Face cache" in error
    assert "`mcp-vega weights`" in step
    assert machine.starts == 0


def test_the_check_of_the_packages_finds_those_of_this_machine() -> None:
    """It asks for them by the names of their imports."""
    if all(find_spec(each) for each in requirements.PACKAGES):
        pytest.skip("the extra `local` is installed")
    with pytest.raises(EngineError, match="needs the extra `local`"):
        requirements.require_weights(None)


PYTHON = [sys.executable, "-c"]
SAYS_WHY = "import sys; sys.exit('Error: The weights are of another model (invalid_settings).\\nNext: Run this.')"
SAYS_SOMETHING = "import sys; sys.exit('Traceback\\nOSError: libcuda.so: SG_0123456789 cannot be opened')"


@pytest.mark.parametrize(
    ("program", "error", "step"),
    [
        (SAYS_WHY, "could not be started: The weights are of another model (unreachable)", "Next: Run this."),
        (SAYS_SOMETHING, "ended while it started: OSError: libcuda.so: SG_… cannot be opened", "engine.log"),
        ("", "ended while it started (unreachable)", "engine.log"),
    ],
    ids=["says why", "says something", "says nothing"],
)
async def test_an_engine_that_ends_at_its_start_is_quoted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, program: str, error: str, step: str
) -> None:
    monkeypatch.setattr(launcher, "COMMAND", [*PYTHON, program])
    said = await refusal_of(machine)
    assert error in said[0]
    assert step in said[1]


async def test_an_engine_that_never_accepts_calls_is_ended(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    started = machine.folder / "pid"
    program = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(launcher, "COMMAND", [*PYTHON, program])
    monkeypatch.setattr(launcher, "START_SECONDS", 2.0)
    error, step = await refusal_of(machine)
    assert "accepted no calls within 2 s" in error
    assert "engine.log" in step
    if pid := started.exists() and started.read_text():  # it may have been ended before it wrote that
        await until(lambda: _is_gone(int(pid)))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_program_that_is_not_there_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "COMMAND", [str(machine.folder / "nothing")])
    error, step = await refusal_of(machine)
    assert "could not be started: No such file or directory" in error
    assert "`mcp-vega engine`" in step


async def test_a_home_folder_that_cannot_be_used_is_an_error(machine: Machine) -> None:
    (machine.home / launcher.STARTER_LOCK).mkdir(parents=True)
    error, step = await refusal_of(machine)
    assert f"{launcher.STARTER_LOCK} cannot be used" in error
    assert "Set MCP_VEGA_HOME" in step


async def test_an_engine_that_others_could_have_named_is_not_used(machine: Machine) -> None:
    """Prompts would go to whatever address they wrote."""
    with registered(machine.home) as publish:
        publish(RunningEngine("http://127.0.0.1:9", "SG_x", 1, "0"))
        (machine.home / FILE).chmod(0o644)
        error, step = await refusal_of(machine)
    assert "can be read or written by other users" in error
    assert "delete the file" in step


async def test_a_call_waits_for_the_end_of_the_engine_before_it_starts_another_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that ends keeps its lock until the memory of the card is free. If that never happens, nothing hangs."""
    async with machine.agent() as agent, anyio.create_task_group() as tasks:
        results: list[Any] = []

        async def call() -> None:
            results.append(await agent.call_tool(VEGA, {"prompt": "a fox"}))

        with registered(machine.home):
            tasks.start_soon(call)
            await until((machine.home / launcher.STARTER_LOCK).exists)
            assert machine.starts == 0
        await until(lambda: results)
        assert images_of(results[0])
    machine.end_engine()
    monkeypatch.setattr(launcher, "START_SECONDS", 0.2)
    with registered(machine.home):
        error, _ = await refusal_of(machine)
    assert "starts or ends" in error


async def test_an_engine_that_accepts_no_connection_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ENDING_SECONDS", 0.2)
    with unserved_port() as port, registered(machine.home) as publish:
        url = f"http://127.0.0.1:{port}"
        publish(RunningEngine(url, "SG_x", 4242, "0"))
        error, step = await refusal_of(machine)
    assert f"(process 4242) accepts no connection at {url}" in error
    assert "End that process" in step
