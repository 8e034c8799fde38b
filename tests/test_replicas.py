"""Three real servers over HTTP on one PostgreSQL and one bucket: a team's set-up. Any of them serves any call."""

import hashlib
import subprocess
import sys
import threading
import time
import uuid
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from conftest import (
    HANG_SECONDS,
    KEY,
    TLS,
    Sandbox,
    holding,
    images_of,
    job_of,
    paint_small,
    serving_in_thread,
    text_of,
    until,
)
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import BlobResourceContents
from services import PostgresServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from test_cancellation import MODERN, RT, Answer, HttpClient
from test_http_access import ALICE, BOB
from test_http_links import PAGE, PAGE_KEY, SIGN_IN
from test_transports import MODES, address, started, started_by

from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox

pytestmark = pytest.mark.anyio

# Serves as the next version of this package, whose tables differ.
NEWER = [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "replicas" / "newer.py"), "additive"]
BUCKET = "replicas"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
# An idle server looks for jobs of dead servers once a second; a server alone on a disk, every five seconds.
TAKEN_OVER_SECONDS = 5


@dataclass
class Bucket:
    """A proxy in front of an S3 server. While it is `away`, it answers with 503."""

    server: str
    away: threading.Event = field(default_factory=threading.Event)

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "HEAD", "PUT", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        if self.away.is_set():
            return Response(status_code=503)
        async with httpx.AsyncClient(trust_env=False, verify=TLS, timeout=HANG_SECONDS) as http:
            url = f"{self.server}{request.url.path}?{request.url.query}"
            answer = await http.request(request.method, url, headers=request.headers, content=await request.body())
        return Response(answer.content, answer.status_code, answer.headers)

    def pictures(self) -> list[str]:
        """The SHA-256 hashes of the pictures in the bucket."""
        import obstore
        from obstore.store import S3Store

        config: Any = {name.lower(): value for name, value in S3_KEYS.items()} | {"aws_endpoint_url": self.server}
        store = S3Store(BUCKET, config=config, client_options={"allow_http": True})
        paths = [each["path"] for part in obstore.list(store) for each in part if each["path"].endswith(".jpg")]
        return [hashlib.sha256(obstore.get(store, path).bytes()).hexdigest() for path in paths]


@dataclass
class Replica:
    """A server process. Its folder is its own disk, which stays when it is killed."""

    folder: Path
    settings: Mapping[str, str]
    stack: ExitStack
    process: subprocess.Popen[str] | None = None
    url: str = ""

    def start(self) -> None:
        if self.process is None or self.process.poll() is not None:
            server = started(self.folder, "--transport", "http", "--port", "0", **self.settings)
            self.process = self.stack.enter_context(server)
            self.url = ""

    def wait(self) -> None:
        self.url = self.url or address(self.folder).removesuffix("/mcp")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    @asynccontextmanager
    async def agent(self, mode: str = "auto") -> AsyncGenerator[Client]:
        async with (
            create_mcp_http_client(headers={"authorization": f"Bearer {ALICE}"}) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode=mode) as client,
        ):
            yield client

    @asynccontextmanager
    async def client(self, version: str) -> AsyncGenerator[HttpClient]:
        """A client whose connection can be closed in the middle of a call."""
        options: dict[str, Any] = {"timeout": HANG_SECONDS, "verify": TLS, "trust_env": False}
        headers = {"authorization": f"Bearer {ALICE}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, **options) as http:
            yield HttpClient(http, version)

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, verify=TLS, timeout=HANG_SECONDS) as http:
            return await http.request(method, self.url + path, **request)


@dataclass
class Team:
    """The set-up that the tests of one process share."""

    sandbox: Sandbox
    bucket: Bucket
    bucket_url: str
    postgres: PostgresServer
    database: str
    folder: Path
    stack: ExitStack
    replicas: list[Replica] = field(default_factory=list[Replica])

    def replica(self, name: str, database: str = "", **settings: str) -> Replica:
        """A server that is not started yet."""
        (folder := self.folder / name).mkdir()
        shared = {
            "SEGMIND_BASE_URL": self.sandbox.url,
            "SEGMIND_API_KEY": KEY,
            "MCP_VEGA_LEDGER": self.postgres.url_of(database or self.database),
            "MCP_VEGA_GALLERY": f"s3://{BUCKET}/pictures",
            "MCP_VEGA_AUTH_TOKENS": f"{ALICE},{BOB}",
            "AWS_ENDPOINT_URL": self.bucket_url,
            "AWS_ALLOW_HTTP": "true",
            "MCP_VEGA_DRAIN_SECONDS": "0",
            "TMPDIR": str(folder),
            **S3_KEYS,
        }
        return Replica(folder, {**shared, **settings}, self.stack)

    def ready(self) -> None:
        """Start what an earlier test ended."""
        if not self.postgres.running:
            self.postgres.start()
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait()

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Read from the ledger."""
        from psycopg import connect

        with connect(self.postgres.url_of(self.database), autocommit=True) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def state(self, prompt: str) -> str:
        """The state of a prompt's only job in the ledger."""
        ((state,),) = self.rows("SELECT state FROM jobs WHERE prompt = %s", prompt)
        return state

    def paid(self, prompt: str) -> int:
        """How often a prompt was paid for."""
        return sum(call.body["prompt"] == prompt for call in self.sandbox.account.calls.values())


@pytest.fixture(scope="module")
def set_up(
    postgres_of_worker: PostgresServer, moto_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    bucket = f"{moto_server}/{BUCKET}"
    httpx.put(bucket, trust_env=False)  # another process of the tests may have done so: then they share it
    account, answers, pictures = Account(speed=0), threading.Event(), Bucket(moto_server)
    with ExitStack() as stack:
        api = stack.enter_context(serving_in_thread(holding(build_sandbox(account, paint=paint_small), answers)))
        s3 = stack.enter_context(serving_in_thread(pictures.app))
        folder = tmp_path_factory.mktemp("replicas")
        if not postgres_of_worker.running:
            postgres_of_worker.start()
        database = f"replicas_{uuid.uuid4().hex}"
        postgres_of_worker.execute(f"CREATE DATABASE {database}")
        team = Team(Sandbox(api, account, answers), pictures, s3, postgres_of_worker, database, folder, stack)
        team.replicas += [team.replica(name) for name in ("one", "two", "three")]
        yield team


@pytest.fixture
def team(set_up: Team) -> Iterator[Team]:
    """Three servers, of which all answer."""
    set_up.ready()
    yield set_up
    set_up.sandbox.let_go()


@pytest.mark.parametrize("mode", MODES)
async def test_any_server_gives_the_job_and_the_picture_of_another_one(team: Team, mode: str) -> None:
    one, two, three = team.replicas
    async with one.agent(mode) as first, two.agent(mode) as second, three.agent(mode) as third:
        begun = await first.call_tool(RT, {"prompt": f"any server, {mode}"})
        checked = await second.call_tool("check_job", {"request_id": job_of(begun)["request_id"]})
        assert images_of(checked) == images_of(begun)
        (image,) = job_of(checked)["images"]
        (read,) = (await third.read_resource(image["uri"])).contents
        assert isinstance(read, BlobResourceContents)
        data = b64decode(read.blob)
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert team.bucket.pictures().count(image["sha256"]) == 1
    link = urlsplit(str(image["url"]))
    assert two.url.endswith(link.netloc)
    assert (await three.ask("GET", f"{link.path}?{link.query}")).content == data
    # A browser sees all servers at one address, that of the proxy.
    host = {"host": link.netloc}
    signed_in = await one.ask("POST", SIGN_IN, json={"token": ALICE}, headers={**PAGE, **host})
    cookie = {"cookie": signed_in.headers["set-cookie"].partition(";")[0], PAGE_KEY: signed_in.headers[PAGE_KEY]}
    listed = await three.ask("GET", "/gallery/pictures", headers={**cookie, **host})
    assert image["id"] in listed.text
    hidden = await two.ask("GET", f"{link.path}", headers={"authorization": f"Bearer {BOB}"})
    assert (hidden.status_code, "(unknown_image)" in hidden.text) == (404, True)


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_call_that_was_cancelled_at_another_server_is_joined_at_a_third_one(team: Team, version: str) -> None:
    """The older protocol cancels with a request of its own, which any server may get; the newer one disconnects."""
    one, two, three = team.replicas
    call = {"prompt": f"cancelled, {version}"}
    team.sandbox.hold()
    async with one.client(version) as first, two.client(version) as second, three.client(version) as third:
        async with anyio.create_task_group() as tasks:
            await first.begin(tasks, 7, arguments=call)
            await until(lambda: team.paid(call["prompt"]))
            if version != MODERN:
                await second.cancel(7)
            else:
                tasks.cancel_scope.cancel()
        await until(lambda: team.rows("SELECT 1 FROM jobs WHERE prompt = %s AND awaited_by IS NULL", call["prompt"]))
        answer = Answer()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(third.call, 8, RT, call, answer)
            await until(lambda: team.rows("SELECT 1 FROM jobs WHERE prompt = %s AND awaited_by > ''", call["prompt"]))
            team.sandbox.let_go()
    assert answer.pictures == 1
    assert team.paid(call["prompt"]) == 1


async def test_an_idle_server_continues_the_job_of_one_that_was_killed(team: Team) -> None:
    one, *_ = team.replicas
    call = {"prompt": "killed"}
    # After its own start, the database takes all servers for alive for a while.
    await until(lambda: team.rows("SELECT 1 WHERE clock_timestamp() > pg_postmaster_start_time() + interval '6 s'"))
    team.sandbox.hold()
    async with one.client("2025-11-25") as client, anyio.create_task_group() as tasks:
        await client.begin(tasks, 1, arguments=call)
        await until(lambda: team.paid(call["prompt"]))
        ((holder,),) = team.rows("SELECT holder FROM jobs WHERE prompt = %s", call["prompt"])
        tasks.cancel_scope.cancel()
        one.kill()
        killed = time.monotonic()
        await until(lambda: not team.rows("SELECT 1 FROM jobs WHERE holder = %s", holder))
        assert time.monotonic() - killed < TAKEN_OVER_SECONDS
        team.sandbox.let_go()
    await until(lambda: team.state(call["prompt"]) == "COMPLETED")
    assert team.paid(call["prompt"]) == 1


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_call_is_answered_when_its_server_is_restarted_and_another_one_gives_its_picture(
    team: Team, version: str
) -> None:
    one, two, _ = team.replicas
    process = one.process
    assert process
    call, answer = {"prompt": f"restarted, {version}"}, Answer()
    team.sandbox.hold()
    async with one.client(version) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call, 1, RT, call, answer)
        await until(lambda: team.paid(call["prompt"]))
        process.terminate()
    assert "State: PROCESSING" in answer.text
    assert process.wait(HANG_SECONDS) == 0
    team.sandbox.let_go()
    await until(lambda: team.state(call["prompt"]) == "COMPLETED")  # another server continued it without a question
    async with two.agent() as agent:
        assert len(images_of(await agent.call_tool("check_job", {"request_id": answer.request_id}))) == 1
    assert team.paid(call["prompt"]) == 1


async def test_a_client_of_one_server_is_notified_of_a_picture_that_another_one_drew(team: Team) -> None:
    one, two, _ = team.replicas
    async with one.agent() as watching, two.agent() as drawing:
        async with watching.listen(resource_subscriptions=["vega://gallery"]) as events:
            job = job_of(await drawing.call_tool(RT, {"prompt": "a notice"}))
            with anyio.fail_after(HANG_SECONDS):
                async for event in events:
                    if event == ResourceUpdated("vega://gallery"):
                        break
        listed = (await watching.list_resources()).resources
        assert job["images"][0]["uri"] in [str(each.uri) for each in listed]


async def test_a_newer_version_changes_the_tables_while_others_draw(team: Team) -> None:
    one, two, _ = team.replicas
    newer, call = team.replica("newer"), {"prompt": "drawn while the tables change"}
    team.sandbox.hold()
    async with one.client("2025-11-25") as client, two.agent() as other:
        answer = Answer()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, 1, RT, call, answer)
            await until(lambda: team.paid(call["prompt"]))
            with started_by(NEWER, newer.folder, "--transport", "http", "--port", "0", **newer.settings):
                newer.wait()
                column = "SELECT 1 FROM information_schema.columns WHERE column_name = 'labelled'"
                await until(lambda: team.rows(column))
                team.sandbox.let_go()
                async with newer.agent() as agent:
                    drawn = [await each.call_tool(RT, {"prompt": f"after that {each}"}) for each in (other, agent)]
                    await until(lambda: answer.pictures)
                    for job in (*map(job_of, drawn), answer.message["result"]["_meta"]["mcp-vega/job"]):
                        for each in (other, agent):
                            checked = await each.call_tool("check_job", {"request_id": job["request_id"]})
                            assert job_of(checked)["images"][0]["sha256"] == job["images"][0]["sha256"]
    assert team.paid(call["prompt"]) == 1


async def test_the_spending_limit_and_the_calls_a_minute_hold_for_all_servers_together(team: Team) -> None:
    team.postgres.execute(f"CREATE DATABASE limited_{team.database}")
    limits = {"MCP_VEGA_SPENDING_LIMIT_USD": "0.007", "MCP_VEGA_REQUESTS_PER_MINUTE": "2"}
    both = [team.replica(name, f"limited_{team.database}", **limits) for name in ("limited-one", "limited-two")]
    for replica in both:
        replica.start()
    for replica in both:
        replica.wait()
    async with both[0].agent() as first, both[1].agent() as second:
        for number, agent in enumerate((first, second)):
            assert not (await agent.call_tool(RT, {"prompt": f"limited {number}"})).is_error
        waits = await first.call_tool("submit_job", {"prompt": "limited 2", "model": "segmind-vega-rt-v1"})
        assert "waits" in text_of(waits), text_of(waits)
        refused = await second.call_tool(RT, {"prompt": "limited 3"})
        assert "(spending_limit_reached)" in text_of(refused)
    assert [team.paid(f"limited {number}") for number in range(4)] == [1, 1, 0, 0]
    for replica in both:
        replica.kill()


async def test_a_paid_picture_waits_on_the_servers_own_disk_until_the_bucket_is_back(team: Team) -> None:
    one, two, _ = team.replicas
    call = {"prompt": "the bucket is away"}
    team.sandbox.hold()
    async with one.client("2025-11-25") as client, two.agent() as other:
        answer = Answer()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call, 1, RT, call, answer)
            await until(lambda: team.paid(call["prompt"]))
            team.bucket.away.set()
            team.sandbox.let_go()
        (image,) = answer.message["result"]["_meta"]["mcp-vega/job"]["images"]
        assert answer.pictures == 1
        (spare,) = (one.folder / "home" / "rescued").rglob("*.jpg")
        assert hashlib.sha256(spare.read_bytes()).hexdigest() == image["sha256"]
        team.bucket.away.clear()
        await until(lambda: team.bucket.pictures().count(image["sha256"]) == 1)
        await until(lambda: team.rows("SELECT 1 FROM images WHERE id = %s AND NOT fallback", image["id"]))
        checked = await other.call_tool("check_job", {"request_id": answer.request_id})
        assert len(images_of(checked)) == 1


async def test_calls_are_refused_while_postgresql_is_away_and_paid_pictures_are_kept(team: Team) -> None:
    one, two, _ = team.replicas
    call = {"prompt": "PostgreSQL is away"}
    team.sandbox.hold()
    async with one.client("2025-11-25") as client, two.agent() as other, anyio.create_task_group() as tasks:
        answer = await client.begin(tasks, 1, arguments=call)
        await until(lambda: team.paid(call["prompt"]))
        team.postgres.stop(immediate=True)
        refused = await other.call_tool(RT, {"prompt": "too early"})
        assert "(ledger_error)" in text_of(refused)
        assert "Charged: no." in text_of(refused)
        unready = await two.ask("GET", "/readyz")  # and it names no machine
        assert (unready.status_code, unready.json()) == (503, {"status": "not ready", "reason": "ledger"})
        assert (await two.ask("GET", "/livez")).status_code == 200
        team.sandbox.let_go()
        await until(lambda: answer.message)
        assert answer.pictures == 1
        team.postgres.start()
        await until(lambda: team.state(call["prompt"]) == "COMPLETED")

        async def is_ready() -> bool:
            return (await two.ask("GET", "/readyz")).json() == {"status": "ready"}

        await until(is_ready)  # an answer counts for a second
        checked = await other.call_tool("check_job", {"request_id": answer.request_id})
        assert len(images_of(checked)) == 1
        assert not (await other.call_tool(RT, {"prompt": "now"})).is_error
    assert [team.paid(prompt) for prompt in (call["prompt"], "too early", "now")] == [1, 0, 1]
