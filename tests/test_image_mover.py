"""Pictures that the gallery could not take: they move into it as soon as it works again, and none is lost."""

import json
import sqlite3
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Sandbox, app_over, images_of, job_of, until
from mcp.client import Client
from mcp_types import CallToolResult, TextResourceContents
from test_command_line import run_beside
from test_full_disk import full_disk

from mcp_vega.errors import GalleryError
from mcp_vega.job import Image, ImageLocation
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.ledger.search import ImageQuery

pytestmark = pytest.mark.anyio
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other links")


@dataclass
class Clock:
    """A clock that the test sets."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Server:
    """A server that uses the folders of `run`, and an agent."""

    folder: Path
    sandbox: Sandbox
    app: AppContext
    agent: Client

    async def drawn_elsewhere(self, prompt: str = "a fox", elsewhere: str = "home/rescued") -> dict[str, Any]:
        """A job whose picture the gallery could not take, although the gallery worked when the call was begun."""
        plug_in(self.folder)
        results: list[CallToolResult] = []

        async def draw() -> None:
            results.append(await self.agent.call_tool("generate_image_vega", {"prompt": prompt}))

        under_way = len(self.sandbox.account.calls)
        self.sandbox.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(draw)
            await until(lambda: len(self.sandbox.account.calls) > under_way)
            unplug(self.folder)
            self.sandbox.let_go()
        job = job_of(results[0])
        assert Path(job["images"][0]["path"]).is_relative_to(self.folder / elsewhere)
        return job

    async def checked(self, job: dict[str, Any]) -> CallToolResult:
        return await self.agent.call_tool("check_job", {"request_id": job["request_id"]})

    async def path_of(self, job: dict[str, Any]) -> Path:
        return Path(job_of(await self.checked(job))["images"][0]["path"])

    async def image_of(self, job: dict[str, Any]) -> Image:
        return (await self.app.gallery.find(job["images"][0]["id"])).image

    async def move_back(self) -> None:
        await self.app.service.image_mover.move_back()


def unplug(folder: Path) -> None:
    """Remove the gallery's disk."""
    (folder / "gallery").rename(folder / "unplugged")
    (folder / "gallery").write_text("in the way", encoding="utf-8")


def plug_in(folder: Path) -> None:
    """Put the gallery's disk back."""
    if (folder / "unplugged").exists():
        (folder / "gallery").unlink()
        (folder / "unplugged").rename(folder / "gallery")


@asynccontextmanager
async def serving(
    sandbox: Sandbox, folder: Path, temporary: str = "temporary", **options: Any
) -> AsyncGenerator[Server]:
    fallbacks = [ImageFolder(folder / each, private=True) for each in ("home/rescued", temporary)]
    async with (
        app_over(sandbox.url, folder / "gallery", home=folder / "home", fallbacks=fallbacks, **options) as app,
        Client(build_server(app)) as agent,
    ):
        yield Server(folder, sandbox, app, agent)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(sandbox: Sandbox, tmp_path: Path, clock: Clock) -> AsyncGenerator[Server]:
    async with serving(sandbox, tmp_path, clock=clock) as server:
        yield server


def rows(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        return database.execute(query).fetchall()


async def test_a_picture_moves_to_the_gallery_as_soon_as_that_works_and_its_old_file_stays_for_a_day(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    data = old.read_bytes()
    await server.move_back()
    assert await server.path_of(job) == old
    plug_in(tmp_path)
    await server.move_back()
    again = await server.checked(job)
    (image,) = job_of(again)["images"]
    path = tmp_path / "gallery" / old.parent.name / old.name
    assert image == {**job["images"][0], "path": str(path)}
    assert (path.read_bytes(), old.read_bytes(), len(images_of(again))) == (data, data, 1)
    (content,) = (await server.agent.read_resource(f"vega://jobs/{job['request_id']}")).contents
    assert isinstance(content, TextResourceContents)
    assert json.loads(content.text)["images"][0]["path"] == str(path)
    assert (await server.agent.read_resource(image["uri"])).contents

    clock.ahead = timedelta(hours=23)
    await server.move_back()
    assert old.exists()
    clock.ahead = timedelta(hours=25)
    await server.move_back()
    assert (old.exists(), old.parent.exists(), path.read_bytes()) == (False, False, data)
    assert rows(tmp_path, "SELECT * FROM moved_images") == []
    assert await server.path_of(job) == path


@pytest.mark.parametrize("temporary", ["temporary", "another"])
async def test_a_picture_in_the_temporary_folder_moves_back_even_if_a_later_server_has_another_temporary_folder(
    sandbox: Sandbox, tmp_path: Path, temporary: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "rescued").write_text("in the way", encoding="utf-8")
    async with serving(sandbox, tmp_path) as server:
        job = await server.drawn_elsewhere(elsewhere="temporary")
    old = Path(job["images"][0]["path"])
    data = old.read_bytes()
    clock = Clock()
    async with serving(sandbox, tmp_path, temporary, clock=clock) as server:
        await server.move_back()
        assert await server.path_of(job) == old, "the gallery is still missing"
    plug_in(tmp_path)
    async with serving(sandbox, tmp_path, temporary, clock=clock) as server:
        await server.move_back()
        path = await server.path_of(job)
        assert path == tmp_path / "gallery" / old.parent.name / old.name
        clock.ahead = timedelta(days=2)
        await server.move_back()
    assert (path.read_bytes(), old.exists()) == (data, False)


async def test_two_servers_can_move_pictures_at_the_same_time(server: Server, sandbox: Sandbox, tmp_path: Path) -> None:
    jobs = [await server.drawn_elsewhere(prompt) for prompt in ("a fox", "an owl", "a crab")]
    plug_in(tmp_path)
    async with serving(sandbox, tmp_path) as other, anyio.create_task_group() as tasks:
        for each in (server, other, server, other):
            tasks.start_soon(each.move_back)
    for job in jobs:
        assert (await server.path_of(job)).is_relative_to(tmp_path / "gallery")
        assert Path(job["images"][0]["path"]).exists()
    assert len(list((tmp_path / "gallery").glob("*/*.jpg"))) == len(jobs)
    assert len(rows(tmp_path, "SELECT * FROM moved_images")) == len(jobs)


async def test_two_servers_can_delete_the_old_file_at_the_same_time(
    server: Server, sandbox: Sandbox, tmp_path: Path, clock: Clock
) -> None:
    job = await server.drawn_elsewhere()
    plug_in(tmp_path)
    await server.move_back()
    clock.ahead = timedelta(days=2)
    async with serving(sandbox, tmp_path, clock=clock) as other, anyio.create_task_group() as tasks:
        for each in (server, other):
            tasks.start_soon(each.move_back)
    assert not Path(job["images"][0]["path"]).exists()
    assert (await server.path_of(job)).exists()
    assert rows(tmp_path, "SELECT * FROM moved_images") == []


async def test_an_old_file_whose_disk_is_away_is_deleted_by_a_later_server(
    server: Server, sandbox: Sandbox, tmp_path: Path, clock: Clock
) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    plug_in(tmp_path)
    await server.move_back()
    clock.ahead = timedelta(days=2)
    away = old.parents[1].rename(tmp_path / "away")
    await server.move_back()
    assert len(rows(tmp_path, "SELECT * FROM moved_images")) == 1
    away.rename(old.parents[1])
    async with serving(sandbox, tmp_path, clock=clock) as later:
        await later.move_back()
    assert not old.exists()
    assert rows(tmp_path, "SELECT * FROM moved_images") == []


async def test_a_picture_that_is_moved_between_looking_it_up_and_reading_it_can_be_read(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    job = await server.drawn_elsewhere()
    image = await server.image_of(job)
    data = await server.app.gallery.read(image)
    plug_in(tmp_path)
    await server.move_back()
    clock.ahead = timedelta(days=2)
    await server.move_back()
    assert image.path is not None
    assert not image.path.exists()
    assert await server.app.gallery.read(image) == data
    now = await server.image_of(job)
    assert now.path is not None
    now.path.unlink()
    with pytest.raises(GalleryError, match="cannot be read"):
        await server.app.gallery.read(now)


async def test_a_copy_that_a_server_made_just_before_it_died_is_used(server: Server, tmp_path: Path) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    plug_in(tmp_path)
    copy = tmp_path / "gallery" / old.parent.name / old.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(old.read_bytes())
    await server.move_back()
    assert await server.path_of(job) == copy
    assert list(copy.parent.iterdir()) == [copy]


async def test_a_picture_stays_where_it_is_if_its_names_in_the_gallery_are_taken(
    server: Server, tmp_path: Path
) -> None:
    job = await server.drawn_elsewhere()
    image, old = await server.image_of(job), Path(job["images"][0]["path"])
    plug_in(tmp_path)
    day = tmp_path / "gallery" / old.parent.name
    day.mkdir(exist_ok=True)
    for name in (old.name, old.name.replace(image.id[:8], image.id)):
        (day / name).write_bytes(b"the user's")
    await server.move_back()
    assert await server.path_of(job) == old
    assert {path.read_bytes() for path in day.iterdir()} == {b"the user's"}


async def test_if_the_disk_is_still_full_the_picture_stays_where_it_is(server: Server, tmp_path: Path) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    plug_in(tmp_path)
    with full_disk():
        await server.move_back()
    assert await server.path_of(job) == old
    assert list((tmp_path / "gallery").glob("*/*")) == []
    await server.move_back()
    assert (await server.path_of(job)).is_relative_to(tmp_path / "gallery")


class FullFolder(ImageFolder):
    """A folder that works until a picture comes."""

    room = 0

    async def save(self, data: bytes, name: str, image_id: str, day: Any) -> ImageLocation:
        if not self.room:
            raise GalleryError("No room")
        self.room -= 1
        return await super().save(data, name, image_id, day)


async def test_a_disk_that_fills_up_takes_as_many_pictures_as_it_can(sandbox: Sandbox, tmp_path: Path) -> None:
    gallery = FullFolder(tmp_path / "gallery")
    async with serving(sandbox, tmp_path, images=gallery) as server:
        jobs = [
            job_of(await server.agent.call_tool("generate_image_vega", {"prompt": prompt}))
            for prompt in ("a fox", "an owl", "a crab")
        ]
        for room, moved in ((1, 1), (0, 1), (5, 3)):
            gallery.room = room
            await server.move_back()
            paths = [await server.path_of(job) for job in jobs]
            assert sum(path.is_relative_to(tmp_path / "gallery") for path in paths) == moved
            assert all(path.exists() for path in paths)


@pytest.mark.parametrize("since", ["gone", "changed"])
async def test_if_one_file_is_missing_or_changed_the_others_still_move(
    server: Server, tmp_path: Path, since: str
) -> None:
    first, second = await server.drawn_elsewhere("a fox"), await server.drawn_elsewhere("an owl")
    old = Path(first["images"][0]["path"])
    whole = old.read_bytes()
    old.unlink()
    if since == "changed":
        old.write_bytes(b"changed")
    plug_in(tmp_path)
    for _ in range(2):
        await server.move_back()
        assert (await server.image_of(first)).path == old
        assert (await server.path_of(second)).is_relative_to(tmp_path / "gallery")
    assert old.exists() is (since == "changed")
    assert len(list((tmp_path / "gallery").glob("*/*.jpg"))) == 1
    old.write_bytes(whole)
    async with serving(server.sandbox, tmp_path) as following:
        await following.move_back()
        assert (await following.path_of(first)).is_relative_to(tmp_path / "gallery")


async def test_the_old_file_is_not_deleted_if_it_is_the_last_complete_one(
    server: Server, tmp_path: Path, clock: Clock
) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    plug_in(tmp_path)
    await server.move_back()
    (await server.path_of(job)).write_bytes(b"broken")
    clock.ahead = timedelta(days=2)
    await server.move_back()
    assert old.exists()


@posix
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_gallery_that_became_a_link_to_the_folder_with_the_pictures_loses_none(
    server: Server, tmp_path: Path, clock: Clock, when: str
) -> None:
    """The user has removed the disk, so the old file and the new one are the same."""
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    gallery = tmp_path / "gallery"
    if when == "after":
        plug_in(tmp_path)
        await server.move_back()
        gallery.rename(tmp_path / "broken")
    else:
        gallery.unlink()
    gallery.symlink_to(tmp_path / "home" / "rescued", target_is_directory=True)
    await server.move_back()
    clock.ahead = timedelta(days=2)
    await server.move_back()
    assert old.exists()
    assert (await server.path_of(job)).exists()


@pytest.mark.parametrize("since", ["changed", "gone"])
async def test_an_old_file_that_the_user_has_changed_is_not_deleted(
    server: Server, tmp_path: Path, clock: Clock, since: str
) -> None:
    job = await server.drawn_elsewhere()
    old = Path(job["images"][0]["path"])
    plug_in(tmp_path)
    await server.move_back()
    if since == "changed":
        old.write_bytes(b"changed")
    else:
        old.unlink()
    clock.ahead = timedelta(days=2)
    await server.move_back()
    assert old.exists() is (since == "changed")
    assert rows(tmp_path, "SELECT * FROM moved_images") == []


async def test_a_picture_that_is_deleted_while_it_moves_is_not_restored(server: Server, tmp_path: Path) -> None:
    job = await server.drawn_elsewhere()
    store, image = server.app.service.store, await server.image_of(job)
    plug_in(tmp_path)
    gallery = ImageFolder(tmp_path / "gallery")
    images, _ = await store.locations.pending(datetime.now(UTC))
    assert images == [image]
    await store.search.mark_deleted(image, datetime.now(UTC))
    now = await store.locations.move(image, ImageLocation(gallery.address, image.location.key), datetime.now(UTC))
    assert now is not None
    assert (now.deleted is not None, now.location) == (True, image.location)
    await server.move_back()
    assert list((tmp_path / "gallery").glob("*/*.jpg")) == []


class Watched(ImageFolder):
    """A folder in which something happens while a picture is read."""

    meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def read(self, key: str) -> bytes:
        data = await super().read(key)
        if (happens := self.meanwhile) is not None:
            self.meanwhile = None
            await happens()
        return data


async def test_a_picture_that_moves_while_it_is_deleted_leaves_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    gallery, elsewhere = FullFolder(tmp_path / "gallery"), Watched(tmp_path / "elsewhere")
    async with app_over(sandbox.url, tmp_path, home=tmp_path / "home", images=gallery, fallbacks=[elsewhere]) as app:
        async with Client(build_server(app)) as agent:
            job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
        gallery.room, elsewhere.meanwhile = 1, app.service.image_mover.move_back
        assert await app.gallery.delete(job["images"][0]["id"], datetime.now(UTC))
        assert list((tmp_path / "gallery").glob("*/*.jpg")) == []
        await app.service.image_mover.move_back()
        assert list((tmp_path / "elsewhere").glob("*/*.jpg")) == []
    assert [deleted for (deleted,) in rows(tmp_path, "SELECT deleted FROM images")] != [None]


async def test_a_picture_that_is_deleted_twice_at_the_same_time_is_deleted_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery = Watched(tmp_path / "gallery")
    async with app_over(sandbox.url, tmp_path, home=tmp_path / "home", images=gallery) as app:
        async with Client(build_server(app)) as agent:
            (image,) = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))["images"]
        now = datetime.now(UTC)
        gallery.meanwhile = lambda: app.gallery.delete(image["id"], now)
        assert not await app.gallery.delete(image["id"], now + timedelta(days=9)), "the other call has deleted it"
        assert (await app.gallery.find(image["id"])).image.deleted == now


async def test_a_picture_that_gets_a_star_while_prune_looks_at_it_is_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    gallery = Watched(tmp_path / "gallery")
    async with app_over(sandbox.url, tmp_path, home=tmp_path / "home", images=gallery) as app:
        async with Client(build_server(app)) as agent:
            (image,) = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))["images"]
        gallery.meanwhile = lambda: app.gallery.star(image["id"], starred=True)
        assert not await app.gallery.delete(image["id"], datetime.now(UTC), spare_starred=True)
        assert Path(image["path"]).exists()
        assert await app.gallery.delete(image["id"], datetime.now(UTC)), "the page may delete it"


class Undeletable(ImageFolder):
    """A folder whose disk became read-only, while another program has locked the ledger."""

    ledger: sqlite3.Connection | None = None

    async def delete(self, key: str) -> None:
        if self.ledger:
            self.ledger.execute("BEGIN IMMEDIATE")
        raise GalleryError(f"{key} cannot be deleted")


async def test_a_file_that_cannot_be_deleted_is_not_marked_as_deleted_even_if_the_ledger_is_locked(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery, home = Undeletable(tmp_path / "gallery"), tmp_path / "home"
    async with app_over(sandbox.url, tmp_path, home=home, images=gallery, busy_seconds=0.1) as app:
        async with Client(build_server(app)) as agent:
            (image,) = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))["images"]
        with (
            closing(sqlite3.connect(home / "ledger.sqlite3", isolation_level=None)) as gallery.ledger,
            pytest.raises(GalleryError, match="cannot be deleted"),
        ):
            await app.gallery.delete(image["id"], datetime.now(UTC))

        async def listed() -> bool:
            found, _ = await app.gallery.search.page(ImageQuery("fox"))
            return [kept.image.deleted for kept in found] == [None]

        await until(listed)


async def test_a_preview_that_is_made_while_its_picture_is_deleted_is_not_kept(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery = Watched(tmp_path / "gallery")
    async with app_over(sandbox.url, tmp_path, home=tmp_path / "home", images=gallery) as app:
        async with Client(build_server(app)) as agent:
            (image,) = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))["images"]
        kept = (await app.gallery.find(image["id"])).image
        gallery.meanwhile = lambda: app.gallery.delete(image["id"], datetime.now(UTC))
        await app.gallery.preview(kept)
    assert list((tmp_path / "home" / "previews").glob("*/*")) == []


async def test_stars_and_deletions_are_kept_while_a_picture_of_the_job_is_still_in_memory(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery = FullFolder(tmp_path / "gallery")
    gallery.room = 2
    async with (
        app_over(sandbox.url, tmp_path, home=tmp_path / "home", images=gallery) as app,
        Client(build_server(app)) as agent,
    ):
        job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox", "samples": 3}))
        first, second, third = (image["id"] for image in job["images"])
        await app.gallery.star(first, starred=True)
        await app.gallery.delete(second, datetime.now(UTC))
        kept = {each: (await app.gallery.find(each)).image for each in (first, second, third)}
        assert [image.starred for image in kept.values()] == [True, False, False]
        assert [image.deleted is not None for image in kept.values()] == [False, True, False]
        gallery.room = 9

        async def complete() -> bool:
            await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
            return not (await app.gallery.find(third)).image.in_memory

        await until(complete)
        assert (await app.gallery.find(first)).image == kept[first]
        assert (await app.gallery.find(second)).image == kept[second]
    assert len(list((tmp_path / "gallery").glob("*/*.jpg"))) == 2
    assert sandbox.paid_requests == 1


async def test_prune_deletes_pictures_in_all_folders(sandbox: Sandbox, tmp_path: Path, clock: Clock) -> None:
    clock.ahead = timedelta(days=-31)
    async with serving(sandbox, tmp_path, clock=clock) as server:
        moved = await server.drawn_elsewhere("a fox")
        plug_in(tmp_path)
        await server.move_back()
        elsewhere = await server.drawn_elsewhere("an owl")
        plug_in(tmp_path)
        now = await server.path_of(moved)
    done = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert done.stderr.startswith("Deleted: 2. ")
    assert [path.exists() for path in (now, Path(elsewhere["images"][0]["path"]))] == [False, False]
    async with serving(sandbox, tmp_path, clock=clock) as server:
        await server.move_back()
    assert not Path(moved["images"][0]["path"]).exists(), "the old file is deleted immediately"


async def test_a_location_in_the_gallery_is_not_replaced_by_a_location_elsewhere(
    server: Server, tmp_path: Path
) -> None:
    """If two servers downloaded one picture, they may save its location in either order."""
    job = await server.drawn_elsewhere()
    plug_in(tmp_path)
    store = server.app.service.store
    kept = await store.get(job["request_id"])
    assert kept is not None
    (image,) = kept.images
    there = replace(image, location=ImageLocation(str(tmp_path / "gallery"), image.location.key), fallback=False)
    for saved in (there, image):
        await store.save(replace(kept, images=(saved,)))
        assert await server.image_of(job) == there
