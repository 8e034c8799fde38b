"""The four tools, called as an agent calls them."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from conftest import KEY, Sandbox, app_over, images_of, job_of, text_of, until
from mcp.client import Client
from PIL import Image

from mcp_vega.sandbox.app import cached_paint
from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("paint", [cached_paint], ids=["painted"])
@pytest.mark.parametrize("tool", ["generate_image_vega", "generate_image_vegart"])
async def test_a_call_comes_back_as_a_picture(agent: Client, sandbox: Sandbox, tmp_path: Path, tool: str) -> None:
    result = await agent.call_tool(tool, {"prompt": "a lighthouse at dusk", "seed": 7})

    (image,) = images_of(result)
    assert image.mime_type == "image/jpeg"
    assert len(image.data) <= 137_000
    with Image.open(io.BytesIO(b64decode(image.data))) as preview:
        assert preview.format == "JPEG"
        assert max(preview.size) == 768

    job = job_of(result)
    (kept,) = job["images"]
    path = Path(kept["path"])
    assert path.is_relative_to(tmp_path)
    assert sha256(path.read_bytes()).hexdigest() == kept["sha256"]
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))

    assert result.structured_content is None
    cost = {"generate_image_vega": "0.00225", "generate_image_vegart": "0.002"}[tool]
    assert text_of(result).splitlines()[1:] == [
        "Seed: 7",
        f"Steps: {job['parameters']['num_inference_steps']}",
        "Seconds: 0.000",
        f"Cost: ${cost}",
        f"Credits left: ${sandbox.account.credits}",
        f"Request id: {job['request_id']}",
        f"URI: vega://images/{kept['id']}",
        f"Image: {path}",
    ]
    assert sandbox.paid_requests == 1


@pytest.mark.parametrize("paint", [cached_paint], ids=["painted"])
async def test_machine_readable_data_is_in_meta(agent: Client) -> None:
    result = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": 3, "negative_prompt": "blur"})
    job = job_of(result)
    (image,) = job.pop("images")
    assert job == {
        "request_id": job["request_id"],
        "state": "COMPLETED",
        "model": "segmind-vega",
        "seed": 3,
        "parameters": {
            "prompt": "a fox",
            "negative_prompt": "blur",
            "samples": 1,
            "scheduler": "DPM2 Karras",
            "num_inference_steps": 25,
            "guidance_scale": 7.5,
            "seed": 3,
            "img_width": 1024,
            "img_height": 1024,
            "base64": False,
        },
        "cost_usd": 0.00225,
        "credits_left": 9.99775,
        "seconds": 0.0,
    }
    assert set(image) == {"id", "path", "uri", "mime_type", "width", "height", "bytes", "sha256"}
    assert (image["mime_type"], image["width"], image["height"]) == ("image/jpeg", 1024, 1024)
    assert image["bytes"] == Path(image["path"]).stat().st_size


@pytest.mark.parametrize("paint", [cached_paint], ids=["painted"])
async def test_four_samples_give_four_different_pictures_within_the_budget(agent: Client, sandbox: Sandbox) -> None:
    result = await agent.call_tool("generate_image_vega", {"prompt": "four seas", "samples": 4})
    assert len({image["sha256"] for image in job_of(result)["images"]}) == 4
    previews = images_of(result)
    assert len(previews) == 4
    assert sum(len(preview.data) for preview in previews) <= 137_000
    places = [
        line for image in job_of(result)["images"] for line in (f"URI: {image['uri']}", f"Image: {image['path']}")
    ]
    assert text_of(result).splitlines()[-8:] == places
    assert job_of(result)["cost_usd"] == 0.009
    assert sandbox.paid_requests == 1


async def test_base64_returns_the_full_picture_in_the_result_and_is_not_sent_to_the_api(
    agent: Client, sandbox: Sandbox
) -> None:
    result = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "base64": True})
    (inline,) = images_of(result)
    assert sha256(b64decode(inline.data)).hexdigest() == job_of(result)["images"][0]["sha256"]
    (call,) = sandbox.account.calls.values()
    assert call.body["base64"] is False


async def test_the_seed_is_known_even_when_none_was_given(agent: Client, sandbox: Sandbox) -> None:
    job = job_of(await agent.call_tool("generate_image_vegart", {"prompt": "a fox"}))
    (call,) = sandbox.account.calls.values()
    assert call.body["seed"] == job["seed"] == job["parameters"]["seed"]
    assert 0 <= job["seed"] < 10**15


async def test_the_same_recipe_draws_the_same_picture(agent: Client) -> None:
    first = job_of(await agent.call_tool("generate_image_vegart", {"prompt": "a fox"}))
    again = job_of(await agent.call_tool("generate_image_vegart", first["parameters"]))
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert again["images"][0]["path"] != first["images"][0]["path"]


async def test_one_sample_is_drawn_by_v1_and_several_by_v2(agent: Client, sandbox: Sandbox) -> None:
    await agent.call_tool("generate_image_vega", {"prompt": "one"})
    await agent.call_tool("generate_image_vega", {"prompt": "two", "samples": 2})
    assert [(call.route, call.pictures) for call in sandbox.account.calls.values()] == [("v1", 1), ("v2", 2)]


async def test_check_job_returns_a_submitted_job_exactly_as_generate_would(agent: Client, sandbox: Sandbox) -> None:
    submitted = await agent.call_tool("submit_job", {"prompt": "a fox", "seed": 5})
    request_id = job_of(submitted)["request_id"]
    assert request_id in sandbox.account.calls
    assert f"Request id: {request_id}" in text_of(submitted)

    fetched = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    generated = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": 5})
    assert images_of(fetched) == images_of(generated)
    shape = [re.sub(r": .*", "", line) for line in text_of(fetched).splitlines()]
    assert shape == [re.sub(r": .*", "", line) for line in text_of(generated).splitlines()]
    assert images_of(await agent.call_tool("check_job", {"request_id": request_id})) == images_of(fetched)


async def test_submit_job_takes_either_model(agent: Client, sandbox: Sandbox) -> None:
    for model in ("segmind-vega", "segmind-vega-rt-v1"):
        job = job_of(await agent.call_tool("submit_job", {"prompt": "a fox", "model": model}))
        assert sandbox.account.calls[job["request_id"]].slug == model


async def test_a_job_under_way_says_when_to_ask_again(agent: Client) -> None:
    result = await agent.call_tool("submit_job", {"prompt": "a fox [fault:stuck]"})
    job = job_of(result)
    assert job["state"] == "QUEUED"
    sentence, *lines = text_of(result).splitlines()
    assert sentence.startswith("Queued: Segmind-Vega will draw “a fox [fault:stuck]”")
    assert re.search(r"\. Call check_job .* in about \d+ s\. Do not repeat the call\.$", sentence)
    assert lines == ["Cost: about $0.00225", "State: QUEUED", f"Request id: {job['request_id']}"]
    assert images_of(result) == []


async def test_generate_returns_a_request_id_if_the_picture_takes_longer_than_the_wait(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path, wait_seconds=0) as app, Client(build_server(app)) as agent:
        early = job_of(await agent.call_tool("generate_image_vega", {"prompt": "slow"}))
        assert early["state"] in ("QUEUED", "PROCESSING")
        assert early["request_id"].startswith("local-")
        late = job_of(await agent.call_tool("check_job", {"request_id": early["request_id"], "wait_seconds": 45}))
        assert late["state"] == "COMPLETED"
        assert late["request_id"] in sandbox.account.calls
    assert sandbox.paid_requests == 1


async def test_check_job_without_an_id_lists_the_latest_jobs_newest_first(agent: Client) -> None:
    assert "No jobs yet" in text_of(await agent.call_tool("check_job", {}))
    first = job_of(await agent.call_tool("generate_image_vegart", {"prompt": "first"}))["request_id"]
    second = job_of(await agent.call_tool("generate_image_vegart", {"prompt": "second"}))["request_id"]
    result = await agent.call_tool("check_job", {})
    assert text_of(result).splitlines()[0].startswith("The latest 2 jobs, newest first (times in UTC). ")
    for line, request_id, prompt in zip(
        text_of(result).splitlines()[1:], (f"1. {second}", f"2. {first}"), ("second", "first"), strict=True
    ):
        time, seed = r"\d{4}-\d\d-\d\d \d\d:\d\d", r"\d+"
        assert re.fullmatch(f"{request_id} done {time} segmind-vega-rt-v1 seed {seed} “{prompt}”", line)
    assert [job["request_id"] for job in (result.meta or {})["mcp-vega/jobs"]] == [second, first]


async def test_progress_is_reported_while_the_picture_is_drawn(sandbox: Sandbox, tmp_path: Path) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    def last() -> str:
        return (heard[-1][2] or "") if heard else ""

    sandbox.hold()
    async with (
        app_over(sandbox.url, tmp_path, pace=1000) as app,
        Client(build_server(replace(app, progress_after=0))) as agent,
    ):
        async with anyio.create_task_group() as tasks:
            call = partial(agent.call_tool, "generate_image_vegart", {"prompt": "a fox"}, progress_callback=hear)
            tasks.start_soon(call)
            await until(lambda: re.fullmatch(r"Drawing: \d+ s of about 1680 s", last()))
            sandbox.let_go()
        await until(lambda: last() == "Finished")
    assert heard[0][1:] == (None, "Sending the call")
    assert [progress for progress, _, _ in heard] == sorted(progress for progress, _, _ in heard)
    *under_way, (progress, total, _) = heard
    assert progress == total
    assert all(total is None or progress < total for progress, total, _ in under_way)


async def test_an_unknown_tool_is_an_error_that_names_the_existing_ones(agent: Client) -> None:
    result = await agent.call_tool("draw", {"prompt": "a fox"})
    assert result.is_error
    assert text_of(result).splitlines() == [
        "Error: There is no tool 'draw' (invalid_arguments).",
        "Charged: no.",
        "Next: Call one of generate_image_vega, generate_image_vegart, submit_job, check_job.",
    ]


@pytest.mark.parametrize("tool", ["generate_image_vega", "generate_image_vegart", "submit_job"])
async def test_without_a_key_an_error_says_what_to_set_and_where_to_get_it(
    sandbox: Sandbox, tmp_path: Path, tool: str
) -> None:
    async with app_over(sandbox.url, tmp_path, key=None) as app, Client(build_server(app)) as agent:
        assert len((await agent.list_tools()).tools) == 4
        result = await agent.call_tool(tool, {"prompt": "a fox"})
    assert result.is_error
    what, charged, next_step = text_of(result).splitlines()
    assert what == "Error: No Segmind API key is set (missing_key)."
    assert charged == "Charged: no."
    assert "SEGMIND_API_KEY" in next_step
    assert "https://cloud.segmind.com/console/api-keys" in next_step
    assert sandbox.paid_requests == 0


async def test_the_key_is_sent_to_the_api_and_nowhere_else(agent: Client, sandbox: Sandbox) -> None:
    results = [
        await agent.call_tool("generate_image_vega", {"prompt": "a fox", "samples": 2}),
        await agent.call_tool("generate_image_vega", {"prompt": "a fox [fault:401]"}),
        await agent.call_tool("check_job", {}),
    ]
    assert not any(KEY in result.model_dump_json() for result in results)
    assert sandbox.account.requests["GET media"] == 2
    assert sandbox.account.requests["GET media with key"] == 0


async def test_a_job_continues_when_the_host_cancels_the_call(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.call_tool, "generate_image_vega", {"prompt": "left alone"})
            await until(lambda: sandbox.account.calls)
            tasks.cancel_scope.cancel()
        sandbox.let_go()
        listed = (await agent.call_tool("check_job", {})).meta or {}
        (job,) = listed["mcp-vega/jobs"]
        result = await agent.call_tool("check_job", {"request_id": job["request_id"], "wait_seconds": 45})
        assert Path(job_of(result)["images"][0]["path"]).exists()
    assert sandbox.paid_requests == 1


async def test_a_picture_whose_file_is_missing_does_not_hide_the_others(agent: Client) -> None:
    result = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "samples": 2})
    job = job_of(result)
    Path(job["images"][0]["path"]).unlink()
    again = await agent.call_tool("check_job", {"request_id": job["request_id"]})
    assert len(images_of(again)) == 1
    assert text_of(again).splitlines()[1].startswith(f"Note: The picture {job['images'][0]['path']} cannot be read")


async def test_submit_job_does_not_wait_longer_than_the_wait(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, wait_seconds=0.1) as app, Client(build_server(app)) as agent:
        job = job_of(await agent.call_tool("submit_job", {"prompt": "[fault:hang]"}))
    assert job["state"] == "QUEUED"
    assert job["request_id"].startswith("local-")


async def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    async with app_over(sandbox.url, tmp_path / "file") as app, Client(build_server(app)) as agent:
        result = await agent.call_tool("generate_image_vega", {"prompt": "a fox"})
    assert result.is_error
    assert "Charged: no." in text_of(result)
    assert "MCP_VEGA_GALLERY" in text_of(result)
    assert sandbox.paid_requests == 0
