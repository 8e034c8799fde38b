"""The ledger's file: several servers share it, it delays nobody, and its errors are clear."""

import io
import resource
import sqlite3
import sys
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from unittest.mock import MagicMock

import anyio
import httpx
import pytest
from conftest import HANG_SECONDS, KEY, SMALL, Sandbox, app_over, begun, images_of, job_of, noise, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image as Picture

from mcp_vega.errors import (
    Charged,
    GalleryError,
    InvalidArguments,
    LedgerError,
    MediaError,
    OutcomeUnknown,
    ServerClosing,
    SpendingLimitReached,
)
from mcp_vega.imaging.preview import Mode, Preview
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.database.connection import Connection, Row
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS, SqliteDatabase
from mcp_vega.storage.database.sqlite.file import APPLICATION_ID, SqliteConnection, SqliteFile, fingerprint_of
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.ledger.job_store import SUBMITTED, WANTED, Begun, JobStore
from mcp_vega.storage.ledger.slots import Sending, Turns
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
API = "https://api.example"


NO_LIMITS = Limits()


def a_job(prompt: str = "a fox", **fields: Any) -> Job:
    fields = {"created": NOW, **fields}
    parameters = VegaRTParameters(prompt=prompt, seed=7)
    return Job(parameters=parameters, arguments={"prompt": prompt}, route=Route.V2, base_url=API, **fields)


class Server:
    """The store of a server, and the lock that shows other servers that it is alive."""

    def __init__(self, folder: Path, busy_seconds: float = BUSY_SECONDS, deferred_seconds: float = 3600) -> None:
        self._lock = ServerLock(folder / "servers")
        self.database = SqliteDatabase(SqliteFile(folder / "ledger.sqlite3", SCHEMA), busy_seconds, deferred_seconds)
        self.store = JobStore(self.database, self._lock)

    def die(self) -> None:
        """Release the lock, as the system does when a process is killed. The ledger does not change."""
        self._lock.release()

    async def begin(self, limits: Limits = NO_LIMITS, **fields: Any) -> Job:
        """Begin a job."""
        job = a_job(**fields)
        assert not (await self.store.begin(job, limits)).joined
        return job

    async def sends(self, job: Job, limits: Limits = NO_LIMITS, **given: Any) -> Sending:
        """The outcome of marking a job as sent, two seconds after it was begun."""
        job = replace(job, sent=NOW + timedelta(seconds=2))
        return await self.store.mark_sent(job, limits, **given)


@asynccontextmanager
async def servers(folder: Path, count: int = 2) -> AsyncGenerator[list[Server]]:
    """Several servers that share a ledger."""
    several = [Server(folder) for _ in range(count)]
    yield several
    for each in several:
        await each.store.close()
        each.die()


async def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    location = ImageLocation(str(tmp_path), "2026-11-20/ü.jpg")
    image = Image(id="0" * 32, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    async with servers(tmp_path) as (one, other):
        job = await one.begin()
        job = replace(
            job,
            sent=NOW,
            ended=NOW + timedelta(seconds=2),
            next_try=NOW + timedelta(seconds=9),
            remote_id="r1",
            state=State.FAILED,
            receipt=Receipt("r1", Decimal("0.0020"), Decimal("9.81"), Decimal("1.7"), 7),
            images=(image,),
            notes=("one", "two"),
            error=MediaError("gone", next_step="Look"),
        )
        await one.store.save(job)
        found = await other.store.get("r1")
        assert found is not None
        assert found.error is not None
        assert (type(found.error), found.error.text) == (MediaError, job.error and job.error.text)
        assert replace(found, error=None) == replace(job, error=None, held=True)
        kept = await other.store.search.image("0" * 32)
        assert kept is not None
        assert (kept[0].local_id, kept[1]) == (job.local_id, image)
        assert [each.local_id for each in await other.store.latest(5)] == [job.local_id]


CALLS: list[Parameters] = [
    VegaRTParameters(prompt="a fox"),
    VegaRTParameters(prompt="a fox", seed=-1, num_inference_steps=4, base64=False),
    VegaParameters(prompt="a fox", seed=7, samples=1, scheduler="DPM2 Karras", guidance_scale=7.5, negative_prompt=""),
    VegaParameters(
        prompt="a fox", samples=4, scheduler="Euler a", guidance_scale=9.0, negative_prompt="b", base64=True
    ),
]


@pytest.mark.parametrize("parameters", CALLS, ids=str)
async def test_a_call_is_read_as_it_was_given_with_what_was_left_out(tmp_path: Path, parameters: Parameters) -> None:
    async with servers(tmp_path) as (one, other):
        job = Job.of_call(parameters, route=Route.V2, base_url=API, created=NOW)
        await one.store.begin(job, NO_LIMITS)
        found = await other.store.get(job.local_id)
    assert found is not None
    assert (found.parameters, found.arguments) == (job.parameters, parameters.model_dump(exclude_unset=True))


async def test_an_old_row_is_read_with_the_values_of_its_time_whatever_the_defaults_are_now(tmp_path: Path) -> None:
    usual = {"img_width": 1024, "img_height": 1024, "base64": False, "samples": 1}
    usual |= {"negative_prompt": "", "scheduler": "DPM2 Karras", "guidance_scale": 7.5}
    async with servers(tmp_path, 1) as (server,):
        job = replace(a_job(), parameters=VegaParameters(prompt="a fox", seed=7, samples=3))
        await server.store.begin(job, NO_LIMITS)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database, database:
            database.execute("UPDATE jobs SET parameters = '{\"num_inference_steps\": 30}'")
        found = await server.store.get(job.local_id)
    assert found is not None
    assert found.parameters.model_dump() == {"prompt": "a fox", "seed": 7, "num_inference_steps": 30, **usual}


async def test_a_picture_or_job_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    image_id, remote_id = "0123abcd" + "e" * 24, "Req_7f3a9-2b"
    location = ImageLocation(str(tmp_path), "2026-11-20/a-fox-7-0123abcd.jpg")
    image = Image(id=image_id, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    async with servers(tmp_path, 1) as (server,):
        job = await server.begin(owner="alice", local_id=f"local-{'9386a069' * 4}")
        job = replace(job, sent=NOW, state=State.COMPLETED, remote_id=remote_id, images=(replace(image, deleted=NOW),))
        await server.store.save(job)
        named = server.store.search.id_named
        for name in (
            *(image_id, image_id.upper(), image_id[:8], image.uri, f"{image.uri}/preview", location.key),
            *(location.path, "file:///a/a-fox-7-0123abcd.png", "C:\\a\\a-fox-7-0123ABCD (1).jpg", " a-7-0123abcd "),
            *(f"https://pictures.example/vega/images/{image_id}?sig=1#2", f"2-{image_id}.webp"),
        ):
            assert await named(str(name)) == image_id, name
        for name in (remote_id, remote_id[:8], job.local_id, "9386a069", "LOCAL-9386A069", *job.uris):
            assert await named(name, "alice") == remote_id, name
        for name in ("Req_7f3", "0123abc", "0123abcf", "a-fox-7.jpg", "", "/", "9386a0691"):
            assert await named(name) == name.rpartition("/")[2]
        assert await named("9386a069", "bob") == "9386a069", "another owner's job must not be visible"


async def test_several_ids_with_the_same_beginning_are_listed_and_a_complete_id_is_unique(tmp_path: Path) -> None:
    async with servers(tmp_path, 1) as (server,):
        for number, remote_id in enumerate(("request-1", "request-10", "request-11")):
            job = await server.begin(prompt=str(number))
            await server.store.save(replace(job, sent=NOW, remote_id=remote_id))
        named = server.store.search.id_named
        with pytest.raises(InvalidArguments, match="begin with 'request-': request-1, request-10, request-11"):
            await named("request-")
        assert (await named("request-1"), await named("vega://jobs/request-11")) == ("request-1", "request-11")


async def test_only_one_server_works_on_a_job_until_that_server_dies_or_leaves(tmp_path: Path) -> None:
    async with servers(tmp_path, 3) as (one, two, three):
        job = await one.begin()
        assert (await two.store.accounts.orphans(API, "")).left == []
        assert await two.store.claim(job.local_id) is None
        one.die()
        assert (await two.store.accounts.orphans(API, "")).left == [job.local_id]
        assert await two.store.claim(job.local_id) is not None
        assert await three.store.claim(job.local_id) is None
        assert await one.sends(job) is Sending.TAKEN, "the server learns that the job is no longer its own"
        await two.store.leave()
        assert await three.store.claim(job.local_id) is not None


LOOK = """
import sqlite3, sys
from contextlib import closing
from pathlib import Path
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
folder = Path(sys.argv[1])
with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
    ids = [row[0] for row in database.execute("SELECT id FROM servers")]
lock = ServerLock(folder / "servers")
print([lock.is_alive(each) for each in ids], len(lock.servers()))
"""


async def test_other_connections_of_its_process_do_not_make_a_server_look_dead(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        for number in range(3):
            passing = Server(tmp_path)
            await passing.begin(prompt=f"{number}")
            assert await passing.store.claim(job.local_id) is None
            await passing.store.leave()
            await passing.store.close()
        await two.begin(prompt="a third")
        seen = await anyio.run_process([sys.executable, "-c", LOOK, str(tmp_path)])
        assert seen.stdout.decode().strip() == "[True, True] 2"
        assert len(await two.store.latest(9)) == 5


async def test_a_finished_job_cannot_be_claimed(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        await one.store.save(replace(job, open=False, state=State.COMPLETED), release=True)
        assert await two.store.claim(job.local_id) is None


async def test_only_one_of_many_servers_gets_a_job(tmp_path: Path) -> None:
    async with servers(tmp_path, 8) as (first, *others):
        job = await first.begin()
        await first.store.leave()
        takers: list[Job] = []

        async def take(server: Server) -> None:
            takers.extend([taken] if (taken := await server.store.claim(job.local_id)) else [])

        async with anyio.create_task_group() as tasks:
            for each in others:
                tasks.start_soon(take, each)
        assert len(takers) == 1


async def test_a_server_that_lost_a_job_may_save_only_its_pictures(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        one.die()
        assert await two.store.claim(job.local_id) is not None
        assert not await one.store.save(replace(job, state=State.FAILED, open=False), release=True)
        assert (await the_only(one)).state is State.QUEUED
        await one.store.save(replace(job, state=State.COMPLETED, open=False), release=True)
        assert (await the_only(one)).state is State.COMPLETED
        await two.store.save(replace(job, state=State.UNKNOWN), release=True)
        await one.store.save(replace(job, state=State.FAILED))
        assert (await the_only(one)).state is State.COMPLETED


async def the_only(server: Server) -> Job:
    (job,) = await server.store.latest(5)
    return job


async def test_a_job_reads_the_same_each_time(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        await one.begin(state=State.UNKNOWN, error=OutcomeUnknown("lost"))
        assert await the_only(one) == await the_only(two)


async def test_a_job_of_the_api_is_added_once(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        assert await one.store.add_known(a_job(remote_id="r1", sent=NOW))
        assert not await two.store.add_known(a_job(remote_id="r1", sent=NOW))
        assert len(await one.store.latest(5)) == 1


async def test_many_servers_can_create_a_ledger_at_the_same_time(tmp_path: Path) -> None:
    async with servers(tmp_path, 12) as several, anyio.create_task_group() as tasks:
        for each in several:
            tasks.start_soon(each.store.latest, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
async def test_only_the_user_can_read_the_ledger(tmp_path: Path) -> None:
    async with servers(tmp_path / "new", 1) as (server,):
        await server.store.latest(1)
    assert (tmp_path / "new" / "ledger.sqlite3").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


# ---- the three transactions ----


class CountingConnection:
    """A connection that counts the transactions that write, and those that must survive a power cut."""

    def __init__(self, connection: SqliteConnection, counts: Counter[str]) -> None:
        self._connection = connection
        self._counts = counts

    @property
    def time(self) -> float:
        return self._connection.time

    def execute(self, statement: str, values: Mapping[str, Any] = MappingProxyType({})) -> list[Row]:
        return self._connection.execute(statement, values)

    def lock(self, name: str) -> None:
        self._connection.lock(name)

    @contextmanager
    def transaction(self, *, write: bool, durable: bool, wait: float) -> Generator[None]:
        self._counts["tries"] += write
        with self._connection.transaction(write=write, durable=durable, wait=wait):
            (synchronous,) = self.execute("PRAGMA synchronous")
            assert synchronous["synchronous"] == (2 if durable else 1), "FULL if it must be durable, else NORMAL"
            yield
        self._counts["writes"] += write
        self._counts["flushes"] += durable

    def close(self) -> None:
        self._connection.close()


class CountingFile(SqliteFile):
    """A ledger file that counts its transactions."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, SCHEMA)
        self.counts = Counter[str]()

    def connect(self, *, write: bool, wait: float) -> SqliteConnection:
        return cast("SqliteConnection", CountingConnection(super().connect(write=write, wait=wait), self.counts))


def counted_store(file: CountingFile, busy_seconds: float = BUSY_SECONDS) -> JobStore:
    return JobStore(SqliteDatabase(file, busy_seconds), ServerLock(file.file.with_name("servers")))


@pytest.mark.parametrize(("arguments", "writes"), [({}, 3), ({"samples": 4}, 4)])
async def test_a_picture_costs_three_transactions_and_one_flush(
    sandbox: Sandbox, tmp_path: Path, arguments: dict[str, Any], writes: int
) -> None:
    """Several pictures are drawn by the queue, which needs one transaction more, for the request id."""
    file = CountingFile(tmp_path / "home" / "ledger.sqlite3")
    # The note that the caller has the result waits for the next transaction, however long that takes.
    store = JobStore(SqliteDatabase(file, deferred_seconds=3600), ServerLock(file.file.with_name("servers")))
    async with app_over(sandbox.url, tmp_path, store=store) as app, Client(build_server(app)) as agent:
        await store.accounts.of_key(KEY)  # the first call of a new ledger writes one transaction more
        for number in range(5):
            before = file.counts.copy()
            job_of(await agent.call_tool(VEGA, {"prompt": f"{number}", **arguments}))
            assert file.counts - before == {"tries": writes, "writes": writes, "flushes": 1}


async def test_a_job_that_waits_for_its_turn_writes_nothing(tmp_path: Path) -> None:
    file, go, looks = CountingFile(tmp_path / "home" / "ledger.sqlite3"), anyio.Event(), list[Limits]()

    class Watched(JobStore):
        async def turns(self, limits: Limits, moment: datetime) -> Turns:
            looks.append(limits)
            return await super().turns(limits, moment)

    async def draw(_: httpx.Request) -> httpx.Response:
        await go.wait()
        return httpx.Response(200, content=noise("JPEG", 64))

    store = Watched(SqliteDatabase(file), ServerLock(file.file.with_name("servers")))
    given: dict[str, Any] = {"transport": httpx.MockTransport(draw), "limits": Limits(calls_at_once=1)}
    async with app_over(API, tmp_path, store=store, **given) as app:
        await store.accounts.of_key(KEY)
        file.counts.clear()
        first = await begun(app.service, VegaRTParameters(prompt="the first"))
        await until(lambda: file.counts["flushes"])
        second = await begun(app.service, VegaRTParameters(prompt="the second"))
        await until(lambda: len(looks) > 3)
        assert file.counts == {"tries": 3, "writes": 3, "flushes": 1}, "two jobs were begun, and one was sent"
        go.set()
        for job in (first, second):
            await until(lambda job=job: complete(app.service, job))
        await until(lambda: not app.service.active)
        assert file.counts == {"tries": 6, "writes": 6, "flushes": 2}


async def complete(service: JobService, job: Job) -> bool:
    return (await service.get(job.local_id)).complete


async def test_a_call_is_sent_once_by_its_holder_while_it_is_open(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        assert await two.sends(job) is Sending.TAKEN
        assert await one.sends(job) is Sending.SENT
        assert await one.sends(job) is Sending.TAKEN
        ended = await one.begin(prompt="ended")
        await one.store.save(replace(ended, state=State.FAILED, open=False, error=ServerClosing("over")), release=True)
        assert await one.sends(ended) is Sending.TAKEN


@pytest.mark.parametrize(
    ("wanted", "cancelled", "after", "outcome"),
    [
        (WANTED, False, timedelta(seconds=119), Sending.SENT),
        (WANTED, False, timedelta(seconds=121), Sending.UNWANTED),
        (SUBMITTED, False, timedelta(minutes=59), Sending.SENT),
        (SUBMITTED, False, timedelta(minutes=61), Sending.UNWANTED),
        (WANTED, True, timedelta(seconds=3), Sending.UNWANTED),
    ],
)
async def test_another_server_sends_a_call_only_while_someone_expects_it(
    tmp_path: Path, wanted: timedelta, after: timedelta, outcome: Sending, *, cancelled: bool
) -> None:
    async with servers(tmp_path) as (one, two):
        job = a_job()
        await one.store.begin(job, NO_LIMITS, wanted=wanted)
        if cancelled:
            one.store.end_wait(job, NOW, delivered=False, cancelled=True)
        await one.store.leave()
        assert await two.store.claim(job.local_id)
        late = replace(job, sent=NOW + after)
        assert await two.store.mark_sent(late, NO_LIMITS, begun_here=False) is outcome


async def test_a_cancelled_call_that_is_repeated_is_expected_again(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        one.store.end_wait(job, NOW, delivered=False, cancelled=True)
        await one.store.leave()
        begun = await two.store.begin(a_job(), NO_LIMITS)
        assert (begun.joined, begun.job.local_id) == (True, job.local_id)
        await two.store.claim(job.local_id)
        assert await two.sends(job, begun_here=False) is Sending.SENT


async def test_a_call_joins_the_same_call_of_a_server_that_has_died(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        assert not (await two.store.begin(a_job(), NO_LIMITS)).joined, "the first caller is still waiting"
        one.die()
        begun = await two.store.begin(a_job(), NO_LIMITS)
        assert (begun.joined, begun.job.local_id, begun.job.held) == (True, job.local_id, False)


async def test_a_call_of_a_dead_server_is_joined_for_as_long_as_a_call_can_take(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        await one.sends(job)
        one.die()
        now = time.monotonic()
        assert not (await two.store.begin(a_job(), NO_LIMITS, arrived=now + 11 * 60)).joined
        assert (await two.store.begin(a_job(), NO_LIMITS, arrived=now + 9 * 60)).joined


async def test_the_end_of_a_call_without_its_result_is_written_immediately(tmp_path: Path) -> None:
    async with servers(tmp_path) as (one, two):
        job = await one.begin()
        one.store.end_wait(job, NOW, delivered=False, cancelled=True)

        async def joined() -> bool:
            begun = await two.store.begin(a_job(), NO_LIMITS)
            return begun.joined and begun.job.local_id == job.local_id

        await until(joined)


async def test_frequent_notes_do_not_delay_the_transaction(tmp_path: Path) -> None:
    server = Server(tmp_path, deferred_seconds=0.5)
    job = await server.begin()

    async def noted() -> bool:
        server.store.mark_delivered(job, NOW)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as ledger:
            return bool(ledger.execute("SELECT delivered FROM jobs").fetchone()[0])

    await until(noted)
    await server.store.close()
    server.die()


class FullDisk(CountingFile):
    """A ledger file on a disk that is full for a number of transactions."""

    full = 0

    def connect(self, *, write: bool, wait: float) -> SqliteConnection:
        connection = super().connect(write=write, wait=wait)
        real = connection.transaction

        @contextmanager
        def transaction(**given: Any) -> Generator[None]:
            with real(**given):
                if given["write"] and self.full:
                    self.full -= 1
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
                yield

        connection.transaction = transaction
        return connection


async def test_a_note_that_failed_on_a_full_disk_is_written_later(tmp_path: Path) -> None:
    file = FullDisk(tmp_path / "ledger.sqlite3")
    store = counted_store(file)
    job = a_job()
    await store.begin(job, NO_LIMITS)
    file.full = 2
    store.end_wait(job, NOW, delivered=False, cancelled=True)
    await until(lambda: not file.full)
    begun = await store.begin(a_job(), NO_LIMITS)
    assert (begun.joined, begun.job.local_id) == (True, job.local_id)
    await store.leave()
    await store.close()


class Hasty(JobStore):
    """A store whose caller leaves as soon as a job has been begun."""

    scope: anyio.CancelScope

    async def begin(self, *given: Any, **more: Any) -> Begun:
        begun = await super().begin(*given, **more)
        self.scope.cancel()
        return begun


async def test_a_call_that_is_cancelled_while_it_begins_is_not_sent_and_leaves_no_job(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    store = Hasty.in_file(tmp_path / "home" / "ledger.sqlite3")
    async with app_over(sandbox.url, tmp_path, store=store, limits=Limits(usd_a_day=Decimal(1))) as app:
        with anyio.CancelScope() as store.scope:
            await begun(app.service, VegaRTParameters(prompt="a fox"))
        assert store.scope.cancelled_caught

        async def forgotten() -> bool:
            return not await store.latest(9)

        await until(forgotten)
        budget = await app.service.budget()
        assert budget is not None
        assert budget.spent == 0
    assert sandbox.paid_requests == 0


class Slow(ImageProcessor):
    """Works in a thread that cannot be cancelled, and ends after the cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.started = anyio.Event()

    async def previews(self, data: list[bytes], mode: Mode, taken: int = 0) -> list[Preview | None]:
        made = await super().previews(data, mode, taken)
        if not self.started.is_set():
            self.started.set()
            with suppress(anyio.get_cancelled_exc_class()):
                await anyio.sleep_forever()
        return made


async def test_an_answer_that_is_cancelled_while_it_is_made_counts_as_not_delivered(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        processor = app.service.processor = Slow()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.call_tool, RT, {"prompt": "a fox"})
            await until(processor.started.is_set)
            tasks.cancel_scope.cancel()
        (first,) = await app.service.store.latest(1)

        async def ended() -> bool:
            with closing(sqlite3.connect(tmp_path.with_name(f"{tmp_path.name}-home") / "ledger.sqlite3")) as ledger:
                return ledger.execute("SELECT awaited_by FROM jobs").fetchone()[0] is None

        await until(ended)
        assert job_of(await agent.call_tool(RT, {"prompt": "a fox"}))["request_id"] == first.request_id
    assert sandbox.paid_requests == 1


async def test_a_result_that_was_delivered_is_not_joined_by_the_next_call(tmp_path: Path) -> None:
    async with servers(tmp_path, 1) as (server,):
        job = await server.begin()
        server.store.end_wait(job, NOW, delivered=True, cancelled=False)
        assert not (await server.store.begin(a_job(), NO_LIMITS)).joined, "nothing waited for the note of the delivery"


async def test_unsent_calls_of_a_dead_server_use_neither_budget_nor_slots(tmp_path: Path) -> None:
    limits = Limits(usd_a_day=Decimal("0.005"), calls_at_once=1)
    async with servers(tmp_path) as (one, two):
        sent, unsent = await one.begin(limits), await one.begin(limits, prompt="another")
        assert await one.sends(sent, limits) is Sending.SENT
        with pytest.raises(SpendingLimitReached):
            await two.begin(limits, prompt="a third")
        one.die()
        third = await two.begin(limits, prompt="a third")
        assert await two.store.spending.on(NOW.date()) == Decimal("0.004"), "only the sent call and the third one count"
        assert await two.sends(third, limits) is Sending.SENT, "the slot is free again"
        await two.store.claim(unsent.local_id)
        with pytest.raises(SpendingLimitReached):
            await two.sends(unsent, replace(limits, calls_at_once=9), begun_here=False)


async def test_the_slot_of_a_dead_server_goes_to_a_waiting_job(tmp_path: Path) -> None:
    limits, later = Limits(calls_at_once=1), NOW + timedelta(seconds=2)
    async with servers(tmp_path) as (one, two):
        assert await one.sends(await one.begin(limits), limits) is Sending.SENT
        job = await two.begin(limits, prompt="it waits")
        assert not (await two.store.turns(limits, later)).free
        one.die()
        assert (await two.store.turns(limits, later)).jobs == {job.local_id}


async def test_a_server_that_continues_a_job_keeps_its_limit_of_calls_a_minute(tmp_path: Path) -> None:
    limits = Limits(calls_a_minute=1)
    async with servers(tmp_path) as (one, two):
        assert await one.sends(await one.begin(limits), limits) is Sending.SENT
        orphan = await two.begin(prompt="left behind")
        two.die()
        await one.store.claim(orphan.local_id)
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as ledger:
            kept = ledger.execute("SELECT calls_a_minute FROM servers JOIN jobs ON holder = id").fetchall()
        assert kept == [(1,), (1,)], "otherwise others would leave slots to its jobs that may not be sent"


async def test_a_slot_that_a_stopped_server_does_not_use_is_taken_out_of_turn(tmp_path: Path) -> None:
    limits = Limits(calls_at_once=1)
    async with servers(tmp_path) as (one, two):
        first = await one.begin(limits, prompt="one's first")
        await one.store.save(replace(first, state=State.COMPLETED, open=False), release=True)
        second = await two.begin(limits, prompt="two's first")
        next_of_one = await one.begin(limits, prompt="one's next")
        job = await two.begin(limits, prompt="two's next")
        await two.store.save(replace(second, state=State.COMPLETED, open=False), release=True)
        looks = [await each.store.turns(limits, NOW + timedelta(seconds=2)) for each in (one, two)]
        assert [(len(look.jobs), look.free) for look in looks] == [(1, True), (0, True)]
        assert await two.sends(job, limits) is Sending.SENT
        assert await one.sends(next_of_one, limits) is Sending.NO_SLOT


class Stuck(JobStore):
    """A store that gives no job to a server while it is stuck."""

    stuck, asked = True, False

    async def claim(self, local_id: str) -> Job | None:
        self.asked = True
        if self.stuck:
            await anyio.sleep_forever()
        return await super().claim(local_id)


async def test_if_a_call_is_cancelled_while_it_joins_a_job_the_next_call_can_join_that_job(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    died = Server(home)
    parameters = VegaRTParameters(prompt="a fox")
    account = await died.store.accounts.of_key(KEY)
    job = Job.of_call(parameters, route=Route.V1, base_url=sandbox.url, account=account, created=datetime.now(UTC))
    await died.store.begin(job, NO_LIMITS)
    died.die()
    store = Stuck.in_file(home / "ledger.sqlite3")
    async with app_over(sandbox.url, tmp_path, store=store) as app:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.service.generate, parameters)
            await until(lambda: store.asked)
            tasks.cancel_scope.cancel()
        store.stuck = False
        joined = await begun(app.service, parameters)
        assert joined.local_id == job.local_id
        await until(lambda: complete(app.service, job))
    await died.store.close()
    assert sandbox.paid_requests == 1


# ---- a ledger that is locked ----


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Another program holds a write lock on the ledger."""
    with closing(sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_reads_do_not_wait_for_writes(tmp_path: Path) -> None:
    server = Server(tmp_path, busy_seconds=3600)
    job = await server.begin()
    async with anyio.create_task_group() as tasks:
        with held(tmp_path), anyio.fail_after(HANG_SECONDS):
            tasks.start_soon(server.store.save, replace(job, notes=("it waits",)))
            assert (await the_only(server)).notes == ()
            assert await server.store.spending.on(NOW.date())
    assert (await the_only(server)).notes == ("it waits",)
    await server.store.close()
    server.die()


async def test_writes_that_wait_for_a_locked_ledger_wait_at_the_same_time(tmp_path: Path) -> None:
    file = CountingFile(tmp_path / "ledger.sqlite3")
    store = counted_store(file, busy_seconds=0.5)
    await store.begin(a_job(prompt="the first"), NO_LIMITS)
    before, failed = file.counts.copy(), list[LedgerError]()

    async def begin(number: int) -> None:
        try:
            await store.begin(a_job(prompt=f"{number}"), NO_LIMITS)
        except LedgerError as error:
            failed.append(error)

    with held(tmp_path):
        async with anyio.create_task_group() as tasks:
            for number in range(16):
                tasks.start_soon(begin, number)
    assert len(failed) == 16
    assert all("is locked by another program" in error.what for error in failed)
    assert (file.counts - before)["tries"] < 16, "the calls did not wait one after the other"
    await store.leave()
    await store.close()


async def test_reads_of_a_locked_ledger_wait_at_the_same_time_even_if_one_gave_up(
    tmp_path: Path,
) -> None:
    waits = list[float]()

    class LockedFile(SqliteFile):
        def connect(self, *, write: bool, wait: float) -> Any:
            waits.append(wait)
            return super().connect(write=write, wait=wait)

    database = SqliteDatabase(LockedFile(tmp_path / "ledger.sqlite3", SCHEMA), busy_seconds=0.5)
    failed = list[LedgerError]()

    async def read() -> None:
        try:
            await database.read(lambda connection: connection.execute("SELECT 1"))
        except LedgerError as error:
            failed.append(error)

    with locked(tmp_path / "ledger.sqlite3"):
        async with anyio.create_task_group() as given_up:
            given_up.start_soon(read)
            await until(lambda: waits)
            given_up.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(read)
    await database.close()
    assert len(failed) == 8
    assert sum(waits) < 2, "the reads did not wait one after the other"


async def test_a_caller_that_gives_up_while_the_ledger_is_locked_returns_immediately_and_begins_no_job(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path, busy_seconds=3600)
    await server.begin()
    with anyio.fail_after(HANG_SECONDS):
        with held(tmp_path):
            with anyio.move_on_after(0.05) as scope:
                await server.begin(prompt="given up")
            assert scope.cancelled_caught
        await server.begin(prompt="another")
    assert {job.parameters.prompt for job in await server.store.latest(9)} == {"a fox", "another"}
    await server.store.close()
    server.die()


# ---- what can be wrong with it ----


@contextmanager
def other_schema(file: Path) -> Generator[None]:
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE jobs (id TEXT)")
    yield


@contextmanager
def changed_schema(file: Path) -> Generator[None]:
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {fingerprint_of(SCHEMA) + 1}")
        database.execute("CREATE TABLE jobs (id TEXT)")
    yield


@contextmanager
def damaged(file: Path) -> Generator[None]:
    file.write_bytes(b"This is no database, and it is longer than a page's header." * 100)
    yield


@contextmanager
def folder_in_the_way(file: Path) -> Generator[None]:
    file.unlink(missing_ok=True)
    file.mkdir()
    yield


@contextmanager
def locked(file: Path) -> Generator[None]:
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    yield
    database.close()


@pytest.mark.parametrize(
    ("trouble", "words", "step"),
    [
        (other_schema, "was not written by this version of mcp-vega", "to another folder"),
        (changed_schema, "was not written by this version of mcp-vega", "to another folder"),
        (damaged, "is damaged", "to another folder"),
        (folder_in_the_way, "cannot be opened", "MCP_VEGA_HOME"),
        (locked, "is locked by another program", "Close the program"),
    ],
)
async def test_a_ledger_that_cannot_be_used_is_a_clear_error_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path, trouble: Any, words: str, step: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with trouble(home / "ledger.sqlite3"):
        async with (
            app_over(sandbox.url, tmp_path, home=home, busy_seconds=0.2) as app,
            Client(build_server(app)) as agent,
        ):
            assert len((await agent.list_tools()).tools) == 4
            for tool, arguments in ((RT, {"prompt": "a fox"}), ("submit_job", {"prompt": "a fox"}), ("check_job", {})):
                with anyio.fail_after(HANG_SECONDS):
                    result = await agent.call_tool(tool, arguments)
                what, charged, next_step = text_of(result).splitlines()
                assert result.is_error
                assert words in what
                assert str(home / "ledger.sqlite3") in what
                assert charged == "Charged: no."
                assert step in next_step
    assert sandbox.paid_requests == 0


async def test_a_ledger_on_a_network_volume_is_refused_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    mounts, home = tmp_path / "mountinfo", tmp_path / "home"
    mounts.write_text(f"21 1 8:2 / / rw - ext4 /dev/sda rw\n60 21 0:50 / {home} rw - nfs4 server:/home rw\n")
    file = SqliteFile(home / "ledger.sqlite3", SCHEMA, mounts=mounts)
    store = JobStore(SqliteDatabase(file), ServerLock(home / "servers"))
    async with app_over(sandbox.url, tmp_path, store=store) as app, Client(build_server(app)) as agent:
        text = text_of(await agent.call_tool(RT, {"prompt": "a fox"}))
    assert f"The ledger {home / 'ledger.sqlite3'} is on a network volume (nfs4)" in text
    assert "Charged: no." in text
    assert "Next: Set MCP_VEGA_HOME to a folder on a disk of this machine." in text
    assert not home.exists()
    assert sandbox.paid_requests == 0


def deleted(file: Path) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def replaced(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)


def without_its_log(file: Path) -> None:
    file.with_name(f"{file.name}-wal").unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete open files")
@pytest.mark.parametrize("accident", [deleted, replaced, without_its_log])
async def test_a_ledger_that_was_deleted_or_replaced_is_refused_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path, accident: Callable[[Path], None]
) -> None:
    home = tmp_path / "home"
    file = home / "ledger.sqlite3"
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        accident(file)
        for tool in (RT, "submit_job"):
            text = text_of(await agent.call_tool(tool, {"prompt": "an owl"}))
            assert f"The ledger {file} was deleted or replaced while this server runs" in text
            assert "Charged: no." in text
            assert "Next: Put the file back" in text
    assert sandbox.paid_requests == 1
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(RT, {"prompt": "an owl"}))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete open files")
async def test_a_picture_that_comes_after_the_ledger_was_deleted_is_in_the_gallery_and_in_the_result(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        results: list[CallToolResult] = []

        async def draw() -> None:
            results.append(await agent.call_tool(RT, {"prompt": "a fox"}))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(draw)
            await until(lambda: sandbox.account.calls)
            deleted(home / "ledger.sqlite3")
            sandbox.let_go()
        (result,) = results
        assert Path(job_of(result)["images"][0]["path"]).exists()
        assert "so this job is not saved" in text_of(result)


async def test_a_server_whose_lock_was_deleted_sends_nothing_more(sandbox: Sandbox, tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        (lock,) = (home / "servers").iterdir()
        lock.unlink()
        text = text_of(await agent.call_tool(RT, {"prompt": "an owl"}))
        assert f"The lock file {lock} was deleted" in text
        assert "Next: Restart this server" in text
        assert "Charged: no." in text
    assert sandbox.paid_requests == 1


async def test_if_a_power_cut_loses_the_end_of_a_job_its_picture_is_found_in_the_gallery_and_not_paid_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home, kept = tmp_path / "home", tmp_path / "kept"
    kept.mkdir()
    sandbox.hold()
    async with (
        app_over(sandbox.url, tmp_path, home=home) as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(agent.call_tool, RT, {"prompt": "a fox"})
        await until(lambda: sandbox.account.calls)
        for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
            (kept / name).write_bytes((home / name).read_bytes())
        sandbox.let_go()
    for file in home.glob("ledger.sqlite3*"):
        file.unlink()
    for file in kept.iterdir():
        file.replace(home / file.name)
    (home / "servers").rmdir()  # the files in it are not written durably
    sandbox.account.history_status = 503
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        (job,) = await app.service.store.latest(9)
        assert job.sent
        assert not job.images
        found = job_of(await agent.call_tool("check_job", {"request_id": job.request_id, "wait_seconds": 45}))
        assert Path(found["images"][0]["path"]).exists()
    assert len(list(tmp_path.glob("20*/*"))) == 1
    assert sandbox.paid_requests == 1


async def test_a_ledger_that_fails_after_the_payment_does_not_lose_the_picture(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    sandbox.hold()
    async with (
        app_over(sandbox.url, tmp_path, home=home, busy_seconds=0.2) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool("check_job", {})
        results: list[CallToolResult] = []

        async def draw() -> None:
            results.append(await agent.call_tool(RT, {"prompt": "a fox"}))

        database = sqlite3.connect(home / "ledger.sqlite3", isolation_level=None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(draw)
            await until(lambda: sandbox.account.calls)
            database.execute("BEGIN IMMEDIATE")
            sandbox.let_go()
        job = job_of(results[0])
        assert Path(job["images"][0]["path"]).exists()
        again = await agent.call_tool("check_job", {"request_id": job["request_id"]})
        assert job_of(again)["images"] == job["images"]
        database.close()
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        (listed,) = ((await agent.call_tool("check_job", {})).meta or {})["mcp-vega/jobs"]
        settled = await agent.call_tool("check_job", {"request_id": listed["request_id"], "wait_seconds": 45})
        assert job_of(settled)["images"] == job["images"], "the file is found, and not kept twice"
    assert len(list(tmp_path.glob("*/a-fox-*.jpg"))) == 1
    assert sandbox.paid_requests == 1


async def test_an_id_that_comes_while_the_job_is_saved_is_not_forgotten_even_if_it_cannot_be_saved(
    tmp_path: Path,
) -> None:
    async with servers(tmp_path, 1) as (server,):
        jobs = RunningJobs(server.store)
        running = jobs.add(await server.begin())
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database, database:
            database.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN new.remote_id IS NOT NULL "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jobs.update, running.job)
            await anyio.lowlevel.checkpoint()
            assert (await jobs.update(running.job, remote_id="r1")).remote_id == "r1"
        assert not running.saved
        assert running.job.remote_id == "r1"


# ---- a disk that is full ----


@contextmanager
def full_disk() -> Generator[None]:
    """The files of this process cannot grow beyond a few bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_a_clear_error_before_anything_is_paid(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        await agent.call_tool("check_job", {})
        with full_disk():
            text = text_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        assert f"The folder {tmp_path} cannot be written: File too large" in text or "cannot be written" in text
        assert "Charged: no." in text
        assert "Image: " in text_of(await agent.call_tool(RT, {"prompt": "a fox"}))
    assert sandbox.paid_requests == 1


async def test_a_disk_that_fills_up_after_the_payment_leaves_the_picture_in_the_result(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        results: list[CallToolResult] = []

        async def draw() -> None:
            results.append(await agent.call_tool(RT, {"prompt": "a fox"}))

        with ExitStack() as stack:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(draw)
                await until(lambda: sandbox.account.calls)
                stack.enter_context(full_disk())
                sandbox.let_go()
            (result,) = results
            (image,) = images_of(result)
            with Picture.open(io.BytesIO(b64decode(image.data))) as picture:
                assert picture.size == (SMALL, SMALL)
            text = text_of(result)
            assert f"Note: The folder {tmp_path} could not be written: File too large" in text
            assert "It is only in this result and in this server's memory" in text
            assert "Image: " not in text
            (kept,) = job_of(result)["images"]
            assert kept["path"] is None
            assert (await agent.read_resource(kept["uri"])).contents
        job = job_of(result)
        again = await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
        path = Path(job_of(again)["images"][0]["path"])
        assert sha256(path.read_bytes()).hexdigest() == kept["sha256"]
    async with app_over(sandbox.url, tmp_path, home=home) as app, Client(build_server(app)) as agent:
        after = await agent.call_tool("check_job", {"request_id": job["request_id"]})
        assert job_of(after)["images"][0]["path"] == str(path)
    assert sandbox.paid_requests == 1


class SmallFolder(ImageFolder):
    """A folder with room for a number of pictures."""

    room = 1

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        self.room -= 1
        if self.room < 0:
            raise GalleryError("No room", charged=Charged.YES)
        return await super().save(data, name, image_id, day)


async def test_pictures_in_memory_stay_separate_until_a_disk_takes_them(sandbox: Sandbox, tmp_path: Path) -> None:
    images = SmallFolder(tmp_path)
    async with app_over(sandbox.url, tmp_path, images=images) as app, Client(build_server(app)) as agent:
        job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "four", "samples": 4}))
        again = job
        for space in (0, 1, 4):
            images.room = space
            question = {"request_id": job["request_id"], "wait_seconds": 45}
            again = job_of(await agent.call_tool("check_job", question))
            assert {image["sha256"] for image in again["images"]} == {image["sha256"] for image in job["images"]}
        assert all(image["path"] for image in again["images"])
    assert len(list(tmp_path.glob("*/four-*.jpg"))) == 4


async def test_a_picture_that_was_only_in_the_result_is_downloaded_again_at_the_next_start(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    async with app_over(sandbox.url, tmp_path / "file", home=home) as app, Client(build_server(app)) as agent:
        submitted = job_of(await agent.call_tool("submit_job", {"prompt": "a fox [fault:stuck]"}))
        (tmp_path / "file").rename(tmp_path / "moved")
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        sandbox.account.calls[submitted["request_id"]].queue_seconds = 0
        result = await agent.call_tool("check_job", {"request_id": submitted["request_id"], "wait_seconds": 45})
        assert job_of(result)["images"][0]["path"] is None
    async with app_over(sandbox.url, tmp_path / "new", home=home) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool("check_job", {"request_id": submitted["request_id"], "wait_seconds": 45})
        assert Path(job_of(result)["images"][0]["path"]).is_relative_to(tmp_path / "new")
    assert sandbox.paid_requests == 1


# ---- a clock that is wrong ----


async def test_operations_at_the_same_time_never_share_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limiter of anyio before 4.14 sometimes lets in one too many. This limiter always does."""
    generous = anyio.CapacityLimiter(8)
    monkeypatch.setattr(anyio, "CapacityLimiter", MagicMock(return_value=generous))
    async with servers(tmp_path, 1) as (server,), anyio.create_task_group() as tasks:
        for number in range(60):
            tasks.start_soon(partial(server.begin, prompt=f"{number}"))
            tasks.start_soon(server.store.latest, 100)
    async with servers(tmp_path, 1) as (server,):
        assert len(await server.store.latest(100)) == 60


@pytest.mark.parametrize("by", [timedelta(hours=-2), timedelta(hours=2), timedelta(days=-40)])
async def test_a_clock_that_is_changed_while_a_job_runs_loses_nothing(
    sandbox: Sandbox, tmp_path: Path, by: timedelta
) -> None:
    error = timedelta()

    def clock() -> datetime:
        return datetime.now(UTC) + error

    async with (
        app_over(sandbox.url, tmp_path, clock=clock, wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        sandbox.hold()
        sandbox.account.speed = 0.2
        queued = job_of(await agent.call_tool("submit_job", {"prompt": "queued"}))
        lost = job_of(await agent.call_tool(RT, {"prompt": "[fault:504-after]"}))
        await until(lambda: len(sandbox.account.calls) == 2)
        error = by
        sandbox.let_go()
        for job in (queued, lost):
            result = await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
            assert job_of(result)["images"]
    assert sandbox.paid_requests == 2


async def test_no_other_read_waits_for_a_slow_read(tmp_path: Path) -> None:
    started, may_end = threading.Event(), threading.Event()

    def search(_: Connection) -> bool:
        started.set()
        return may_end.wait(HANG_SECONDS)

    async with servers(tmp_path, 1) as (server,), anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.database.read, search, slow=True))
        await anyio.to_thread.run_sync(started.wait)
        assert await server.store.get("nothing") is None
        may_end.set()
