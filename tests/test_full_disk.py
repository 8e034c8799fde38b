"""A disk that is full, or a folder that cannot be written: no picture is lost."""

import io
import resource
from base64 import b64decode
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from conftest import SMALL, Sandbox, app_over, images_of, job_of, text_of, until
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image as Picture
from stores import ledger_at

from mcp_vega.errors import (
    Charged,
    GalleryError,
)
from mcp_vega.job import ImageLocation, Job
from mcp_vega.server.app import build_server
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.ledger.job_store import JobStore

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"


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
        assert "cannot be written" in text
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


class SlowAtTheEnd(JobStore):
    """A store that takes its time to note that the work on a job has ended."""

    ending: anyio.Event
    may_end: anyio.Event

    async def save(self, job: Job, *, release: bool = False) -> Job | None:
        if release and not self.ending.is_set():
            self.ending.set()
            await self.may_end.wait()
        return await super().save(job, release=release)


async def test_a_check_while_the_work_on_a_job_ends_still_saves_a_picture_that_is_only_in_memory(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    images, store = SmallFolder(tmp_path), ledger_at(tmp_path / "home").store(SlowAtTheEnd)
    images.room, store.ending, store.may_end = 0, anyio.Event(), anyio.Event()
    async with app_over(sandbox.url, tmp_path, images=images, store=store) as app, Client(build_server(app)) as agent:
        job = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        assert job["images"][0]["path"] is None
        await store.ending.wait()
        images.room = 1
        async with anyio.create_task_group() as tasks:

            async def check() -> None:
                question = {"request_id": job["request_id"], "wait_seconds": 45}
                again = job_of(await agent.call_tool("check_job", question))
                assert Path(again["images"][0]["path"]).is_file()

            tasks.start_soon(check)
            await anyio.wait_all_tasks_blocked()
            store.may_end.set()
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
