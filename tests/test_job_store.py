"""The ledger's file: shared by several servers, never in the way, and clear about what is wrong with it."""

import io
import resource
import sqlite3
import sys
from base64 import b64decode
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import anyio
import pytest
from conftest import HANG_SECONDS, Sandbox, app_over, images_of, job_of, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image as Picture

from mcp_vega.errors import Charged, GalleryError, MediaError, OutcomeUnknown
from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.database.server_lease import LEASE_SECONDS
from mcp_vega.storage.database.sqlite import APPLICATION_ID, FINGERPRINT
from mcp_vega.storage.images.folder import ImageFolder

pytestmark = pytest.mark.anyio

RT = "generate_image_vegart"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
API = "https://api.example"


def a_job(**fields: Any) -> Job:
    parameters = VegaRTParameters(prompt="a fox", seed=7)
    return Job(
        parameters=parameters, arguments={"prompt": "a fox"}, route=Route.V2, base_url=API, created=NOW, **fields
    )


class Uptime:
    """A monotonic clock that the test moves."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def ledgers(folder: Path, count: int = 2) -> AsyncGenerator[tuple[Uptime, list[JobStore]]]:
    """Several servers' ledgers over one file."""
    uptime = Uptime()
    several = [JobStore(folder / "ledger.sqlite3", uptime=uptime) for _ in range(count)]
    yield uptime, several
    for each in several:
        await each.close()


async def test_a_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    location = ImageLocation(str(tmp_path), "2026-11-20/ü.jpg")
    image = Image(id="0" * 32, location=location, mime_type="image/jpeg", width=1, height=2, bytes=3, sha256="f")
    job = a_job(
        sent=NOW,
        ended=NOW + timedelta(seconds=2),
        remote_id="r1",
        state=State.FAILED,
        receipt=Receipt("r1", Decimal("0.0020"), Decimal("9.81"), Decimal("1.7"), 7),
        images=(image,),
        notes=("one", "two"),
        error=MediaError("gone", next_step="Look"),
    )
    async with ledgers(tmp_path) as (_, (one, other)):
        await one.add(job)
        await one.save(job)
        found = await other.get("r1")
        assert found is not None
        assert found.error is not None
        assert (type(found.error), found.error.text) == (MediaError, job.error and job.error.text)
        assert replace(found, error=None) == replace(job, error=None, held=True)
        kept = await other.search.image("0" * 32)
        assert kept is not None
        assert (kept[0].local_id, kept[1]) == (job.local_id, image)
        assert [each.local_id for each in await other.latest(5)] == [job.local_id]


async def test_of_several_servers_one_works_on_a_job_until_it_dies_or_leaves(tmp_path: Path) -> None:
    async with ledgers(tmp_path, 3) as (uptime, (one, two, three)):
        job = a_job()
        await one.add(job)
        assert await two.orphans(API) == []
        assert await two.claim(job.local_id) is None
        uptime.seconds += LEASE_SECONDS - 1
        assert await one.renew() == {job.local_id}
        uptime.seconds += LEASE_SECONDS - 1
        assert await two.claim(job.local_id) is None
        uptime.seconds += 2
        assert await two.orphans(API) == [job.local_id]
        assert await two.claim(job.local_id) is not None
        assert await three.claim(job.local_id) is None
        assert await one.renew() == set(), "it learns that the job is no longer its own"
        await two.leave()
        assert await three.claim(job.local_id) is not None


async def test_a_lease_from_before_the_machine_started_anew_counts_for_nothing(tmp_path: Path) -> None:
    async with ledgers(tmp_path) as (uptime, (one, two)):
        uptime.seconds = 500_000
        await one.add(a_job())
        uptime.seconds = 60
        assert len(await two.orphans(API)) == 1


async def test_the_last_claim_of_a_finished_job_is_none(tmp_path: Path) -> None:
    async with ledgers(tmp_path) as (_, (one, two)):
        job = a_job()
        await one.add(job)
        await one.save(replace(job, open=False, state=State.COMPLETED))
        await one.release(job.local_id)
        assert await two.claim(job.local_id) is None


async def test_one_of_many_takes_a_job(tmp_path: Path) -> None:
    async with ledgers(tmp_path, 8) as (_, (first, *others)):
        job = a_job()
        await first.add(job)
        await first.leave()
        takers: list[Job] = []

        async def take(store: JobStore) -> None:
            takers.extend([taken] if (taken := await store.claim(job.local_id)) else [])

        async with anyio.create_task_group() as tasks:
            for each in others:
                tasks.start_soon(take, each)
        assert len(takers) == 1


async def test_what_a_server_that_lost_a_job_says_of_it_counts_only_if_it_has_the_pictures(tmp_path: Path) -> None:
    async with ledgers(tmp_path) as (uptime, (one, two)):
        job = a_job()
        await one.add(job)
        uptime.seconds += LEASE_SECONDS + 1
        assert await two.claim(job.local_id) is not None
        await one.save(replace(job, state=State.FAILED, open=False))
        assert (await the_only(one)).state is State.QUEUED
        await one.save(replace(job, state=State.COMPLETED, open=False))
        assert (await the_only(one)).state is State.COMPLETED
        await two.save(replace(job, state=State.UNKNOWN))
        await two.release(job.local_id)
        await one.save(replace(job, state=State.FAILED))
        assert (await the_only(one)).state is State.COMPLETED


async def the_only(store: JobStore) -> Job:
    (job,) = await store.latest(5)
    return job


async def test_a_job_reads_the_same_each_time(tmp_path: Path) -> None:
    async with ledgers(tmp_path) as (_, (one, two)):
        await one.add(a_job(state=State.UNKNOWN, error=OutcomeUnknown("lost")))
        assert await the_only(one) == await the_only(two)


async def test_a_job_of_the_api_is_added_once(tmp_path: Path) -> None:
    async with ledgers(tmp_path) as (_, (one, two)):
        assert await one.add(a_job(remote_id="r1"), awaited=False)
        assert not await two.add(a_job(remote_id="r1"), awaited=False)
        assert len(await one.latest(5)) == 1


async def test_many_servers_open_a_new_ledger_at_the_same_moment(tmp_path: Path) -> None:
    async with ledgers(tmp_path, 12) as (_, several), anyio.create_task_group() as tasks:
        for each in several:
            tasks.start_soon(each.latest, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="other permissions there")
async def test_the_ledger_is_for_its_user_alone(tmp_path: Path) -> None:
    async with ledgers(tmp_path / "new", 1) as (_, (store,)):
        await store.latest(1)
    assert (tmp_path / "new" / "ledger.sqlite3").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


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
        database.execute(f"PRAGMA user_version = {FINGERPRINT + 1}")
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
        (other_schema, "was not written by this version of mcp-vega", "aside"),
        (changed_schema, "was not written by this version of mcp-vega", "aside"),
        (damaged, "is damaged", "aside"),
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


async def test_a_ledger_that_fails_after_the_payment_does_not_cost_the_picture(
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
        assert job_of(settled)["images"] == job["images"], "the file is found again and not kept twice"
    assert len(list(tmp_path.glob("*/a-fox-*.jpg"))) == 1
    assert sandbox.paid_requests == 1


# ---- a disk that is full ----


@contextmanager
def full_disk() -> Generator[None]:
    """No file of this process grows beyond a few bytes, as on a disk without room."""
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
                assert picture.size == (1024, 1024)
            text = text_of(result)
            assert f"Note: The folder {tmp_path} could not be written: File too large" in text
            assert "it is in this result and this server's memory alone" in text
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
    """A folder that takes so many pictures more."""

    room = 1

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> str:
        self.room -= 1
        if self.room < 0:
            raise GalleryError("No room", charged=Charged.YES)
        return await super().save(data, name, image_id, day)


async def test_pictures_that_only_the_memory_holds_stay_apart_until_a_disk_takes_them(
    sandbox: Sandbox, tmp_path: Path
) -> None:
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


async def test_a_picture_that_only_the_result_held_is_fetched_again_at_the_next_start(
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


async def test_two_in_the_ledger_at_once_are_never_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limiter of anyio before 4.14 lets one too many in now and then; this one always does."""
    generous = anyio.CapacityLimiter(8)
    monkeypatch.setattr(anyio, "CapacityLimiter", MagicMock(return_value=generous))
    async with ledgers(tmp_path, 1) as (_, (store,)), anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(store.add, a_job())
    async with ledgers(tmp_path, 1) as (_, (store,)):
        assert len(await store.latest(100)) == 60


@pytest.mark.parametrize("by", [timedelta(hours=-2), timedelta(hours=2), timedelta(days=-40)])
async def test_a_clock_that_is_set_while_a_job_runs_loses_nothing(
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
            if by > timedelta(days=-1) or job is queued:
                assert job_of(result)["images"]
            else:
                assert "This machine's clock says" in text_of(result)
                assert "Charged: unknown." in text_of(result)
    error = timedelta()
    async with app_over(sandbox.url, tmp_path, clock=clock) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool("check_job", {"request_id": lost["request_id"], "wait_seconds": 45})
        assert job_of(result)["images"]
    assert sandbox.paid_requests == 2
