"""The stores of pictures: each refuses keys that lead out of it; a picture that one cannot take goes to the next."""

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from conftest import Sandbox, app_over, images_of, job_of, until
from mcp.client import Client
from test_page import page_of

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.job import MEMORY, ImageLocation
from mcp_vega.server.app import build_server
from mcp_vega.storage.images.bucket import Bucket
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.store import ImageStore, names_of

pytestmark = pytest.mark.anyio
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other links")

DAY = date(2026, 11, 20)
ID, OTHER = "0123456789abcdef" * 2, "01234567" + "f" * 24
KEY = "2026-11-20/a-7-01234567.jpg"

STORES: dict[str, Callable[[Path], ImageStore]] = {
    "folder": ImageFolder,
    "private folder": lambda folder: ImageFolder(folder, private=True),
    "folder of a replica": lambda folder: ImageFolder(folder, private=True, disk="vega-1-0123abcd"),
    "memory": lambda _: MemoryImageStore(),
}


@pytest.fixture(params=[*STORES, pytest.param("bucket", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    """Each kind of store in turn."""
    if request.param == "bucket":
        return Bucket(request.getfixturevalue("bucket"))
    return STORES[request.param](tmp_path / "store")


# ---- each store ----


async def test_a_store_returns_the_data_that_it_has_saved(store: ImageStore) -> None:
    await store.prepare(DAY)
    first, second = [(await store.save(data, "a-7.jpg", each, DAY)).key for data, each in ((b"1", ID), (b"2", OTHER))]
    assert (first, second) == (KEY, f"2026-11-20/a-7-{OTHER}.jpg")
    assert (await store.save(b"1", "a-7.jpg", ID, DAY)).key == first
    assert [await store.read(key) for key in (first, second)] == [b"1", b"2"]
    assert await store.find("a-7.jpg", OTHER, DAY) == b"2"
    assert await store.find("b-7.jpg", OTHER, DAY) is None
    assert (await store.is_missing(first), await store.identity(first)) == (False, await store.identity(first))
    assert await store.identity(first) != await store.identity(second)
    await store.delete(first)
    assert await store.is_missing(first)
    await store.delete(first)
    with pytest.raises(GalleryError):
        await store.read(first)
    assert await store.read(second) == b"2"


OUT = ["../outside/secret.jpg", "2026-11-20/../../outside/secret.jpg", "{outside}/secret.jpg", ".."]


@pytest.mark.parametrize("key", OUT)
async def test_a_key_that_leads_out_of_the_store_is_refused(tmp_path: Path, store: ImageStore, key: str) -> None:
    outside = tmp_path / "outside"
    await store.save(b"data", "a-7.jpg", ID, DAY)
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    key = key.format(outside=outside)
    with pytest.raises(GalleryError, match=r"leads out of|not in this server's memory"):
        await store.read(key)
    if not isinstance(store, MemoryImageStore):
        with pytest.raises(GalleryError, match="cannot be deleted"):
            await store.delete(key)
    assert (outside / "secret.jpg").read_bytes() == b"secret"
    assert await store.read(KEY) == b"data"


@posix
@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("what", ["file", "day"])
async def test_a_link_that_was_added_later_is_refused(tmp_path: Path, *, private: bool, what: str) -> None:
    folder, outside = tmp_path / "store", tmp_path / "outside"
    store = ImageFolder(folder, private=private)
    await store.save(b"data", "a-7.jpg", ID, DAY)
    (folder / "2026-11-20").rename(outside)
    if what == "day":
        (folder / "2026-11-20").symlink_to(outside)
    else:
        (folder / "2026-11-20").mkdir()
        (folder / KEY).symlink_to(outside / Path(KEY).name)
    with pytest.raises(GalleryError, match="a link to a file elsewhere"):
        await store.read(KEY)
    assert await store.find("a-7.jpg", ID, DAY) is None
    if what == "day":
        with pytest.raises(GalleryError, match="a link to a file elsewhere"):
            await store.delete(KEY)
    else:
        await store.delete(KEY)  # the link itself, and not its target
    assert (outside / Path(KEY).name).read_bytes() == b"data"


# ---- several stores ----


def in_the_way(path: Path) -> Path:
    path.write_text("in the way", encoding="utf-8")
    return path


async def test_a_picture_goes_into_the_first_store_that_can_take_it(tmp_path: Path) -> None:
    blocked, spare = in_the_way(tmp_path / "file"), tmp_path / "spare"
    stores = [ImageFolder(blocked), ImageFolder(blocked / "x", private=True), ImageFolder(spare, private=True)]
    images = FallbackImageStore([*stores, MemoryImageStore()])
    location, note = await images.save(b"data", "a-7.jpg", ID, DAY)
    assert location == (str(spare), KEY)
    assert location.path == spare / KEY
    assert note == f"The folder {blocked} could not be written: Not a directory"
    assert await images.read(location) == b"data"
    blocked.unlink()
    assert (await images.save(b"data", "b-7.jpg", ID, DAY))[1] == ""


async def test_a_picture_that_no_disk_takes_is_in_memory_and_without_memory_it_is_an_error(tmp_path: Path) -> None:
    folder = ImageFolder(in_the_way(tmp_path / "file"))
    images = FallbackImageStore([folder, MemoryImageStore()])
    location, note = await images.save(b"data", "a-7.jpg", ID, DAY)
    assert (location, location.path, note != "") == ((MEMORY, KEY), None, True)
    assert await images.read(location) == b"data"
    assert await images.find("a-7.jpg", ID, DAY) == b"data"
    assert await images.set_aside(b"data", "a-7.bin", DAY) is None
    with pytest.raises(GalleryError, match="could not be written: Not a directory") as caught:
        await FallbackImageStore([folder]).save(b"data", "a-7.jpg", ID, DAY)
    assert caught.value.charged is Charged.YES


@pytest.mark.parametrize("key", OUT)
async def test_a_key_that_leads_from_its_own_store_into_another_one_is_refused(tmp_path: Path, key: str) -> None:
    one, outside = ImageFolder(tmp_path / "one"), ImageFolder(tmp_path / "outside")
    images = FallbackImageStore([one, outside])
    for store in (one, outside):
        await store.save(b"data", "a-7.jpg", ID, DAY)
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"secret")
    for address in (one.address, str(tmp_path / "old")):
        (tmp_path / "old").mkdir(exist_ok=True)
        with pytest.raises(GalleryError):
            await images.read(ImageLocation(address, key.format(outside=tmp_path / "outside")))


async def test_an_unknown_location_is_an_error() -> None:
    images = FallbackImageStore([MemoryImageStore()])
    with pytest.raises(GalleryError, match="ftp://bucket"):
        await images.read(ImageLocation("ftp://bucket", KEY))


async def test_a_picture_whose_two_names_are_taken_goes_into_the_next_store(tmp_path: Path) -> None:
    first, second = ImageFolder(tmp_path / "one"), ImageFolder(tmp_path / "two")
    for each in names_of("a-fox-7.jpg", ID):
        (tmp_path / "one" / DAY.isoformat()).mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / DAY.isoformat() / each).write_bytes(b"another's")
    location, problem = await FallbackImageStore([first, second]).save(b"a picture", "a-fox-7.jpg", ID, DAY)
    assert location.store == second.address
    assert "both names" in problem


# ---- in the server ----


async def test_after_the_gallery_was_changed_the_pictures_in_the_old_one_can_be_read(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    async with app_over(sandbox.url, tmp_path / "old", home=home) as app, Client(build_server(app)) as agent:
        job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
    async with app_over(sandbox.url, tmp_path / "new", home=home) as app, Client(build_server(app)) as agent:
        again = await agent.call_tool("check_job", {"request_id": job["request_id"]})
        assert (job_of(again)["images"], len(images_of(again))) == (job["images"], 1)
        assert (await agent.read_resource(job["images"][0]["uri"])).contents
        await app.service.image_mover.move_back()
        assert job_of(await agent.call_tool("check_job", {"request_id": job["request_id"]})) == job
    assert Path(job["images"][0]["path"]).is_relative_to(tmp_path / "old")
    assert not (tmp_path / "new").exists()


@posix
async def test_if_the_link_to_the_gallery_changes_while_the_server_runs_no_picture_is_lost(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery, paths = tmp_path / "gallery", dict[str, Path]()
    for _ in range(2):
        async with app_over(sandbox.url, gallery) as app, Client(build_server(app)) as agent:
            for disk in ("one", "other"):
                gallery.unlink(missing_ok=True)
                (tmp_path / disk).mkdir(exist_ok=True)
                gallery.symlink_to(tmp_path / disk, target_is_directory=True)
                job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
                paths[job["request_id"]] = Path(job["images"][0]["path"])
                assert paths[job["request_id"]].is_relative_to(tmp_path / disk)
            for request_id, path in paths.items():
                again = await agent.call_tool("check_job", {"request_id": request_id})
                assert job_of(again)["images"][0]["path"] == str(path)
                assert (path.exists(), len(images_of(again))) == (True, 1)


class OneAfterTheOther(ImageFolder):
    """A folder that takes no picture until it may."""

    closed = True

    async def save(self, data: bytes, name: str, image_id: str, day: date) -> ImageLocation:
        if self.closed:
            raise GalleryError("No room", charged=Charged.YES)
        return await super().save(data, name, image_id, day)


async def test_a_picture_in_memory_is_moved_to_the_disk_later_and_removed_from_memory(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    gallery, memory = OneAfterTheOther(tmp_path), MemoryImageStore()
    async with (
        app_over(sandbox.url, tmp_path, images=gallery, fallbacks=[memory]) as app,
        Client(build_server(app)) as agent,
    ):
        first = await agent.call_tool("generate_image_vega", {"prompt": "a fox"})
        (image,) = job_of(first)["images"]
        assert (image["path"], len(images_of(first))) == (None, 1)
        kept = (await app.gallery.find(image["id"])).image
        assert (kept.in_memory, kept.name) == (True, Path(kept.location.key).name)
        data = await memory.read(kept.location.key)
        async with page_of(app) as page:
            address = f"/gallery/pictures/{image['id']}"
            for answer in (await page.delete(address), await page.post(f"{address}/star", json={"starred": True})):
                assert (answer.status_code, "Free some disk space" in answer.text) == (409, True)
        assert await memory.read(kept.location.key) == data
        gallery.closed = False
        question = {"request_id": job_of(first)["request_id"], "wait_seconds": 45}

        async def moved() -> str | None:
            (image,) = job_of(await agent.call_tool("check_job", question))["images"]
            return image["path"]

        # The first check_job may come before the end of the call that drew the picture.
        assert Path(await until(moved)).read_bytes() == data
        assert await app.gallery.read(kept) == data, "an earlier look-up can still be read"

        async def empty() -> bool:
            return not await memory.read(kept.location.key)

        with pytest.raises(GalleryError, match="not in this server's memory"):  # a moment later
            await until(empty)
    assert sandbox.paid_requests == 1
