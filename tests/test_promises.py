"""The two promises: no picture that was paid for is lost, and none is paid for twice."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import (
    API,
    HANG_SECONDS,
    KEY,
    Sandbox,
    app_over,
    begun,
    images_of,
    job_of,
    noise,
    serving_sandbox,
    text_of,
    until,
)
from mcp.client import Client
from mcp_types import CallToolResult
from stores import ledger_at

from mcp_vega.imaging import metadata
from mcp_vega.job import Job, State
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.sandbox.account import Call
from mcp_vega.sandbox.history import history_rows
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.server.app import build_server
from mcp_vega.storage.images.folder import ImageFolder

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
ASKED = {"prompt": "a fox"}
# At this speed the sandbox's queue draws nothing while a test runs. After these seconds are skipped, it has drawn.
SLOW, UNTIL_DRAWN = 100, 300


async def checked(agent: Client, request_id: str) -> CallToolResult:
    return await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})


async def listed(agent: Client) -> list[dict[str, Any]]:
    return ((await agent.call_tool("check_job", {})).meta or {}).get("mcp-vega/jobs", [])


def id_in(result: CallToolResult) -> str:
    """The request id in an error."""
    return text_of(result).partition("request_id ")[2].split()[0].rstrip(";.")


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    """Rows of the ledger, read as another program would read them."""
    return ledger_at(folder.with_name(f"{folder.name}-home")).execute(query)


# ---- saved ----


async def test_a_job_is_saved_before_its_call_is_sent_and_after_each_change(sandbox: Sandbox, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Watching(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                seen.extend(rows(tmp_path, "SELECT * FROM jobs ORDER BY created DESC LIMIT 1"))
            return await super().handle_async_request(request)

    async with (
        app_over(sandbox.url, tmp_path, transport=Watching()) as app,
        Client(build_server(app)) as agent,
    ):
        v1 = job_of(await agent.call_tool(VEGA, {"prompt": "a fox", "num_inference_steps": "30"}))
        v2 = job_of(await agent.call_tool("submit_job", {"prompt": "two", "samples": 2}))
        await checked(agent, v2["request_id"])
    before_v1, before_v2 = seen
    assert (before_v1["prompt"], json.loads(before_v1["parameters"])) == ("a fox", {"num_inference_steps": 30})
    assert (before_v1["seed"], before_v1["prompt"]) == (v1["seed"], "a fox")
    assert (before_v1["route"], before_v1["remote_id"], before_v1["charged"]) == ("v1", None, "unknown")
    assert (before_v2["route"], before_v2["state"], before_v2["base_url"]) == ("v2", "QUEUED", sandbox.url)

    first, second = rows(tmp_path, "SELECT * FROM jobs ORDER BY created")
    assert (first["remote_id"], first["state"], first["charged"]) == (v1["request_id"], "COMPLETED", "yes")
    assert (first["cost"], first["credits_left"]) == ("0.0027", "9.9973")
    assert first["created"] <= first["sent"] <= first["ended"]
    assert (second["remote_id"], second["open"], second["holder"]) == (v2["request_id"], 0, None)
    images = rows(tmp_path, "SELECT * FROM images")
    assert {image["id"] for image in images} >= {image["id"] for image in v1["images"]}
    assert [image["mime_type"] for image in images] == ["image/jpeg"] * 3


async def test_a_finished_job_is_known_after_a_restart_and_after_the_api_forgot_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        submitted = job_of(await agent.call_tool("submit_job", {"prompt": "a fox"}))
        before = await checked(agent, submitted["request_id"])
    sandbox.account.skip(30 * 24 * 3600)
    asked = sandbox.account.requests.copy()
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        after = await agent.call_tool("check_job", {"request_id": submitted["request_id"]})
        assert text_of(after) == text_of(before)
        assert images_of(after) == images_of(before)
        uri = job_of(after)["images"][0]["uri"]
        assert (await agent.read_resource(uri)).contents
    assert sandbox.account.requests == asked


# ---- continued ----


async def test_a_queued_job_is_continued_after_the_next_handshake_and_not_before(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        sandbox.account.speed = SLOW
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "left behind"}))["request_id"]
    assert await holder_of(tmp_path) is None
    sandbox.account.speed = 0
    sandbox.account.skip(UNTIL_DRAWN)
    async with app_over(sandbox.url, tmp_path) as app:
        asked = sandbox.account.requests["GET status"]
        # Another picture is drawn completely in the meantime.
        another = await begun(app.service, VegaRTParameters(prompt="another"))
        async for _ in app.service.follow(another, 45):
            pass
        assert (await app.service.get(another.local_id)).complete
        assert (sandbox.account.requests["GET status"], sandbox.account.requests["GET result"]) == (asked, 0)
        assert await holder_of(tmp_path) is None
        async with Client(build_server(app)):
            job = await app.service.check(request_id)
            async for _ in app.service.follow(job, 45):
                pass
    assert len(list(tmp_path.glob("*/left-behind-*.jpg"))) == 1
    job, _ = rows(tmp_path, "SELECT * FROM jobs ORDER BY created")
    assert (job["remote_id"], job["state"]) == (request_id, "COMPLETED")
    assert len(sandbox.account.calls) == 2


async def holder_of(folder: Path) -> str | None:
    """The id of the living server that works on the job."""
    query = "SELECT servers.id FROM jobs JOIN servers ON servers.id = jobs.holder"
    return next((row["id"] for row in rows(folder, query)), None)


async def test_a_call_that_got_only_some_of_its_pictures_gets_the_others_when_it_is_repeated(
    agent: Client, sandbox: Sandbox
) -> None:
    arguments = {"prompt": "two [fault:output-object]", "samples": 2}
    first = await agent.call_tool(VEGA, arguments)
    assert "1 of the 2 pictures did not arrive" in text_of(first)

    async def whole() -> dict[str, Any] | None:
        again = job_of(await agent.call_tool(VEGA, arguments))
        return again if len(again["images"]) == 2 else None

    assert (await until(whole))["request_id"] == job_of(first)["request_id"]
    assert sandbox.paid_requests == 1


async def test_a_picture_that_was_kept_just_before_the_server_died_is_found_without_the_history(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        before = job_of(await agent.call_tool(VEGA, ASKED))["images"]
        (local_id,) = (row["local_id"] for row in rows(tmp_path, "SELECT local_id FROM jobs"))
    change(tmp_path, "DELETE FROM images")
    change(tmp_path, "UPDATE jobs SET state = 'PROCESSING', open = 1, remote_id = NULL, ended = NULL")
    sandbox.account.history_status = 503
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        assert job_of(await checked(agent, local_id))["images"] == before
    assert len(list(tmp_path.glob("*/a-fox-*.jpg"))) == 1


# ---- imported ----


async def submitted_elsewhere(sandbox: Sandbox, slug: str = "segmind-vega", **body: Any) -> str:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{sandbox.url}/v2/{slug}", json=body, headers={"x-api-key": KEY})
    return answer.json()["request_id"]


@pytest.mark.parametrize(
    ("age", "prompt"),
    [(0, "from elsewhere"), (2 * 3600, "from elsewhere"), (0, "longer than any of ours " * 1000), (0, "\u200b")],
    ids=["new", "old", "a long prompt", "a blank prompt"],
)
async def test_a_job_that_only_the_api_knows_is_imported(
    sandbox: Sandbox, tmp_path: Path, age: float, prompt: str
) -> None:
    """It is paid for, even if this server would refuse such a call."""
    request_id = await submitted_elsewhere(sandbox, prompt=prompt, seed=9, samples=2, base64=True)
    sandbox.account.skip(age)
    later = datetime.now(UTC) + timedelta(seconds=age)
    for _ in ("a server", "the next one"):
        async with app_over(sandbox.url, tmp_path, clock=lambda: later) as app, Client(build_server(app)) as agent:
            job = job_of(await checked(agent, request_id))
            assert (job["seed"], job["parameters"]["prompt"], len(job["images"])) == (9, prompt, 2)
            assert [each["request_id"] for each in await listed(agent)] == [request_id]
    assert sandbox.paid_requests == 1


async def test_an_id_that_nobody_knows_is_an_unknown_job(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        for request_id in ("f" * 32, f"local-{'0' * 32}"):
            result = await agent.call_tool("check_job", {"request_id": request_id})
            assert result.is_error
            assert f"a job with the id {request_id!r}" in text_of(result).replace("no job", "a job")
            assert "Charged: no." in text_of(result)
        assert await listed(agent) == []


async def test_a_job_that_was_begun_with_another_api_is_left_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
    asked = sandbox.account.requests.copy()
    async with app_over(sandbox.url, tmp_path, api="another") as app, Client(build_server(app)) as agent:
        result = await checked(agent, request_id)
        assert f"begun with another API, {sandbox.url}" in text_of(result)
    assert sandbox.account.requests == asked


async def test_one_request_shows_that_a_slow_queued_job_is_being_drawn(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.speed = 1
    async with (
        app_over(sandbox.url, tmp_path, pace=1000, early_look=0.5) as app,
        Client(build_server(app)) as agent,
    ):
        short = job_of(await agent.call_tool("submit_job", {"prompt": "a fox"}))
        long = job_of(
            await agent.call_tool("submit_job", {"prompt": "foxes", "samples": 4, "num_inference_steps": 100})
        )

        async def state_of(job: dict[str, Any]) -> str:
            return job_of(await agent.call_tool("check_job", {"request_id": job["request_id"]}))["state"]

        async def is_being_drawn() -> bool:
            return await state_of(long) == "PROCESSING"

        await until(is_being_drawn)
        assert await state_of(short) == "QUEUED"
    assert sandbox.account.requests["GET status"] == 1


# ---- the rate limit ----


async def test_if_a_rate_limit_ends_soon_the_job_waits_and_is_sent_by_itself(tmp_path: Path) -> None:
    now = datetime.now(UTC).timestamp()
    async with (
        serving_sandbox(clock=lambda: now) as sandbox,
        app_over(sandbox.url, tmp_path, policy=RetryPolicy(retry_seconds=HANG_SECONDS)) as app,
        Client(build_server(app)) as agent,
    ):
        sandbox.account.rate_limit = 1
        await agent.call_tool(RT, {"prompt": "first"})
        sandbox.account.admitted[0] -= 59  # the minute of the limit is nearly over
        waiting = await agent.call_tool("submit_job", {"prompt": "second"})
        assert job_of(waiting)["state"] == "QUEUED"
        await until(lambda: sandbox.paid_requests >= 2)
        assert len(sandbox.account.calls) == 1
        sandbox.account.skip(60)
        result = await checked(agent, job_of(waiting)["request_id"])
        assert job_of(result)["images"]
        assert "rate limit" not in text_of(result)


async def test_a_job_that_waits_for_its_turn_says_when_it_will_be_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.rate_limit = 1
    async with (
        app_over(sandbox.url, tmp_path, policy=RetryPolicy(retry_seconds=90)) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(RT, {"prompt": "first"})
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "second"}))["request_id"]

        async def told() -> str:
            text = text_of(await agent.call_tool("check_job", {"request_id": request_id}))
            return text if "the API's rate limit allows the call at " in text else ""

        assert "State: QUEUED" in await until(told)
    assert len(sandbox.account.calls) == 1


async def test_if_a_rate_limit_ends_late_the_call_is_refused_without_charge_and_says_when_to_call_again(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.account.rate_limit = 1
    async with (
        app_over(sandbox.url, tmp_path, policy=RetryPolicy(retry_seconds=0)) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(RT, {"prompt": "first"})
        sandbox.account.admitted[0] += 3600  # a limit of an hour
        text = text_of(await agent.call_tool(RT, {"prompt": "second"}))
    assert "HTTP 429" in text
    assert "Charged: no." in text
    assert "Next: Call again after " in text


# ---- two servers ----


@asynccontextmanager
async def two_servers(sandbox: Sandbox, folder: Path, **config: Any) -> AsyncGenerator[tuple[Client, Client]]:
    """Agents of two servers that share a ledger and a gallery."""
    async with (
        app_over(sandbox.url, folder, **config) as one,
        app_over(sandbox.url, folder, **config) as other,
        Client(build_server(one)) as first,
        Client(build_server(other)) as second,
    ):
        yield first, second


async def test_the_id_in_an_answer_is_kept_even_if_another_server_has_claimed_the_job_meanwhile(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.account.history_status = 503  # so only the id leads to the pictures
    async with app_over(sandbox.url, tmp_path) as one, app_over(sandbox.url, tmp_path) as other:
        store = one.service.store
        save = store.save

        async def save_later(job: Job, **options: Any) -> Job | None:
            if job.remote_id and not job.images and not other_has.is_set():  # as if this server had seemed dead
                rows(tmp_path, "UPDATE jobs SET holder = NULL")
                await other.service.check(job.local_id)
                await until(lambda: not other.service.active)
                other_has.set()
            return await save(job, **options)

        other_has = anyio.Event()
        monkeypatch.setattr(store, "save", save_later)
        job = (await one.service.submit(VegaRTParameters(prompt="a fox", seed=7))).job
        await until(lambda: other_has.is_set() and not one.service.active)
        async for _ in other.service.follow(await other.service.check(job.local_id), 45):
            pass
        found = await other.service.get(job.local_id)
    assert (found.state, len(found.images)) == (State.COMPLETED, 1)
    assert sandbox.paid_requests == 1


async def test_a_job_that_another_server_works_on_can_be_followed_to_its_end(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.speed = SLOW
    async with two_servers(sandbox, tmp_path) as (first, second):
        request_id = job_of(await first.call_tool("submit_job", {"prompt": "a fox"}))["request_id"]
        early = job_of(await second.call_tool("check_job", {"request_id": request_id}))
        assert early["state"] in ("QUEUED", "PROCESSING")
        sandbox.account.skip(UNTIL_DRAWN)
        late = await checked(second, request_id)
        assert job_of(late)["images"]
        assert images_of(late) == images_of(await checked(first, request_id))
    assert sandbox.account.requests["GET result"] == 1


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_progress_is_reported_even_if_nothing_changes(
    sandbox: Sandbox, tmp_path: Path, *, elsewhere: bool
) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        assert progress >= 0
        assert total is None, "the end is not known any more"
        heard.append(message or "")

    async with two_servers(sandbox, tmp_path, heartbeat=0.05) as (first, second):
        request_id = job_of(await first.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
        question = {"request_id": request_id, "wait_seconds": 45}
        agent = second if elsewhere else first
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(agent.call_tool, "check_job", question, progress_callback=hear))
            await until(lambda: len(heard) >= 5)
            tasks.cancel_scope.cancel()
    said = r"Queued or drawing: \d+ s, longer than usual \(about 0 s\)"
    assert all(re.fullmatch(said, message) for message in heard)


# ---- easy to get wrong ----


async def test_after_a_server_was_killed_the_same_call_is_joined_immediately(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, wait_seconds=0) as app, Client(build_server(app)) as agent:
        begun = job_of(await agent.call_tool(VEGA, ASKED))
        await until(lambda: sandbox.account.calls)
        # This is what a killed server leaves: a caller that waits at a server whose process is gone.
        change(tmp_path, "UPDATE servers SET id = 'gone', process = ?", number_of_no_process())
        change(tmp_path, "UPDATE jobs SET awaited_by = 'gone', holder = 'gone'")
        async with app_over(sandbox.url, tmp_path) as next_app, Client(build_server(next_app)) as next_agent:
            job = job_of(await next_agent.call_tool(VEGA, ASKED))
            job = job_of(await checked(next_agent, job["request_id"]))
        assert job["seed"] == begun["seed"]
    assert sandbox.paid_requests == 1


def number_of_no_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def change(folder: Path, statement: str, *values: object) -> None:
    """Change the ledger as an accident could."""
    with closing(sqlite3.connect(folder.with_name(f"{folder.name}-home") / "ledger.sqlite3")) as database:
        database.execute(statement, values)
        database.commit()


class FirstRefused(httpx.AsyncHTTPTransport):
    """A transport that refuses the requests for the first picture of a call."""

    refuses = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("-0.jpeg") and self.refuses:
            return httpx.Response(403, request=request)
        return await super().handle_async_request(request)


@pytest.mark.parametrize("since", ["as it was", "without recipe", "edited", "moved"])
async def test_pictures_that_did_not_arrive_are_downloaded_later_and_the_others_are_kept(
    tmp_path: Path, since: str
) -> None:
    def backwards(call: Call, base: str, now: float) -> list[dict[str, Any]]:
        return history_rows(call, base, now)[::-1]

    transport = FirstRefused()
    async with (
        serving_sandbox(history_rows=backwards) as sandbox,
        app_over(sandbox.url, tmp_path, transport=transport) as app,
        Client(build_server(app)) as agent,
    ):
        sandbox.account.history_status = 503
        partly = await agent.call_tool(VEGA, {"prompt": "three", "samples": 3})
        job = job_of(partly)
        assert len(job["images"]) == 2
        assert "Note: 1 of the 3 pictures did not arrive: " in text_of(partly)
        again = await checked(agent, job["request_id"])
        assert [image["id"] for image in job_of(again)["images"]] == [image["id"] for image in job["images"]]
        kept = Path(job["images"][0]["path"])
        if since == "without recipe":  # as old versions kept it, without a recipe
            kept.write_bytes(metadata.strip(kept.read_bytes()))
        elif since == "edited":
            kept.write_bytes(b"edited")
        elif since == "moved":
            kept.rename(kept.with_name("moved.jpg"))
        sandbox.account.history_status, transport.refuses = 200, False
        whole = job_of(await checked(agent, job["request_id"]))
    assert [image["id"] for image in whole["images"]] == list(dict.fromkeys(image["id"] for image in whole["images"]))
    assert len(whole["images"]) == 3
    pictures = {metadata.strip(path.read_bytes()) for path in tmp_path.glob("*/*.jpg")}
    assert len(pictures - {b"edited"}) == (2 if since == "edited" else 3)


async def test_a_late_picture_is_downloaded_although_a_kept_one_was_moved_in_the_meantime(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Neither the sum of a kept picture nor a copy of another one ends the job before the last picture has come."""
    late = 2

    class Late(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal late
            if request.url.path.endswith("-3.jpeg") and late:
                late -= 1
                return httpx.Response(404, request=request)
            return await super().handle_async_request(request)

    async with (
        app_over(sandbox.url, tmp_path, transport=Late()) as app,
        Client(build_server(app)) as agent,
    ):
        job = job_of(await agent.call_tool(VEGA, {"prompt": "four", "samples": 4}))
        assert len(job["images"]) == 3
        first = Path(job["images"][0]["path"])
        first.write_bytes(metadata.strip(first.read_bytes()))  # now its sum is another one
        first.rename(first.with_name("moved.jpg"))

        async def all_four() -> bool:
            await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 1})
            return not late and len({metadata.strip(path.read_bytes()) for path in tmp_path.glob("*/*.jpg")}) == 4

        await until(all_four)
    assert sandbox.paid_requests == 1


async def test_more_pictures_than_requested_are_kept_too_as_soon_as_a_disk_takes_them(tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    pictures = [b64encode(noise("JPEG", side)).decode() for side in (64, 65)]

    def answer(_: httpx.Request) -> httpx.Response:
        shutil.rmtree(gallery)
        gallery.write_text("in the way", encoding="utf-8")
        return httpx.Response(200, json={"image": pictures})

    async with (
        app_over(API, gallery, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        first = await agent.call_tool(RT, ASKED)
        job = job_of(first)
        assert [image["path"] for image in job["images"]] == [None, None]
        assert len(images_of(first)) == 2
        gallery.unlink()

        async def kept_all() -> bool:
            again = job_of(await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 1}))
            return None not in [image["path"] for image in again["images"]]

        await until(kept_all)
    kept = {metadata.strip(path.read_bytes()) for path in gallery.glob("20*/*.jpg")}
    assert kept == {noise("JPEG", 64), noise("JPEG", 65)}


async def test_a_clock_ahead_of_the_rate_limits_reset_does_not_cause_a_loop_of_calls(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.account.rate_limit = 1
    sandbox.account.skip(-3600)  # the API's clock is behind, so its limit seems to be over
    sent: list[float] = []

    class Noting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(anyio.current_time())
            return await super().handle_async_request(request)

    async with app_over(sandbox.url, tmp_path, transport=Noting(), policy=RetryPolicy(retry_seconds=0)) as app:
        first = await begun(app.service, VegaRTParameters(prompt="first"))
        async for _ in app.service.follow(first, 45):
            pass
        await begun(app.service, VegaRTParameters(prompt="second"))
        await until(lambda: len(sent) == 3)
    assert sent[2] - sent[1] >= 1


class LastFolder(ImageFolder):
    """A folder during whose preparation the server shuts down."""

    service: JobService

    async def prepare(self, day: date) -> None:
        await super().prepare(day)
        await self.service.finish(0)


async def test_a_job_that_is_begun_during_the_shutdown_is_not_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    images = LastFolder(tmp_path)
    async with app_over(sandbox.url, tmp_path, images=images) as app, Client(build_server(app)) as agent:
        images.service = app.service
        text = text_of(await agent.call_tool(RT, ASKED))
    assert "about to exit" in text
    assert "Charged: no." in text
    assert sandbox.paid_requests == 0


async def test_a_row_that_cannot_be_read_does_not_affect_other_jobs(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        broken = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:stuck]"}))["request_id"]
        left = job_of(await agent.call_tool("submit_job", {"prompt": "left [fault:stuck]"}))["request_id"]
    change(tmp_path, "UPDATE jobs SET cost = 'x', holder = NULL WHERE remote_id = ?", broken)
    sandbox.account.calls[left].queue_seconds = 0
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        assert job_of(await checked(agent, left))["images"]
        assert [job["request_id"] for job in await listed(agent)] == [left]
        result = await agent.call_tool("check_job", {"request_id": broken})
        assert "cannot be read (InvalidOperation)" in text_of(result)
        assert job_of(await agent.call_tool(RT, ASKED))["images"]


async def test_a_file_that_is_damaged_later_does_not_hide_the_rest_of_the_result(agent: Client) -> None:
    job = job_of(await agent.call_tool(VEGA, ASKED))
    path = Path(job["images"][0]["path"])
    path.write_bytes(path.read_bytes()[:1000])
    again = await agent.call_tool("check_job", {"request_id": job["request_id"]})
    assert job_of(again)["images"] == job["images"]
    assert f"Note: no preview can be made of {path}: the picture is damaged." in text_of(again)


async def test_if_the_api_gives_the_same_id_twice_it_belongs_to_the_first_job(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def answer(_: httpx.Request) -> httpx.Response:
        seen.append(noise("JPEG", 64 + len(seen)))
        return httpx.Response(200, content=seen[-1], headers={"x-request-id": "always-the-same"})

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        first, second = [job_of(await agent.call_tool(RT, {"prompt": prompt})) for prompt in ("one", "two")]
        assert first["request_id"] == "always-the-same"
        assert second["request_id"] != first["request_id"]
        for job in (first, second):
            assert job_of(await checked(agent, job["request_id"]))["images"] == job["images"]
