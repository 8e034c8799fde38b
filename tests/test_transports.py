"""The real server as a process: every transport, every protocol version, and every way to end."""

import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import (
    HANG_SECONDS,
    KEY,
    PATIENT,
    Sandbox,
    images_of,
    job_of,
    pixels,
    text_of,
    until,
    wait_until,
    with_grace,
)
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from test_command_line import run

from mcp_vega import __version__
from mcp_vega.cli.shutdown import GRACE_SECONDS
from mcp_vega.server.http.limits import HttpLimits

pytestmark = pytest.mark.anyio

STDERR = "stderr.txt"
COMMAND = [sys.executable, "-m", "mcp_vega"]
VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment that a host passes on: few variables, and none of this machine's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "MCP_VEGA_GALLERY": str(folder),
        "MCP_VEGA_HOME": str(folder / "home"),
        "PYTHONWARNINGS": "error",
        **more,
    }


def started(folder: Path, *arguments: str, **variables: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started_by(COMMAND, folder, *arguments, **variables)


@contextmanager
def started_by(command: list[str], folder: Path, *arguments: str, **variables: str) -> Generator[subprocess.Popen[str]]:
    """Run the server with pipes; stderr goes into a file, which cannot fill up. The server is killed at the end."""
    with (
        (folder / STDERR).open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            env=environment(folder, **variables),
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def complaints(folder: Path) -> str:
    return (folder / STDERR).read_text(encoding="utf-8")


def address(folder: Path) -> str:
    """The URL of a server: the first line on its stderr."""
    wait_until(lambda: "\n" in complaints(folder))
    return complaints(folder).splitlines()[0]


def send(process: subprocess.Popen[str], method: str, number: int | None = None, **params: Any) -> None:
    assert process.stdin
    message = {"jsonrpc": "2.0", "method": method, "params": params} | ({"id": number} if number else {})
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def receive(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next answer; messages that nobody asked for are skipped."""
    assert process.stdout
    message = json.loads(process.stdout.readline())
    return message if "id" in message else receive(process)


def shake_hands(process: subprocess.Popen[str], version: str = "2025-06-18", name: str = "test") -> dict[str, Any]:
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": name, "version": "1"}}
    send(process, "initialize", 1, **hello)
    answer = receive(process)
    send(process, "notifications/initialized")
    return answer["result"]


# The versions of the protocol, by the names in the SDK's client.
MODES = ["auto", "legacy"]


@asynccontextmanager
async def agents_over(transport: str, folder: Path, **variables: str) -> AsyncGenerator[list[Client]]:
    """MCP clients of a real server process, one for each protocol version. Over stdio each has its own process."""
    async with AsyncExitStack() as stack:
        if transport == "stdio":
            command = StdioServerParameters(command=COMMAND[0], args=COMMAND[1:], env=environment(folder, **variables))
            stderr = stack.enter_context((folder / STDERR).open("w", encoding="utf-8"))
            clients = [Client(stdio_client(command, errlog=stderr), mode=mode) for mode in MODES]
            yield [await stack.enter_async_context(client) for client in clients]
            return
        process = stack.enter_context(started(folder, "--transport", transport, "--port", "0", **variables))
        url = address(folder)
        async with AsyncExitStack() as connections:
            clients = [Client(sse_client(url) if transport == "sse" else url, mode=mode) for mode in MODES]
            yield [await connections.enter_async_context(client) for client in clients]
        process.terminate()
        output, _ = process.communicate(timeout=HANG_SECONDS)
        assert (output, process.returncode) == ("", 0)


@pytest.mark.parametrize("transport", ["stdio", "sse", "http"])
async def test_each_tool_works_over_each_transport_and_the_key_appears_nowhere(
    sandbox_in_thread: Sandbox, tmp_path: Path, transport: str
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, "MCP_VEGA_LOG_LEVEL": "debug"}
    async with agents_over(transport, tmp_path, **variables) as agents:
        everything = [each.model_dump_json() for agent in agents for each in await results_of_each_tool(agent)]
    assert len(everything) == 6 * len(MODES)
    assert not any(KEY in output for output in (*everything, complaints(tmp_path)))
    assert sandbox_in_thread.account.requests["GET media with key"] == 0


async def results_of_each_tool(agent: Client) -> list[Any]:
    """The answers of the tools and of a resource, each with the text that it must contain."""
    arguments = {"prompt": "a fox", "seed": 1}
    results: list[Any] = [
        await agent.call_tool("generate_image_vega", arguments),
        await agent.call_tool("generate_image_vegart", arguments),
        await agent.call_tool("submit_job", {**arguments, "model": "segmind-vega-rt-v1"}),
    ]
    request_id = job_of(results[-1])["request_id"]
    results.append(await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 20}))
    assert [len(images_of(result)) for result in results] == [1, 1, 0, 1]
    failed = await agent.call_tool("generate_image_vegart", {"prompt": "a fox [fault:401]"})
    assert "HTTP 401" in text_of(failed)
    return [*results, failed, await agent.read_resource(job_of(results[-1])["images"][0]["uri"])]


CLINE = "@cline/core"


@pytest.mark.parametrize(("version", "name"), [*((version, "test") for version in VERSIONS), (VERSIONS[0], CLINE)])
def test_on_stdio_the_server_speaks_every_protocol_version_prints_nothing_else_and_ends_when_stdin_ends(
    sandbox_in_thread: Sandbox, tmp_path: Path, version: str, name: str
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    with started_by(PATIENT, tmp_path, **variables) as process:
        answer = shake_hands(process, version, name)
        assert answer["protocolVersion"] == version
        assert answer["serverInfo"]["name"] == "mcp-vega"
        call = {"name": "generate_image_vegart", "arguments": {"prompt": "a fox"}}
        send(process, "tools/call", 2, **call)
        result = receive(process)["result"]
        is_shown = name != CLINE
        assert [each["type"] for each in result["content"]] == ["text", *(["image"] if is_shown else [])]
        assert ("_meta" in result) is is_shown
        assert "Seed: " in result["content"][0]["text"]
        output, _ = process.communicate(timeout=HANG_SECONDS)
    assert (output, complaints(tmp_path), process.returncode) == ("", "", 0)


def exit_code(process: subprocess.Popen[str]) -> int:
    """The exit code of a process that ends by itself."""
    return process.wait(timeout=HANG_SECONDS)


LISTEN: dict[str, Any] = {
    "notifications": {"resourcesListChanged": True},
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    },
}


def test_a_server_with_a_subscribed_client_ends_immediately_when_stdin_ends(tmp_path: Path) -> None:
    with started_by(PATIENT, tmp_path, "--sandbox") as process:
        send(process, "subscriptions/listen", 1, **LISTEN)
        assert process.stdout
        assert json.loads(process.stdout.readline())["method"] == "notifications/subscriptions/acknowledged"
        assert process.stdin
        process.stdin.close()
        assert exit_code(process) == 0


# Over HTTP, a test that waits for the end of this time hangs.
LONG_DRAIN = {"MCP_VEGA_DRAIN_SECONDS": "3600"}


@signals
def test_over_http_a_server_with_a_subscribed_client_ends_immediately_on_a_signal(tmp_path: Path) -> None:
    with started(tmp_path, "--sandbox", "--transport", "http", "--port", "0", **LONG_DRAIN) as process:
        message = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": LISTEN}
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "subscriptions/listen",
        }
        with (
            httpx.Client(trust_env=False) as http,
            http.stream("POST", address(tmp_path), json=message, headers=headers) as answer,
        ):
            lines = answer.iter_lines()
            assert any("notifications/subscriptions/acknowledged" in line for line in lines)
            process.terminate()
            assert "".join(lines).strip() == ""  # the stream ends as a complete answer does
            assert exit_code(process) == 0
    assert "Traceback" not in complaints(tmp_path)


@signals
def test_an_idle_server_ends_immediately_on_a_signal(tmp_path: Path) -> None:
    with started_by(PATIENT, tmp_path, "--sandbox") as process:
        shake_hands(process)
        process.send_signal(signal.SIGINT)
        assert exit_code(process) == 128 + signal.SIGINT


@signals
@pytest.mark.parametrize(("transport", "number"), [("sse", signal.SIGTERM), ("http", signal.SIGINT)])
def test_an_idle_http_server_ends_immediately_on_a_signal(
    tmp_path: Path, transport: str, number: signal.Signals
) -> None:
    serve = ("--transport", transport, "--port", "0")
    with started(tmp_path, *serve, SEGMIND_API_KEY=KEY, **LONG_DRAIN) as process:
        url = address(tmp_path).rpartition("/")[0]
        assert httpx.get(f"{url}/health", trust_env=False).json() == {"status": "ok", "version": __version__}
        process.send_signal(number)
        assert exit_code(process) == 0
    assert complaints(tmp_path).count("\n") == 1  # the line with the URL


def wait_for_call(sandbox: Sandbox, count: int = 1) -> None:
    """Wait until this many paid calls have reached the sandbox."""
    wait_until(lambda: len(sandbox.account.calls) >= count)


# The second call within a minute waits for its turn. It fails as soon as the server begins to shut down.
ONE_AT_A_TIME = {"MCP_VEGA_REQUESTS_PER_MINUTE": "1"}


def count_of(folder: Path, condition: str) -> int:
    """How many jobs in the ledger meet a condition."""
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        return database.execute(f"SELECT count(*) FROM jobs WHERE {condition}").fetchone()[0]  # noqa: S608  from a test


def is_leaving(folder: Path) -> bool:
    """Whether the server has begun to shut down: then the call that waits for its turn has failed."""
    return count_of(folder, "state = 'FAILED'") == 1


def draw_one_and_have_one_wait(process: subprocess.Popen[str], sandbox: Sandbox, folder: Path, prompt: str) -> None:
    """Make a call that reaches the sandbox, and another call that waits for its turn."""
    send(process, "tools/call", 2, name="generate_image_vega", arguments={"prompt": prompt})
    wait_for_call(sandbox)
    send(process, "tools/call", 3, name="generate_image_vega", arguments={"prompt": "waits for its turn"})
    wait_until(lambda: count_of(folder, "sent IS NULL") == 1)


def test_the_grace_for_pictures_is_shorter_than_hosts_wait() -> None:
    assert GRACE_SECONDS < 4


@pytest.mark.parametrize(
    "leave", ["stdin", *(pytest.param(each, marks=signals) for each in ("SIGTERM", "SIGHUP", "twice"))]
)
def test_before_the_server_ends_it_keeps_a_picture_that_is_paid_for(
    sandbox_in_thread: Sandbox, tmp_path: Path, leave: str
) -> None:
    sandbox_in_thread.hold()
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, **ONE_AT_A_TIME}
    with started_by(PATIENT, tmp_path, **variables) as process:
        shake_hands(process)
        draw_one_and_have_one_wait(process, sandbox_in_thread, tmp_path, "in flight")
        assert process.stdin
        if leave == "stdin":
            process.stdin.close()
        else:
            for _ in range(2 if leave == "twice" else 1):
                process.send_signal(signal.SIGTERM if leave == "twice" else signal.Signals[leave])
        wait_until(lambda: is_leaving(tmp_path))
        sandbox_in_thread.let_go()
        exit_code(process)
    (kept,) = tmp_path.glob("*/in-flight-*.jpg")
    assert pixels(kept.read_bytes())


@signals
def test_a_server_under_nohup_continues_when_its_terminal_is_closed(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a new process inherits this
    try:
        with started_by(PATIENT, tmp_path, "--sandbox") as process:
            shake_hands(process)
            process.send_signal(signal.SIGHUP)
            send(process, "ping", 2)
            assert receive(process)["id"] == 2
            process.terminate()
            assert exit_code(process) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


@signals
def test_a_picture_is_kept_when_the_host_dies_in_the_middle_of_the_call(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    sandbox_in_thread.hold()
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, "MCP_VEGA_WAIT_SECONDS": "0.3"}
    with started_by(PATIENT, tmp_path, **variables, **ONE_AT_A_TIME) as process:
        shake_hands(process)
        draw_one_and_have_one_wait(process, sandbox_in_thread, tmp_path, "in flight")
        assert process.stdin
        assert process.stdout
        process.stdout.close()  # nobody reads the answer any more
        process.stdin.close()
        wait_until(lambda: is_leaving(tmp_path))
        sandbox_in_thread.let_go()
        assert exit_code(process) == 0
    assert len(list(tmp_path.glob("*/in-flight-*.jpg"))) == 1
    # Without the words of the prompt.
    assert re.search(r"Kept: .*[/\\]…-\d+-[0-9a-f]{8}\.jpg$", complaints(tmp_path), re.MULTILINE)
    assert "Exception Group" not in complaints(tmp_path)


@signals
@pytest.mark.parametrize("transport", ["sse", "http"])
async def test_before_an_http_server_ends_it_keeps_what_is_paid_for(
    sandbox_in_thread: Sandbox, tmp_path: Path, transport: str
) -> None:
    sandbox_in_thread.account.speed = 0.6  # longer than an idle server takes to end
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, "MCP_VEGA_WAIT_SECONDS": "0"}
    serve = ("--transport", transport, "--port", "0")
    with started(tmp_path, *serve, **variables, **LONG_DRAIN) as process:
        url = address(tmp_path)
        async with Client(sse_client(url) if transport == "sse" else url) as agent:
            job_of(await agent.call_tool("generate_image_vega", {"prompt": "in flight"}))
            await until(lambda: sandbox_in_thread.account.calls)
            process.terminate()
            process.terminate()
        assert exit_code(process) == 0
    assert len(list(tmp_path.glob("*/in-flight-*.jpg"))) == 1
    assert len(complaints(tmp_path).splitlines()) == 1  # the address: such an end is nothing to worry about


@signals
def test_an_http_server_continues_the_job_of_a_dead_server_before_anybody_asks_it(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, **ONE_AT_A_TIME}
    with started_by(PATIENT, tmp_path, **variables) as process:
        shake_hands(process)
        draw_one_and_have_one_wait(process, sandbox_in_thread, tmp_path, "left behind")
        process.kill()
        process.wait()
    assert count_of(tmp_path, "sent IS NULL") == 1
    with started_by(
        PATIENT, tmp_path, "--transport", "http", "--port", "0", **{**variables, "MCP_VEGA_REQUESTS_PER_MINUTE": "100"}
    ):
        wait_until(lambda: count_of(tmp_path, "state = 'COMPLETED'") == 2)


@signals
def test_a_server_does_not_wait_longer_than_its_host_and_names_the_jobs_that_it_leaves(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, **ONE_AT_A_TIME}
    with started_by(with_grace(1), tmp_path, **variables) as process:
        shake_hands(process)
        draw_one_and_have_one_wait(process, sandbox_in_thread, tmp_path, "[fault:hang]")
        assert process.stdin
        process.stdin.close()
        wait_until(lambda: is_leaving(tmp_path))
        process.terminate()  # as hosts do two seconds after they closed stdin
        # A signal that comes even later, while the interpreter ends, ends the process.
        assert exit_code(process) in (0, -signal.SIGTERM)
    assert complaints(tmp_path).count("was still running") == 1
    assert "Charged: unknown." in complaints(tmp_path)


def test_the_next_server_continues_the_jobs_of_a_server_that_was_killed(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    sandbox_in_thread.account.speed = 20  # nothing is drawn before the server is killed
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    with started(tmp_path, **variables) as process:
        shake_hands(process)
        send(process, "tools/call", 2, name="generate_image_vega", arguments={"prompt": "one"})
        send(process, "tools/call", 3, name="submit_job", arguments={"prompt": "two", "samples": 2})
        wait_for_call(sandbox_in_thread, 2)
        process.kill()
    sandbox_in_thread.account.skip(120)
    numbers = itertools.count(2)
    with started(tmp_path, **variables) as process:
        shake_hands(process)
        wait_until(lambda: len(list(tmp_path.glob("20*/*.jpg"))) == 3)

        def completed() -> list[dict[str, Any]]:
            send(process, "tools/call", next(numbers), name="check_job", arguments={})
            jobs = receive(process)["result"]["_meta"]["mcp-vega/jobs"]
            return jobs if {job["state"] for job in jobs} == {"COMPLETED"} else []

        jobs = wait_until(completed)
        assert sorted(len(job["images"]) for job in jobs) == [1, 2]
        assert {job["request_id"] for job in jobs} == set(sandbox_in_thread.account.calls)
    assert sandbox_in_thread.paid_requests == 2
    assert len(list(tmp_path.glob("20*/*"))) == 3


def test_the_next_server_sends_a_call_once_that_a_killed_server_never_sent(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    sandbox = sandbox_in_thread
    variables = {"SEGMIND_BASE_URL": sandbox.url, "SEGMIND_API_KEY": KEY}
    sandbox.hold()
    with started(tmp_path, **variables) as process:
        shake_hands(process)
        for number in range(24):
            arguments = {"prompt": f"picture {number}"}
            send(process, "tools/call", 2 + number, name="generate_image_vegart", arguments=arguments)
        wait_until(lambda: len(sandbox.account.calls) == 16)
        wait_until(lambda: len(jobs_in(tmp_path)) == 24)
        process.kill()
    assert sum(job["sent"] is None for job in jobs_in(tmp_path)) == 8
    sandbox.let_go()
    with started(tmp_path, **variables) as process:
        shake_hands(process)
        send(process, "tools/list", 2)
        wait_until(lambda: len(sandbox.account.calls) == 24)
        wait_until(lambda: {job["state"] for job in jobs_in(tmp_path)} == {"COMPLETED"})
    assert sandbox.paid_requests == 24
    assert len({call.body["prompt"] for call in sandbox.account.calls.values()}) == 24
    assert len(list(tmp_path.glob("20*/*.jpg"))) == 24


def jobs_in(folder: Path) -> list[dict[str, Any]]:
    """The jobs in the ledger, read as another program would read them."""
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM jobs")]


def test_without_a_key_the_server_starts_and_lists_its_tools(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        shake_hands(process)
        send(process, "tools/list", 2)
        assert len(receive(process)["result"]["tools"]) == 4
        send(process, "tools/call", 3, name="generate_image_vega", arguments={"prompt": "a fox"})
        result = receive(process)["result"]
        assert result["isError"] is True
        assert result["content"][0]["text"].startswith("Error: No Segmind API key is set (missing_key).")


@pytest.mark.parametrize("transport", ["sse", "http"])
def test_a_wrong_host_or_origin_is_refused(tmp_path: Path, transport: str) -> None:
    with started(tmp_path, "--transport", transport, "--port", "0"):
        url = address(tmp_path)
        method = "GET" if transport == "sse" else "POST"
        for foreign in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
            headers = {"accept": "application/json, text/event-stream", **foreign}
            response = httpx.request(method, url, headers=headers, json={}, trust_env=False)
            assert response.status_code in (403, 421), foreign


def run_at_a_taken_port(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command that must be refused, in this process. If it were accepted, it would fail because its port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return run(*arguments, "--port", str(taken.getsockname()[1]), folder=folder, **variables)


EVERYWHERE = ("--transport", "http", "--host", "0.0.0.0", "--port", "0")  # noqa: S104  what is tested


def test_an_address_for_other_machines_is_not_served_without_tokens(tmp_path: Path) -> None:
    done = run_at_a_taken_port(*EVERYWHERE, folder=tmp_path)
    assert done.returncode == 2
    assert "MCP_VEGA_AUTH_TOKENS" in done.stderr
    assert "--insecure" in done.stderr


def test_tokens_that_cannot_be_used_are_reported_at_the_start_and_not_shown(tmp_path: Path) -> None:
    done = run_at_a_taken_port(*EVERYWHERE[:2], folder=tmp_path, MCP_VEGA_AUTH_TOKENS="secret, alice:")
    assert done.returncode == 2
    assert "MCP_VEGA_AUTH_TOKENS cannot be used: in entry 2, its token is empty" in done.stderr
    assert "secret" not in done.stderr


def test_an_address_for_other_machines_is_served_to_callers_with_a_token(tmp_path: Path) -> None:
    with started(tmp_path, *EVERYWHERE, MCP_VEGA_AUTH_TOKENS="alices-token, bobs-token") as process:
        url = address(tmp_path).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert httpx.post(url, json={}, trust_env=False).status_code == 401
        headers = {"authorization": "Bearer bobs-token"}
        assert httpx.post(url, json={}, headers=headers, trust_env=False).status_code not in (401, 403, 421)
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)
    assert "Name other hosts in MCP_VEGA_ALLOWED_HOSTS." in complaints(tmp_path)
    assert "asks for no token" not in complaints(tmp_path)
    assert "An access token has fewer than 16 characters" in complaints(tmp_path)


def test_an_address_for_other_machines_is_served_without_tokens_if_an_option_says_so(tmp_path: Path) -> None:
    with started(tmp_path, *EVERYWHERE, "--insecure") as process:
        url = address(tmp_path).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert httpx.post(url, json={}, trust_env=False).status_code not in (401, 403, 421)
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)
    assert "Anyone who reaches this address can draw at your cost" in complaints(tmp_path)


def test_no_log_shows_a_token(tmp_path: Path) -> None:
    token = "a-token-that-is-secret"
    variables = {"MCP_VEGA_AUTH_TOKENS": token, "MCP_VEGA_LOG_LEVEL": "DEBUG"}
    with started(tmp_path, "--transport", "http", "--port", "0", **variables):
        url = address(tmp_path)
        for target, headers in ((url, {"authorization": f"Bearer {token}"}), (f"{url}?token={token}", {})):
            httpx.post(target, json={}, headers=headers, trust_env=False)
        httpx.get(f"{url}/../images/{token}?access_token={token}", headers={"x-token": token}, trust_env=False)
    assert token not in complaints(tmp_path)
    assert "has no access token" in complaints(tmp_path)
    assert "it can be guessed" not in complaints(tmp_path)


@contextmanager
def few_files_at_first() -> Generator[Callable[[], None]]:
    """Let new programs have few open files unless they ask for more, until the yielded function is called."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def end() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        yield end
    finally:
        end()


@signals
def test_silent_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    most = HttpLimits().unknown_connections
    with (
        few_files_at_first() as end,
        started(tmp_path, "--transport", "http", "--port", "0") as process,
        ExitStack() as stack,
    ):
        end()
        port = int(address(tmp_path).rpartition(":")[2].split("/")[0])
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(most + 50)]
        last = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS))
        last.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert last.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < most + 30
        (allowed,) = re.findall(r"Max open files +(\d+)", Path(f"/proc/{process.pid}/limits").read_text())
        assert int(allowed) > HttpLimits().connections + most
        silent[0].settimeout(HANG_SECONDS)
        with suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SEGMIND_BASE_URL", "http://api.segmind.com"),
        ("SEGMIND_BASE_URL", "nonsense"),
        ("SEGMIND_BASE_URL", "https://"),
        ("SEGMIND_BASE_URL", "https://h:abc"),
        ("SEGMIND_BASE_URL", "https://xn--"),
        ("MCP_VEGA_GALLERY", "~no-such-user/pictures"),
        ("MCP_VEGA_WAIT_SECONDS", "soon"),
        ("MCP_VEGA_PREVIEW", "huge"),
        ("MCP_VEGA_SANDBOX", "perhaps"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_on_stderr_over_http(tmp_path: Path, variable: str, value: str) -> None:
    done = run_at_a_taken_port("--transport", "http", folder=tmp_path, **{variable: value})
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith(f"Error: The environment variable {variable} cannot be used")
    assert len(done.stderr.splitlines()) == 2
