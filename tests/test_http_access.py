"""The server over HTTP: who may use it, that each token sees only its own jobs, and how long the server waits."""

import io
import json
import re
import socket
import tempfile
import time
from base64 import b64decode
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import pytest
from conftest import API, KEY, TLS, Sandbox, api_that_draws, app_over, images_of, job_of, noise, text_of, until
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ImageContent, ResourceTemplateReference
from PIL import Image
from pydantic import SecretStr
from services import require_packages

from mcp_vega.cli.application import open_application
from mcp_vega.errors import LedgerError, PortTaken
from mcp_vega.network.serving import EmbeddedServer
from mcp_vega.server.app import build_server
from mcp_vega.server.client_info import without_paths
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.server.http.access.tokens import TokenCallers, callers_of
from mcp_vega.server.http.app import PATHS, build_application
from mcp_vega.server.http.connections.listener import bind_socket, server_config
from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits
from mcp_vega.server.resources import GALLERY
from mcp_vega.settings import Settings
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending

pytestmark = pytest.mark.anyio

RT = "generate_image_vegart"
ALICE, BOB = "alices-token", "bobs-token"
CALLERS = callers_of([SecretStr(ALICE), SecretStr(BOB)])
# How long a test waits for something that must come: long enough for a busy machine.
LONG = 60


@dataclass
class HttpServer:
    """A server over HTTP for which two people have tokens."""

    url: str
    transport: str

    @property
    def endpoint(self) -> str:
        return self.url + PATHS[self.transport]

    @asynccontextmanager
    async def agent(self, token: str) -> AsyncGenerator[Client]:
        headers = {"authorization": f"Bearer {token}"}
        if self.transport == "sse":
            async with Client(sse_client(self.endpoint, headers=headers)) as client:
                yield client
            return
        async with (
            create_mcp_http_client(headers=headers) as http,
            Client(streamable_http_client(self.endpoint, http_client=http)) as client,
        ):
            yield client

    async def ask(self, method: str = "POST", path: str = "", **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
            return await http.request(method, self.url + (path or PATHS[self.transport]), **request)


@asynccontextmanager
async def served(
    app: AppContext,
    transport: str,
    *hosts: str,
    callers: Callers | Sequence[Caller] | Callable[[str], Callers] = CALLERS,
    limits: HttpLimits = DEFAULT_LIMITS,
    behind: Callable[[Any], Any] | None = None,
) -> AsyncGenerator[HttpServer]:
    """A server; `behind` can put an ASGI application in front of it that acts as a proxy.

    `callers` can be a function of the server's URL.
    """
    with bind_socket("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        known = callers(url) if callable(callers) else callers
        known = TokenCallers(known) if isinstance(known, Sequence) else known
        config = server_config(build_application(app, transport, hosts, known, limits), limits)
        if behind:
            config.app = behind(config.app)
        # Data that a client does not read fills this buffer soon, and then stays with the server.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        embedded = EmbeddedServer(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(embedded.serve, [listener])
            yield HttpServer(url, transport)
            embedded.end()


@pytest.fixture(params=["http", "sse"])
async def server(app: AppContext, request: pytest.FixtureRequest) -> AsyncGenerator[HttpServer]:
    async with served(app, request.param) as server:
        yield server


KNOWN = {"authorization": f"Bearer {ALICE}"}
LARGE = b"x" * 5 * 1024 * 1024


async def in_pieces() -> AsyncGenerator[bytes]:
    for _ in range(5):
        yield LARGE[: 1024 * 1024]


REFUSED: dict[str, tuple[int, str, dict[str, Any]]] = {
    "another host": (421, "host_not_allowed", {"headers": {**KNOWN, "host": "evil.example"}}),
    "a host that ends like this one": (
        421,
        "host_not_allowed",
        {"headers": {**KNOWN, "host": "localhost.evil.example"}},
    ),
    "a host with credentials": (421, "host_not_allowed", {"headers": {**KNOWN, "host": "localhost@evil.example"}}),
    "no host": (421, "host_not_allowed", {"headers": {**KNOWN, "host": ""}}),
    "a page of another site": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "https://evil.example"}}),
    "a page from nowhere": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "null"}}),
    "a file": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "file://localhost"}}),
    "no token": (401, "missing_token", {}),
    "a wrong token": (401, "invalid_token", {"headers": {"authorization": "Bearer guessed"}}),
    "the beginning of a token": (401, "invalid_token", {"headers": {"authorization": f"Bearer {ALICE[:-1]}"}}),
    "more than a token": (401, "invalid_token", {"headers": {"authorization": f"Bearer {ALICE}{BOB}"}}),
    "an empty token": (401, "missing_token", {"headers": {"authorization": "Bearer"}}),
    "another scheme": (401, "missing_token", {"headers": {"authorization": f"Basic {ALICE}"}}),
    "two tokens": (401, "invalid_token", {"headers": [("authorization", f"Bearer {name}") for name in (ALICE, BOB)]}),
    "a token in the URL": (401, "missing_token", {"params": {"token": ALICE, "access_token": ALICE}}),
    "a token in a cookie": (
        401,
        "missing_token",
        {"headers": {"cookie": f"token={ALICE}; authorization=Bearer {ALICE}"}},
    ),
    "5 MiB": (413, "request_too_large", {"headers": KNOWN, "content": LARGE}),
    "5 MiB in pieces": (413, "request_too_large", {"headers": KNOWN, "content": in_pieces}),
    "20 kB of headers": (413, "request_too_large", {"headers": {**KNOWN, "x-long": "x" * 20_000}}),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_refused_request_says_why_and_what_to_do(server: HttpServer, sandbox: Sandbox, what: str) -> None:
    status, code, request = REFUSED[what]
    content = request.get("content")
    request = {**request, "content": content() if callable(content) else content}
    for path in (PATHS[server.transport], "/images/0", "/messages/"):
        if callable(content):
            request["content"] = content()
        answer = await server.ask("POST" if request["content"] else "GET", path, **request)
        said, charged, next_step = answer.text.strip().splitlines()
        assert (answer.status_code, charged) == (status, "Charged: no.")
        assert said.startswith("Error: ")
        assert said.endswith(f" ({code}).")
        assert next_step.startswith("Next: ")
        assert ALICE not in answer.text
        asked = {"missing_token": "Bearer", "invalid_token": 'Bearer error="invalid_token"'}.get(code)
        assert answer.headers.get("www-authenticate") == asked
    if code.endswith("_not_allowed"):
        assert "MCP_VEGA_ALLOWED_HOSTS" in next_step
    assert sandbox.paid_requests == 0


@pytest.mark.parametrize("host", ["pictures.example", "PICTURES.example:8000", "other.example:99", "localhost:1"])
async def test_an_allowed_host_may_have_any_port_unless_the_setting_names_one(app: AppContext, host: str) -> None:
    async with served(app, "http", "pictures.example", "other.example:99") as server:
        for name in ({"host": host}, {"origin": f"https://{host}"}):
            answer = await server.ask("GET", "/images/0", headers={**KNOWN, **name})
            assert "unknown_image" in answer.text
        assert (await server.ask(headers={**KNOWN, "host": "other.example:98"})).status_code == 421


async def test_anybody_may_ask_for_the_health_and_learns_nothing_else(server: HttpServer) -> None:
    learned = {"/health": {"status", "version"}, "/livez": {"status"}, "/readyz": {"status"}}
    for path, names in learned.items():
        answer = await server.ask("GET", path, headers={"host": "10.0.0.7", "origin": "https://evil.example"})
        assert (answer.status_code, set(answer.json())) == (200, names)


async def test_with_a_token_the_tools_work(server: HttpServer) -> None:
    async with server.agent(ALICE) as agent:
        job = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        contents = await agent.read_resource(job["images"][0]["uri"])
        assert contents.contents
        answer = await server.ask("GET", f"/images/{job['images'][0]['id']}", headers=KNOWN)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


async def test_the_jobs_and_pictures_of_one_token_are_not_visible_with_another(
    server: HttpServer, app: AppContext
) -> None:
    async with server.agent(ALICE) as alice, server.agent(BOB) as bob:
        job = job_of(await alice.call_tool(RT, {"prompt": "a fox", "seed": 7}))
        local = await app.service.get(job["request_id"])
        (image,) = job["images"]
        for request_id in (job["request_id"], local.local_id):
            denied = await bob.call_tool("check_job", {"request_id": request_id})
            assert (denied.meta or {})["mcp-vega/error"]["code"] == "unknown_job"
        for uri in (image["uri"], f"{image['uri']}/preview", *local.uris):
            with pytest.raises(MCPError, match=r"unknown_(image|job)"):
                await bob.read_resource(uri)
        with pytest.raises(MCPError, match="unknown_image"):
            await bob.get_prompt("vary", {"image": image["id"], "change": "snow"})
        headers = {"authorization": f"Bearer {BOB}"}
        assert (await server.ask("GET", f"/images/{image['id']}", headers=headers)).status_code == 404
        assert await seen_by(bob) == (0, 0, 0, 0, 0)
        assert await seen_by(alice) == (1, 1, 1, 1, 1)
        other = job_of(await bob.call_tool(RT, {"prompt": "a fox", "seed": 7}))
        assert other["request_id"] != job["request_id"]
    async with Client(build_server(app)) as operator:
        assert await seen_by(operator) == (2, 2, 2, 2, 2)


async def seen_by(agent: Client) -> tuple[int, ...]:
    """How many jobs, listed pictures, found pictures, completed ids and pictures on the sheet an agent sees."""
    listed = await agent.call_tool("check_job", {})
    gallery = await agent.read_resource("vega://gallery?q=fox")
    template = ResourceTemplateReference(uri="vega://jobs/{request_id}")
    completed = await agent.complete(template, {"name": "request_id", "value": ""})
    return (
        len((listed.meta or {}).get("mcp-vega/jobs", [])),
        len((await agent.list_resources()).resources) - 2,
        gallery.contents[0].model_dump_json().count("vega://jobs/"),
        len(completed.completion.values),
        sum(on_sheet(each) for each in images_of(listed)),
    )


def on_sheet(sheet: ImageContent) -> int:
    """How many pictures are on a sheet of at most two, which are next to each other."""
    with Image.open(io.BytesIO(b64decode(sheet.data))) as shown:
        return round(shown.width / shown.height)


async def test_a_call_does_not_join_the_call_of_another_token(sandbox: Sandbox, tmp_path: Path) -> None:
    queue = sandbox.account
    queue.speed = 100  # so no call ends before the next one comes
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0) as app,
        served(app, "http") as server,
        server.agent(ALICE) as alice,
        server.agent(BOB) as bob,
    ):
        ids = [
            job_of(await agent.call_tool(RT, {"prompt": "a fox", "seed": 7}))["request_id"]
            for agent in (alice, bob, alice)
        ]
    assert ids[0] == ids[2] != ids[1]


async def test_an_id_that_only_the_api_knows_is_visible_only_to_the_operator(app: AppContext, sandbox: Sandbox) -> None:
    body = {"prompt": "a fox", "seed": 7, "num_inference_steps": 4, "base64": False}
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"x-api-key": KEY}, trust_env=False, verify=TLS) as http:
        request_id = (await http.post("/v2/segmind-vega-rt-v1", json=body)).json()["request_id"]
    async with served(app, "http") as server, server.agent(ALICE) as alice:
        assert "(unknown_job)" in text_of(await alice.call_tool("check_job", {"request_id": request_id}))
    async with Client(build_server(app)) as operator:
        result = await operator.call_tool("check_job", {"request_id": request_id, "wait_seconds": 20})
    assert job_of(result)["state"] == "COMPLETED"


async def test_a_token_is_notified_only_of_its_own_pictures(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.speed = 100  # so her job does not end before he listens
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0) as app,
        served(app, "http") as server,
        server.agent(ALICE) as alice,
        server.agent(BOB) as bob,
        alice.listen(resources_list_changed=True) as hers,
    ):
        job = job_of(await alice.call_tool("submit_job", {"prompt": "a fox", "model": "segmind-vega-rt-v1"}))
        uris = [f"vega://jobs/{job['request_id']}", GALLERY]
        async with bob.listen(resources_list_changed=True, resource_subscriptions=uris) as his:
            with anyio.fail_after(LONG):
                while not sandbox.account.calls:  # noqa: ASYNC110  until the API has the job; no event says so
                    await anyio.sleep(0.01)
                sandbox.account.skip(1000)
                assert isinstance(await anext(hers), ResourcesListChanged)
                sandbox.account.speed = 0
                await bob.call_tool(RT, {"prompt": "an owl"})
                # A notification about her picture would have come before this one.
                assert await anext(his) == ResourceUpdated(uri=GALLERY)
                assert isinstance(await anext(his), ResourcesListChanged)


async def test_a_request_with_two_lengths_is_the_last_one_of_its_connection(app: AppContext) -> None:
    """A proxy in front that reads the other length would take the second answer for one to somebody else's request."""
    lengths = "content-length: 60\r\ntransfer-encoding: chunked"
    first = f"POST /health HTTP/1.1\r\nhost: localhost\r\n{lengths}\r\n\r\n0\r\n\r\n"
    second = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with served(app, "http") as server:
        port = httpx.URL(server.url).port or 0
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(f"{first}{second}".encode())
            with anyio.fail_after(LONG):
                answers = b"".join([piece async for piece in client])
    assert answers.startswith(b"HTTP/1.1 405 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_session_over_sse_answers_only_to_its_own_token(app: AppContext) -> None:
    async with (
        served(app, "sse") as server,
        httpx.AsyncClient(trust_env=False, verify=TLS) as http,
        http.stream("GET", server.endpoint, headers=KNOWN) as stream,
    ):
        lines = (line async for line in stream.aiter_lines() if line.startswith("data: "))
        path = (await anext(lines)).removeprefix("data: ")
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        theirs = await server.ask("POST", path, json=body, headers={"authorization": f"Bearer {BOB}"})
        own = await server.ask("POST", path, json=body, headers=KNOWN)
    assert (theirs.status_code, own.status_code) == (404, 202)


# ---- paths ----


@asynccontextmanager
async def telling(app: AppContext, folder: Path) -> AsyncGenerator[tuple[Callable[..., Any], Callable[..., Any]]]:
    """Two functions that ask as Alice and as the operator, and return all that they get. Alice's has no path."""
    words = {folder / "My Pictures": "MCP_VEGA_GALLERY", folder / "My Pictures-home": "MCP_VEGA_HOME"}
    async with (
        served(replace(app, folders=words), "http") as server,
        server.agent(ALICE) as alice,
        Client(build_server(app)) as operator,
    ):

        async def ask(agent: Client, name: str, **arguments: Any) -> str:
            heard: list[Any] = []

            async def note(progress: float, total: float | None, message: str | None) -> None:
                heard.append((progress, total, message))

            try:
                if name == "read":
                    answer = (await agent.read_resource(arguments["uri"])).model_dump_json()
                else:
                    answer = (await agent.call_tool(name, arguments, progress_callback=note)).model_dump_json()
            except MCPError as error:
                answer = f"{error.error.message} {error.error.data}"
            return f"{answer} {heard}"

        async def as_alice(name: str, **arguments: Any) -> str:
            told = await ask(alice, name, **arguments)
            assert not re.search(rf"{re.escape(str(folder))}|My |{re.escape(folder.name)}", told), told
            return told

        yield as_alice, partial(ask, operator)


NO_PICTURE = {"prompt": "a fox", "seed": 7}


async def test_a_caller_with_a_token_gets_no_path_of_data_that_was_kept_apart(tmp_path: Path) -> None:
    mock = api_that_draws(b"no picture")
    async with (
        app_over(API, tmp_path / "My Pictures", transport=mock) as app,
        telling(app, tmp_path) as (as_alice, as_operator),
    ):
        assert "the received data is kept at MCP_VEGA_GALLERY/unreadable/" in await as_alice(RT, **NO_PICTURE)
        assert "at MCP_VEGA_GALLERY/unreadable/" in await as_alice("read", uri="vega://jobs/" + await newest(app))
        assert f"the received data is kept at {tmp_path}" in await as_operator(RT, **NO_PICTURE)


async def newest(app: AppContext) -> str:
    return (await app.service.store.latest(1))[0].request_id


async def test_a_caller_with_a_token_gets_no_path_of_a_picture_or_a_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    gallery = tmp_path / "My Pictures"
    async with (
        app_over(sandbox.url, gallery, fallbacks=[ImageFolder(tmp_path / "rescued")]) as app,
        telling(app, tmp_path) as (as_alice, as_operator),
    ):
        sandbox.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(as_alice, RT, prompt="a fox"))
            await until(lambda: sandbox.account.calls)
            gallery.rename(tmp_path / "away")
            gallery.write_text("a file instead of the folder")
            sandbox.let_go()
        uri = "vega://jobs/" + await newest(app)
        for name, arguments in (("check_job", {"request_id": uri.rpartition("/")[2]}), ("read", {"uri": uri})):
            assert "The folder MCP_VEGA_GALLERY could not be written" in await as_alice(name, **arguments)
            assert f"The folder {gallery} could not be written" in await as_operator(name, **arguments)
        assert "The folder MCP_VEGA_GALLERY cannot be written" in await as_alice(RT, prompt="an owl")
        (job,) = await app.service.store.latest(1)
        (image,) = job.images
        assert image.path
        image.path.unlink()
        for name, arguments in (("check_job", {"request_id": job.request_id}), ("read", {"uri": image.uri})):
            # If the folder has no name in the settings, only the name of the file is left.
            assert f"The picture …/{image.name} cannot be read" in await as_alice(name, **arguments)
            assert f"The picture {image.path} cannot be read" in await as_operator(name, **arguments)


async def test_a_caller_with_a_token_gets_no_path_of_the_ledger(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path / "My Pictures") as app,
        telling(app, tmp_path) as (as_alice, as_operator),
    ):
        await as_alice(RT, prompt="a fox")
        ledger = tmp_path / "My Pictures-home" / "ledger.sqlite3"
        ledger.unlink()
        for name, arguments in ((RT, {"prompt": "an owl"}), ("read", {"uri": GALLERY})):
            assert "The ledger MCP_VEGA_HOME/ledger.sqlite3 was deleted" in await as_alice(name, **arguments)
            assert f"The ledger {ledger} was deleted" in await as_operator(name, **arguments)


LOCALHOST = "127.0.0.1:1"


@pytest.mark.services
@pytest.mark.parametrize(
    ("settings", "told", "private"),
    [
        (
            {"MCP_VEGA_LEDGER": f"postgresql://vega@{LOCALHOST}/jobs"},
            "The ledger's database cannot be reached (ledger_error)",
            f"The ledger's database {LOCALHOST}/jobs cannot be reached: Connection refused",
        ),
        (
            {"MCP_VEGA_GALLERY": "s3://private/team"},
            "The bucket MCP_VEGA_GALLERY could not be written: there is no connection",
            "The bucket s3://private/team/sandbox could not be written: there is no connection",
        ),
    ],
)
async def test_a_caller_with_a_token_gets_no_name_of_the_database_or_the_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], told: str, private: str
) -> None:
    require_packages("psycopg", "obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{LOCALHOST}")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    folders = {"MCP_VEGA_HOME": tmp_path / "home", "MCP_VEGA_GALLERY": tmp_path}
    team = Settings.from_environment({"MCP_VEGA_SANDBOX": "1", **{k: str(v) for k, v in folders.items()}, **settings})
    async with (
        open_application(team) as app,
        served(app, "http") as server,
        server.agent(ALICE) as alice,
        Client(build_server(app)) as operator,
    ):
        shown = (await alice.call_tool(RT, {"prompt": "a fox"})).model_dump_json()
        assert told in shown
        assert not re.search("127|private|jobs|refused", shown)
        assert private in text_of(await operator.call_tool(RT, {"prompt": "a fox"}))


class Unreachable(JobStore):
    """A store that fails just before a call is sent."""

    async def mark_sent(self, *_: Any, **__: Any) -> Sending:
        error = LedgerError("The ledger's database db.private:5432/jobs cannot be reached")
        error.public = "The ledger's database cannot be reached"
        raise error


async def test_the_error_that_a_job_keeps_names_no_database_to_its_caller(sandbox: Sandbox, tmp_path: Path) -> None:
    store = Unreachable.in_file(tmp_path / "home" / "ledger.sqlite3")
    async with (
        app_over(sandbox.url, tmp_path / "pictures", store=store, store_retries=0) as app,
        served(app, "http") as server,
        server.agent(ALICE) as alice,
        Client(build_server(app)) as operator,
    ):
        failed = await alice.call_tool(RT, {"prompt": "a fox"})
        (job,) = await store.latest(1)
        again = await alice.call_tool("check_job", {"request_id": job.request_id})
        for shown in (failed, again):
            assert "The ledger's database cannot be reached" in text_of(shown)
            assert "private" not in shown.model_dump_json()
        assert "db.private" in text_of(await operator.call_tool("check_job", {"request_id": job.request_id}))
    assert sandbox.paid_requests == 0


class BrokenFolder(ImageFolder):
    """A folder that fails with an unexpected error."""

    async def read(self, key: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(self.folder / key))


async def test_an_unexpected_error_shows_no_path(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path, images=BrokenFolder(tmp_path)) as app,
        served(app, "http", callers=()) as server,
        Client(server.endpoint, mode="legacy") as agent,
    ):
        await agent.call_tool(RT, {"prompt": "a fox"})
        (job,) = await app.service.store.latest(1)
        with pytest.raises(MCPError, match=r"The server broke while it answered \(PermissionError\)") as told:
            await agent.read_resource(job.images[0].uri)
        assert str(tmp_path) not in str(told.value.error)


async def test_the_folders_of_the_settings_are_replaced_by_the_names_of_the_settings(tmp_path: Path) -> None:
    gallery, home = tmp_path / "My Pictures", tmp_path / "My Pictures" / "home"
    settings = Settings(MCP_VEGA_SANDBOX=True, MCP_VEGA_GALLERY=gallery, MCP_VEGA_HOME=home)
    async with open_application(settings) as app:
        said = f"{gallery}/sandbox/unreadable/a.bin, {home}/sandbox/ledger.sqlite3, {tempfile.gettempdir()}/mcp-vega-0"
        told = "MCP_VEGA_GALLERY/unreadable/a.bin, MCP_VEGA_HOME/ledger.sqlite3, TMPDIR/mcp-vega-0"
        assert without_paths(said, app.folders) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the file /etc/ssl/ours.pem cannot be used", "the file …/ours.pem cannot be used"),
        ("kept at /srv/pictures/a.jpg; and (/srv/b.jpg)", "kept at …/a.jpg; and (…/b.jpg)"),
        (r"kept at C:\Users\jo\a.jpg", "kept at …/a.jpg"),
        ("The folder /srv/pictures: no space", "The folder …/pictures: no space"),
        ("The folder /srv/my pictures and /srv/my pictures-2/a", "The folder PICTURES and …/my pictures-2/a"),
        ("in /srv/my pictures. Or /srv/my pictures/a.jpg", "in PICTURES. Or PICTURES/a.jpg"),
        ("kept at s3://their-bucket/a b/c.jpg", "kept at BUCKET/c.jpg"),
        ("The bucket s3://their-bucket/a: no", "The bucket …/a: no"),
        ("The bucket gs://old: no, nor az://old.", "The bucket …: no, nor …."),
        ("in file://host-0a1b2c3d/srv/a.jpg", "in …/a.jpg"),
        ("see https://api.example/v1/images/7", "see https://api.example/v1/images/7"),
        ("The API said “no /v1/model/x”", "The API said “no /v1/model/x”"),
        ("HTTP 404 or a time-out/cut of 1/2 s", "HTTP 404 or a time-out/cut of 1/2 s"),
    ],
)
def test_only_the_last_part_of_any_other_path_is_shown(text: str, told: str) -> None:
    words = {Path("/srv/my pictures"): "PICTURES", Path("/"): "ROOT", "s3://their-bucket/a b": "BUCKET"}
    assert without_paths(text, words) == told


# ---- limits ----


async def connected(server: HttpServer) -> anyio.abc.SocketStream:
    host, port = server.url.removeprefix("http://").split(":")
    return await anyio.connect_tcp(host, int(port))


async def rest_of(stream: anyio.abc.SocketStream) -> bytes:
    """The data that comes until the server closes the connection."""
    received = bytearray()
    # The connection is reset if the server has not read everything.
    with anyio.fail_after(LONG), suppress(anyio.BrokenResourceError):
        async for piece in stream:
            received += piece
    return bytes(received)


HEALTH = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


async def test_a_body_that_does_not_come_is_not_waited_for(app: AppContext) -> None:
    head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\ncontent-length: 9\r\n\r\n{{"
    limits = HttpLimits(body_seconds=0.1)
    async with served(app, "http", limits=limits) as server, await connected(server) as stream:
        await stream.send(head.encode())
        answer = (await rest_of(stream)).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "(request_too_slow)" in answer


async def drip(stream: anyio.abc.SocketStream) -> None:
    """Send endless headers, byte by byte, until the connection is closed."""
    with suppress(anyio.BrokenResourceError):
        while True:
            await stream.send(b"G")
            await anyio.sleep(0.02)


@pytest.mark.parametrize("first", [b"", HEALTH])
async def test_a_connection_with_very_slow_headers_is_closed(app: AppContext, first: bytes) -> None:
    limits = HttpLimits(header_seconds=0.5)
    started = anyio.current_time()
    async with (
        served(app, "http", limits=limits) as server,
        await connected(server) as stream,
        anyio.create_task_group() as tasks,
    ):
        await stream.send(first)
        assert not first or b"200 OK" in await stream.receive()
        tasks.start_soon(drip, stream)
        assert await rest_of(stream) == b"", "there is no error in what was sent so far"
        tasks.cancel_scope.cancel()
    assert anyio.current_time() - started >= limits.header_seconds


async def test_a_connection_with_a_long_answer_is_not_closed(app: AppContext) -> None:
    async with (
        served(app, "sse", limits=HttpLimits(header_seconds=0.5)) as server,
        httpx.AsyncClient(trust_env=False, verify=TLS) as http,
        http.stream("GET", server.endpoint, headers=KNOWN) as stream,
    ):
        events = (line.removeprefix("data: ") async for line in stream.aiter_lines() if line.startswith("data: "))
        path = await anext(events)
        async with await connected(server) as silent:  # opened after the answer began
            assert await rest_of(silent) == b""
        asked = await server.ask("POST", path, json={"jsonrpc": "2.0", "id": 7, "method": "ping"}, headers=KNOWN)
        assert asked.status_code == 202
        with anyio.fail_after(LONG):
            assert json.loads(await anext(events))["id"] == 7


async def test_one_connection_too_many_replaces_the_one_that_has_waited_longest(app: AppContext) -> None:
    async with served(app, "http", limits=HttpLimits(unknown_connections=2)) as server, AsyncExitStack() as stack:

        async def healthy(stream: anyio.abc.SocketStream) -> bool:
            await stream.send(HEALTH)
            return b"200 OK" in await stream.receive()

        streams: list[anyio.abc.SocketStream] = []
        with anyio.fail_after(LONG):
            for _ in range(5):
                streams.append(await stack.enter_async_context(await connected(server)))
                assert await healthy(streams[-1])
            for gone in streams[:3]:
                assert await rest_of(gone) == b""
            assert await healthy(streams[3])
            assert await healthy(streams[4])


def read_slowly(server: HttpServer, asking: str) -> bytes:
    """The answer to a request, read in small pieces for some seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    received = bytearray()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        stream.settimeout(LONG)
        stream.connect((host, int(port)))
        stream.sendall(asking.encode())
        while piece := stream.recv(32 * 1024):
            received += piece
            time.sleep(0.03)  # the speed of reading; it waits for nothing
    return bytes(received)


async def test_a_client_that_reads_slowly_gets_the_complete_answer(app: AppContext) -> None:
    large = noise("PNG", 1200)
    limits = HttpLimits(unread_seconds=1.5, header_seconds=0.5)
    async with Client(build_server(app)) as operator:
        image = job_of(await operator.call_tool(RT, {"prompt": "a fox"}))["images"][0]
    _, kept = await app.gallery.find(image["id"])
    assert kept.path
    kept.path.write_bytes(large)
    async with served(app, "http", callers=(), limits=limits) as server:
        started = anyio.current_time()
        asking = f"GET /images/{image['id']} HTTP/1.1\r\nhost: localhost\r\n\r\n"
        received = await anyio.to_thread.run_sync(read_slowly, server, asking)
        took = anyio.current_time() - started
    assert received.endswith(large)
    assert took > 2 * limits.unread_seconds


async def test_a_client_that_does_not_read_is_disconnected(app: AppContext) -> None:
    limits = HttpLimits(unread_seconds=0.3)
    async with served(app, "http", limits=limits) as server, await connected(server) as stream:
        with anyio.fail_after(LONG), suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(HEALTH * 200)


def test_an_error_names_the_port_that_is_taken() -> None:
    with bind_socket("127.0.0.1", 0) as taken, pytest.raises(PortTaken, match="is not available"):
        bind_socket("127.0.0.1", taken.getsockname()[1])
