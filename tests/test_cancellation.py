"""Over Streamable HTTP a cancellation is a request of its own. It finds its call, and no picture is paid for twice."""

import json
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import HANG_SECONDS, TLS, Sandbox, app_over, until
from test_http_access import ALICE, BOB, CALLERS, served
from test_joining import Clock, awaited, locked_ledger
from test_promises import ASKED, RT, VEGA, rows

from mcp_vega.server.http.access.callers import Caller
from mcp_vega.storage.images.folder import ImageFolder

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
VERSIONS = ["2025-06-18", "2025-11-25", MODERN]
FOX, OWL = ASKED, {"prompt": "an owl"}
# The error code of JSON-RPC for a request that was cancelled.
REQUEST_CANCELLED = -32800


@dataclass
class Answer:
    """The answer to a call: `started` is set when its first part arrives, `message` is the complete answer."""

    started: anyio.Event = field(default_factory=anyio.Event)
    message: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def pictures(self) -> int:
        return sum(each["type"] == "image" for each in self.message["result"]["content"])

    @property
    def text(self) -> str:
        return self.message["result"]["content"][0]["text"]

    @property
    def request_id(self) -> str:
        return self.message["result"]["_meta"]["mcp-vega/job"]["request_id"]

    @property
    def was_ended(self) -> bool:
        return self.message.get("error", {}).get("code") == REQUEST_CANCELLED


@dataclass
class HttpClient:
    """A client that writes its requests itself, in one version of the protocol."""

    http: httpx.AsyncClient
    version: str

    def headers(self, method: str, name: str = "") -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": self.version}
        if self.version == MODERN:
            headers |= {"mcp-method": method} | ({"mcp-name": name} if name else {})
        return headers

    @property
    def meta(self) -> dict[str, Any]:
        if self.version != MODERN:
            return {}
        prefix = "io.modelcontextprotocol"
        client = {f"{prefix}/clientInfo": {"name": "test", "version": "1"}, f"{prefix}/clientCapabilities": {}}
        return {f"{prefix}/protocolVersion": self.version, **client}

    async def call(
        self, number: str | int, tool: str = RT, arguments: dict[str, Any] = FOX, answer: Answer | None = None
    ) -> Answer:
        """Make a call and read its answer."""
        answer = answer or Answer()
        params = {"name": tool, "arguments": arguments, "_meta": {**self.meta, "progressToken": number}}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        headers = self.headers("tools/call", tool)
        async with self.http.stream("POST", "/mcp", json=message, headers=headers) as response:
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if not data.startswith("{"):
                    continue
                received = json.loads(data)
                answer.started.set()
                if "id" in received:
                    assert json.dumps(received["id"]) == json.dumps(number)
                    answer.message = received
        return answer

    async def begin(
        self, tasks: anyio.abc.TaskGroup, number: str | int, tool: str = RT, arguments: dict[str, Any] = FOX
    ) -> Answer:
        """Make a call in the background; returns once the call is under way."""
        answer = Answer()
        tasks.start_soon(self.call, number, tool, arguments, answer)
        with anyio.fail_after(HANG_SECONDS):
            await answer.started.wait()
        return answer

    async def cancel(self, number: Any) -> None:
        """Cancel a call with a request of its own."""
        params = {"requestId": number, "reason": "timeout", "_meta": self.meta}
        answer = await self.post(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        assert (answer.status_code, answer.content) == (202, b"")

    async def post(self, body: str | bytes) -> httpx.Response:
        """Send a body as the body of a cancellation."""
        headers = {**self.headers("notifications/cancelled"), "content-type": "application/json"}
        return await self.http.post("/mcp", content=body, headers=headers)


@dataclass
class Server:
    """A server over Streamable HTTP, and its clients with one version of the protocol."""

    url: str
    version: str

    @asynccontextmanager
    async def client(self, *, token: str = "", user_agent: str = "test/1") -> AsyncGenerator[HttpClient]:
        headers = {"user-agent": user_agent} | ({"authorization": f"Bearer {token}"} if token else {})
        options: dict[str, Any] = {"headers": headers, "timeout": HANG_SECONDS, "verify": TLS}
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, **options) as http:
            yield HttpClient(http, self.version)


@pytest.fixture(autouse=True)
def _answered_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation is answered when it is in the ledger, however slow the disk is."""
    monkeypatch.setattr("mcp_vega.server.http.cancellation.requests_in_flight.WRITTEN_SECONDS", HANG_SECONDS)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def serving_http(
    sandbox: Sandbox, folder: Path, version: str, *, callers: Sequence[Caller] = (), **options: Any
) -> AsyncGenerator[Server]:
    async with (
        app_over(sandbox.url, folder, **options) as app,
        served(app, "http", callers=callers) as server,
    ):
        yield Server(server.url, version)


@pytest.fixture
async def server(sandbox: Sandbox, tmp_path: Path, version: str, clock: Clock) -> AsyncGenerator[Server]:
    """A server that requires no token."""
    async with serving_http(sandbox, tmp_path, version, **clock.options) as server:
        yield server


def delivered(folder: Path) -> dict[str, bool]:
    """Whether the result of each prompt's job counts as received."""
    return {row["prompt"]: bool(row["delivered"]) for row in rows(folder, "SELECT prompt, delivered FROM jobs")}


@contextmanager
def held(sandbox: Sandbox) -> Generator[None]:
    """Hold back the answers to calls until the end of the block."""
    sandbox.hold()
    try:
        yield
    finally:
        sandbox.let_go()


# ---- a call that is under way ----


async def test_a_cancellation_ends_its_call_and_the_same_call_joins_its_job_immediately(
    server: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with server.client() as client, anyio.create_task_group() as tasks:
        with held(sandbox):
            first = await client.begin(tasks, 7)
            await client.cancel(7)
            # The state of the ledger when the cancellation has been answered.
            assert awaited(tmp_path) == []
            assert delivered(tmp_path) == {"a fox": False}
            await until(lambda: first.was_ended)
            second = await client.begin(tasks, 8)
        await until(lambda: second.message)
        assert second.pictures == 1
        assert (await client.call(9)).request_id != second.request_id, "the second call has received its picture"
    assert sandbox.paid_requests == 2


class SlowFolder(ImageFolder):
    """A folder whose first preparations wait: the calls have arrived, but no job was begun."""

    def __init__(self, folder: Path, slow: int) -> None:
        super().__init__(folder)
        self.slow = slow
        self.arrived = 0
        self.go_on = anyio.Event()

    async def prepare(self, day: date) -> None:
        self.arrived += 1
        if self.arrived <= self.slow:
            await self.go_on.wait()
        await super().prepare(day)


@pytest.mark.parametrize("locked", [False, True])
async def test_a_call_that_is_cancelled_before_its_job_is_begun_is_paid_for_once(
    sandbox: Sandbox, tmp_path: Path, version: str, *, locked: bool
) -> None:
    images = SlowFolder(tmp_path, 0 if locked else 2)
    async with (
        serving_http(sandbox, tmp_path, version, images=images, busy_seconds=HANG_SECONDS) as server,
        server.client() as client,
        anyio.create_task_group() as tasks,
    ):
        await client.call(1, RT, OWL) if locked else None  # this creates the ledger
        before = images.arrived
        with locked_ledger(tmp_path) if locked else nullcontext():
            tasks.start_soon(client.call, 7)
            await until(lambda: images.arrived == before + 1)
            await client.cancel(7)
            again = Answer()
            tasks.start_soon(client.call, 8, RT, FOX, again)
            await until(lambda: images.arrived == before + 2)
        images.go_on.set()
        await until(lambda: again.message)
        assert again.pictures == 1
    assert rows(tmp_path, "SELECT prompt FROM jobs WHERE prompt = 'a fox'") == [{"prompt": "a fox"}]
    assert [call.body["prompt"] for call in sandbox.account.calls.values()].count("a fox") == 1


async def test_closing_the_stream_of_an_answer_still_cancels_the_call(
    server: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with server.client() as client:
        with held(sandbox):
            async with anyio.create_task_group() as tasks:
                await client.begin(tasks, 7)
                tasks.cancel_scope.cancel()
            await until(lambda: not awaited(tmp_path))
        assert (await client.call(7)).pictures == 1
    assert sandbox.paid_requests == 1


async def test_a_cancelled_check_job_does_not_count_as_a_delivery(
    sandbox: Sandbox, tmp_path: Path, version: str
) -> None:
    async with (
        serving_http(sandbox, tmp_path, version, wait_seconds=0) as server,
        server.client() as client,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            begun = await client.call(1)
            look = await client.begin(tasks, 7, "check_job", {"request_id": begun.request_id, "wait_seconds": 45})
            await client.cancel(7)
            await until(lambda: look.was_ended)
        await until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'COMPLETED'"))
        assert (await client.call(8)).pictures == 1
    assert sandbox.paid_requests == 1


# ---- a cancellation that arrives after the answer ----


@pytest.mark.parametrize(("seconds", "paid"), [(0, 1), (9.9, 1), (10.1, 2)])
async def test_a_cancellation_that_arrives_after_the_answer_counts_for_ten_seconds(  # noqa: PLR0913, PLR0917  a table
    server: Server, sandbox: Sandbox, tmp_path: Path, clock: Clock, seconds: float, paid: int
) -> None:
    async with server.client() as client:
        first = await client.call(7)
        clock.let_pass(seconds)
        await client.cancel(7)
        if paid == 1:
            assert delivered(tmp_path) == {"a fox": False}
        again = await client.call(8)
        assert (again.request_id == first.request_id) == (paid == 1)
        assert (first.pictures, again.pictures) == (1, 1)
        assert sandbox.paid_requests == paid
        await client.call(9)
    assert sandbox.paid_requests == paid + 1


async def test_a_call_that_arrives_just_after_its_cancellation_is_not_begun(server: Server, sandbox: Sandbox) -> None:
    """A cancellation uses another connection, so it may arrive before its call."""
    async with server.client() as client, server.client(user_agent="other/1") as other:
        await client.cancel(7)
        assert (await other.call(7, RT, OWL)).pictures == 1
        assert (await client.call(7)).was_ended
        assert sandbox.paid_requests == 1
        assert (await client.call(8)).pictures == 1
        assert (await client.call(7)).pictures == 1, "the cancellation is for one call"
    assert sandbox.paid_requests == 3


async def test_a_cancellation_of_an_unknown_id_does_not_affect_later_calls(
    server: Server, sandbox: Sandbox, clock: Clock
) -> None:
    async with server.client() as client:
        await client.cancel(7)
        clock.let_pass(2.1)
        first = await client.call(7)
        assert (await client.call(8)).request_id != first.request_id
    assert sandbox.paid_requests == 2


async def test_a_check_job_that_is_cancelled_after_its_answer_does_not_count_as_a_delivery(
    sandbox: Sandbox, tmp_path: Path, version: str
) -> None:
    async with serving_http(sandbox, tmp_path, version, wait_seconds=0) as server, server.client() as client:
        with held(sandbox):
            begun = await client.call(1)
        await until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'COMPLETED'"))
        assert (await client.call(7, "check_job", {"request_id": begun.request_id})).pictures == 1
        await client.cancel(7)
        assert (await client.call(8)).pictures == 1
    assert sandbox.paid_requests == 1


async def test_a_cancelled_check_job_does_not_undo_a_much_earlier_delivery(
    server: Server, sandbox: Sandbox, clock: Clock
) -> None:
    async with server.client() as client:
        first = await client.call(1)
        clock.let_pass(60)
        assert (await client.call(7, "check_job", {"request_id": first.request_id})).pictures == 1
        await client.cancel(7)
        assert (await client.call(8)).request_id != first.request_id
    assert sandbox.paid_requests == 2


async def test_a_cancellation_is_saved_however_long_the_ledger_is_locked(
    sandbox: Sandbox, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response 202 waits only for a while. The same call comes after it."""
    monkeypatch.setattr("mcp_vega.server.http.cancellation.requests_in_flight.WRITTEN_SECONDS", 0.2)
    async with serving_http(sandbox, tmp_path, version, busy_seconds=HANG_SECONDS) as server, server.client() as client:
        first = await client.call(7)
        await until(lambda: delivered(tmp_path) == {"a fox": True})
        async with anyio.create_task_group() as tasks:
            with locked_ledger(tmp_path):
                await client.cancel(7)
            tasks.start_soon(until, lambda: delivered(tmp_path) == {"a fox": False})
        assert (await client.call(8)).request_id == first.request_id
    assert sandbox.paid_requests == 1


# ---- which call is meant ----


async def test_a_cancellation_does_not_end_a_call_of_another_token(
    sandbox: Sandbox, tmp_path: Path, version: str
) -> None:
    async with (
        serving_http(sandbox, tmp_path, version, callers=CALLERS) as server,
        server.client(token=ALICE) as alice,
        server.client(token=BOB) as bob,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            hers, his = await alice.begin(tasks, 7), await bob.begin(tasks, 7, RT, OWL)
            await alice.cancel(7)
            await until(lambda: hers.was_ended)
            again = await alice.begin(tasks, 8)
        await until(lambda: his.message and again.message)
        assert (his.pictures, again.pictures) == (1, 1)
        assert sandbox.paid_requests == 2
        assert (await bob.call(9, RT, OWL)).request_id != his.request_id, "his result counts as received"


async def test_without_tokens_a_cancellation_ends_the_call_of_its_own_client_and_marks_both(
    server: Server, sandbox: Sandbox
) -> None:
    async with (
        server.client(user_agent="one/1") as one,
        server.client(user_agent="other/1") as other,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            first, second = await one.begin(tasks, 7), await other.begin(tasks, 7, RT, OWL)
            await one.cancel(7)
            await until(lambda: first.was_ended)
            again = await one.begin(tasks, 8)
        await until(lambda: second.message and again.message)
        assert (second.pictures, again.pictures) == (1, 1)
        # The mark has one effect on the other client: its same call gets the same picture once more.
        assert (await other.call(8, RT, OWL)).request_id == second.request_id
    assert sandbox.paid_requests == 2


async def test_if_two_calls_cannot_be_distinguished_neither_is_ended_and_both_are_marked(
    server: Server, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with server.client() as one, server.client() as other, anyio.create_task_group() as tasks:
        with held(sandbox):
            first, second = await one.begin(tasks, 7), await other.begin(tasks, 7, RT, OWL)
            await one.cancel(7)
            assert awaited(tmp_path) == []
            again = await one.begin(tasks, 8)
        await until(lambda: first.message and second.message and again.message)
        assert (first.pictures, second.pictures, again.pictures) == (1, 1, 1)
        assert first.request_id == again.request_id
    assert sandbox.paid_requests == 2


@pytest.mark.parametrize("agents", [("one/1", "other/1"), ("one/1", "one/1")])
async def test_a_cancellation_after_the_answer_is_for_its_own_call_and_ends_no_other(
    server: Server, sandbox: Sandbox, agents: tuple[str, str]
) -> None:
    """Another client has a call with the same id under way. The user agents are different, or the same."""
    async with (
        server.client(user_agent=agents[0]) as one,
        server.client(user_agent=agents[1]) as other,
        anyio.create_task_group() as tasks,
    ):
        first = await one.call(7)
        with held(sandbox):
            second = await other.begin(tasks, 7, RT, OWL)
            await one.cancel(7)
            assert (await one.call(8)).request_id == first.request_id
        await until(lambda: second.message)
        assert second.pictures == 1
    assert sandbox.paid_requests == 2


async def test_a_call_without_a_job_does_not_stop_others_from_being_marked(
    sandbox: Sandbox, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.server.http.cancellation.requests_in_flight.WRITTEN_SECONDS", 0.2)
    images = SlowFolder(tmp_path, 1)
    async with (
        serving_http(sandbox, tmp_path, version, images=images) as server,
        server.client() as client,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            tasks.start_soon(client.call, 7, RT, OWL)
            await until(lambda: images.arrived)
            await client.begin(tasks, 7)
            await client.cancel(7)  # it is answered although the job of the other call is never known
            await until(lambda: awaited(tmp_path) == [])
            images.go_on.set()


async def test_a_number_and_a_text_with_the_same_digits_are_different_ids(server: Server, sandbox: Sandbox) -> None:
    async with server.client() as client, anyio.create_task_group() as tasks:
        with held(sandbox):
            number, text = await client.begin(tasks, 7), await client.begin(tasks, "7", RT, OWL)
            await client.cancel("7")
            await until(lambda: text.was_ended)
        await until(lambda: number.message)
        assert number.pictures == 1
        assert (await client.call(8)).request_id != number.request_id
    assert sandbox.paid_requests == 3


async def test_a_cancellation_with_an_escaped_slash_is_recognised(server: Server, sandbox: Sandbox) -> None:
    """PHP writes it as `\\/`."""
    async with server.client() as client, anyio.create_task_group() as tasks:
        with held(sandbox):
            call = await client.begin(tasks, 7)
            await client.post(cancellation(requestId=7).replace("/", "\\/"))
            await until(lambda: call.was_ended)


async def test_a_whole_number_is_recognised_in_any_spelling(server: Server, sandbox: Sandbox) -> None:
    """Some languages write 7 as 7.0."""
    async with server.client() as client, anyio.create_task_group() as tasks:
        with held(sandbox):
            call = await client.begin(tasks, 7)
            await client.post(cancellation(requestId=7.0))
            await until(lambda: call.was_ended)


# ---- not a cancellation ----


def cancellation(**params: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


MALFORMED: dict[str, str | bytes] = {
    "no params": json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled"}),
    "no id": cancellation(),
    "null": cancellation(requestId=None),
    "true": cancellation(requestId=True),
    "a list": cancellation(requestId=[7]),
    "an object": cancellation(requestId={"7": 7}),
    "an unknown id": cancellation(requestId=6),
    "20 kB": cancellation(requestId=7, reason="x" * 20_000),
    "5,000 digits": cancellation().replace("{}", '{"requestId": ' + "7" * 5000 + "}"),
    "not JSON": '{"method": "notifications/cancelled", "params": {"requestId": 7',
    "not UTF-8": b'{"method": "notifications/cancelled", "params": {"requestId": "\xff"}}',
    "deep": '{"notifications/cancelled": ' + "[" * 4000,
    "a list of one": f"[{cancellation(requestId=7)}]",
    "another method": cancellation(requestId=7).replace('"method": "', '"method": "x'),
}
# No version of the protocol allows these. The others are accepted like any notification, and have no effect.
REFUSED = {"not JSON", "not UTF-8", "deep", "a list of one"}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_cancellation_has_no_effect(
    server: Server, sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    async with server.client() as client, anyio.create_task_group() as tasks:
        with held(sandbox):
            call = await client.begin(tasks, 7, VEGA, FOX)
            answer = await client.post(MALFORMED[name])
            assert answer.status_code == (400 if name in REFUSED else 202)
            assert len(awaited(tmp_path)) == 1
        await until(lambda: call.message)
        assert call.pictures == 1
        assert (await client.call(8, VEGA, FOX)).request_id != call.request_id
    assert sandbox.paid_requests == 2
