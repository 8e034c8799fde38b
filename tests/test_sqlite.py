"""The ledger's SQLite file: it costs few flushes, it delays nobody, and its errors are clear."""

import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import anyio
import httpx
import pytest
from conftest import HANG_SECONDS, KEY, Sandbox, app_over, begun, job_of, noise, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from stores import API, NO_LIMITS, NOW, SqliteLedger, a_job, complete, the_only
from test_joining import Clock, locked_ledger
from test_promises import ASKED, listed
from test_spending import Api, code_of, ended, waits

from mcp_vega.errors import (
    LedgerError,
)
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.database.connection import Row
from mcp_vega.storage.database.sqlite.creation import APPLICATION_ID
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS, SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteConnection, SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.slots import Turns
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql.schema import SCHEMA

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path)


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


async def test_other_connections_of_its_process_do_not_make_a_server_look_dead(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    async with ledger.servers() as (one, two):
        job = await one.begin()
        for number in range(3):
            passing = ledger.server()
            await passing.begin(prompt=f"{number}")
            assert await passing.store.claim(job.local_id) is None
            await passing.store.leave()
            await passing.store.close()
        await two.begin(prompt="a third")
        seen = await anyio.run_process([sys.executable, "-c", LOOK, str(tmp_path)])
        assert seen.stdout.decode().strip() == "[True, True] 2"
        assert len(await two.store.latest(9)) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
async def test_only_the_user_can_read_the_ledger(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "new").servers(1) as (server,):
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


async def test_frequent_notes_do_not_delay_the_transaction(ledger: SqliteLedger) -> None:
    server = ledger.server(deferred_seconds=0.5)
    job = await server.begin()

    async def noted() -> bool:
        server.store.mark_delivered(job, NOW)
        return ledger.execute("SELECT delivered FROM jobs") == [{"delivered": 1}]

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


# ---- a ledger that is locked ----


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Another program holds a write lock on the ledger."""
    with closing(sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def test_reads_do_not_wait_for_writes(ledger: SqliteLedger, tmp_path: Path) -> None:
    server = ledger.server(busy_seconds=3600)
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
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    server = ledger.server(busy_seconds=3600)
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


class CountingFolder(ImageFolder):
    """A folder that counts the calls that have arrived: it is prepared for each call before the ledger is used."""

    arrived = 0

    async def prepare(self, day: date) -> None:
        await super().prepare(day)
        self.arrived += 1


async def test_equal_calls_at_the_same_time_stay_separate_however_long_the_ledger_is_locked(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    clock = Clock()
    images = CountingFolder(tmp_path)
    async with (
        app_over(sandbox.url, tmp_path, images=images, busy_seconds=HANG_SECONDS, **clock.options) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(RT, {"prompt": "the ledger is made"})
        sandbox.hold()
        async with anyio.create_task_group() as tasks:
            with locked_ledger(tmp_path):
                for _ in range(5):
                    tasks.start_soon(agent.call_tool, VEGA, ASKED)
                await until(lambda: images.arrived == 6)
                clock.let_pass(10)
            await until(lambda: sandbox.paid_requests == 6)
            sandbox.let_go()
        assert len({job["seed"] for job in await listed(agent)}) == 6
    assert sandbox.paid_requests == 6


async def test_while_a_ledger_is_locked_calls_wait_and_do_not_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api, home = Api(), tmp_path / "home"
    given: dict[str, Any] = {"limits": Limits(calls_at_once=1), "busy_seconds": 0.5}
    async with app_over(API, tmp_path, home=home, transport=httpx.MockTransport(api), **given) as app:
        jobs = [await begun(app.service, VegaRTParameters(prompt=f"{number}")) for number in range(3)]
        await api.reached(1)
        await until(lambda: all(waits(app.service, job) for job in jobs[1:]))
        with closing(sqlite3.connect(home / "ledger.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            api.go.set()
            await until(lambda: "is locked by another program" in caplog.text)
        done = await ended(app.service, jobs)
    assert [job.state for job in done] == ["COMPLETED"] * 3


async def test_a_slot_becomes_free_as_soon_as_the_ledger_can_be_written_again(tmp_path: Path) -> None:
    api, home = Api(), tmp_path / "home"
    given: dict[str, Any] = {"transport": httpx.MockTransport(api), "limits": Limits(calls_at_once=1)}
    given |= {"store_retries": 0, "busy_seconds": 0.1}
    async with (
        app_over(API, tmp_path / "one", home=home, **given) as one,
        app_over(API, tmp_path / "two", home=home, **given) as two,
    ):
        first = await begun(one.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        with closing(sqlite3.connect(home / "ledger.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            api.go.set()
            await until(lambda: not one.service.active)
        assert (await one.service.get(first.local_id)).complete
        (done,) = await ended(two.service, [await begun(two.service, VegaRTParameters(prompt="the next"))])
    assert done.complete


async def test_a_call_that_could_not_be_sent_counts_as_free_only_after_that_is_stored(
    tmp_path: Path,
) -> None:
    api, home = Api(), tmp_path / "home"
    given: dict[str, Any] = {"transport": httpx.MockTransport(api), "limits": Limits(calls_at_once=1)}
    given |= {"longest_wait": 0.05, "busy_seconds": 0.5, "heartbeat": 0.02}
    async with app_over(API, tmp_path, home=home, **given) as app, Client(build_server(app)) as agent:
        await begun(app.service, VegaRTParameters(prompt="the first"))
        await api.reached(1)
        late = await begun(app.service, VegaRTParameters(prompt="late"))
        with closing(sqlite3.connect(home / "ledger.sqlite3")) as other:
            other.execute("BEGIN IMMEDIATE")
            unsure = await agent.call_tool("check_job", {"request_id": late.local_id, "wait_seconds": 45})
        assert "another server may still send the call" in text_of(unsure)
        assert "Charged: unknown." in text_of(unsure)

        async def known() -> bool:
            return code_of(await agent.call_tool("check_job", {"request_id": late.local_id})) == "too_many_calls"

        await until(known)
        assert "Charged: no." in text_of(await agent.call_tool("check_job", {"request_id": late.local_id}))
        api.go.set()
    assert api.prompts == ["the first"]


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
        database.execute(f"PRAGMA user_version = {SCHEMA.fingerprint + 1}")
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
    ledger: SqliteLedger,
) -> None:
    async with ledger.servers(1) as (server,):
        jobs = RunningJobs(server.store)
        running = jobs.add(await server.begin())
        ledger.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON jobs WHEN new.remote_id IS NOT NULL "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jobs.update, running.job)
            await anyio.lowlevel.checkpoint()
            assert (await jobs.update(running.job, remote_id="r1")).remote_id == "r1"
        assert not running.saved
        assert running.job.remote_id == "r1"
