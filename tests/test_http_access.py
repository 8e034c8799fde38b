"""The server over HTTP: whom it lets in, and that each token sees its own alone."""

import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import httpx
import pytest
import uvicorn
from conftest import Sandbox, app_over, job_of, noise, text_of
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged
from mcp_types import ResourceTemplateReference
from pydantic import SecretStr

from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http import auth, listener
from mcp_vega.server.http.app import PATHS, build_application

pytestmark = pytest.mark.anyio

RT = "generate_image_vegart"
ALICE, BOB = "alices-token", "bobs-token"
TOKENS = (SecretStr(ALICE), SecretStr(BOB))


class Guest(uvicorn.Server):
    """A server that leaves the signals to the tests."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@dataclass
class House:
    """A server over HTTP that two people have tokens for."""

    url: str
    app: AppContext
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
            httpx_client(headers) as http,
            Client(streamable_http_client(self.endpoint, http_client=http)) as client,
        ):
            yield client

    async def ask(self, method: str = "POST", path: str = "", **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.request(method, self.url + (path or PATHS[self.transport]), **request)


def httpx_client(headers: dict[str, str]) -> Any:
    from mcp.shared._httpx_utils import create_mcp_http_client

    return create_mcp_http_client(headers=headers)


@asynccontextmanager
async def served(
    app: AppContext, transport: str, *hosts: str, tokens: tuple[SecretStr, ...] = TOKENS
) -> AsyncGenerator[House]:
    asgi = build_application(app, transport, hosts, tokens)
    server = Guest(listener.configured(asgi))
    with listener.listening("127.0.0.1", 0) as bound:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [bound])
            yield House(f"http://127.0.0.1:{bound.getsockname()[1]}", app, transport)
            server.should_exit = True


@pytest.fixture(params=["http", "sse"])
async def house(app: AppContext, request: pytest.FixtureRequest) -> AsyncGenerator[House]:
    async with served(app, request.param) as house:
        yield house


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
    "a foreign page": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "https://evil.example"}}),
    "a page from nowhere": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "null"}}),
    "a file": (403, "origin_not_allowed", {"headers": {**KNOWN, "origin": "file://localhost"}}),
    "no token": (401, "missing_token", {}),
    "a wrong token": (401, "missing_token", {"headers": {"authorization": "Bearer guessed"}}),
    "the beginning of a token": (401, "missing_token", {"headers": {"authorization": f"Bearer {ALICE[:-1]}"}}),
    "more than a token": (401, "missing_token", {"headers": {"authorization": f"Bearer {ALICE}{BOB}"}}),
    "an empty token": (401, "missing_token", {"headers": {"authorization": "Bearer"}}),
    "another scheme": (401, "missing_token", {"headers": {"authorization": f"Basic {ALICE}"}}),
    "two tokens": (401, "missing_token", {"headers": [("authorization", f"Bearer {name}") for name in (ALICE, BOB)]}),
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
async def test_what_is_not_let_in_is_told_why_and_what_to_do(house: House, sandbox: Sandbox, what: str) -> None:
    status, code, request = REFUSED[what]
    content = request.get("content")
    request = {**request, "content": content() if callable(content) else content}
    for path in (PATHS[house.transport], "/images/0", "/messages/"):
        if callable(content):
            request["content"] = content()
        answer = await house.ask("POST" if request["content"] else "GET", path, **request)
        said, charged, next_step = answer.text.strip().splitlines()
        assert (answer.status_code, charged) == (status, "Charged: no.")
        assert said.startswith("Error: ")
        assert said.endswith(f" ({code}).")
        assert next_step.startswith("Next: ")
        assert ALICE not in answer.text
    if code.endswith("_not_allowed"):
        assert "MCP_VEGA_ALLOWED_HOSTS" in next_step
    assert sandbox.paid_requests == 0


@pytest.mark.parametrize("host", ["pictures.example", "PICTURES.example:8000", "other.example:99", "localhost:1"])
async def test_a_host_that_is_allowed_is_answered_with_any_port_or_with_its_own(app: AppContext, host: str) -> None:
    async with served(app, "http", "pictures.example", "other.example:99") as house:
        for name in ({"host": host}, {"origin": f"https://{host}"}):
            answer = await house.ask("GET", "/images/0", headers={**KNOWN, **name})
            assert "unknown_image" in answer.text
        assert (await house.ask(headers={**KNOWN, "host": "other.example:98"})).status_code == 421


async def test_whether_it_is_up_anyone_may_ask_and_learns_nothing_else(house: House) -> None:
    answer = await house.ask("GET", "/health", headers={"host": "10.0.0.7"})
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "version"}


async def test_with_a_token_the_tools_work(house: House) -> None:
    async with house.agent(ALICE) as agent:
        job = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        contents = await agent.read_resource(job["images"][0]["uri"])
        assert contents.contents
        answer = await house.ask("GET", f"/images/{job['images'][0]['id']}", headers=KNOWN)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


async def test_what_one_token_makes_is_not_there_for_another(house: House, app: AppContext) -> None:
    async with house.agent(ALICE) as alice, house.agent(BOB) as bob:
        job = job_of(await alice.call_tool(RT, {"prompt": "a fox", "seed": 7}))
        local = await app.service.look(job["request_id"])
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
        assert (await house.ask("GET", f"/images/{image['id']}", headers=headers)).status_code == 404
        assert await seen_by(bob) == (0, 0, 0, 0)
        assert await seen_by(alice) == (1, 1, 1, 1)
        other = job_of(await bob.call_tool(RT, {"prompt": "a fox", "seed": 7}))
        assert other["request_id"] != job["request_id"]
    async with Client(build_server(app)) as operator:
        assert await seen_by(operator) == (2, 2, 2, 2)


async def seen_by(agent: Client) -> tuple[int, ...]:
    """How many jobs, listed pictures, found pictures and completed ids somebody sees."""
    listed = await agent.call_tool("check_job", {})
    gallery = await agent.read_resource("vega://gallery?q=fox")
    template = ResourceTemplateReference(uri="vega://jobs/{request_id}")
    completed = await agent.complete(template, {"name": "request_id", "value": ""})
    return (
        len((listed.meta or {}).get("mcp-vega/jobs", [])),
        len((await agent.list_resources()).resources) - 1,
        gallery.contents[0].model_dump_json().count("vega://jobs/"),
        len(completed.completion.values),
    )


async def test_a_call_is_not_joined_to_that_of_another_token(sandbox: Sandbox, tmp_path: Path) -> None:
    account = sandbox.account
    account.speed = 1  # so that nobody's call has ended when the next one comes
    async with (
        app_over(sandbox.url, tmp_path, wait_seconds=0) as app,
        served(app, "http") as house,
        house.agent(ALICE) as alice,
        house.agent(BOB) as bob,
    ):
        ids = [
            job_of(await agent.call_tool(RT, {"prompt": "a fox", "seed": 7}))["request_id"]
            for agent in (alice, bob, alice)
        ]
        account.skip(60)
    assert ids[0] == ids[2] != ids[1]


async def test_an_id_that_only_the_api_knows_is_the_operators_alone(app: AppContext, sandbox: Sandbox) -> None:
    body = {"prompt": "a fox", "seed": 7, "num_inference_steps": 4, "base64": False}
    async with httpx.AsyncClient(base_url=sandbox.url, headers={"x-api-key": "SG_any"}, trust_env=False) as http:
        request_id = (await http.post("/v2/segmind-vega-rt-v1", json=body)).json()["request_id"]
    async with served(app, "http") as house, house.agent(ALICE) as alice:
        assert "(unknown_job)" in text_of(await alice.call_tool("check_job", {"request_id": request_id}))
    async with Client(build_server(app)) as operator:
        result = await operator.call_tool("check_job", {"request_id": request_id, "wait_seconds": 20})
    assert job_of(result)["state"] == "COMPLETED"


async def test_a_token_hears_of_its_own_pictures_alone(app: AppContext) -> None:
    async with (
        served(app, "http") as house,
        house.agent(ALICE) as alice,
        house.agent(BOB) as bob,
        alice.listen(resources_list_changed=True) as hers,
        bob.listen(resources_list_changed=True) as his,
    ):
        await alice.call_tool(RT, {"prompt": "a fox"})
        with anyio.fail_after(10):
            assert isinstance(await anext(hers), ResourcesListChanged)
        with anyio.move_on_after(0.3) as waiting:
            await anext(his)
        assert waiting.cancelled_caught
        await bob.call_tool(RT, {"prompt": "an owl"})
        with anyio.fail_after(10):
            assert isinstance(await anext(his), ResourcesListChanged)


async def test_a_session_over_sse_answers_to_its_own_token_alone(app: AppContext) -> None:
    async with (
        served(app, "sse") as house,
        httpx.AsyncClient(trust_env=False) as http,
        http.stream("GET", house.endpoint, headers=KNOWN) as stream,
    ):
        lines = (line async for line in stream.aiter_lines() if line.startswith("data: "))
        path = (await anext(lines)).removeprefix("data: ")
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        theirs = await house.ask("POST", path, json=body, headers={"authorization": f"Bearer {BOB}"})
        own = await house.ask("POST", path, json=body, headers=KNOWN)
    assert (theirs.status_code, own.status_code) == (404, 202)


# ---- patience ----


async def connected(house: House) -> anyio.abc.SocketStream:
    host, port = house.url.removeprefix("http://").split(":")
    return await anyio.connect_tcp(host, int(port))


async def test_a_body_that_does_not_come_is_not_waited_for(app: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "BODY_SECONDS", 0.3)
    head = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\ncontent-length: 9\r\n\r\n{{"
    async with served(app, "http") as house, await connected(house) as stream:
        await stream.send(head.encode())
        with anyio.fail_after(10):
            answer = b"".join([piece async for piece in stream]).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "(request_too_slow)" in answer


async def until_cut(stream: anyio.abc.SocketStream) -> None:
    """Send a header of a request that never ends, letter by letter."""
    while True:
        await stream.send(b"G")
        with anyio.move_on_after(0.05):
            await stream.receive()


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"])
async def test_headers_that_drip_are_cut(app: AppContext, monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(listener, "HEADER_SECONDS", 0.3)
    async with served(app, "http") as house, await connected(house) as stream:
        await stream.send(first)
        assert not first or b"200 OK" in await stream.receive()
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await until_cut(stream)


async def test_where_every_connection_is_at_work_one_more_is_turned_away(
    app: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 2)
    head = f"GET /sse HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ALICE}\r\n\r\n".encode()
    async with served(app, "sse") as house, await connected(house) as one, await connected(house) as two:
        for stream in (one, two):
            await stream.send(head)
            assert b"200 OK" in await stream.receive()
        async with await connected(house) as third:
            with anyio.fail_after(10):
                answer = b"".join([piece async for piece in third])
    assert answer.startswith(b"HTTP/1.1 503 ")


async def until_dropped(stream: anyio.abc.SocketStream, asking: bytes) -> None:
    while True:
        await stream.send(asking)


async def test_connections_that_were_answered_do_not_keep_others_out(
    app: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 2)
    asking = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with served(app, "http") as house, AsyncExitStack() as stack:
        for _ in range(5):
            stream = await stack.enter_async_context(await connected(house))
            await stream.send(asking)
            with anyio.fail_after(10):
                assert b"200 OK" in await stream.receive()


def read_slowly(house: House, asking: str) -> bytes:
    """The answer to a request, read in small pieces for some seconds."""
    host, port = house.url.removeprefix("http://").split(":")
    received = bytearray()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        stream.settimeout(10)
        stream.connect((host, int(port)))
        stream.sendall(asking.encode())
        while piece := stream.recv(128 * 1024):
            received += piece
            time.sleep(0.02)
    return bytes(received)


async def test_a_client_that_reads_slowly_gets_all_of_it(app: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNREAD_SECONDS", 0.8)
    monkeypatch.setattr(listener, "HEADER_SECONDS", 0.4)
    large = noise("PNG", 2400)
    async with served(app, "http") as house, house.agent(ALICE) as alice:
        image = job_of(await alice.call_tool(RT, {"prompt": "a fox"}))["images"][0]
        _, kept = await app.service.find_image(image["id"])
        assert kept.path
        kept.path.write_bytes(large)
        head = f"host: localhost\r\nauthorization: Bearer {ALICE}\r\n\r\n"
        started = anyio.current_time()
        received = await anyio.to_thread.run_sync(read_slowly, house, f"GET /images/{image['id']} HTTP/1.1\r\n{head}")
        took = anyio.current_time() - started
    assert received.endswith(large)
    assert took > 2


async def test_a_client_that_does_not_read_is_dropped(app: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "UNREAD_SECONDS", 0.3)
    asking = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 200
    async with served(app, "http") as house, await connected(house) as stream:
        with anyio.fail_after(60), pytest.raises((anyio.BrokenResourceError, ConnectionResetError)):
            await until_dropped(stream, asking)


async def test_a_request_that_takes_its_time_to_be_answered_is_not_cut(
    app: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HEADER_SECONDS", 0.2)
    async with served(app, "http") as house, house.agent(ALICE) as alice:
        started = anyio.current_time()
        async with alice.listen(resources_list_changed=True):
            await anyio.sleep(0.6)
            job_of(await alice.call_tool(RT, {"prompt": "a fox"}))
    assert anyio.current_time() - started > 0.5


def test_a_socket_that_is_taken_is_named() -> None:
    with listener.listening("127.0.0.1", 0) as taken, pytest.raises(listener.PortTaken, match="cannot be had"):
        listener.listening("127.0.0.1", taken.getsockname()[1])
    assert isinstance(taken, socket.socket)
