"""`mcp-vega export` and `mcp-vega import`: a ledger and its pictures move to another one, completely and only once."""

import json
import os
import random
import re
import stat
import subprocess
import zipfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, chdir
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import API, KEY, Sandbox, app_over, job_of, paint_small, text_of, wait_until
from mcp.client import Client
from terminals import posix
from test_command_line import COMMAND, run, sandbox_folders, settings, shown

from mcp_vega.cli.application import image_store_of, job_store_of
from mcp_vega.errors import Charged, ContentBlocked, OutcomeUnknown
from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, Search, State
from mcp_vega.parameters import VegaParameters
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.store import file_name
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.search import ImageQuery
from mcp_vega.storage.ledger.spending import Limits

OTHER_KEY = "SG_another0123456789"
LIMITS = Limits(calls_at_once=100)
FIRST = datetime(2026, 11, 20, 23, 59, 58, 123456, tzinfo=UTC)
TEAM = {"MCP_VEGA_LEDGER": "postgres", "MCP_VEGA_GALLERY": "bucket"}
NOWHERE = ImageLocation("", "")
# Ten thousand characters, 20 kB, and all that is odd in a prompt.
ODD = "🦊 naïve\0\n\u200d“quoted” \\ </script> '; DROP TABLE jobs; -- 狐狸 " + "é" * 9_900


@dataclass(frozen=True)
class Place:
    """A ledger and a gallery, as the settings of a command name them."""

    folder: Path
    variables: dict[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self.folder.mkdir(exist_ok=True)
        return run(*arguments, folder=self.folder, **{**self.variables, **variables})

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[tuple[JobStore, FallbackImageStore]]:
        found = Settings.from_environment({**settings(self.folder / "gallery", self.folder), **self.variables})
        store = job_store_of(found)
        try:
            yield store, image_store_of(found)
        finally:
            await store.leave()
            await store.close()

    def do(self, work: Callable[[JobStore, FallbackImageStore], Any]) -> Any:
        async def work_in_it() -> Any:
            async with self.opened() as opened:
                return await work(*opened)

        return anyio.run(work_in_it)

    # ---- jobs ----

    def add(self, *jobs: Job, key: str = KEY) -> None:
        """Write jobs as a server does. A job's pictures are painted here, unless it is deleted."""

        async def add(store: JobStore, images: FallbackImageStore) -> None:
            account = await store.accounts.of_key(key)
            for job in jobs:
                await write(store, images, replace(job, account=account))

        self.do(add)

    def contents(self) -> "Contents":
        return self.do(contents_of)

    def jobs(self) -> list[Job]:
        return self.contents().jobs


async def write(store: JobStore, images: FallbackImageStore, job: Job) -> None:
    day, kept = job.created.date(), list[Image]()
    for index, image in enumerate(job.images):
        data = painted(job, index)
        name = file_name(job.parameters.prompt, job.seed, ".jpg")
        location, _ = await images.save(data, name, image.id, day)
        kept.append(replace(image, location=location, bytes=len(data), sha256=sha256(data).hexdigest()))
    begun = {"sent": None, "ended": None, "receipt": Receipt(), "images": (), "error": None, "open": True, "notes": ()}
    await store.begin(replace(job, **begun, remote_id=None, search=Search(), state=State.QUEUED), LIMITS)
    if job.sent or not job.open:
        if job.sent:
            await store.mark_sent(replace(job, **{**begun, "sent": job.sent}, state=State.PROCESSING), LIMITS)
        await store.save(replace(job, images=tuple(kept)), release=True)
        store.end_wait(job, job.ended or job.created, delivered=True, cancelled=False)
    for image in kept:
        if image.starred:
            await store.search.mark_starred(image.id, starred=True)
        if image.deleted:
            await store.search.mark_deleted(image, image.deleted)
            await images.delete(image.location)


def painted(job: Job, index: int) -> bytes:
    return paint_small(job.parameters.prompt, job.parameters.seed, index)


def job_with(prompt: str, *, pictures: int = 1, number: int = 0, **facts: Any) -> Job:
    """A finished job with pictures that are not painted yet."""
    begun = FIRST + timedelta(hours=number)
    given: dict[str, Any] = {"prompt": prompt, "seed": 7 + number, "samples": max(pictures, 1)}
    job = Job.of_call(
        VegaParameters(**given),
        **{
            "route": Route.V1,
            "base_url": API,
            "created": begun,
            "sent": begun + timedelta(milliseconds=2),
            "ended": begun + timedelta(seconds=3),
            "remote_id": f"r{number}-{sha256(prompt.encode()).hexdigest()[:8]}",
            "state": State.COMPLETED,
            "open": False,
            "receipt": Receipt("r", Decimal("0.0022500000001"), Decimal("1234.50"), Decimal("2.3620"), 7 + number),
            **facts,
        },
    )
    images = [
        Image(id=job.image_id(index), location=NOWHERE, mime_type="image/jpeg", width=96, height=96, bytes=0, sha256="")
        for index in range(pictures)
    ]
    return replace(job, images=tuple(images))


def with_marks(job: Job, index: int, **marks: Any) -> Job:
    images = list(job.images)
    images[index] = replace(images[index], **marks)
    return replace(job, images=tuple(images))


LOST = OutcomeUnknown("The connection broke after the call was sent")
BLOCKED = ContentBlocked("The API refused “a word”", charged=Charged.NO)
SEARCHED = Search(FIRST, FIRST + timedelta(seconds=9), FIRST + timedelta(days=1))


def variety() -> list[Job]:
    """A job of each kind."""
    return [
        with_marks(job_with("a fox"), 0, starred=True),
        with_marks(job_with("three owls", pictures=3, number=1), 1, deleted=FIRST + timedelta(days=2)),
        job_with("a word", pictures=0, number=2, state=State.FAILED, error=BLOCKED, receipt=Receipt(), remote_id=None),
        replace(job_with("known to the API alone", number=3), arguments={}),
        job_with(ODD, number=4, notes=("1 of the 2 pictures did not arrive",)),
        job_with("of a colleague", number=5, owner="ada"),
        job_with(
            "lost", pictures=0, number=6, state=State.UNKNOWN, error=LOST, receipt=Receipt(), remote_id=None,
            open=True, ended=None, next_try=FIRST + timedelta(days=3), search=SEARCHED,
        ),
    ]  # fmt: skip


# ---- comparing ----


@dataclass(frozen=True)
class Contents:
    """What a ledger and its gallery have, without what differs between places."""

    jobs: list[Job]
    files: dict[str, str]  # the sha256 of the pictures that can be read
    shown: list[tuple[str, str, bool]]  # the pictures in the gallery's order: job, picture, star
    spent: list[Any]
    sum: Decimal  # the same in another table, which the limit is compared with


async def contents_of(store: JobStore, images: FallbackImageStore) -> Contents:
    jobs = await store.latest(10**6)
    kept = [image for job in jobs for image in job.images if not image.deleted]
    files = {image.id: sha256(await images.read(image.location)).hexdigest() for image in kept}
    assert files == {image.id: image.sha256 for image in kept}
    shown, _ = await store.search.page(ImageQuery(), size=10**6)
    return Contents(
        [replace(job, account="", held=False, images=bare(job.images)) for job in jobs],
        files,
        [(job.local_id, image.id, image.starred) for job, image in shown],
        await store.spending.by_day("owner"),
        await store.spending.since(date.min),
    )


def bare(images: Sequence[Image]) -> tuple[Image, ...]:
    return tuple(replace(image, location=NOWHERE, fallback=False) for image in images)


@pytest.fixture
def source(tmp_path: Path) -> Place:
    return Place(tmp_path / "source", {"SEGMIND_API_KEY": KEY})


@pytest.fixture
def target(tmp_path: Path) -> Place:
    return Place(tmp_path / "target", {"SEGMIND_API_KEY": KEY})


@pytest.fixture(params=["folder", pytest.param("team", marks=pytest.mark.services)])
def any_target(target: Place, request: pytest.FixtureRequest) -> Place:
    """A ledger in a file with a folder of pictures, and a team's ledger in PostgreSQL with a bucket."""
    if request.param == "folder":
        return target
    stores = {name: request.getfixturevalue(fixture) for name, fixture in TEAM.items()}
    cloud = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return Place(target.folder, {**target.variables, **stores, **cloud})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vega.zip"


def exported(place: Place, file: Path, *options: str) -> str:
    """Export, and return what was said."""
    done = place.run("export", str(file), *options)
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    return done.stderr


def imported(place: Place, file: Path, *options: str, **variables: str) -> str:
    done = place.run("import", str(file), *options, **variables)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


# ---- everything arrives ----


def test_a_ledger_of_each_kind_of_job_arrives_unchanged_and_a_second_import_changes_nothing(
    source: Place, any_target: Place, file: Path
) -> None:
    source.add(*variety())
    before = source.contents()
    assert re.fullmatch(r"Exported: 7 jobs and 6 pictures, [\d.]+ kB\.\n", exported(source, file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert imported(any_target, file) == "Imported: 7 jobs and 6 pictures.\n"
    assert any_target.contents() == before
    assert imported(any_target, file) == "Imported: 0 jobs and 0 pictures.\nThere already: 7 jobs.\n"
    assert any_target.contents() == before
    back = file.with_name("back.zip")
    exported(any_target, back)
    assert imported(source, back).startswith("Imported: 0 jobs")
    assert source.contents() == before


def test_the_commands_show_the_same_jobs_and_money_in_both_places(
    source: Place, target: Place, file: Path, api: dict[str, str]
) -> None:
    for arguments in (["a fox", "--samples", "2"], ["[fault:failed] an owl", "--samples", "2"], ["a wolf"]):
        source.run("draw", *arguments, **api)
    exported(source, file)
    imported(target, file, **api)
    for command in (["jobs"], ["jobs", "--spent"], ["jobs", "--spent", "--by", "caller"]):
        here, there = (place.run(*command) for place in (source, target))
        assert (here.returncode, here.stdout) == (0, there.stdout)
    here, there = (json.loads(place.run("jobs", "--json").stdout) for place in (source, target))
    assert [each["images"] for each in there] != [each["images"] for each in here], "they are in other folders"
    text = json.dumps(here).replace(str(source.folder), str(target.folder))
    assert json.loads(text) == there


@pytest.mark.anyio
async def test_a_server_on_the_new_ledger_settles_the_open_jobs_and_pays_for_none_again(
    source: Place, target: Place, file: Path, sandbox: Sandbox
) -> None:
    async with (
        app_over(sandbox.url, source.folder / "gallery", home=source.folder / "home") as app,
        Client(build_server(app)) as agent,
    ):
        sandbox.account.history_status = 503
        lost = await agent.call_tool("generate_image_vega", {"prompt": "a fox [fault:504-after]"})
        kept = job_of(await agent.call_tool("generate_image_vega", {"prompt": "an owl"}))
    request_id = re.search("request_id (local-[0-9a-f]+)", text_of(lost))
    assert request_id
    paid = sandbox.paid_requests
    for place, command in ((source, "export"), (target, "import")):
        done = await anyio.to_thread.run_sync(lambda: place.run(command, str(file)))  # noqa: B023
        assert done.returncode == 0, done.stderr
    sandbox.account.history_status = 200
    async with (
        app_over(sandbox.url, target.folder / "gallery", home=target.folder / "home") as app,
        Client(build_server(app)) as agent,
    ):
        settled = job_of(await agent.call_tool("check_job", {"request_id": request_id[1], "wait_seconds": 45}))
        assert (settled["state"], len(settled["images"])) == ("COMPLETED", 1)
        checked = job_of(await agent.call_tool("check_job", {"request_id": kept["request_id"]}))
        assert checked["images"][0]["sha256"] == kept["images"][0]["sha256"]
    assert sandbox.paid_requests == paid


def test_a_job_that_is_not_sent_stays_with_the_servers_of_its_ledger(source: Place, target: Place, file: Path) -> None:
    source.add(job_with("a fox"), job_with("still waits", number=1, sent=None, open=True, remote_id=None, pictures=0))
    assert "Not exported: 1 job that was not sent yet. Only the servers of this ledger may send such" in exported(
        source, file
    )
    imported(target, file)
    assert [job.parameters.prompt for job in target.jobs()] == ["a fox"]


# ---- a second import ----


def test_a_second_import_brings_stars_outcomes_and_missing_pictures_and_undoes_no_deletion(
    source: Place, any_target: Place, file: Path
) -> None:
    fox, owls, *_, lost = variety()
    source.add(fox, owls, lost)
    exported(source, file)
    imported(any_target, file, "--owner", "ada")
    first, second = owls.images[0].id, owls.images[2].id

    async def later(store: JobStore, images: FallbackImageStore) -> None:
        """The lost call is found, one picture gets a star, and another one is deleted."""
        job = await store.claim(lost.local_id)
        assert job
        found = replace(job_with("lost", number=6), local_id=lost.local_id, account=job.account)
        data = painted(found, 0)
        location, _ = await images.save(data, "lost-13.jpg", found.image_id(0), found.created.date())
        facts = {"id": found.image_id(0), "location": location, "sha256": sha256(data).hexdigest(), "bytes": len(data)}
        await store.save(replace(found, images=(replace(found.images[0], **facts),)), release=True)
        await store.search.mark_starred(first, starred=True)
        await delete(store, images, second)

    source.do(later)
    after = source.contents()
    exported(source, file, "--force")
    assert imported(any_target, file) == "Imported: 0 jobs and 1 picture.\nThere already: 3 jobs.\n"
    there = any_target.contents()
    assert (there.sum, {job.owner for job in there.jobs}) == (after.sum, {"ada"})
    assert there.spent == [replace(each, group="ada") for each in after.spent]
    assert {job.local_id: job.state for job in there.jobs} == {job.local_id: job.state for job in after.jobs}
    assert (fox.local_id, fox.images[0].id, True) in there.shown
    assert (owls.local_id, first, True) in there.shown
    assert (owls.local_id, second, False) in there.shown, "an import deletes nothing"
    any_target.do(lambda store, images: delete(store, images, fox.images[0].id))
    imported(any_target, file)
    assert fox.images[0].id not in any_target.contents().files, "an import brings back nothing that was deleted"


async def delete(store: JobStore, images: FallbackImageStore, image_id: str) -> None:
    found = await store.search.image(image_id)
    assert found
    assert await store.search.mark_deleted(found.image, FIRST + timedelta(days=5))
    await images.delete(found.image.location)


def test_a_file_that_was_lost_in_the_new_gallery_comes_back(source: Place, target: Place, file: Path) -> None:
    source.add(*variety())
    exported(source, file)
    imported(target, file)
    before = target.contents()
    lost = min((target.folder / "gallery").glob("*/*.jpg"))
    lost.unlink()
    assert "and 0 pictures." in imported(target, with_other_pictures(file)), "they are not those of the ledger"
    assert "and 1 picture." in imported(target, file)
    assert lost.exists()
    assert target.contents() == before


def test_an_import_that_fails_in_the_middle_leaves_complete_jobs_and_can_be_repeated(
    source: Place, any_target: Place, file: Path
) -> None:
    source.add(*(job_with(f"fox {number}", number=number) for number in range(20)))
    exported(source, file)
    broken = changed(file, lambda name, data: replaced_line(data, 17, b"{}\n") if name == "jobs.jsonl" else data)
    done = any_target.run("import", str(broken))
    assert done.returncode == 1
    assert "vega-2.zip is damaged: line 18 of jobs.jsonl is not a job (" in done.stderr
    assert [job.parameters.prompt for job in reversed(any_target.jobs())] == [f"fox {number}" for number in range(16)]
    assert imported(any_target, file) == "Imported: 4 jobs and 4 pictures.\nThere already: 16 jobs.\n"
    assert any_target.contents() == source.contents()


@posix
def test_an_import_that_is_killed_leaves_complete_jobs_and_can_be_repeated(
    source: Place, target: Place, file: Path
) -> None:
    source.add(*(job_with(f"fox {number}", number=number) for number in range(60)))
    exported(source, file)
    target.folder.mkdir()
    environment = {**settings(target.folder / "gallery", target.folder), **target.variables}
    with subprocess.Popen([*COMMAND, "import", str(file)], env=environment, stderr=subprocess.PIPE) as process:
        wait_until(lambda: [*target.folder.glob("gallery/*/*.jpg")])
        process.kill()
    there = target.jobs()
    assert len(there) < 60
    assert all(len(job.images) == 1 for job in there)
    assert f"Imported: {60 - len(there)} jobs and {60 - len(there)} pictures" in imported(target, file)
    assert target.contents() == source.contents()
    assert len([*target.folder.glob("gallery/*/*.jpg")]) == 60


def test_pictures_that_the_gallery_cannot_take_are_kept_in_another_place(
    source: Place, target: Place, file: Path
) -> None:
    source.add(job_with("a fox"))
    exported(source, file)
    target.folder.mkdir()
    (target.folder / "gallery").write_text("not a folder", encoding="utf-8")
    said = imported(target, file)
    assert "Kept outside the gallery: 1 picture (The folder " in said
    assert target.contents() == source.contents()
    assert [*target.folder.glob("home/rescued/*/*.jpg")]


def test_while_a_bucket_is_away_nothing_is_imported_and_no_export_is_replaced(
    source: Place, target: Place, file: Path, bucket: str
) -> None:
    cloud = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    team = Place(target.folder, {**target.variables, **cloud, "MCP_VEGA_GALLERY": bucket})
    source.add(job_with("a fox"))
    exported(source, file)
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    done = team.run("import", str(file), **away)
    assert (done.returncode, done.stdout, team.jobs()) == (1, "", [])
    assert f"The bucket {bucket} could not be written: there is no connection to the storage" in done.stderr
    assert not [*team.folder.glob("**/*.jpg")]
    imported(team, file)
    before = file.read_bytes()
    done = team.run("export", str(file), "--force", **away)
    assert (done.returncode, done.stdout, file.read_bytes()) == (1, "", before)
    assert f"The picture {bucket}/2026-11-20/" in done.stderr
    assert "Next: Check the network and the service's address in the environment" in done.stderr


# ---- damage ----


def changed(file: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> Path:
    """A copy of a zip with other entries; None leaves one out."""
    copy = file.with_name("vega-2.zip")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w", **options) as new:
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
    return copy


def replaced_line(data: bytes, number: int, line: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    lines[number] = line
    return b"".join(lines)


def with_job(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a zip with one job, which is changed."""

    def change_job(name: str, data: bytes) -> bytes:
        if name != "jobs.jsonl":
            return data
        job = json.loads(data)
        change(job)
        return json.dumps(job).encode() + b"\n"

    return changed(file, change_job)


def with_manifest(file: Path, **values: Any) -> Path:
    """A copy with other values in its manifest."""
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    return with_data(file, "manifest.json", json.dumps({**manifest, **values}).encode())


def written(file: Path, data: bytes) -> Path:
    copy = file.with_name("vega-2.zip")
    copy.write_bytes(data)
    return copy


def with_entry(file: Path, name: str, data: bytes = b"") -> Path:
    copy = written(file, file.read_bytes())
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr(name, data)
    return copy


def flipped(file: Path, part: bytes) -> Path:
    """A copy in which one byte of an entry's data is another one."""
    data = bytearray(file.read_bytes())
    data[data.index(part) + len(part) // 2] ^= 1
    return written(file, bytes(data))


def with_data(file: Path, name: str, data: bytes | None) -> Path:
    """A copy with other data in one entry."""
    return changed(file, lambda each, old: data if each == name else old)


NO_EXPORT, NO_ZIP = "is not an export of mcp-vega (", "is not an export of mcp-vega, or its end is missing"
OTHER_ID = f"local-{'0' * 32}"
JPEG = f"pictures/{'0' * 32}.jpg"
DAMAGE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut": (lambda file: written(file, file.read_bytes()[:-100]), NO_ZIP),
    "empty": (lambda file: written(file, b""), NO_ZIP),
    "text": (lambda file: written(file, b"not a zip" * 1000), NO_ZIP),
    "list": (lambda file: flipped(file, b'"local_id"'), "jobs.jsonl cannot be read (Bad CRC-32"),
    "key": (lambda file: with_data(file, "account.key", b"x"), "account.key is not a key"),
    "bomb": (lambda file: changed(file, lambda _, data: data, compression=zipfile.ZIP_DEFLATED), NO_EXPORT),
    "picture": (lambda file: with_entry(file, JPEG), "it has 2 pictures, but should have 1"),
    "outside": (lambda file: with_entry(file, "../../evil"), NO_EXPORT),
    "absolute": (lambda file: with_entry(file, "/etc/cron.d/evil"), NO_EXPORT),
    "json": (lambda file: with_data(file, "jobs.jsonl", b"{"), "line 1 of jobs.jsonl is not a job (JSON: Invalid"),
    "no job": (lambda file: with_data(file, "jobs.jsonl", b""), "it has 0 jobs, but should have 1"),
    "no manifest": (lambda file: with_data(file, "manifest.json", None), NO_EXPORT),
    "deep manifest": (lambda file: with_data(file, "manifest.json", b"[" * 90_000), NO_EXPORT),
    "newer": (lambda file: with_manifest(file, version=2), "was made by a newer version of mcp-vega"),
    "other program": (lambda file: with_manifest(file, format="other"), NO_EXPORT),
    "other version": (lambda file: with_manifest(file, version="x"), NO_EXPORT),
    "other field": (lambda file: with_job(file, lambda job: job.update(number=1)), "is not a job (number: Extra"),
    "number": (lambda file: with_job(file, lambda job: job["receipt"].update(cost="1E+999999")), "(receipt.cost: "),
    "negative": (lambda file: with_job(file, lambda job: job["receipt"].update(cost="-5")), "(receipt.cost: "),
    "id": (lambda file: with_job(file, lambda job: job.update(local_id="../x")), "is not a job (local_id: "),
    "id of the API": (lambda file: with_job(file, lambda job: job.update(local_id="r0")), "is not a job (local_id: "),
    "id of another": (lambda file: with_job(file, lambda job: job.update(remote_id=OTHER_ID)), "(remote_id: "),
    "last year": (lambda file: with_job(file, lambda job: job.update(created="9999-12-31T23:59:59Z")), "year must be"),
    "no such year": (lambda file: with_job(file, lambda job: job.update(sent="0001-01-01T00:00:00+14:00")), "year"),
    "owner": (lambda file: with_job(file, lambda job: job.update(owner="ada\0")), "no caller has this name"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_and_nothing_of_it_is_kept(
    source: Place, target: Place, file: Path, kind: str
) -> None:
    damage, said = DAMAGE[kind]
    source.add(job_with("a fox"))
    exported(source, file)
    done = target.run("import", str(damage(file)))
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "\nNext: " in done.stderr
    assert (target.jobs(), [*target.folder.glob("gallery/**/*")]) == ([], [])


def test_a_list_of_jobs_with_a_changed_byte_is_refused_before_its_first_job(
    source: Place, target: Place, file: Path
) -> None:
    source.add(*(job_with(f"fox {number}", number=number) for number in range(20)))
    exported(source, file)
    done = target.run("import", str(flipped(file, b"fox 19")))
    assert (done.returncode, "jobs.jsonl cannot be read (Bad CRC-32" in done.stderr) == (1, True)
    assert target.jobs() == []


def with_picture(file: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy with another picture."""
    return changed(file, lambda name, data: change(data) if "/" in name else data)


def with_other_pictures(file: Path) -> Path:
    """A copy with other pictures under the same ids."""

    def change(name: str, data: bytes) -> bytes:
        if name.endswith(".jpg"):
            return data[:-1] + b"x"
        lines = [json.loads(line) for line in data.splitlines()] if name == "jobs.jsonl" else []
        for image in (image for line in lines for image in line["images"] if image["file"]):
            with zipfile.ZipFile(file) as zipped:
                image["sha256"] = sha256(zipped.read(image["file"])[:-1] + b"x").hexdigest()
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines) or data

    return changed(file, change)


PARTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "picture": (lambda file: flipped(file, painted(job_with("a fox"), 0)), ".jpg cannot be read (Bad CRC-32"),
    "forged": (lambda file: with_picture(file, lambda data: data[:-1] + b"x"), "was changed"),
    "longer": (lambda file: with_picture(file, lambda data: data + b"x"), "is too long"),
    "model": (lambda file: with_job(file, lambda job: job.update(model="x")), "the model 'x' is not known"),
    "steps": (lambda file: with_job(file, lambda job: job["parameters"].update(samples=9)), "the parameters are not"),
    "unsent": (lambda file: with_job(file, lambda job: job.update(open=True, sent=None)), "only the servers of its"),
    "another": (lambda file: with_job(file, lambda job: job.update(local_id=OTHER_ID)), "is not one of its job"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_job_with_a_damaged_part_is_left_out_and_listed_and_the_others_arrive(
    source: Place, target: Place, file: Path, kind: str
) -> None:
    damage, said = PARTS[kind]
    source.add(job_with("a fox"))
    exported(source, file)
    done = target.run("import", str(damage(file)))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(r"The job local-\w+ was not imported\. .*vega-2\.zip is damaged: ", done.stderr)
    assert said in done.stderr
    assert done.stderr.endswith("Not complete: 1 problem, see above.\n")
    assert target.jobs() == []
    assert imported(target, file) == "Imported: 1 job and 1 picture.\n"


def test_whatever_byte_is_changed_a_job_arrives_as_it_was_or_not_at_all(
    source: Place, target: Place, file: Path
) -> None:
    source.add(job_with("a fox"))
    exported(source, file)
    before, data = source.contents(), file.read_bytes()
    rng = random.Random(0)  # noqa: S311  no secret
    # Most bytes are the picture's; the others are the names, the sizes and the places of the entries.
    picture = painted(job_with("a fox"), 0)
    start = data.index(picture)
    places = [each for each in range(len(data)) if not start <= each < start + len(picture)]
    for place in rng.sample(places, 40):
        other = bytearray(data)
        other[place] ^= 1 << rng.randrange(8)
        fresh = Place(target.folder / str(place), target.variables)
        fresh.folder.mkdir(parents=True)
        done = fresh.run("import", str(written(file, bytes(other))))
        assert done.returncode in (0, 1), done.stderr
        there = fresh.contents()
        assert there in (before, Contents([], {}, [], [], Decimal(0))), place
        assert bool(there.jobs) == (done.returncode == 0)


def test_a_missing_and_a_changed_picture_are_listed_and_their_jobs_are_exported(
    source: Place, target: Place, file: Path
) -> None:
    source.add(job_with("a fox", pictures=2), job_with("an owl", number=1))
    _, fox = source.jobs()
    first, second = sorted((source.folder / "gallery" / "2026-11-20").iterdir())
    gone, edited = sorted((first, second), key=lambda path: fox.images[1].id[:8] in path.name)
    gone.unlink()
    edited.write_bytes(b"cropped")
    done = source.run("export", str(file))
    assert (done.returncode, done.stdout) == (1, f"{file}\n")
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"The picture {fox.images[0].id} is not in the file. ")
    assert (
        lines[1]
        == f"The picture {fox.images[1].id} is not in the file. The file {edited} was changed since it was drawn"
    )
    assert lines[2:] == [
        f"Exported: 2 jobs and 1 picture, {lines[2].rpartition(', ')[2]}",
        "Not complete: 2 problems, see above.",
    ]
    done = target.run("import", str(file))
    assert done.returncode == 1
    assert all(f"The picture {image.id} was not imported" in done.stderr for image in fox.images)
    assert [len(job.images) for job in target.jobs()] == [1, 0]
    for index, path in enumerate((gone, edited)):
        path.write_bytes(painted(fox, index))
    exported(source, file, "--force")
    assert imported(target, file) == "Imported: 0 jobs and 2 pictures.\nThere already: 2 jobs.\n"
    assert target.contents() == source.contents()


# ---- whose they are ----


def test_jobs_go_to_a_caller_and_come_back_to_the_operator(source: Place, any_target: Place, file: Path) -> None:
    fox = job_with("a fox")
    source.add(fox, *(job_with(f"owl {number}", number=number, owner="bob") for number in range(1, 3)))
    exported(source, file)
    imported(any_target, file, "--owner", "ada")
    assert {job.owner for job in any_target.jobs()} == {"ada"}
    assert [each.group for each in any_target.contents().spent] == ["ada", "ada"]
    assert imported(any_target, file, "--owner", "eve").endswith("There already: 3 jobs.\n")
    assert {job.owner for job in any_target.jobs()} == {"ada"}, "jobs that are there stay as they are"
    of_bob = file.with_name("bob.zip")
    assert exported(source, of_bob, "--owner", "bob").startswith("Exported: 2 jobs and 2 pictures")
    mine = Place(any_target.folder / "mine", source.variables)
    imported(mine, of_bob)
    assert {(job.owner, job.parameters.prompt) for job in mine.jobs()} == {("", "owl 1"), ("", "owl 2")}
    refused = source.run("export", str(file), "--owner", "carol", "--force")
    assert (refused.returncode, "has no jobs of the caller 'carol'" in refused.stderr) == (1, True)


def test_the_file_of_one_caller_changes_no_job_of_another(source: Place, any_target: Place, file: Path) -> None:
    lost = variety()[-1]
    source.add(job_with("a fox"), lost)
    exported(source, file)
    imported(any_target, file, "--owner", "ada")
    (fox,) = (job for job in any_target.jobs() if job.images)
    before = any_target.contents()
    other = Place(source.folder.with_name("other"), source.variables)
    found = replace(job_with("lost", pictures=0, number=6), local_id=lost.local_id)
    other.add(replace(with_marks(fox, 0, starred=True), owner=""), found)
    of_eve = file.with_name("eve.zip")
    exported(other, of_eve)
    assert (
        imported(any_target, of_eve, "--owner", "eve") == "Imported: 0 jobs and 0 pictures.\nThere already: 2 jobs.\n"
    )
    assert any_target.contents() == before
    imported(any_target, of_eve, "--owner", "ada")
    assert any_target.contents() != before


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_name_of_a_caller_is_one_that_a_token_can_have(source: Place, file: Path, command: str) -> None:
    for name in ("", "ada lovelace", "x" * 65):
        done = source.run(command, str(file), "--owner", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert "must have 1 to 64 letters, digits and _.@+-" in done.stderr


# ---- accounts ----


def test_a_new_ledger_takes_the_accounts_of_the_old_one(source: Place, target: Place, file: Path) -> None:
    source.add(job_with("a fox"))
    source.add(job_with("an owl", number=1), key=OTHER_KEY)
    exported(source, file)
    imported(target, file, SEGMIND_API_KEY="")
    assert accounts_in(target) == accounts_in(source)


def test_in_a_ledger_with_its_own_key_jobs_get_to_their_account_with_each_api_key(
    source: Place, any_target: Place, file: Path
) -> None:
    source.add(job_with("a fox"), variety()[-1])
    source.add(job_with("an owl", number=1), key=OTHER_KEY)
    any_target.add(job_with("there before", number=2))
    exported(source, file)
    said = imported(any_target, file, SEGMIND_API_KEY="")
    asked = "No server on this ledger can find out how such jobs end, until you set SEGMIND_API_KEY to that key and"
    assert f"Of another API key: 3 jobs, 1 still open. {asked} repeat the import.\n" in said
    said = imported(any_target, file, SEGMIND_API_KEY=KEY)
    assert f"There already: 3 jobs.\nOf another API key: 1 job. {asked}" in said
    assert "Of another API key: 2 jobs, 1 still open. " not in imported(any_target, file, SEGMIND_API_KEY=OTHER_KEY)
    assert "another API key" not in imported(any_target, file, SEGMIND_API_KEY="")
    accounts = accounts_in(any_target)
    assert accounts["a fox"] == accounts["lost"] == accounts["there before"] != accounts["an owl"]
    assert any_target.do(lambda store, _: store.accounts.of_key(OTHER_KEY)) == accounts["an owl"]


def accounts_in(place: Place) -> dict[str, str]:
    jobs: list[Job] = place.do(lambda store, _: store.latest(1000))
    return {job.parameters.prompt: job.account for job in jobs}


def test_a_call_that_the_ledger_knows_under_another_id_is_not_counted_twice(
    source: Place, any_target: Place, file: Path
) -> None:
    source.add(job_with("a fox"), job_with("an owl", number=1))
    any_target.add(job_with("a fox"), job_with("an owl", number=1, pictures=0, state=State.FAILED, error=BLOCKED))
    before = any_target.contents()
    exported(source, file)
    done = any_target.run("import", str(file))
    assert done.returncode == 1
    (owl,) = (job for job in source.jobs() if job.parameters.prompt == "an owl")
    assert done.stderr.startswith(f"The ledger has the job {owl.remote_id} already, but not its pictures.")
    assert any_target.contents() == before


# ---- the file ----


def test_an_export_replaces_only_an_earlier_export_and_only_with_force(source: Place, file: Path) -> None:
    source.add(job_with("a fox"))
    exported(source, file)
    before = file.read_bytes()
    done = source.run("export", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert "it is an earlier export (invalid_arguments).\nNext: Choose another name, or add --force" in done.stderr
    assert file.read_bytes() == before
    source.add(job_with("an owl", number=1))
    exported(source, file, "--force")
    assert file.read_bytes() != before
    for other in ("notes.txt", "folder", "missing/vega.zip"):
        path = file.with_name("other") / other
        path.parent.parent.mkdir(exist_ok=True)
        if other == "folder":
            path.mkdir(parents=True, exist_ok=True)
        elif other == "notes.txt":
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine", encoding="utf-8")
        done = source.run("export", str(path), "--force")
        assert (done.returncode, done.stdout) == (2, ""), other
    assert (file.with_name("other") / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not [*file.parent.glob("**/*.part")]


def test_an_export_that_fails_leaves_no_file(source: Place, file: Path) -> None:
    source.add(job_with("a fox"))
    done = source.run("export", str(file.with_name("x" * 300)))
    assert (done.returncode, "cannot be written: File name too long" in done.stderr) == (1, True)
    assert [path.name for path in file.parent.iterdir()] == ["source"]


def test_without_jobs_there_is_nothing_to_export_and_no_ledger_is_made(source: Place, file: Path) -> None:
    done = source.run("export", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no jobs to export (unknown_job)" in done.stderr
    assert not [*source.folder.iterdir()]
    for other in (file, file.parent, Path(os.devnull)):  # a device may have no end
        done = source.run("import", str(other))
        assert (done.returncode, f"There is no file {other}" in done.stderr) == (2, True)
    assert not [*source.folder.iterdir()]


def test_jobs_of_the_sandbox_stay_in_ledgers_of_the_sandbox(
    source: Place, target: Place, file: Path, api: dict[str, str]
) -> None:
    for place, sandbox in ((source, ["--sandbox"]), (target, [])):
        folders = sandbox_folders(place.folder / "gallery", place.folder / "home") if sandbox else {}
        place.run("draw", "a fox", **api, **folders)
        exported(place, file, "--force", *sandbox)
        other = [] if sandbox else ["--sandbox"]
        done = target.run("import", str(file), *other)
        assert (done.returncode, "sandbox" in done.stderr) == (2, True)
    exported(source, file, "--force", "--sandbox")
    assert imported(target, file, "--sandbox") == "Imported: 1 job and 1 picture.\n"
    assert len(json.loads(target.run("jobs", "--sandbox", "--json").stdout)) == 1


def test_text_that_has_no_bytes_arrives_with_question_marks(source: Place, target: Place, file: Path) -> None:
    said = OutcomeUnknown("The API said “\ud800”")
    source.add(job_with("a fox", pictures=0, state=State.UNKNOWN, open=True, error=said, notes=("\udfff",)))
    exported(source, file)
    imported(target, file)
    (job,) = target.jobs()
    assert job.error
    assert (job.error.what, job.notes) == ("The API said “?”", ("?",))


@posix
def test_a_terminal_shows_the_progress_in_one_line(source: Place) -> None:
    source.add(*(job_with(f"fox {number}", number=number) for number in range(3)))
    with chdir(source.folder):
        code, screen = shown("export", "vega.zip", folder=source.folder, size=(200, 24), SEGMIND_API_KEY=KEY)
    assert code == 0
    assert "\r[########################] Exporting: 3 of 3 jobs" in screen.text
    first, second, end = screen.lines
    assert first.startswith("Exported: 3 jobs and 3 pictures")
    assert (second, end) == (str(source.folder / "vega.zip"), "")
