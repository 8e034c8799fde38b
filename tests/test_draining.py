"""How a server over HTTP ends: it refuses what is new, lets jobs end, answers calls that wait, and leaves the rest."""

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx
import pytest
from conftest import HANG_SECONDS, KEY, TLS, Sandbox, app_over, images_of, job_of, text_of, until, wait_until
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp_types import CallToolResult
from pydantic import SecretStr
from test_cancellation import MODERN, RT, Answer, HttpClient
from test_http_access import served
from test_transports import address, complaints, exit_code, signals, started, started_by

from mcp_vega import __version__
from mcp_vega.cli.serve.draining import Ending, serve_until_signal
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.tokens import TokenCallers
from mcp_vega.server.http.app import build_application
from mcp_vega.server.http.connections.listener import bind_socket
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

ASKED = {"prompt": "in flight"}


def serving(
    folder: Path, sandbox: Sandbox, *, transport: str = "http", drain_seconds: float = 3600
) -> AbstractContextManager[subprocess.Popen[str]]:
    variables = {
        "SEGMIND_BASE_URL": sandbox.url,
        "SEGMIND_API_KEY": KEY,
        "MCP_VEGA_DRAIN_SECONDS": str(drain_seconds),
        "MCP_VEGA_LOG_LEVEL": "INFO",
    }
    return started(folder, "--transport", transport, "--port", "0", **variables)


class OpenConnection(HTTPConnection):
    """A connection to a server that is opened before it is used."""

    def __init__(self, url: str) -> None:
        super().__init__(urlsplit(url).netloc, timeout=HANG_SECONDS)
        self.connect()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str | None]:
        """The status, the body, and whether the server closes the connection."""
        self.request(method, path, body and json.dumps(body), headers)
        answer = self.getresponse()
        return answer.status, answer.read().decode(), answer.headers["connection"]

    def call(self, version: str, tool: str, **arguments: Any) -> str:
        """The answer to a call of a tool."""
        client = HttpClient(httpx.AsyncClient(verify=TLS), version)
        params = {"name": tool, "arguments": arguments, "_meta": client.meta}
        headers = {**client.headers("tools/call", tool), "content-type": "application/json"}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        status, text, connection = self.ask("POST", "/mcp", message, **headers)
        assert (status, "close" in (connection or "")) == (200, True), text
        return text

    @property
    def ended(self) -> bool:
        """Whether the server has closed the connection."""
        return self.sock.recv(1) == b""


def refuses(url: str) -> bool:
    """Whether the server accepts no new connections."""
    where = urlsplit(url)
    try:
        socket.create_connection((where.hostname, where.port)).close()
    except ConnectionRefusedError:
        return True
    return False


@asynccontextmanager
async def client_of(url: str, version: str) -> AsyncGenerator[HttpClient]:
    options: dict[str, Any] = {"timeout": HANG_SECONDS, "verify": TLS, "trust_env": False}
    async with httpx.AsyncClient(base_url=url.removesuffix("/mcp"), **options) as http:
        yield HttpClient(http, version)


@signals
@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_server_that_drains_refuses_what_is_new_and_answers_what_waits(
    sandbox_in_thread: Sandbox, tmp_path: Path, version: str
) -> None:
    sandbox_in_thread.hold()
    answer = Answer()
    with serving(tmp_path, sandbox_in_thread) as process, ExitStack() as stack:
        url = address(tmp_path)
        idle, *new = [stack.enter_context(closing(OpenConnection(url))) for _ in range(4)]
        assert idle.ask("GET", "/readyz") == (200, '{"status":"ready"}', None)
        async with client_of(url, version) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, 1, RT, ASKED, answer)
            await until(lambda: sandbox_in_thread.account.calls)
            process.terminate()
            await until(lambda: refuses(url))
            assert idle.ended
            assert new[0].ask("GET", "/readyz") == (503, '{"status":"not ready","reason":"draining"}', "close")
            assert "(server_closing)" in new[1].call(version, RT, prompt="new")
            assert ASKED["prompt"] in new[2].call(version, "check_job")
            assert not answer.message

            def answered() -> bool:
                process.send_signal(signal.SIGINT)  # one that comes immediately after the first one does not count
                return bool(answer.message)

            await until(answered)
        assert exit_code(process) == 0
    assert "State: PROCESSING" in answer.text
    assert complaints(tmp_path).count("was still running") == 1
    assert "Traceback" not in complaints(tmp_path)
    sandbox_in_thread.let_go()
    with serving(tmp_path, sandbox_in_thread):
        async with Client(address(tmp_path)) as agent:

            async def picture() -> bool:
                return bool(images_of(await agent.call_tool("check_job", {"request_id": answer.request_id})))

            await until(picture)
    assert sandbox_in_thread.paid_requests == 1


@signals
@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_a_call_that_waits_is_answered_when_the_time_to_drain_is_over(
    sandbox_in_thread: Sandbox, tmp_path: Path, transport: str
) -> None:
    sandbox_in_thread.hold()
    with serving(tmp_path, sandbox_in_thread, transport=transport, drain_seconds=0.5) as process:
        url = address(tmp_path)
        async with Client(sse_client(url) if transport == "sse" else url) as agent, anyio.create_task_group() as tasks:

            async def stop() -> None:
                await until(lambda: sandbox_in_thread.account.calls)
                process.terminate()

            await agent.list_tools()  # otherwise the SDK asks for the tools after the call
            tasks.start_soon(stop)
            assert job_of(await agent.call_tool(RT, ASKED))["state"] == "PROCESSING"
        assert exit_code(process) == 0
    lines = complaints(tmp_path).splitlines()
    assert [line for line in lines if line.startswith("WARNING") and "was still running" in line]
    first, last = [line for line in lines if line.startswith("INFO mcp_vega.cli.serve.draining: ")]
    assert first.endswith("running jobs have 0.5 s")
    assert last.endswith("Jobs that were running: 1, ended: 0")
    assert not [line for line in lines if "Traceback" in line or "uvicorn" in line]


@signals
def test_a_server_whose_ledger_hangs_at_the_end_ends_nevertheless(tmp_path: Path) -> None:
    program = (
        "import time; from mcp_vega.cli import main; from mcp_vega.cli.serve import draining; "
        "from mcp_vega.storage.database.sqlite.database import SqliteDatabase; draining.CLOSING_SECONDS = 0.1; "
        "SqliteDatabase.close = lambda self: time.sleep(3600); raise SystemExit(main.main())"
    )
    command = [sys.executable, "-c", program]
    with started_by(command, tmp_path, "--transport", "http", "--port", "0", SEGMIND_API_KEY=KEY) as process:
        ready = address(tmp_path).replace("/mcp", "/readyz")
        wait_until(lambda: httpx.get(ready, trust_env=False).status_code == 200)
        process.terminate()
        assert exit_code(process) == 1
    assert "which does not answer" in complaints(tmp_path)
    assert "Traceback" not in complaints(tmp_path)


async def test_a_call_that_was_never_sent_is_refused_and_not_answered_with_its_state(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.hold()
    texts = dict[str, str]()
    async with (
        app_over(sandbox.url, tmp_path, limits=Limits(calls_at_once=1)) as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):

        async def draw(prompt: str) -> None:
            texts[prompt] = text_of(await agent.call_tool(RT, {"prompt": prompt}))

        tasks.start_soon(draw, "sent")
        await until(lambda: sandbox.account.calls)
        tasks.start_soon(draw, "never sent")
        await until(lambda: len(app.service.active) == 2)
        app.service.close()
        app.service.end_waits()  # before the refusal is written
        await until(lambda: len(texts) == 2)
        sandbox.let_go()
    assert "State: PROCESSING" in texts["sent"]
    assert "(server_closing)" in texts["never sent"]


@pytest.mark.parametrize("broken", ["gallery", "ledger"])
async def test_what_only_this_server_has_is_saved_before_it_ends_if_there_is_time(
    sandbox: Sandbox, tmp_path: Path, broken: str
) -> None:
    gallery, home = tmp_path / "gallery", tmp_path / "home"
    sandbox.hold()
    async with (
        app_over(sandbox.url, gallery, home=home, busy_seconds=0.1) as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):
        results = list[CallToolResult]()

        async def draw() -> None:
            results.append(await agent.call_tool(RT, ASKED))

        async def finish() -> None:
            await app.service.finish(HANG_SECONDS, save=True)
            results.clear()

        tasks.start_soon(draw)
        await until(lambda: sandbox.account.calls)
        with closing(sqlite3.connect(home / "ledger.sqlite3", isolation_level=None)) as other:
            if broken == "ledger":
                other.execute("BEGIN IMMEDIATE")
            else:
                shutil.rmtree(gallery)
                gallery.touch()
            sandbox.let_go()
            await until(lambda: results)
            assert len(images_of(results[0])) == 1
            app.service.client.use_key(ApiKey(SecretStr("SG_another")))  # its jobs are not this account's any more
            tasks.start_soon(finish)
            await anyio.wait_all_tasks_blocked()
            assert results
            gallery.unlink() if gallery.is_file() else other.execute("ROLLBACK")
            await until(lambda: not results)
            assert other.execute("SELECT state, open FROM jobs").fetchall() == [("COMPLETED", 0)]
    assert len(list(gallery.glob("*/*.jpg"))) == 1


@pytest.mark.parametrize("save", [True, False])
async def test_a_result_that_is_just_being_saved_is_waited_for(sandbox: Sandbox, tmp_path: Path, *, save: bool) -> None:
    home, ended = tmp_path / "home", anyio.Event()
    sandbox.hold()
    async with (
        app_over(sandbox.url, tmp_path / "gallery", home=home, busy_seconds=HANG_SECONDS) as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):

        async def finish() -> None:
            await app.service.finish(HANG_SECONDS, save=save)
            ended.set()

        tasks.start_soon(agent.call_tool, RT, ASKED)
        await until(lambda: sandbox.account.calls)
        with closing(sqlite3.connect(home / "ledger.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sandbox.let_go()
            await until(lambda: app.service.active[0].has_outcome)
            tasks.start_soon(finish)
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            other.execute("ROLLBACK")
            await until(ended.is_set)
            assert other.execute("SELECT state, open FROM jobs").fetchall() == [("COMPLETED", 0)]


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_while_the_server_begins_to_drain_is_answered_or_closed(
    app: AppContext, turns: int
) -> None:
    began = anyio.Event()
    connections = list[socket.socket]()
    asgi = build_application(app, "http", [], TokenCallers([]))
    with bind_socket("127.0.0.1", 0) as listener, ExitStack() as stack:
        here = listener.getsockname()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_until_signal, app.service, asgi, listener, Ending(), began.wait)
            async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
                await client.get(f"http://127.0.0.1:{here[1]}/livez")
            began.set()
            for _ in range(turns):  # of the event loop
                await anyio.lowlevel.checkpoint()
            with suppress(ConnectionRefusedError):
                new = stack.enter_context(socket.create_connection(here, timeout=HANG_SECONDS))
                connections.append(new)
                new.sendall(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        for connection in connections:
            with suppress(ConnectionResetError):  # by the system: the server had not accepted it
                answer = b"".join(iter(partial(connection.recv, 4096), b""))
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nconnection: close\r\n" in answer


async def test_the_health_checks_say_who_is_up_and_who_is_ready(sandbox: Sandbox, tmp_path: Path) -> None:
    passed = 0.0
    home = tmp_path / "home"
    async with (
        app_over(sandbox.url, tmp_path, home=home, uptime=lambda: passed) as app,
        served(app, "http") as server,
    ):

        async def is_ready(code: int, **body: str) -> None:
            answer = await server.ask("GET", "/readyz")
            assert (answer.status_code, answer.json()) == (code, body)
            assert (await server.ask("HEAD", "/readyz")).status_code == code

        await is_ready(200, status="ready")
        ledger = home / "ledger.sqlite3"
        ledger.rename(away := home / "away")
        await is_ready(200, status="ready")  # the ledger is read at most once a second
        passed += 1
        await is_ready(503, status="not ready", reason="ledger")
        away.rename(ledger)
        await is_ready(503, status="not ready", reason="ledger")
        assert await app.readiness.problem() == "ledger"  # the figures for Prometheus share this read
        passed += 1
        await is_ready(200, status="ready")
        await app.service.finish(0)
        await is_ready(503, status="not ready", reason="draining")
        assert (await server.ask("GET", "/livez")).json() == {"status": "ok"}
        assert (await server.ask("GET", "/health")).json() == {"status": "ok", "version": __version__}
