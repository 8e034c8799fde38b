"""The folder of the pictures: complete files with names that every system allows, and none is overwritten."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG_SECONDS, Sandbox, app_over, job_of, text_of, until
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextResourceContents
from terminals import posix, terminal
from test_command_line import COMMAND, desktop_with, run, run_beside, settings

from mcp_vega.errors import GalleryError
from mcp_vega.server.app import build_server
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.store import file_name

pytestmark = pytest.mark.anyio

DAY = date(2026, 11, 20)


ID, OTHER = "0123456789abcdef" * 2, "01234567" + "f" * 24


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


async def test_a_picture_is_kept_in_the_folder_of_its_day(tmp_path: Path) -> None:
    key = (await ImageFolder(tmp_path).save(b"data", "a-7.jpg", ID, DAY)).key
    assert key == "2026-11-20/a-7-01234567.jpg"
    assert (tmp_path / key).read_bytes() == b"data"
    assert names(tmp_path / key) == ["a-7-01234567.jpg"]


@pytest.mark.parametrize("links", [True, False])
async def test_a_file_is_never_overwritten_with_or_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    gallery = ImageFolder(tmp_path)
    first = (await gallery.save(b"first", "a-7.jpg", ID, DAY)).key
    second = (await gallery.save(b"second", "a-7.jpg", OTHER, DAY)).key
    assert [await gallery.read(each) for each in (first, second)] == [b"first", b"second"]
    assert names(tmp_path / first) == ["a-7-01234567.jpg", f"a-7-{OTHER}.jpg"]


async def test_a_picture_that_is_already_there_is_not_kept_twice(tmp_path: Path) -> None:
    gallery = ImageFolder(tmp_path)
    first = (await gallery.save(b"data", "a-7.jpg", ID, DAY)).key
    assert (await gallery.save(b"data", "a-7.jpg", ID, DAY)).key == first
    assert names(tmp_path / first) == ["a-7-01234567.jpg"]


async def test_the_unfinished_file_of_a_server_that_died_is_removed(tmp_path: Path) -> None:
    (tmp_path / "2026-11-20").mkdir()
    left = tmp_path / "2026-11-20" / ".another-9-89abcdef.1234.part"
    left.write_bytes(b"da")
    os.utime(left, (0, 0))
    await ImageFolder(tmp_path).save(b"data", "a-7.jpg", ID, DAY)
    assert names(left) == ["a-7-01234567.jpg"]


async def test_each_item_that_is_kept_apart_has_its_own_file(tmp_path: Path) -> None:
    images = FallbackImageStore([ImageFolder(tmp_path)])
    for data in (b"no picture", b"another", b"a third", b"another"):
        path = Path(await images.set_aside(data, "a-7.bin", DAY) or "")
        assert path.read_bytes() == data
        assert path.parent == tmp_path / "unreadable" / "2026-11-20"
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A Lighthouse, at dusk!", "a-lighthouse-at-dusk"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\CON NUL", "c-con-nul"),
        ("Füchslein im Schnee", "füchslein-im-schnee"),
        ("FU\u0308CHSLEIN", "füchslein"),
        ("狐，在雪地里", "狐-在雪地里"),  # noqa: RUF001  a Chinese comma
        ("लोमड़ी और क्\u200dष", "लोमड़ी-और-क्ष"),
        ("می\u200cخواهم", "میخواهم"),  # noqa: RUF001  Persian
        ("👩\u200d👩\u200d👧 ❤\ufe0f fox", "fox"),
        ("ＣＯＮ ℡ ½", "con-tel-1-2"),  # noqa: RUF001  full-width letters
        ("\u3164\u200b\u0301", "picture"),
        ("\0\n", "picture"),
        ("a fox SG_0123456789abcdef", "a-fox-sg"),
        ("SG_01234\u200b56789 fox", "sg-fox"),
        ("x" * 500, "x" * 40),
        ("狐" * 500, "狐" * 24),
        ("x" * 39 + "👍🏽é", "x" * 39),
        ("x" * 39 + "कि", "x" * 39),
    ],
)
def test_a_file_name_consists_of_harmless_words(prompt: str, slug: str) -> None:
    assert file_name(prompt, 7, ".jpg") == f"{slug}-7.jpg"


NO_SUCH_LETTERS = """
import asyncio, datetime, pathlib, sys
from mcp_vega.storage.images.folder import ImageFolder
day, folder = datetime.date(2026, 11, 20), ImageFolder(pathlib.Path(sys.argv[1]))
async def main():
    for name in ("\\u72d0-7.jpg", "ein f\\xfcchslein-7.jpg"):
        key = (await folder.save(name.encode(), name, "01234567" * 4, day)).key
        assert await folder.read(key) == await folder.find(name, "01234567" * 4, day) == name.encode()
        print(key)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their file names are Unicode in every locale")
def test_if_a_name_cannot_be_written_the_picture_gets_another_one(tmp_path: Path) -> None:
    ascii_alone = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", NO_SUCH_LETTERS, str(tmp_path)]
    done = subprocess.run(command, env=ascii_alone, capture_output=True, text=True, check=False)
    keys = ["2026-11-20/picture-7-01234567.jpg", "2026-11-20/ein fuchslein-7-01234567.jpg"]
    assert (done.stderr, done.stdout.splitlines()) == ("", keys)


async def test_a_missing_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot be read"):
        await ImageFolder(tmp_path).read("gone.jpg")


# ---- on the command line ----


async def drawn(sandbox: Sandbox, folder: Path, prompt: str, days_ago: int) -> Path:
    """A picture that was drawn some days ago, in the folders of `run`."""

    def clock() -> datetime:
        return datetime.now(UTC) - timedelta(days=days_ago)

    async with (
        app_over(sandbox.url, folder / "gallery", home=folder / "home", clock=clock) as app,
        Client(build_server(app)) as agent,
    ):
        (image,) = job_of(await agent.call_tool("generate_image_vega", {"prompt": prompt}))["images"]
    return Path(image["path"])


async def test_gallery_prints_the_folder_with_the_number_and_size_of_the_pictures(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    nothing = await run_beside("gallery", "--folder", folder=tmp_path)
    assert (nothing.returncode, nothing.stdout) == (0, f"{tmp_path / 'gallery'}\n0 pictures, 0 bytes\n")
    assert not (tmp_path / "home").exists(), "reading creates no ledger"
    size = (await drawn(sandbox, tmp_path, "a fox", 0)).stat().st_size
    one = (await run_beside("gallery", "--folder", folder=tmp_path)).stdout
    assert one == f"{tmp_path / 'gallery'}\n1 picture, {size / 1000:.1f} kB\n"
    (tmp_path / "gallery" / "unreadable" / "2026-11-20").mkdir(parents=True)
    (tmp_path / "gallery" / "unreadable" / "2026-11-20" / "a-fox-7-0.bin").write_bytes(b"no picture")
    said = (await run_beside("gallery", "--folder", folder=tmp_path)).stdout
    assert said.startswith(one)
    aside = tmp_path / "gallery" / "unreadable"
    assert said.endswith(f"Kept apart, because they are not pictures: 1, in {aside}\n")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="they open folders with programs of their own")
def test_gallery_opens_the_folder_or_says_in_one_line_why_not(tmp_path: Path) -> None:
    desktop = desktop_with(tmp_path, f'echo "$1" > {tmp_path}/opened')

    def why_not(**variables: str) -> str:
        done = run("gallery", "--folder", "--open", folder=tmp_path, **variables)
        assert done.returncode == int(bool(done.stderr))
        return done.stderr.removeprefix(f"{tmp_path / 'gallery'} cannot be opened: ")

    assert why_not(**desktop) == "it does not exist; draw a picture first\n"
    (tmp_path / "gallery").mkdir()
    assert why_not(**desktop) == ""
    assert (tmp_path / "opened").read_text(encoding="utf-8") == f"{tmp_path / 'gallery'}\n"
    desktop_with(tmp_path, "echo one; echo two >&2; exit 3")
    assert why_not(**desktop) == "xdg-open failed with exit code 3: it found no program for this\n"
    (tmp_path / "bin" / "xdg-open").write_text("#!/gone\n", encoding="utf-8")
    assert why_not(**desktop) == "xdg-open cannot be started: No such file or directory\n"
    assert why_not(**{**desktop, "DISPLAY": ""}) == "there is no desktop here\n"
    assert why_not(WAYLAND_DISPLAY="wayland-0", PATH="/nowhere") == "there is no xdg-open here\n"


async def test_prune_deletes_old_pictures_and_the_ledger_keeps_how_they_were_drawn(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    old, edited, moved, new = [
        await drawn(sandbox, tmp_path, prompt, days)
        for prompt, days in (("old", 31), ("edited", 31), ("moved", 40), ("new", 1))
    ]
    edited.write_bytes(edited.read_bytes() + b"edited")
    moved.rename(tmp_path / "moved.jpg")
    own = old.with_name("a-picture-of-the-users-own.jpg")
    own.write_bytes(b"own")
    asked = await run_beside("gallery", "--prune", "30", folder=tmp_path)
    assert (asked.returncode, old.exists()) == (2, True)
    assert "Next: Add --yes." in asked.stderr
    done = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert done.stderr.splitlines() == [
        "Deleted: 1. The ledger keeps how each was drawn.",
        "Not deleted: 2 that were changed, moved or kept in another folder.",
    ]
    assert [file.exists() for file in (old, edited, own, new, tmp_path / "moved.jpg")] == [
        False,
        True,
        True,
        True,
        True,
    ]
    jobs = json.loads((await run_beside("jobs", "--json", folder=tmp_path)).stdout)
    assert [job["parameters"]["prompt"] for job in jobs] == ["new", "edited", "old", "moved"]
    async with (
        app_over(sandbox.url, tmp_path / "gallery", home=tmp_path / "home") as app,
        Client(build_server(app)) as agent,
    ):
        listed = [each.title for each in (await agent.list_resources()).resources[2:]]
        assert "“old”" not in listed
        again = await agent.call_tool("check_job", {"request_id": jobs[2]["request_id"]})
        (image,) = job_of(again)["images"]
        for uri in (image["uri"], f"{image['uri']}/preview"):
            with pytest.raises(MCPError, match=r"was deleted from the gallery on [-\d]+ \(UTC\)") as caught:
                await agent.read_resource(uri)
            assert caught.value.error.code == -32602
        varied = await agent.get_prompt("vary", {"image": image["id"], "change": "at night"})
        assert "(UTC), so you cannot compare with it" in varied.model_dump_json()
    assert f"Note: the picture {image['id']} was deleted from the gallery on " in text_of(again)
    assert (image["path"], "Image: " in text_of(again)) == (None, False)
    assert f"Seed: {jobs[2]['seed']}" in text_of(again)
    old_job = (await run_beside("jobs", folder=tmp_path)).stdout.splitlines()[3]
    assert ("  old  " in old_job, "  deleted  " in old_job) == (True, True)
    in_full = await run_beside("jobs", jobs[2]["request_id"], folder=tmp_path)
    assert f"Image:        deleted on {datetime.now(UTC):%Y-%m-%d} (UTC)\n" in in_full.stdout
    nothing = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert nothing.stderr.startswith("There is no picture to delete that was drawn 30 days ago or earlier.\n")


def test_prune_fails_if_a_picture_cannot_be_deleted(
    tmp_path: Path, api: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Path(run("draw", "a fox", folder=tmp_path, **api).stdout.strip())
    unlink = Path.unlink

    def refused(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == picture.name:
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    done = run("gallery", "--prune", "0", "--yes", folder=tmp_path)
    assert (done.returncode, picture.exists()) == (1, True)
    assert "cannot be deleted: Permission denied" in done.stderr
    assert "Deleted: 0." in done.stderr


async def test_prune_keeps_a_picture_that_nobody_has_received_yet(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path / "gallery", home=tmp_path / "home", wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        request_id = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))["request_id"]

        async def kept() -> Any:
            (content,) = (await agent.read_resource(f"vega://jobs/{request_id}")).contents
            assert isinstance(content, TextResourceContents)
            shown = json.loads(content.text)
            return shown["images"] if shown["state"] == "COMPLETED" else None

        path = Path((await until(kept))[0]["path"])

        async def pruned() -> bool:
            await run_beside("gallery", "--prune", "0", "--yes", folder=tmp_path)
            return not path.exists()

        assert not await pruned()
        await agent.call_tool("check_job", {"request_id": request_id})
        await until(pruned)  # the delivery is saved a moment later


async def test_prune_keeps_a_file_that_is_outside_the_gallery(sandbox: Sandbox, tmp_path: Path) -> None:
    path = await drawn(sandbox, tmp_path, "a fox", 31)
    elsewhere = tmp_path / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere)
    done = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert done.stderr.splitlines()[1] == "Not deleted: 1 that were changed, moved or kept in another folder."
    assert (elsewhere / path.name).exists()


async def test_prune_deletes_nothing_that_it_cannot_record(sandbox: Sandbox, tmp_path: Path) -> None:
    path = await drawn(sandbox, tmp_path, "a fox", 31)
    with closing(sqlite3.connect(tmp_path / "home" / "ledger.sqlite3", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        locked = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert (locked.returncode, path.exists()) == (1, True)
    assert locked.stderr.startswith("Deleted: 0. ")
    assert "is locked by another program" in locked.stderr
    done = await run_beside("gallery", "--prune", "30", "--yes", folder=tmp_path)
    assert done.stderr.startswith("Deleted: 1. ")
    assert not path.exists()


NO_SENSE = [
    "--yes",
    "--prune -1",
    "--prune x",
    "--prune 100000",
    "--print --folder",
    "--port 0 --prune 3",
    "--print --open",
]


@pytest.mark.parametrize("arguments", [each.split() for each in NO_SENSE])
def test_gallery_refuses_options_that_make_no_sense(tmp_path: Path, arguments: list[str]) -> None:
    done = run("gallery", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def answered(answer: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command at a terminal, where a person answers its question."""
    with terminal(typed=f"{answer}\n") as (stdin, _):
        return subprocess.run(
            [*COMMAND, *arguments],
            env=settings(folder / "gallery", folder),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )


@posix
@pytest.mark.parametrize(("answer", "left"), [("", True), ("n", True), ("y", False), ("Yes", False)])
async def test_prune_asks_first(sandbox: Sandbox, tmp_path: Path, answer: str, *, left: bool) -> None:
    path = await drawn(sandbox, tmp_path, "a fox", 31)
    done = answered(answer, "gallery", "--prune", "30", folder=tmp_path)
    assert done.stderr.startswith("1 picture, ")
    assert "Delete them? [y/N] " in done.stderr
    assert (done.returncode, path.exists()) == (int(left), left)
