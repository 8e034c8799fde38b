"""The requests of the page with the pictures: lists, searches, recipes, previews, stars, deletions."""

import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from conftest import HANG_SECONDS, Sandbox, app_over, begun, images_of, paint_small, until
from mcp.client import Client
from PIL import Image
from test_command_line import run_beside

from mcp_vega.job import OPERATOR
from mcp_vega.job import Image as KeptImage
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.tokens import TokenCallers, caller_with
from mcp_vega.server.http.app import build_page
from mcp_vega.storage.database.sqlite.database import SqliteDatabase
from mcp_vega.storage.database.sqlite.file import SqliteFile
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
from mcp_vega.storage.gallery import CONCURRENT_READS, Gallery
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.sql.schema import SCHEMA

pytestmark = pytest.mark.anyio

ALICE, BOB, ADMIN = "alice", "bob", OPERATOR
CALLERS = TokenCallers([caller_with(f"{owner}-token", owner) for owner in (ALICE, BOB, ADMIN)])
OURS = {"x-mcp-vega": "1", "sec-fetch-site": "same-origin"}


@asynccontextmanager
async def page_of(app: AppContext, owner: str = ADMIN) -> AsyncGenerator[httpx.AsyncClient]:
    """The server of the page, as the browser of a caller asks it."""
    transport = httpx.ASGITransport(build_page(app, CALLERS))
    headers = {"authorization": f"Bearer {owner}-token", **OURS}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
        yield client


@pytest.fixture
async def page(app: AppContext) -> AsyncGenerator[httpx.AsyncClient]:
    async with page_of(app) as client:
        yield client


async def drawn(app: AppContext, prompt: str = "a fox", owner: str = OPERATOR, **parameters: Any) -> list[str]:
    """Draw pictures with one call; returns their ids."""
    model = VegaRTParameters if parameters.pop("fast", False) else VegaParameters
    job = await begun(app.service, model(prompt=prompt, **parameters), owner)

    async def complete() -> Any:
        return (await app.service.get(job.local_id)).complete

    await until(complete)
    app.service.end_wait(job, delivered=True, cancelled=False)
    return [image.id for image in (await app.service.get(job.local_id)).images]


async def listed(page: httpx.AsyncClient, **asked: Any) -> list[str]:
    """The prompts of the pictures that a search finds."""
    found = (await page.get("/gallery/pictures", params=asked)).raise_for_status().json()
    assert found["total"] == len(found["pictures"]) or {"after", "skip", "limit"} & set(asked)
    return [picture["prompt"] for picture in found["pictures"]]


# ---- lists and searches ----


async def test_the_list_has_the_newest_pictures_first_and_as_many_as_requested(
    app: AppContext, page: httpx.AsyncClient
) -> None:
    one, two, three = [(await drawn(app, prompt))[0] for prompt in ("one", "two", "three")]
    assert await listed(page) == ["three", "two", "one"]
    assert await listed(page, after=three, limit=1) == ["two"]
    assert await listed(page, after=three, skip=1) == ["one"]
    assert await listed(page, skip=3) == await listed(page, after=one) == []
    counts = [
        ("o", "", 2),
        ("o", two, 2),
        ("o", three, 2),
        ("thr", two, 1),
        ("e", "", 3),
        ("e", two, 3),
        ("xx", one, 0),
    ]
    for words, after, count in counts:
        part = (await page.get("/gallery/pictures", params={"q": words, "after": after, "limit": 1})).json()
        assert part["total"] == count, "of all pictures that match, whichever page it is"
    assert (await page.get("/gallery/pictures", params={"q": "o", "limit": 0})).json() == {"total": 2, "pictures": []}
    part = (await page.get("/gallery/pictures", params={"after": two, "limit": 1})).json()
    assert part["total"] == 3


@pytest.mark.parametrize("asked", [{}, {"q": "ox 1"}, {"starred": "1"}], ids=str)
async def test_pages_have_each_picture_once_in_order_whatever_is_drawn_starred_and_deleted_meanwhile(
    sandbox: Sandbox, tmp_path: Path, asked: dict[str, str]
) -> None:
    async with app_over(sandbox.url, tmp_path, clock=lambda: NOON) as app, page_of(app) as page:
        pictures = [each for number in (1, 11, 12) for each in await drawn(app, f"fox {number}", samples=3)]
        for each in pictures:
            await page.post(f"/gallery/pictures/{each}/star", json={"starred": True})
        seen, following = list[str](), [""]
        while following:
            seen += following
            part = await page.get("/gallery/pictures", params={**asked, "after": seen[-1], "limit": 2})
            following = [each["id"] for each in part.raise_for_status().json()["pictures"]]
            for each in following[-1:]:
                await page.post(f"/gallery/pictures/{each}/star", json={"starred": False})
                await page.delete(f"/gallery/pictures/{each}")
                await drawn(app, "fox 10")
        assert seen[1:] == pictures[::-1], "all were drawn at the same time, so the one that was kept last is the first"


async def test_no_page_follows_a_picture_of_another_caller(app: AppContext, page: httpx.AsyncClient) -> None:
    (picture,), _ = await drawn(app, "a fox", "bob"), await drawn(app, "an owl", "alice")
    async with page_of(app, ALICE) as alice:
        answer = await alice.get(f"/gallery/pictures?after={picture}")
    unknown = await page.get(f"/gallery/pictures?after={picture[::-1]}")
    assert (answer.status_code, answer.text.replace(picture, picture[::-1])) == (400, unknown.text)


async def test_a_tile_has_only_the_data_that_it_shows(app: AppContext, page: httpx.AsyncClient) -> None:
    (picture,) = await drawn(app, "a fox, " * 200, "alice", seed=7, fast=True)
    (tile,) = (await page.get("/gallery/pictures")).json()["pictures"]
    assert len(tile["prompt"]) == 201
    assert tile["prompt"].startswith("a fox, a fox, ")
    assert tile["prompt"].endswith("…")
    del tile["prompt"]
    assert tile == {"id": picture, "starred": False, "caller": "alice"}


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FOUND: dict[str, tuple[str, list[str]]] = {
    "parts of words": ("ght hou", ["a lighthouse, лисица"]),
    "the beginning of a seed": ("1234", ["a lighthouse, лисица"]),
    "the middle of a seed": ("345", ["a lighthouse, лисица"]),
    "a model": ("vegart", ["小さな狐 a very small fox"]),
    "the other model": ("vega", ["قارب صغير", "crème brûlée", "a lighthouse, лисица"]),
    "letters without their accents": ("CREME bru", ["crème brûlée"]),
    "a script without spaces": ("さな狐", ["小さな狐 a very small fox"]),
    "the middle of a word in capitals that are not Latin": ("ИСИЦ", ["a lighthouse, лисица"]),
    "a script from the right": ("قارب", ["قارب صغير"]),
    "a year": ("2026", ["قارب صغير", "小さな狐 a very small fox", "crème brûlée", "a lighthouse, лисица"]),
    "a part of a day": (
        "2026-11-2",
        ["قارب صغير", "小さな狐 a very small fox", "crème brûlée", "a lighthouse, лисица"],
    ),
    "what only looks like a pattern": ("%", []),
    "nothing but punctuation": ("!?", []),
}


async def test_a_search_finds_any_part_of_a_word_in_any_script(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, clock=lambda: NOON) as app, page_of(app) as page:
        await drawn(app, "a lighthouse, лисица", seed=9123456)
        await drawn(app, "crème brûlée", seed=77)
        await drawn(app, "小さな狐 a very small fox", seed=88, fast=True)
        await drawn(app, "قارب صغير", seed=99)
        for name, (words, prompts) in FOUND.items():
            assert await listed(page, q=words) == prompts, name


@pytest.mark.parametrize(
    "asked", ["limit=201", "limit=-1", "limit=x", "skip=-1", "skip=x", "after=x", f"after={7:032x}", "q=" + "x" * 300]
)
async def test_a_request_that_the_page_would_never_send_is_refused(page: httpx.AsyncClient, asked: str) -> None:
    answer = await page.get(f"/gallery/pictures?{asked}")
    assert (answer.status_code, "(invalid_arguments)" in answer.text) == (400, True)


async def test_a_picture_has_its_recipe_and_its_number_in_the_call(
    app: AppContext, page: httpx.AsyncClient, tmp_path: Path
) -> None:
    pictures = await drawn(app, "a fox", samples=2, negative_prompt="blur", seed=7)
    second = (await page.get(f"/gallery/pictures/{pictures[1]}")).json()
    assert (second["number"], second["caller"]) == (2, None)
    assert datetime.now(UTC) - datetime.fromisoformat(second["created"]) < timedelta(minutes=5)
    job = second["job"]
    assert (job["seed"], job["parameters"]["negative_prompt"], len(job["images"])) == (7, "blur", 2)
    assert Path(second["path"]).is_relative_to(tmp_path)
    assert Path(second["path"]).name == second["file"]
    full = await page.get(f"/images/{pictures[1]}")
    assert full.content == Path(second["path"]).read_bytes()


async def test_callers_see_their_own_pictures_and_the_operator_sees_all_with_the_callers_names(app: AppContext) -> None:
    (of_alice,), (of_bob,) = await drawn(app, "of alice", "alice"), await drawn(app, "of bob", "bob")
    async with page_of(app, ALICE) as alice, page_of(app, ADMIN) as admin:
        assert await listed(alice) == ["of alice"]
        assert await listed(alice, q="of") == ["of alice"]
        assert await listed(admin) == ["of bob", "of alice"]
        tiles = (await admin.get("/gallery/pictures")).json()["pictures"]
        assert [tile["caller"] for tile in tiles] == ["bob", "alice"]
        own = (await alice.get(f"/gallery/pictures/{of_alice}")).json()
        assert (own["caller"], own["path"], own["job"]["images"][0]["path"]) == (None, None, None)
        for method, path in (
            ("GET", f"/gallery/pictures/{of_bob}"),
            ("GET", f"/images/{of_bob}"),
            ("GET", f"/images/{of_bob}/preview"),
            ("POST", f"/gallery/pictures/{of_bob}/star"),
            ("DELETE", f"/gallery/pictures/{of_bob}"),
        ):
            answer = await alice.request(method, path, json={"starred": True})
            assert (answer.status_code, "unknown_image" in answer.text) == (404, True), path
        (tile,) = (await admin.get("/gallery/pictures?q=bob")).json()["pictures"]
        assert tile["starred"] is False


async def test_the_page_is_informed_of_a_new_picture_and_of_the_spending(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, clock=lambda: NOON) as app, page_of(app) as page:
        empty = (await page.get("/gallery/state")).json()
        assert (empty["latest"], empty["total"], empty["caller"]) == (None, 0, None)
        assert (await page.get("/gallery/state?latest=&total=0")).status_code == 204
        (picture,) = await drawn(app, "a fox", "alice")
        news = (await page.get("/gallery/state?latest=&total=0")).json()
        assert (news["latest"], news["total"]) == (picture, 1)
        assert news["spent"] == {
            "today_usd": news["spent"]["total_usd"],
            "month_usd": news["spent"]["total_usd"],
            "total_usd": pytest.approx(0.00225, rel=0.5),
            "limit_usd": None,
            "left_usd": None,
        }
        assert (await page.get(f"/gallery/state?latest={picture}&total=1")).status_code == 204
        assert (await page.get(f"/gallery/state?latest={picture}&total=2")).json()["total"] == 1, "one was deleted"
        async with page_of(app, BOB) as bob:
            of_bob = (await bob.get("/gallery/state")).json()
            assert (of_bob["total"], of_bob["spent"]["total_usd"], of_bob["caller"]) == (0, 0, "bob")


async def test_a_picture_whose_job_cannot_be_read_is_neither_listed_nor_counted(
    app: AppContext, page: httpx.AsyncClient, tmp_path: Path
) -> None:
    for each in range(6):
        await drawn(app, f"fox {each}")
    with closing(sqlite3.connect(tmp_path.with_name(f"{tmp_path.name}-home") / "ledger.sqlite3")) as database:
        database.execute("UPDATE jobs SET model = 'of-a-later-version' WHERE prompt IN ('fox 5', 'fox 4', 'fox 2')")
        database.commit()
    # The page would request missing pictures again and again.
    assert await listed(page, limit=2) == ["fox 3", "fox 1"]
    assert await listed(page) == await listed(page, q="fox") == ["fox 3", "fox 1", "fox 0"]
    newest, second, _ = (await page.get("/gallery/pictures")).json()["pictures"]
    assert await listed(page, after=second["id"]) == ["fox 0"]
    state = (await page.get("/gallery/state")).json()
    assert (state["latest"], state["total"]) == (newest["id"], 3)


# ---- previews ----


async def test_a_preview_is_made_once(app: AppContext, page: httpx.AsyncClient, tmp_path: Path) -> None:
    (picture,) = await drawn(app)
    first = await page.get(f"/images/{picture}/preview")
    assert (first.headers["content-type"], first.headers["cache-control"]) == (
        "image/jpeg",
        "private, max-age=31536000, immutable",
    )
    (cached,) = (tmp_path.with_name(f"{tmp_path.name}-home") / "previews").glob("*/*")
    assert (cached.name, cached.read_bytes()) == (f"{picture}.jpg", first.content)
    cached.write_bytes(paint_small("another", 1, 0))
    assert (await page.get(f"/images/{picture}/preview")).content == paint_small("another", 1, 0), "the kept one"
    cached.write_bytes(first.content[:-100])  # as after a power cut
    assert (await page.get(f"/images/{picture}/preview")).content == first.content
    assert cached.read_bytes() == first.content


class HeldGallery(Gallery):
    """A gallery that reads no picture until it may, and counts requests and reads."""

    asked, read_ones = 0, 0
    is_let_go: anyio.Event

    async def preview(self, image: Any) -> bytes:
        self.asked += 1
        return await super().preview(image)

    async def read(self, image: Any) -> bytes:
        self.read_ones += 1
        await self.is_let_go.wait()
        return await super().read(image)


async def test_few_pictures_are_in_memory_however_many_previews_are_requested(sandbox: Sandbox, tmp_path: Path) -> None:
    answers, number = list[httpx.Response](), 40
    async with app_over(sandbox.url, tmp_path, gallery=HeldGallery) as app, page_of(app) as page:
        held = app.gallery
        assert isinstance(held, HeldGallery)
        held.is_let_go = anyio.Event()
        pictures = await drawn(app, samples=4)

        async def ask(picture: str) -> None:
            answers.append(await page.get(f"/images/{picture}/preview"))

        async with anyio.create_task_group() as tasks:
            for picture in pictures * (number // 4):
                tasks.start_soon(ask, picture)
            await until(lambda: held.asked == number and held.read_ones >= CONCURRENT_READS)
            for _ in range(number):  # another read would begin now
                await anyio.lowlevel.checkpoint()
            assert held.read_ones == CONCURRENT_READS
            held.is_let_go.set()
        assert {answer.status_code for answer in answers} == {200}
        assert held.read_ones <= 4 * CONCURRENT_READS, "waiting requests got previews made in the meantime"


async def test_a_preview_is_shown_even_if_it_cannot_be_kept(
    app: AppContext, page: httpx.AsyncClient, tmp_path: Path
) -> None:
    (picture,) = await drawn(app)
    (tmp_path.with_name(f"{tmp_path.name}-home") / "previews").write_text("in the way", encoding="utf-8")
    assert (await page.get(f"/images/{picture}/preview")).status_code == 200


async def test_an_error_about_a_missing_or_damaged_picture_says_what_to_do(
    app: AppContext, page: httpx.AsyncClient
) -> None:
    (gone,), (damaged,) = await drawn(app, "gone"), await drawn(app, "damaged")
    for picture in (gone, damaged):
        file = Path((await page.get(f"/gallery/pictures/{picture}")).json()["path"])
        file.unlink() if picture == gone else file.write_bytes(b"no picture")
        answer = await page.get(f"/images/{picture}/preview")
        assert answer.status_code == 500
        assert "Next: Put the file back, or draw it again." in answer.text
    assert await listed(page) == ["damaged", "gone"]


# ---- stars and deletions ----


async def test_a_star_is_kept_and_prune_does_not_delete_the_picture(sandbox: Sandbox, tmp_path: Path) -> None:
    clock = lambda: datetime.now(UTC) - timedelta(days=40)  # noqa: E731
    async with (
        app_over(sandbox.url, tmp_path / "gallery", home=tmp_path / "home", clock=clock) as app,
        page_of(app) as page,
    ):
        (loved,), _ = await drawn(app, "loved"), await drawn(app, "not so")
        answer = await page.post(f"/gallery/pictures/{loved}/star", json={"starred": True})
        assert answer.status_code == 204
        assert await listed(page, starred=1) == ["loved"]
        assert await listed(page, starred=1, q="not") == []
    done = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert done.stderr.splitlines()[1] == "Not deleted: 1 with a star."
    async with (
        app_over(sandbox.url, tmp_path / "gallery", home=tmp_path / "home", clock=clock) as app,
        page_of(app) as page,
    ):
        assert await listed(page) == ["loved"]
        assert (await page.get(f"/images/{loved}")).status_code == 200
        await page.post(f"/gallery/pictures/{loved}/star", json={"starred": False})
        assert await listed(page, starred=1) == []
        assert await listed(page) == ["loved"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"starred": 1}', b'{"starred": "yes"}', b"[" * 100_000])
async def test_a_star_must_be_true_or_false(app: AppContext, page: httpx.AsyncClient, body: bytes) -> None:
    (picture,) = await drawn(app)
    answer = await page.post(f"/gallery/pictures/{picture}/star", content=body)
    assert (answer.status_code, "starred must be true or false" in answer.text) == (400, True)


async def test_a_deleted_picture_leaves_its_recipe(app: AppContext, page: httpx.AsyncClient, tmp_path: Path) -> None:
    (picture,), _ = await drawn(app, "a fox"), await drawn(app, "stays")
    shown = (await page.get(f"/gallery/pictures/{picture}")).json()
    await page.get(f"/images/{picture}/preview")
    for _ in range(2):  # also if it was deleted in another window
        assert (await page.delete(f"/gallery/pictures/{picture}")).status_code == 204
    assert not Path(shown["path"]).exists()
    assert not list((tmp_path.with_name(f"{tmp_path.name}-home") / "previews").glob("*/*"))
    assert await listed(page) == ["stays"]
    for path in (f"/images/{picture}", f"/images/{picture}/preview"):
        answer = await page.get(path)
        assert (answer.status_code, "was deleted from the gallery on" in answer.text) == (404, True)
    async with Client(build_server(app)) as agent:
        again = await agent.call_tool("check_job", {"request_id": shown["job"]["request_id"]})
        assert "the same parameters and seed draw it again" in again.model_dump_json()


async def test_a_file_that_somebody_changed_is_not_deleted(app: AppContext, page: httpx.AsyncClient) -> None:
    (picture,) = await drawn(app)
    file = Path((await page.get(f"/gallery/pictures/{picture}")).json()["path"])
    Image.new("RGB", (9, 9)).save(file)
    answer = await page.delete(f"/gallery/pictures/{picture}")
    assert (answer.status_code, "Delete the file in its folder" in answer.text) == (409, True)
    assert file.exists()
    assert await listed(page) == ["a fox"]


async def test_a_picture_whose_file_is_missing_can_be_removed_unless_the_whole_folder_is_missing(
    app: AppContext, page: httpx.AsyncClient, tmp_path: Path
) -> None:
    (picture,) = await drawn(app)
    away = tmp_path.with_name(f"{tmp_path.name}-unplugged")
    tmp_path.rename(away)
    answer = await page.delete(f"/gallery/pictures/{picture}")
    assert answer.status_code == 409
    assert await listed(page) == ["a fox"]
    away.rename(tmp_path)
    shutil.rmtree(next(each for each in tmp_path.iterdir() if each.is_dir()))
    assert (await page.delete(f"/gallery/pictures/{picture}")).status_code == 204
    assert await listed(page) == []


# ---- many requests at the same time ----


@pytest.fixture
async def stuck(app: AppContext, page: httpx.AsyncClient) -> AsyncGenerator[list[str]]:
    """The ids of more pictures than there are threads, on a disk that hangs until the test ends."""
    ids = [each for number in range(6) for each in await drawn(app, f"fox {number}", samples=4)]
    files = [Path((await page.get(f"/gallery/pictures/{each}")).json()["path"]) for each in ids]
    for file in files:
        file.unlink()
        os.mkfifo(file)  # a read waits for a writer
    yield ids
    # All waiting reads reach the end of their file, and later ones find no file.
    writers = [os.open(file, os.O_RDWR) for file in files]
    for file, writer in zip(files, writers, strict=True):
        file.unlink()
        os.close(writer)


without_fifo = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes")


@without_fifo
async def test_a_disk_that_hangs_is_reported(sandbox: Sandbox, tmp_path: Path, stuck: list[str]) -> None:
    impatient = partial(Gallery, read_seconds=0.01)
    async with app_over(sandbox.url, tmp_path, gallery=impatient) as app, page_of(app) as page:
        for path in (f"/images/{stuck[0]}", f"/images/{stuck[0]}/preview"):
            answer = await page.get(path)
            assert (answer.status_code, "its disk does not answer" in answer.text) == (500, True)


@without_fifo
async def test_a_disk_that_hangs_delays_a_result_of_several_pictures_only_once(
    sandbox: Sandbox, tmp_path: Path, stuck: list[str]
) -> None:
    waits = 0

    class Counting(Gallery):
        async def read(self, image: KeptImage) -> bytes:
            nonlocal waits
            waits += 1
            if waits == 4:
                all_wait.set()
            return await super().read(image)

    all_wait = anyio.Event()
    patient = partial(Counting, read_seconds=HANG_SECONDS)
    async with (
        app_over(sandbox.url, tmp_path, gallery=patient) as app,
        Client(build_server(app)) as agent,
        anyio.create_task_group() as tasks,
    ):
        found = await app.service.look_up_image(stuck[0])
        assert found
        tasks.start_soon(agent.call_tool, "check_job", {"request_id": found.job.request_id})
        with anyio.fail_after(HANG_SECONDS / 2):
            await all_wait.wait()
        tasks.cancel_scope.cancel()


@without_fifo
async def test_a_disk_that_hangs_affects_only_its_own_pictures(
    sandbox: Sandbox, tmp_path: Path, stuck: list[str]
) -> None:
    patient = partial(Gallery, read_seconds=HANG_SECONDS)
    async with (
        app_over(sandbox.url, tmp_path, gallery=patient) as app,
        page_of(app) as page,
        anyio.create_task_group() as tasks,
    ):
        (seen,) = await drawn(app, "seen before")
        assert (await page.get(f"/images/{seen}/preview")).status_code == 200
        for each in stuck:
            tasks.start_soon(page.get, f"/images/{each}")
            tasks.start_soon(page.get, f"/images/{each}/preview")
        threads = anyio.to_thread.current_default_thread_limiter()
        await until(lambda: threads.borrowed_tokens >= CONCURRENT_READS)
        with anyio.fail_after(HANG_SECONDS / 2):
            async with Client(build_server(app)) as agent:
                result = await agent.call_tool("generate_image_vegart", {"prompt": "drawn meanwhile"})
            assert len(images_of(result)) == 1, "its preview does not wait for the pictures of the page"
            assert (await page.get(f"/images/{seen}/preview")).status_code == 200
        tasks.cancel_scope.cancel()


async def test_many_searches_at_the_same_time_do_not_delay_other_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    home = tmp_path / "home"
    database = SqliteDatabase(SqliteFile(home / "ledger.sqlite3", SCHEMA))
    store = JobStore(database, ServerLock(home / "servers"))
    done, go_on = list[httpx.Response](), threading.Event()

    def long_search(_: object) -> None:
        go_on.wait(HANG_SECONDS)

    async with app_over(sandbox.url, tmp_path, store=store) as app, page_of(app) as page:
        await drawn(app)

        async def search() -> None:
            done.append(await page.get("/gallery/pictures?q=fox"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(database.read, long_search, slow=True))
            for _ in range(60):
                tasks.start_soon(search)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(HANG_SECONDS / 2):
                await store.latest(1)
            assert done == [], "all searches wait for the first one"
            go_on.set()
    assert [answer.json()["total"] for answer in done] == [1] * 60
