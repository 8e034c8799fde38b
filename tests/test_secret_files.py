"""The API key and the access tokens in files: how they are read, and read again while the server runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from conftest import API, HISTORY, KEY, Sandbox, app_over, begun, job_of, noise, text_of, until, wait_until
from pydantic import SecretStr
from stores import complete
from test_http_access import HttpServer
from test_transports import (
    COMMAND,
    STDERR,
    address,
    complaints,
    environment,
    exit_code,
    receive,
    send,
    shake_hands,
    signals,
    started_by,
)

from mcp_vega.cli.api_client import key_of
from mcp_vega.cli.serve.callers import token_callers
from mcp_vega.errors import InvalidSettings
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

KEY_FILE, TOKENS_FILE = "SEGMIND_API_KEY_FILE", "MCP_VEGA_AUTH_TOKENS_FILE"
NEW_KEY = "SG_fedcba9876543210"
OLD, NEW = "alices-first-token", "alices-second-token"
ABSENT = "no such file or directory"


def keys_at(sandbox: Sandbox) -> list[str]:
    """The keys of the paid calls, in their order."""
    return [call.key for call in sandbox.account.calls.values()]


# ---- reading ----


@pytest.mark.parametrize("content", [KEY, f"{KEY}\n", f"\ufeff{KEY}\r\n\r\n", f"\n  '{KEY}' \n"])
def test_a_key_is_read_from_a_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_bytes(content.encode())
    settings = Settings.from_environment({KEY_FILE: str(tmp_path / "key")})
    assert settings.api_key == SecretStr(KEY)
    assert KEY not in repr(settings)


def test_each_line_of_a_file_is_an_access_token(tmp_path: Path) -> None:
    text = f"\ufeff# our people\r\n\r\nalice:{OLD}\n  # alice: 'x'\n bob : 'bobs-token' \n'token without, name'\n"
    (tmp_path / "tokens").write_bytes(text.replace("'token without, name'", "eves-token").encode())
    settings = Settings.from_environment({TOKENS_FILE: str(tmp_path / "tokens")})
    assert [each.get_secret_value() for each in settings.auth_tokens] == [
        f"alice:{OLD}",
        "bob:bobs-token",
        "eves-token",
    ]
    assert [each.owner for each in token_callers(settings)][:2] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("variable", "content", "why"),
    [
        (KEY_FILE, None, ABSENT),
        (KEY_FILE, b" \n", "it is empty"),
        (KEY_FILE, b"\xff\xfeS\0G\0_\0", "it is not UTF-8 text"),
        (KEY_FILE, b"SG_0123\nSG_4567", "it has several lines, and the key must be its only text"),
        (KEY_FILE, b"x" * 1_000_001, "it has more than 1,000,000 bytes"),
        (TOKENS_FILE, None, ABSENT),
        (TOKENS_FILE, b"", "it contains no token"),
        (TOKENS_FILE, b"# alice:secret\n\n", "it contains no token"),
        (TOKENS_FILE, b"\n#\nalice:secret,bob:secret2", "line 3 has a comma; write each token on a line of its own"),
        (TOKENS_FILE, b"alice:\xe4", "it is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_its_contents_are_not_shown(
    tmp_path: Path, variable: str, content: bytes | None, why: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_environment({variable: str(file)})
    assert caught.value.what == f"The file {file}, which {variable} names, cannot be used: {why}"
    assert caught.value.next_step == "Correct the file, or the path in the variable, and start the server again"


@pytest.mark.parametrize("variable", [KEY_FILE, TOKENS_FILE])
def test_what_is_not_a_file_does_not_hang_the_start(tmp_path: Path, variable: str) -> None:
    not_files = {tmp_path: "it is a folder"}
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        not_files |= dict.fromkeys((tmp_path / "pipe", Path("/dev/zero")), "it is not a regular file")
    for path, why in not_files.items():
        with pytest.raises(InvalidSettings, match=why):
            Settings.from_environment({variable: str(path)})


def test_the_sandbox_reads_no_key(tmp_path: Path) -> None:
    assert Settings.from_environment({KEY_FILE: str(tmp_path / "none"), "MCP_VEGA_SANDBOX": "1"}).api_key is None


def test_an_access_token_in_a_file_that_cannot_be_used_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# people\nalice:secret\nbob:secret\n", encoding="utf-8")
    settings = Settings.from_environment({TOKENS_FILE: str(tmp_path / "tokens")})
    with pytest.raises(InvalidSettings) as caught:
        token_callers(settings)
    why = "in entry 2, its token already belongs to another caller"
    assert caught.value.what == f"The file {tmp_path / 'tokens'}, which {TOKENS_FILE} names, cannot be used: {why}"


def test_a_text_in_a_file_that_cannot_be_a_key_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"SEGMIND_API_KEY={KEY}", encoding="utf-8")
    with pytest.raises(InvalidSettings) as caught:
        key_of(Settings.from_environment({KEY_FILE: str(tmp_path / "key")})).usable()
    assert caught.value.what == f"The file in {KEY_FILE} contains “SEGMIND_API_KEY=” before the key"


def test_over_stdio_a_server_draws_with_the_key_in_a_file(sandbox_in_thread: Sandbox, files: "Files") -> None:
    folder = files.key.parent
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, **files.variables}
    with started_by(COMMAND, folder, **variables) as process:
        shake_hands(process)
        send(process, "tools/call", 2, name="generate_image_vegart", arguments={"prompt": "a fox"})
        assert "Seed: " in receive(process)["result"]["content"][0]["text"]
    assert keys_at(sandbox_in_thread) == [KEY]


# ---- reading again ----


class Files:
    """The files of a server's secrets."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "key"
        self.tokens = folder / "tokens"
        self.write()

    def write(self, key: str = KEY, tokens: str = f"alice:{OLD}\nbob:bobs-token\n") -> None:
        self.key.write_text(key, encoding="utf-8")
        self.tokens.write_text(tokens, encoding="utf-8")

    @property
    def variables(self) -> dict[str, str]:
        return {KEY_FILE: str(self.key), TOKENS_FILE: str(self.tokens)}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def hang_up(process: subprocess.Popen[str], folder: Path, expected: str) -> None:
    """Send SIGHUP, and wait until the log has one line more with this text."""
    count = complaints(folder).count(expected)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: complaints(folder).count(expected) > count)


def status_of(url: str, **headers: str) -> int:
    return httpx.get(url, headers=headers, trust_env=False).status_code


def signed_in(url: str, token: str) -> httpx.Response:
    headers = {"x-mcp-vega": "1", "sec-fetch-site": "same-origin"}
    return httpx.post(url.replace("/mcp", "/gallery/sign-in"), json={"token": token}, headers=headers, trust_env=False)


def state_with(url: str, token: str) -> int:
    """The status of the answer about the gallery for a caller with this token."""
    return status_of(url.replace("/mcp", "/gallery/state"), authorization=f"Bearer {token}")


SERVE = ("--transport", "http", "--port", "0")


@signals
async def test_after_sighup_new_tokens_and_a_new_key_count_and_removed_tokens_do_not(
    sandbox_in_thread: Sandbox, tmp_path: Path, files: Files
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "MCP_VEGA_LOG_LEVEL": "debug", **files.variables}
    with started_by(COMMAND, tmp_path, *SERVE, **variables) as process:
        url = await anyio.to_thread.run_sync(address, tmp_path)
        server = HttpServer(url.removesuffix("/mcp"), "http")
        async with server.agent(OLD) as alice:
            result = await alice.call_tool("generate_image_vegart", {"prompt": "a fox"})
        drawn, link = job_of(result), text_of(result).rpartition("Image: ")[2]
        state = url.replace("/mcp", "/gallery/state")
        sign_in = signed_in(url, OLD)
        page = {
            "cookie": sign_in.headers["set-cookie"].partition(";")[0],
            "x-mcp-vega-page": sign_in.headers["x-mcp-vega-page"],
        }
        assert (status_of(link), status_of(state, **page)) == (200, 200)

        # Nothing of files of which one is wrong takes effect.
        for wrong in ({"key": NEW_KEY, "tokens": "alice:a,b"}, {"key": f"{KEY} {KEY}", "tokens": f"alice:{NEW}"}):
            files.write(**wrong)
            hang_up(process, tmp_path, "The earlier secrets stay in use. The file ")
            assert (state_with(url, OLD), state_with(url, NEW)) == (200, 401)
        async with server.agent(OLD) as alice:
            job_of(await alice.call_tool("generate_image_vegart", {"prompt": "an owl"}))
        assert keys_at(sandbox_in_thread) == [KEY, KEY]

        files.write(NEW_KEY, f"alice:{NEW}\nalice:alices-third-token\nbob:bobs-token\n")
        said = f"WARNING mcp_vega.cli.serve.reload: Read again: {KEY_FILE} (another key), {TOKENS_FILE} (2 callers)\n"
        hang_up(process, tmp_path, said)
        assert [state_with(url, token) for token in (OLD, NEW, "bobs-token")] == [401, 200, 200]
        assert (status_of(link), status_of(state, **page)) == (403, 401)
        async with server.agent(NEW) as alice:
            job_of(await alice.call_tool("generate_image_vegart", {"prompt": "a cat"}))
            # Jobs belong to the name, not to the token.
            again = job_of(await alice.call_tool("check_job", {"request_id": drawn["request_id"]}))
            assert again["state"] == "COMPLETED"
        assert keys_at(sandbox_in_thread) == [KEY, KEY, NEW_KEY]
        hang_up(process, tmp_path, f"{KEY_FILE} (the same key)")
        process.terminate()
        assert exit_code(process) == 0
    log = complaints(tmp_path)
    assert not [each for each in (KEY, NEW_KEY, OLD, NEW, "alice") if each in log]


@signals
@pytest.mark.parametrize("given", ["key", "tokens"])
def test_one_of_the_two_secrets_may_be_in_a_file(tmp_path: Path, files: Files, given: str) -> None:
    variables = {"SEGMIND_API_KEY": KEY, TOKENS_FILE: str(files.tokens)}
    if given == "key":
        variables = {KEY_FILE: str(files.key), "MCP_VEGA_AUTH_TOKENS": OLD}
    with started_by(COMMAND, tmp_path, *SERVE, **variables) as process:
        url = address(tmp_path)
        files.write(NEW_KEY, f"alice:{OLD}\nbob:{NEW}")
        part = f"{KEY_FILE} (another key)" if given == "key" else f"{TOKENS_FILE} (2 callers)"
        hang_up(process, tmp_path, f"Read again: {part}\n")
        assert (state_with(url, OLD), state_with(url, NEW)) == (200, 401 if given == "key" else 200)


@signals
def test_without_a_file_sighup_ends_a_server_over_http(tmp_path: Path) -> None:
    with started_by(COMMAND, tmp_path, *SERVE, SEGMIND_API_KEY=KEY) as process:
        health = address(tmp_path).replace("/mcp", "/health")
        wait_until(lambda: status_of(health) == 200)
        process.send_signal(signal.SIGHUP)
        assert exit_code(process) == 0


@contextmanager
def at_terminal(
    folder: Path, before: Callable[[], object], **variables: str
) -> Generator[tuple[subprocess.Popen[str], int]]:
    """A server over HTTP, and the other end of the terminal that it was started in."""
    import fcntl
    import pty
    import termios

    controller, end = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)
        before()

    with (
        (folder / STDERR).open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*COMMAND, *SERVE],
            stdin=end,
            stdout=end,
            stderr=stderr,
            text=True,
            env=environment(folder, **variables),
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509
        ) as process,
    ):
        os.close(end)
        try:
            yield process, controller
        finally:
            process.kill()


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@signals
@pytest.mark.parametrize("start", ["alone", "under nohup"])
def test_a_closed_terminal_ends_a_server_that_reads_its_secrets_again_unless_it_is_under_nohup(
    tmp_path: Path, files: Files, start: str
) -> None:
    before = ignore_hangup if start == "under nohup" else bool
    with at_terminal(tmp_path, before, **files.variables) as (process, controller):
        url = address(tmp_path)
        wait_until(lambda: state_with(url, OLD) == 200)
        hang_up(process, tmp_path, "Read again: ")
        os.close(controller)
        if start == "under nohup":
            wait_until(lambda: complaints(tmp_path).count("Read again: ") == 2)
            assert state_with(url, OLD) == 200
        else:
            assert exit_code(process) == 0
            assert complaints(tmp_path).count("Read again: ") == 1


# ---- a key that changes while jobs are under way ----


class Api:
    """An API that answers a status only when it may. It notes the key of each request."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str]] = []
        self.go = anyio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        what = json.loads(request.content)["prompt"] if request.method == "POST" else path.rpartition("/")[2]
        if path == HISTORY:
            return httpx.Response(503)
        self.keys.append((what, request.headers.get("x-api-key", "")))
        if request.method == "POST":
            await self.go.wait()
        return httpx.Response(200, content=noise("JPEG", 64), headers={"x-cost": "0.002"})


async def test_a_job_goes_on_with_the_key_with_which_it_began(tmp_path: Path) -> None:
    api, limits = Api(), Limits(calls_at_once=1)
    async with app_over(API, tmp_path, transport=httpx.MockTransport(api), limits=limits) as app:
        service = app.service
        first = await begun(service, VegaRTParameters(prompt="on its way"))
        await until(lambda: api.keys)
        waiting = await begun(service, VegaRTParameters(prompt="waits"))
        service.client.use_key(ApiKey(SecretStr(NEW_KEY)))
        later = await begun(service, VegaRTParameters(prompt="begun later"))
        api.go.set()
        for job in (first, waiting, later):
            await until(partial(complete, service, job))
        accounts = [(await service.get(job.local_id)).account for job in (first, waiting, later)]
        assert accounts[0] == accounts[1] != accounts[2]
    assert api.keys == [("on its way", KEY), ("waits", KEY), ("begun later", NEW_KEY)]
