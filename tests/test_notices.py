"""Servers on one ledger that can send each other notices: each learns at once of what the others do."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import HANG_SECONDS, KEY, NO_PAUSE, Sandbox, app_over, images_of, job_of, text_of, until
from mcp.client import Client, IncomingMessage
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import CallToolResult, ResourceListChangedNotification
from test_cancellation import FOX, MODERN, OWL, RT, Answer, Server, delivered, held
from test_http_access import ALICE, BOB, CALLERS, served
from test_joining import Clock, awaited
from test_promises import listed, rows

from mcp_vega.errors import LedgerError
from mcp_vega.job import Job, Route
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.resources import GALLERY
from mcp_vega.storage.database.connection import Work
from mcp_vega.storage.database.notices import Listener
from mcp_vega.storage.database.sqlite.database import SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Sending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

pytestmark = pytest.mark.anyio

# Longer than any test takes.
NEVER = 3600.0
ERAS = ["auto", "legacy"]


class Hub:
    """Passes notices between servers in one process."""

    def __init__(self) -> None:
        self.members: list[HubNotices] = []
        self.topics = Counter[str]()

    def lose(self) -> None:
        """Tell every server that notices were lost."""
        for member in self.members:
            for topic in [*member.listeners]:
                member.receive(topic, None)


class HubNotices:
    """The notices of one server."""

    reach_others = True

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = False
        self.deaf = False
        self.deaf_to = 0  # how many of the next notices about cancellations it does not hear
        self.listeners = defaultdict[str, list[Listener]](list)
        hub.members.append(self)

    def open(self) -> None:
        self._open = True

    def send(self, topic: str, content: Mapping[str, Any]) -> None:
        self._hub.topics[topic] += 1
        sent = json.dumps(content)
        assert len(sent) <= 7000
        for member in self._hub.members:
            if member is not self:
                member.receive(topic, json.loads(sent))

    def receive(self, topic: str, content: Mapping[str, Any] | None) -> None:
        if topic == "cancel" and self.deaf_to:
            self.deaf_to -= 1
        elif self._open and not self.deaf:
            for listener in [*self.listeners[topic]]:
                listener(content)

    @contextmanager
    def listening(self, topic: str, listener: Listener) -> Generator[None]:
        self.listeners[topic].append(listener)
        try:
            yield
        finally:
            self.listeners[topic].remove(listener)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture(autouse=True)
def _nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a server learns, it learns from a notice."""
    monkeypatch.setattr("mcp_vega.jobs.running.POLL_SECONDS", NEVER)
    monkeypatch.setattr("mcp_vega.jobs.rate_limiter.REPORTED_POLL_SECONDS", NEVER)
    monkeypatch.setattr("mcp_vega.jobs.recovery.REPORTED_LOOK_SECONDS", NEVER)


@asynccontextmanager
async def serving(
    hub: Hub, sandbox: Sandbox, folder: Path, store: JobStore | None = None, **options: Any
) -> AsyncGenerator[AppContext]:
    """A server that shares the ledger and the notices with the others, and has begun its work."""
    file = folder.with_name(f"{folder.name}-home") / "ledger.sqlite3"
    store = store or JobStore.in_file(file, uptime=options.get("uptime", time.monotonic))
    store.notices = HubNotices(hub)
    async with app_over(sandbox.url, folder, store=store, heartbeat=NEVER, policy=NO_PAUSE, **options) as app:
        app.service.resume_orphans()
        yield app


@asynccontextmanager
async def two(hub: Hub, sandbox: Sandbox, folder: Path, **options: Any) -> AsyncGenerator[list[AppContext]]:
    async with (
        serving(hub, sandbox, folder, **options) as one,
        serving(hub, sandbox, folder, **options) as other,
    ):
        yield [one, other]


def agent_of(app: AppContext, mode: str = "auto", **options: Any) -> Client:
    return Client(build_server(app), mode=mode, **options)


# ---- changes of jobs ----


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("lost", [False, True])
async def test_a_job_of_another_server_is_followed_to_its_end_without_looking_again_and_again(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, mode: str, *, lost: bool
) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
        heard.append(message or "")

    results: list[CallToolResult] = []
    async with (
        two(hub, sandbox, tmp_path, limits=Limits(calls_at_once=1), wait_seconds=0) as (one, other),
        agent_of(one) as first,
        agent_of(replace(other, progress_after=0), mode) as second,
    ):

        async def follow(request_id: str) -> None:
            asked = {"request_id": request_id, "wait_seconds": 45}
            with anyio.fail_after(40):  # it does not answer only because its time is up
                results.append(await second.call_tool("check_job", asked, progress_callback=hear))

        with held(sandbox):
            await first.call_tool(RT, OWL)
            request_id = job_of(await first.call_tool(RT, FOX))["request_id"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, request_id)
                await until(lambda: heard)
                for member in hub.members:
                    member.deaf = lost
                sandbox.let_go()
                if lost:
                    await until(lambda: len(rows(tmp_path, "SELECT 1 FROM jobs WHERE NOT open")) == 2)
                    assert not results
                    for member in hub.members:
                        member.deaf = False
                    hub.lose()
    assert len(images_of(results[0])) == 1
    assert heard[0].startswith("Sending the call")
    assert lost or any(message.startswith("Drawing") for message in heard), "it heard that the call was sent"


async def test_a_slot_that_another_server_frees_is_taken_at_once(hub: Hub, sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        two(hub, sandbox, tmp_path, limits=Limits(calls_at_once=1), wait_seconds=0) as (one, other),
        agent_of(one) as first,
        agent_of(other) as second,
    ):
        with held(sandbox):
            await first.call_tool(RT, FOX)
            request_id = job_of(await second.call_tool(RT, OWL))["request_id"]
            await until(lambda: sandbox.paid_requests)
            await until(lambda: other.service.active)
        result = await second.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
        assert len(images_of(result)) == 1


async def test_a_client_that_subscribes_is_notified_of_pictures_and_jobs_of_another_server(
    hub: Hub, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with (
        two(hub, sandbox, tmp_path, wait_seconds=0) as (one, other),
        agent_of(one) as first,
        agent_of(other) as second,
    ):
        sandbox.hold()
        request_id = job_of(await first.call_tool(RT, FOX))["request_id"]
        uris = {GALLERY, f"vega://jobs/{request_id}"}
        heard = set[Any]()
        async with second.listen(resources_list_changed=True, resource_subscriptions=sorted(uris)) as events:
            sandbox.let_go()
            with anyio.fail_after(HANG_SECONDS):
                async for event in events:
                    heard.add(event.uri if isinstance(event, ResourceUpdated) else type(event))
                    if len(heard) == 3:
                        break
        assert heard == {ResourcesListChanged, *uris}
        assert len((await second.list_resources()).resources) == 3


@asynccontextmanager
async def notified(app: AppContext, mode: str) -> AsyncGenerator[anyio.Event]:
    """An event that is set when a client of a server is told that the list of pictures has changed."""
    heard, listening = anyio.Event(), anyio.Event()

    async def handle(message: IncomingMessage) -> None:
        if isinstance(message, ResourceListChangedNotification):
            heard.set()

    async def listen(agent: Client) -> None:
        async with agent.listen(resources_list_changed=True) as events:
            listening.set()
            async for _ in events:
                heard.set()

    async with agent_of(app, mode, message_handler=handle) as agent, anyio.create_task_group() as tasks:
        if mode == "auto":
            tasks.start_soon(listen, agent)
            await listening.wait()
        await agent.call_tool("check_job", {})
        yield heard
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("lost", [False, True])
async def test_clients_are_told_of_new_pictures_of_another_server_and_after_notices_were_lost(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, mode: str, *, lost: bool
) -> None:
    async with two(hub, sandbox, tmp_path) as (one, other), notified(other, mode) as heard, agent_of(one) as first:
        if lost:
            hub.lose()
        else:
            await first.call_tool(RT, FOX)
        with anyio.fail_after(HANG_SECONDS):
            await heard.wait()


async def test_a_client_is_not_notified_of_jobs_of_another_owner_on_another_server(
    hub: Hub, sandbox: Sandbox, tmp_path: Path
) -> None:
    heard: list[Any] = []
    async with (
        two(hub, sandbox, tmp_path, wait_seconds=0) as (one, other),
        served(one, "http", callers=CALLERS) as first,
        served(other, "http", callers=CALLERS) as second,
        first.agent(ALICE) as alice,
        first.agent(BOB) as bob,
        second.agent(BOB) as bob_elsewhere,
    ):
        with held(sandbox):
            hers = f"vega://jobs/{job_of(await alice.call_tool(RT, FOX))['request_id']}"
            async with bob_elsewhere.listen(resource_subscriptions=[GALLERY, hers]) as events:
                sandbox.let_go()
                await until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE NOT open"))
                await bob.call_tool(RT, OWL)
                with anyio.fail_after(HANG_SECONDS):
                    async for event in events:
                        heard.append(event)
                        break
        assert heard == [ResourceUpdated(uri=GALLERY)]
        assert [each["parameters"]["prompt"] for each in await listed(bob_elsewhere)] == ["an owl"]


# ---- recovery ----


async def test_a_job_that_the_ledger_gave_to_a_server_without_its_knowledge_is_continued_after_two_looks(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.jobs.recovery.REPORTED_LOOK_SECONDS", 0.01)
    async with serving(hub, sandbox, tmp_path) as app:
        store, looks = app.service.store, list[bool]()
        account = await store.accounts.of_key(KEY)
        look = store.accounts.orphans

        async def counted(*given: Any, **options: Any) -> Any:
            found = await look(*given, **options)
            looks.append(bool(found.mine))
            return found

        monkeypatch.setattr(store.accounts, "orphans", counted)
        parameters = VegaRTParameters(prompt="a fox", seed=7)
        made = {"base_url": sandbox.url, "account": account, "created": app.service.config.clock()}
        job = Job.of_call(parameters, route=Route.V1, **made)
        await store.begin(job, Limits())  # as if its answer had been lost
        await until(lambda: looks.count(True))
        await until(partial(has_pictures, app, job.local_id))
        assert looks.count(True) == 2
    assert sandbox.paid_requests == 1


async def has_pictures(app: AppContext, local_id: str) -> bool:
    return bool((await app.service.get(local_id)).images)


async def test_a_call_whose_job_the_ledger_lost_fails_soon_and_can_be_made_again(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(hub, sandbox, tmp_path) as app, agent_of(app) as agent:
        store, marks = app.service.store, list[Sending]()
        mark = store.mark_sent

        async def marked(job: Job, *given: Any, **options: Any) -> Sending:
            if not marks:  # as after a crash of PostgreSQL, which may take the last half second
                for table in ("slots", "jobs", "spending", "servers"):
                    rows(tmp_path, f"DELETE FROM {table}")  # noqa: S608
            marks.append(await mark(job, *given, **options))
            return marks[-1]

        monkeypatch.setattr(store, "mark_sent", marked)
        failed = await agent.call_tool(RT, FOX)
        assert "lost the job" in text_of(failed)
        assert "Charged: no" in text_of(failed)
        assert sandbox.paid_requests == 0
        assert len(images_of(await agent.call_tool(RT, FOX))) == 1
    assert marks == [Sending.LOST, Sending.SENT]


async def test_a_call_whose_mark_was_not_answered_is_marked_again_with_the_same_moment(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks: list[Any] = []
    async with serving(hub, sandbox, tmp_path) as app, agent_of(app) as agent:
        store = app.service.store
        mark = store.mark_sent

        async def fails_twice(job: Job, *given: Any, **options: Any) -> Sending:
            marks.append(job.sent)
            if len(marks) <= 2:
                raise LedgerError("The connection is broken")
            return await mark(job, *given, **options)

        monkeypatch.setattr(store, "mark_sent", fails_twice)
        assert len(images_of(await agent.call_tool(RT, FOX))) == 1
    assert len(marks) == 3
    assert len({*marks}) == 1
    assert sandbox.paid_requests == 1


# ---- an outage of the ledger ----


class UnreliableDatabase(SqliteDatabase):
    """A database that sometimes does not answer."""

    away = False

    async def read(self, work: Work[Any], *, slow: bool = False) -> Any:
        self._require_answer()
        return await super().read(work, slow=slow)

    async def write(self, work: Work[Any], **options: Any) -> Any:
        self._require_answer()
        return await super().write(work, **options)

    def _require_answer(self) -> None:
        if self.away:
            raise LedgerError("The database does not answer")


async def test_in_an_outage_of_the_ledger_nothing_new_is_paid_for_and_what_was_paid_for_is_kept_and_saved_later(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.jobs.recovery.REPORTED_LOOK_SECONDS", 0.01)
    folder = tmp_path.with_name(f"{tmp_path.name}-home")
    database = UnreliableDatabase(SqliteFile(folder / "ledger.sqlite3", SCHEMA))
    store, results = JobStore(database, ServerLock(folder / "servers")), list[CallToolResult]()
    async with (
        serving(hub, sandbox, tmp_path, store=store) as app,
        serving(hub, sandbox, tmp_path) as other,
        agent_of(app) as agent,
        agent_of(other) as elsewhere,
    ):

        async def call() -> None:
            results.append(await agent.call_tool(RT, FOX))

        with held(sandbox):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await until(lambda: sandbox.paid_requests)
                database.away = True
                refused = await agent.call_tool(RT, OWL)
                assert "The database does not answer" in text_of(refused)
                assert "Charged: no." in text_of(refused)
                sandbox.let_go()
        job = job_of(results[0])
        assert Path(job["images"][0]["path"]).exists()
        assert "is not saved" in text_of(results[0])
        database.away = False
        await until(lambda: rows(tmp_path, "SELECT 1 FROM jobs WHERE state = 'COMPLETED' AND holder IS NULL"))
        seen = await elsewhere.call_tool("check_job", {"request_id": job["request_id"]})
        assert job_of(seen)["images"] == job["images"]
        assert await other.service.store.spending.since(date.min) == Decimal(str(job["cost_usd"]))
    assert sandbox.paid_requests == 1


# ---- cancellations over Streamable HTTP ----


@pytest.fixture
def version() -> str:
    return MODERN


@pytest.fixture
async def replicas(hub: Hub, sandbox: Sandbox, tmp_path: Path, version: str) -> AsyncGenerator[list[Server]]:
    """Three servers that require no token. No time passes for them: a cancellation that came early stays in force."""
    async with AsyncExitStack() as stack:
        servers: list[Server] = []
        clock = Clock()
        for _ in range(3):
            app = await stack.enter_async_context(serving(hub, sandbox, tmp_path, **clock.options))
            running = await stack.enter_async_context(served(app, "http", callers=()))
            servers.append(Server(running.url, version))
        await until(lambda: all(member.listeners["cancel"] for member in hub.members))
        yield servers


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_cancellation_that_reaches_another_server_ends_its_call_and_the_same_call_joins_its_job_anywhere(
    replicas: list[Server], sandbox: Sandbox, tmp_path: Path
) -> None:
    one, other, third = replicas
    async with (
        one.client() as client,
        other.client() as canceller,
        third.client() as repeater,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            first = await client.begin(tasks, 7)
            await canceller.cancel(7)
            await until(lambda: awaited(tmp_path) == [])  # the answer does not wait for another server's disk
            assert delivered(tmp_path) == {"a fox": False}
            await until(lambda: first.was_ended)
            second = await repeater.begin(tasks, 8)
        await until(lambda: second.message)
        assert second.pictures == 1
        assert (await client.call(9)).request_id != second.request_id, "the second call has received its picture"
    assert sandbox.paid_requests == 2


@pytest.mark.parametrize("reached", [0, 1, 2])
async def test_calls_on_different_servers_that_cannot_be_distinguished_are_not_ended_and_both_are_marked(
    replicas: list[Server], sandbox: Sandbox, tmp_path: Path, reached: int
) -> None:
    """The cancellation reaches a server with one of the calls, or with none."""
    async with (
        replicas[0].client() as one,
        replicas[1].client() as other,
        replicas[reached].client() as canceller,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            first, second = await one.begin(tasks, 7), await other.begin(tasks, 7, RT, OWL)
            await canceller.cancel(7)
            await until(lambda: awaited(tmp_path) == [])
            again = await one.begin(tasks, 8)
        await until(lambda: first.message and second.message and again.message)
        assert (first.pictures, second.pictures, again.pictures) == (1, 1, 1)
        assert first.request_id == again.request_id
    assert sandbox.paid_requests == 2


async def test_a_cancellation_also_reaches_a_server_that_did_not_hear_of_it_at_first(
    replicas: list[Server], hub: Hub, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_vega.server.http.cancellation.canceller.PAUSES", (0.0,))
    async with replicas[0].client() as client, replicas[1].client() as canceller, anyio.create_task_group() as tasks:
        with held(sandbox):
            first = await client.begin(tasks, 7)
            hub.members[0].deaf_to = 2
            await canceller.cancel(7)
            await until(lambda: awaited(tmp_path) == [])
            second = await canceller.begin(tasks, 8)
        await until(lambda: first.message and second.message)
        assert first.request_id == second.request_id
    assert sandbox.paid_requests == 1


async def test_a_cancellation_after_the_answer_counts_at_another_server(
    replicas: list[Server], sandbox: Sandbox, tmp_path: Path
) -> None:
    async with replicas[0].client() as client, replicas[1].client() as canceller:
        first = await client.call(7)
        await until(lambda: delivered(tmp_path) == {"a fox": True})
        await canceller.cancel(7)
        await until(lambda: delivered(tmp_path) == {"a fox": False})
        assert (await canceller.call(8)).request_id == first.request_id
    assert sandbox.paid_requests == 1


@pytest.mark.parametrize("reached", [0, 1])
async def test_a_call_that_arrives_at_any_server_just_after_its_cancellation_is_not_begun(
    replicas: list[Server], sandbox: Sandbox, reached: int
) -> None:
    async with (
        replicas[0].client() as client,
        replicas[0].client(user_agent="other/1") as other,
        replicas[reached].client() as canceller,
    ):
        await canceller.cancel(7)
        assert (await other.call(7, RT, OWL)).pictures == 1
        assert (await client.call(7)).was_ended
    assert sandbox.paid_requests == 1


@pytest.mark.parametrize("reached", [0, 1])
async def test_a_call_that_arrives_while_the_servers_ask_each_other_is_ended(
    replicas: list[Server], hub: Hub, sandbox: Sandbox, tmp_path: Path, reached: int
) -> None:
    async with (
        replicas[0].client() as client,
        replicas[reached].client() as canceller,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            tasks.start_soon(canceller.cancel, 7)
            await until(lambda: hub.topics["cancel"])
            call = Answer()
            tasks.start_soon(client.call, 7, RT, FOX, call)
            await until(lambda: call.was_ended)
            await until(lambda: awaited(tmp_path) == [])
            again = await client.begin(tasks, 8)
        await until(lambda: again.message)
        assert again.pictures == 1
    assert sandbox.paid_requests == 1


async def test_a_cancellation_does_not_end_a_call_of_another_token_on_another_server(
    hub: Hub, sandbox: Sandbox, tmp_path: Path, version: str
) -> None:
    async with (
        two(hub, sandbox, tmp_path) as (one, other),
        served(one, "http", callers=CALLERS) as first,
        served(other, "http", callers=CALLERS) as second,
        Server(first.url, version).client(token=BOB) as bob,
        Server(second.url, version).client(token=ALICE) as alice,
        anyio.create_task_group() as tasks,
    ):
        with held(sandbox):
            his = await bob.begin(tasks, 7, RT, OWL)
            await alice.cancel(7)
        await until(lambda: his.message)
        assert his.pictures == 1
        assert (await bob.call(9, RT, OWL)).request_id != his.request_id, "his result counts as received"
    assert sandbox.paid_requests == 2
