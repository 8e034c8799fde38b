"""The server over HTTP with too many connections: strangers take no place from callers, and callers share places."""

import socket
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self
from urllib.parse import urlsplit

import anyio
import pytest
from conftest import HANG_SECONDS, Sandbox, job_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from mcp_types.version import LATEST_MODERN_VERSION
from test_http_access import ALICE, BOB, RT, HttpServer, connected, rest_of, served

from mcp_vega.server.context import AppContext
from mcp_vega.server.http.app import PATHS
from mcp_vega.server.http.connections.capacity import SETTLING_SECONDS
from mcp_vega.server.http.limits import HttpLimits

pytestmark = pytest.mark.anyio


def request(line: str, *, token: str = "", body: str = "", **headers: str) -> bytes:
    """The bytes of a request. If a header announces a body, the body may be missing."""
    lines = [f"{line} HTTP/1.1", "host: localhost", "accept: application/json, text/event-stream"]
    lines += [f"authorization: Bearer {token}"] if token else []
    lines += [f"content-length: {len(body)}"] if body else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


META = (
    f'"io.modelcontextprotocol/protocolVersion":"{LATEST_MODERN_VERSION}",'
    '"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},'
    '"io.modelcontextprotocol/clientCapabilities":{}'
)
LISTENING = (
    '{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":'
    f'{{"notifications":{{"resourcesListChanged":true}},"_meta":{{{META}}}}}}}'
)
LISTEN = {"content_type": "application/json", "mcp_method": "subscriptions/listen"} | {
    "mcp_protocol_version": LATEST_MODERN_VERSION
}


def slow(path: str, token: str = "") -> bytes:
    return request(f"POST {path}", token=token, content_length="1000")


class HeldConnection:
    """A connection on which a request was sent, and which then stays open."""

    def __init__(self, server: HttpServer, sent: bytes) -> None:
        address = urlsplit(server.url)
        self.socket = socket.create_connection((address.hostname, address.port))
        self.socket.sendall(sent)
        self.socket.settimeout(0)
        self.received = b""

    @property
    def ended(self) -> bool:
        """Whether the server has closed the connection."""
        try:
            while piece := self.socket.recv(65536):
                self.received += piece
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        return True


class Crowd(list[HeldConnection]):
    """Connections that stay open until the block ends."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__()
        self._server = server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self:
            each.socket.close()

    async def add(self, count: int, sent: bytes, answered: bytes = b"") -> None:
        """Open connections one after the other; each must first receive this part of an answer."""
        for _ in range(count):
            held = HeldConnection(self._server, sent)
            self.append(held)
            await until(lambda: held.ended or answered in held.received)  # noqa: B023  called immediately
            assert answered in held.received

    @property
    def ended(self) -> list[int]:
        """The numbers of the connections that the server has closed."""
        return [number for number, each in enumerate(self) if each.ended]


async def works(server: HttpServer, token: str) -> None:
    with anyio.fail_after(HANG_SECONDS):
        async with server.agent(token) as agent:
            job_of(await agent.call_tool(RT, {"prompt": "a fox"}))


# ---- strangers ----

STRANGERS = {
    "silence": ("http", b"", b""),
    "headers that never end": ("sse", b"POST /mcp HTTP/1.1\r\nhost: localhost\r\n", b""),
    "slow bodies to /health": ("http", slow("/health"), b"405"),
    "slow bodies": ("sse", slow("/messages/"), b"(missing_token)"),
    "the page": ("http", request("GET /"), b"HTTP/1.1 "),
    "slow sign-ins": (
        "http",
        request("POST /gallery/sign-in", content_length="1000", x_mcp_vega="1", sec_fetch_site="same-origin"),
        b"",
    ),
    "slow bodies with a wrong token": ("http", slow("/mcp", "guessed"), b"(invalid_token)"),
}


@pytest.mark.parametrize("what", STRANGERS)
async def test_strangers_take_no_place_from_callers(app: AppContext, what: str) -> None:
    transport, *seen = STRANGERS[what]
    limits = HttpLimits(connections=4, unknown_connections=6, header_seconds=3600, body_seconds=3600)
    async with served(app, transport, limits=limits) as server:
        with Crowd(server) as hers, Crowd(server) as strangers:
            await hers.add(1, request(f"GET {PATHS[transport]}", token=ALICE), b"200 OK")
            await strangers.add(20, *seen)
            await works(server, BOB)
            await until(lambda: len(strangers.ended) >= 20 - limits.unknown_connections)
            assert not hers.ended


async def test_callers_that_come_at_the_same_time_are_all_answered(app: AppContext) -> None:
    async with served(app, "http") as server:
        await works(server, ALICE)
        with Crowd(server) as crowd:
            for _ in range(100):  # every system lets this many wait until they are accepted
                crowd.append(HeldConnection(server, request("DELETE /images/0", token=ALICE)))
            await until(lambda: all(each.ended or b" 405 " in each.received for each in crowd))
            assert all(b" 405 " in each.received for each in crowd)


# ---- callers ----

IDLE: dict[str, tuple[str, bytes, bytes]] = {
    "SSE streams": ("sse", request("GET /sse", token=ALICE), b"session_id="),
    "GET streams": ("http", request("GET /mcp", token=ALICE), b"200 OK"),
    "subscriptions": ("http", request("POST /mcp", token=ALICE, body=LISTENING, **LISTEN), b"200 OK"),
    "connections between requests": ("http", request("DELETE /images/0", token=ALICE), b"405"),
    "slow bodies": ("http", slow("/mcp", ALICE), b""),
}


@pytest.mark.parametrize("what", IDLE)
async def test_the_idle_connections_of_one_token_do_not_block_another_tokens_calls(app: AppContext, what: str) -> None:
    transport, sent, answered = IDLE[what]
    async with served(app, transport, limits=HttpLimits(connections=4)) as server:
        with Crowd(server) as crowd:
            await crowd.add(4, sent, answered)
            await works(server, BOB)
            await until(lambda: 0 in crowd.ended)
            await crowd.add(4, sent, answered)
            await works(server, BOB)
            await works(server, ALICE)


@pytest.mark.parametrize("what", ["GET streams", "slow bodies"])
async def test_without_tokens_the_connections_of_an_address_do_not_block_its_own_calls(
    app: AppContext, what: str
) -> None:
    transport, sent, answered = IDLE[what]
    limits = HttpLimits(connections=8, connections_each=4)
    async with served(app, transport, callers=(), limits=limits) as server:
        with Crowd(server) as crowd:
            await crowd.add(10, sent, answered)
            await works(server, "any")
            await until(lambda: len(crowd.ended) > 5)


@asynccontextmanager
async def calls_in_flight(server: HttpServer, sandbox: Sandbox, *tokens: str) -> AsyncGenerator[list[CallToolResult]]:
    """One call for each token. The calls are answered when the block ends."""
    sandbox.hold()
    results: list[CallToolResult] = []
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:

        async def call(agent: Client, number: int) -> None:
            results.append(await agent.call_tool(RT, {"prompt": f"fox {number}"}))

        try:
            for number, token in enumerate(tokens):
                agent = await stack.enter_async_context(server.agent(token))
                tasks.start_soon(call, agent, number)
                await until(lambda: len(sandbox.account.calls) > number)  # noqa: B023  called immediately
            yield results
        finally:
            sandbox.let_go()
        await until(lambda: len(results) == len(tokens))


async def test_a_stream_with_a_call_in_flight_is_never_closed(app: AppContext, sandbox: Sandbox) -> None:
    async with (
        served(app, "sse", limits=HttpLimits(connections=3)) as server,
        calls_in_flight(server, sandbox, ALICE) as results,
    ):
        opened = time.monotonic()
        with Crowd(server) as crowd:
            # Without a call in it, the stream would be kept only this long.
            while time.monotonic() < opened + SETTLING_SECONDS:
                await crowd.add(3, request("GET /sse", token=ALICE), b"session_id=")
            await until(lambda: len(crowd.ended) >= len(crowd) - 2)
        sandbox.let_go()
        await until(lambda: results)
        assert job_of(results[0])["images"]


async def was_turned_away(server: HttpServer, token: str) -> bool:
    """Whether the server has no place for one more request."""
    async with await connected(server) as stream:
        await stream.send(request("DELETE /images/0", token=token, connection="close"))
        answer = (await rest_of(stream)).decode()
    if " 503 " in answer:
        assert "(too_many_connections)" in answer
        assert "retry-after: " in answer
        return True
    assert " 405 " in answer
    return False


@pytest.mark.parametrize("most", [2, 3])
async def test_a_caller_leaves_places_for_others_and_takes_none_from_a_caller_who_has_fewer(
    app: AppContext, sandbox: Sandbox, most: int
) -> None:
    async with served(app, "http", limits=HttpLimits(connections=3, connections_each=most)) as server:
        with Crowd(server) as crowd:
            async with calls_in_flight(server, sandbox, ALICE, ALICE) as results:
                assert await was_turned_away(server, ALICE) == (most == 2)
                assert not await was_turned_away(server, BOB)
                await crowd.add(1, request("GET /mcp", token=BOB), b"200 OK")
                assert await was_turned_away(server, ALICE)
                assert not crowd.ended
                assert not await was_turned_away(server, BOB)
                assert crowd.ended == [0]
                assert not results
    assert len([job_of(result) for result in results]) == 2


async def test_a_request_counts_for_its_own_caller_whoever_used_the_connection_before(
    app: AppContext, sandbox: Sandbox
) -> None:
    async with (
        served(app, "http", limits=HttpLimits(connections=4, connections_each=2)) as server,
        await connected(server) as shared,
        calls_in_flight(server, sandbox, ALICE, ALICE),
    ):
        for token, status in ((BOB, b" 405 "), (ALICE, b" 503 ")):
            await shared.send(request("DELETE /images/0", token=token))
            assert status in await shared.receive()


# ---- bodies ----

NO_BODY = [
    ("GET /health", b"200 OK"),
    ("HEAD /health", b"200 OK"),
    ("POST /health", b"405 "),
    ("GET /readyz", b"200 OK"),
    ("GET /images/0", b"404 "),
    ("HEAD /images/0", b"404 "),
    ("OPTIONS /images/0", b"405 "),
    ("DELETE /images/0", b"405 "),
]


@pytest.mark.parametrize("announced", [{"content_length": "1000000000"}, {"transfer_encoding": "chunked"}])
async def test_a_body_that_is_not_needed_is_not_waited_for(app: AppContext, announced: dict[str, str]) -> None:
    async with served(app, "http") as server:
        for line, status in NO_BODY:
            async with await connected(server) as stream:
                await stream.send(request(line, token=ALICE, **announced))
                with anyio.fail_after(HANG_SECONDS):
                    assert status in await stream.receive()


REJECTED: list[tuple[dict[str, str], str]] = [
    ({}, "missing_token"),
    ({"token": "guessed"}, "invalid_token"),
    ({"token": ALICE, "origin": "https://evil.example"}, "origin_not_allowed"),
    ({"token": ALICE}, "request_too_large"),
]


async def test_a_client_that_writes_before_it_reads_sees_why_the_request_was_rejected(app: AppContext) -> None:
    body = b"x" * 8_000_000
    async with served(app, "http") as server:
        for headers, code in REJECTED:
            async with await connected(server) as stream:
                with anyio.fail_after(HANG_SECONDS):
                    await stream.send(request("POST /mcp", content_length=str(len(body)), **headers))
                    await stream.send(body)
                assert f"({code})" in (await rest_of(stream)).decode()
