"""What was drawn can be read again: pictures, previews, jobs and the gallery as resources, and the files over HTTP."""

import io
import json
import sqlite3
from base64 import b64decode
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx
import pytest
from conftest import API, HANG_SECONDS, Sandbox, api_that_draws, app_over, images_of, job_of, noise, text_of
from mcp.client import Client, IncomingMessage
from mcp.client.sse import sse_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import (
    BlobResourceContents,
    ResourceListChangedNotification,
    ResourceTemplateReference,
    TextResourceContents,
)
from PIL import Image

from mcp_vega.imaging import metadata
from mcp_vega.network.serving import serving
from mcp_vega.sandbox.app import cached_paint
from mcp_vega.server.app import build_server
from mcp_vega.server.http.app import PATHS, build_application

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"


async def blob(agent: Client, uri: str) -> tuple[bytes, str | None]:
    first, *_ = (await agent.read_resource(uri)).contents
    assert isinstance(first, BlobResourceContents)
    return b64decode(first.blob), first.mime_type


async def read(agent: Client, uri: str) -> dict[str, Any]:
    (content,) = (await agent.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "application/json"
    return json.loads(content.text)


async def prompts(agent: Client, uri: str) -> list[str]:
    return [each["prompt"] for each in (await read(agent, uri))["pictures"]]


# ---- pictures and jobs ----


async def test_a_picture_is_a_resource_with_its_real_mime_type(agent: Client) -> None:
    (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
    data, mime_type = await blob(agent, image["uri"])
    assert mime_type == "image/jpeg"
    assert sha256(data).hexdigest() == image["sha256"] == sha256(Path(image["path"]).read_bytes()).hexdigest()


async def test_a_png_picture_has_the_mime_type_of_a_png(tmp_path: Path) -> None:
    async with (
        app_over(API, tmp_path, transport=api_that_draws(noise("PNG", 64))) as app,
        Client(build_server(app)) as agent,
    ):
        (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
        assert (await blob(agent, image["uri"]))[1] == "image/png"


@pytest.mark.parametrize("paint", [cached_paint], ids=["painted"])
async def test_a_preview_is_a_resource(agent: Client) -> None:
    (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
    data, mime_type = await blob(agent, f"{image['uri']}/preview")
    assert mime_type == "image/jpeg"
    assert Image.open(io.BytesIO(data)).size == (768, 768)


async def test_a_job_is_a_resource_with_its_recipe_state_cost_and_files(agent: Client) -> None:
    job = job_of(await agent.call_tool(VEGA, {"prompt": "a fox", "seed": 7}))
    shown = await read(agent, f"vega://jobs/{job['request_id']}")
    assert {name: shown[name] for name in job} == job
    assert (shown["state"], shown["charged"], shown["error"]) == ("COMPLETED", "yes", None)
    assert await read(agent, f"vega://jobs/{shown['local_id']}") == shown


async def test_a_job_that_failed_is_a_resource_that_says_why(agent: Client) -> None:
    assert (await agent.call_tool(RT, {"prompt": "a fox [fault:402]"})).is_error
    listed = await agent.call_tool("check_job", {})
    request_id = (listed.meta or {})["mcp-vega/jobs"][0]["request_id"]
    shown = await read(agent, f"vega://jobs/{request_id}")
    assert (shown["state"], shown["charged"], shown["images"]) == ("FAILED", "no", [])
    assert shown["error"]["code"] == "insufficient_credits"


NOT_THERE = [
    f"vega://images/{'0' * 32}",
    f"vega://images/{'0' * 32}/preview",
    "vega://images/x",
    "vega://images/../../etc/passwd",
    "vega://jobs/none",
    "vega://jobs/a%20b",
    "vega://gallery?page=2",
    "vega://gallery?after=x",
    f"vega://gallery?after={7:032x}",
    "vega://gallery?query=fox",
    "vega://other",
    "file:///etc/passwd",
]


async def test_an_unknown_resource_is_an_error_that_says_which_ones_exist(agent: Client) -> None:
    for uri in NOT_THERE:
        with pytest.raises(MCPError) as caught:
            await agent.read_resource(uri)
        assert caught.value.error.code == -32602, uri
        assert "Next: " in caught.value.error.message


async def test_a_uri_that_is_not_one_is_quoted_without_control_characters(agent: Client) -> None:
    with pytest.raises(MCPError, match="No resource has the URI “vega://images/ \\[2Jx") as caught:
        await agent.read_resource(f"vega://images/\x1b[2J{'x' * 5000}")
    assert len(caught.value.error.message) < 600


async def test_a_picture_whose_file_is_missing_is_an_error_that_names_the_file(agent: Client) -> None:
    (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
    Path(image["path"]).unlink()
    for uri in (image["uri"], f"{image['uri']}/preview"):
        with pytest.raises(MCPError, match="cannot be read") as caught:
            await agent.read_resource(uri)
        assert image["path"] in caught.value.error.message


async def test_a_damaged_file_is_an_error_of_the_file_and_not_of_the_api(agent: Client) -> None:
    job = job_of(await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 3}))
    broken = job["images"][1]
    Path(broken["path"]).write_bytes(b"broken")
    with pytest.raises(MCPError, match="The file is no longer a complete picture") as caught:
        await agent.read_resource(f"{broken['uri']}/preview")
    assert "Charged: no." in caught.value.error.message
    again = await agent.call_tool("check_job", {"request_id": job["request_id"]})
    assert len(images_of(again)) == 2
    assert f"Note: no preview can be made of {broken['path']}: the picture is damaged." in text_of(again)


# ---- the gallery ----


@pytest.fixture
async def visitor(sandbox: Sandbox, tmp_path: Path) -> Any:
    """An agent with a gallery of several days."""
    now = datetime(2026, 11, 18, 12, tzinfo=UTC)
    days = iter(range(100))

    def clock() -> datetime:
        return now

    async with app_over(sandbox.url, tmp_path, clock=clock) as app, Client(build_server(app)) as agent:
        for tool, prompt, seed in (
            (VEGA, "a red fox in the snow", 7),
            (RT, "Ein Füchslein, 100% wach", 77),
            (VEGA, "a lighthouse_at dusk", 777),
            (VEGA, "7 foxes and a hare", 8),
        ):
            now = datetime(2026, 11, 18, 12, tzinfo=UTC) + timedelta(days=next(days))
            await agent.call_tool(tool, {"prompt": prompt, "seed": seed})
        yield agent


FOXES, LIGHT, LITTLE, RED = (
    "7 foxes and a hare",
    "a lighthouse_at dusk",
    "Ein Füchslein, 100% wach",
    "a red fox in the snow",
)


SEARCHES = {
    "": [FOXES, LIGHT, LITTLE, RED],
    "?q=": [FOXES, LIGHT, LITTLE, RED],
    "?q=fox": [FOXES, RED],
    "?q=FOX%20red": [RED],
    "?q=red+fox": [RED],
    "?q=f%C3%BCchslein": [LITTLE],
    "?q=fu%CC%88chslein": [LITTLE],
    "?q=fuchslein": [LITTLE],
    "?q=fox,red": [RED],
    "?q=2026": [FOXES, LIGHT, LITTLE, RED],
    "?q=Seed:+7": [FOXES, RED],
    "?q=F%C3%9CCHSLEIN": [LITTLE],
    "?q=7": [FOXES, RED],
    "?q=77": [LITTLE],
    "?q=777": [LIGHT],
    "?q=snow%21,+red": [RED],
    "?q=vegart": [LITTLE],
    "?q=vega": [FOXES, LIGHT, RED],
    "?q=segmind-vega-rt-v1": [LITTLE],
    "?q=2026-11-20": [LIGHT],
    "?q=2026-11": [FOXES, LIGHT, LITTLE, RED],
    "?q=fox%202026-11-18": [RED],
    "?q=100%25": [LITTLE],
    "?q=house_at": [LIGHT],
    "?q=f%25x": [],
    "?q=f_x": [],
    "?q=%5C": [],
    "?q=!!!": [],
    "?q=%E2%80%8B&after=+": [FOXES, LIGHT, LITTLE, RED],
    "?q='%20OR%201=1%20--": [],
    "?q=" + "a%20" * 500: [FOXES, LIGHT, LITTLE, RED],
    "?q=fox&after=": [FOXES, RED],
}


async def test_the_gallery_is_searched_by_words_seed_model_and_day(visitor: Client) -> None:
    assert {query: await prompts(visitor, f"vega://gallery{query}") for query in SEARCHES} == SEARCHES


async def test_a_picture_in_the_gallery_says_where_it_is_and_how_it_was_drawn(visitor: Client) -> None:
    (shown,) = (await read(visitor, "vega://gallery?q=red"))["pictures"]
    assert (shown["model"], shown["seed"], shown["created"]) == ("segmind-vega", 7, "2026-11-18T12:00:00+00:00")
    assert Path(shown["file"]).read_bytes() == (await blob(visitor, shown["uri"]))[0]
    assert (await blob(visitor, shown["preview"]))[1] == "image/jpeg"
    assert (await read(visitor, shown["job"]))["parameters"]["prompt"] == RED


async def test_each_page_of_the_gallery_leads_to_the_next(agent: Client) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(agent.call_tool, VEGA, {"prompt": f"picture {number}", "samples": 4})
    first = await read(agent, "vega://gallery?q=picture")
    assert first["next"] == f"vega://gallery?q=picture&after={first['pictures'][-1]['uri'].rpartition('/')[2]}"
    second = await read(agent, first["next"])
    assert second["next"] is None
    seen = [each["uri"] for page in (first, second) for each in page["pictures"]]
    assert len(seen) == len(set(seen)) == 24


@pytest.mark.parametrize("agent", ["auto"], indirect=True)
async def test_lists_stay_small_whatever_the_prompts_are(agent: Client) -> None:
    """Claude Code accepts 25,000 tokens of a result, and a Chinese character may need two."""
    prompt, negative = "狐" * 10_000, "blur, " * 1600
    async with anyio.create_task_group() as tasks:
        for seed in range(5):
            tasks.start_soon(agent.call_tool, VEGA, {"prompt": prompt, "seed": seed, "samples": 4})
            tasks.start_soon(
                agent.call_tool, "submit_job", {"prompt": f"an owl {negative}", "negative_prompt": negative}
            )

    listed = await agent.call_tool("check_job", {})
    jobs = (listed.meta or {})["mcp-vega/jobs"]
    assert len(jobs) == 10
    assert len(text_of(listed)) < 2700
    listed.content = listed.content[:1]  # without the contact sheet, which takes the rest of the room
    assert len(listed.model_dump_json()) < 40_000
    long = next(job for job in jobs if job["parameters"]["prompt"].startswith("狐"))
    assert (long["parameters"]["prompt"], long["shortened"]) == (f"{prompt[:500]}…", ["prompt"])
    other = next(job for job in jobs if job["parameters"]["prompt"].startswith("an owl"))
    assert other["shortened"] == ["prompt", "negative_prompt"]
    whole = job_of(await agent.call_tool("check_job", {"request_id": long["request_id"]}))
    assert whole["parameters"]["prompt"] == prompt
    assert "shortened" not in whole

    (gallery,) = (await agent.read_resource("vega://gallery?q=狐")).contents
    assert isinstance(gallery, TextResourceContents)
    assert len(gallery.text) < 25_000
    pictures = json.loads(gallery.text)["pictures"]
    assert [each["prompt"] for each in pictures] == [f"{prompt[:500]}…"] * 20
    assert all(each["shortened"] == ["prompt"] for each in pictures)
    assert (await read(agent, pictures[0]["job"]))["parameters"]["prompt"] == prompt
    assert sum(len(each.model_dump_json()) for each in (await agent.list_resources()).resources) < 15_000


# Text in many scripts, with the name that its file gets.
SCRIPTS = {
    "👩\u200d👩\u200d👧 at home, 🇩🇪 👍🏽": "at-home",
    "می\u200cخواهم، ثعلب": "میخواهم-ثعلب",  # noqa: RUF001  Persian
    "שועל בשלג!\u200f": "שועל-בשלג",
    "हिन्दी में लोमड़ी": "हिन्दी-में-लोमड़ी",
    "สุนัขจิ้งจอก": "สุนัขจิ้งจอก",
    "狐狸在雪地里": "狐狸在雪地里",
    "ein FÜCHSLEIN": "ein-füchslein",
}


@pytest.mark.parametrize("agent", ["auto"], indirect=True)
async def test_a_picture_with_a_prompt_in_any_script_is_listed_named_and_found_by_its_words(agent: Client) -> None:
    for seed, (prompt, slug) in enumerate(SCRIPTS.items()):
        result = await agent.call_tool(RT, {"prompt": prompt, "seed": seed})
        assert text_of(result).startswith(f"Segmind-VegaRT drew “{prompt}”.\n")
        assert Path(job_of(result)["images"][0]["path"]).name.startswith(f"{slug}-{seed}-")
        word = slug.replace("می", "می\u200c").split("-")[-1]
        assert prompt in await prompts(agent, f"vega://gallery?{urlencode({'q': word})}")
    listed = text_of(await agent.call_tool("check_job", {})).splitlines()[1:]
    assert [line.partition("“")[2].removesuffix("”") for line in listed] == list(reversed(SCRIPTS))
    titles = [each.title for each in (await agent.list_resources()).resources[2:]]
    assert titles == [f"“{prompt}”" for prompt in reversed(SCRIPTS)]


async def test_a_job_that_cannot_be_read_takes_no_room_on_the_pages(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        for number in range(6):
            await agent.call_tool(VEGA, {"prompt": f"picture {number}", "samples": 4})
        with (
            closing(sqlite3.connect(tmp_path.with_name(f"{tmp_path.name}-home") / "ledger.sqlite3")) as database,
            database,
        ):
            database.execute("UPDATE jobs SET parameters = '{' WHERE prompt = 'picture 5'")
        page = await read(agent, "vega://gallery")
    assert (len(page["pictures"]), page["next"]) == (20, None)


async def test_a_search_with_too_many_words_is_refused(agent: Client) -> None:
    with pytest.raises(MCPError, match="at most 50 words"):
        await agent.read_resource("vega://gallery?q=" + "+".join(f"word{number}" for number in range(51)))
    with pytest.raises(MCPError, match="at most 50 words"):
        await agent.read_resource("vega://gallery?q=" + "!" * 8_000_000)


async def test_a_word_is_found_in_any_spelling(agent: Client) -> None:
    await agent.call_tool(RT, {"prompt": "❤ Ispartá soft\u00adly 눈사람", "seed": 7})
    for query in ("❤\ufe0f", "❤", "\u0131sparta", "ISPARTA", "softly", "눈사람", "사람"):
        found = await prompts(agent, f"vega://gallery?{urlencode({'q': query})}")
        assert len(found) == 1, query


async def test_words_after_a_nul_character_are_found(agent: Client) -> None:
    await agent.call_tool(RT, {"prompt": "a fox\0in the snow", "seed": 7})
    assert await prompts(agent, "vega://gallery?q=snow+7") == ["a fox\0in the snow"]


async def test_a_job_that_cannot_be_read_any_more_does_not_hide_the_other_pictures(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    folder, home = tmp_path / "gallery", tmp_path / "home"
    async with app_over(sandbox.url, folder, home=home) as app, Client(build_server(app)) as agent:
        await agent.call_tool(RT, {"prompt": "ein FÜCHSLEIN", "seed": 7})
        await agent.call_tool(RT, {"prompt": "damaged since", "seed": 8})
    with closing(sqlite3.connect(home / "ledger.sqlite3")) as database, database:
        database.execute("UPDATE jobs SET parameters = '{' WHERE prompt = 'damaged since'")
        database.execute("UPDATE images SET job = 99 WHERE number = 2")
        assert database.total_changes == 2
    today = datetime.now(UTC).date().isoformat()
    async with app_over(sandbox.url, folder, home=home) as app, Client(build_server(app)) as agent:
        for query in ("füchslein", "7", "vegart", "segmind-vega-rt-v1", today):
            assert await prompts(agent, f"vega://gallery?q={query}") == ["ein FÜCHSLEIN"]


async def test_the_list_of_resources_begins_with_the_gallery_and_the_latest_pictures(visitor: Client) -> None:
    _, gallery, *pictures = (await visitor.list_resources()).resources
    assert gallery.uri == "vega://gallery"
    assert [each.title for each in pictures] == [f"“{prompt}”" for prompt in (FOXES, LIGHT, LITTLE, RED)]
    assert [each.mime_type for each in pictures] == ["image/jpeg"] * 4
    data, _ = await blob(visitor, pictures[0].uri)
    assert pictures[0].size == len(data)
    assert pictures[0].annotations is not None
    assert pictures[0].annotations.last_modified == "2026-11-21T12:00:00+00:00"


async def test_the_templates_are_those_of_the_resources(agent: Client) -> None:
    templates = (await agent.list_resource_templates()).resource_templates
    assert [each.uri_template for each in templates] == [
        "vega://images/{id}",
        "vega://images/{id}/preview",
        "vega://jobs/{request_id}",
        "vega://gallery{?q,after}",
    ]


async def test_ids_can_be_completed(agent: Client) -> None:
    jobs = [job_of(await agent.call_tool(RT, {"prompt": "a fox", "seed": seed})) for seed in (1, 2)]
    newest, oldest = (job["images"][0]["id"] for job in reversed(jobs))
    for template in ("vega://images/{id}", "vega://images/{id}/preview"):
        reference = ResourceTemplateReference(type="ref/resource", uri=template)
        everything = await agent.complete(reference, {"name": "id", "value": ""})
        assert everything.completion.values == [newest, oldest]
        assert everything.completion.has_more is False
        one = await agent.complete(reference, {"name": "id", "value": oldest[:9]})
        assert one.completion.values == [oldest]
        none = await agent.complete(reference, {"name": "id", "value": "%"})
        assert none.completion.values == []
    reference = ResourceTemplateReference(type="ref/resource", uri="vega://jobs/{request_id}")
    found = await agent.complete(reference, {"name": "request_id", "value": jobs[0]["request_id"][:9]})
    assert found.completion.values == [jobs[0]["request_id"]]
    reference = ResourceTemplateReference(type="ref/resource", uri="vega://gallery{?q,after}")
    assert (await agent.complete(reference, {"name": "q", "value": ""})).completion.values == []


# ---- notifications ----


async def test_a_client_that_subscribes_is_notified_of_new_pictures_and_of_changes_of_its_job(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        capabilities = agent.server_capabilities.resources
        assert capabilities is not None
        assert (capabilities.list_changed, capabilities.subscribe) == (True, True)
        heard: list[Any] = []
        async with agent.listen(resources_list_changed=True, resource_subscriptions=["vega://gallery"]) as events:
            with anyio.fail_after(HANG_SECONDS):
                await agent.call_tool("submit_job", {"prompt": "a fox"})
                async for event in events:
                    heard.append(event)
                    if len(heard) == 2:
                        break
        assert {type(event) for event in heard} == {ResourcesListChanged, ResourceUpdated}
        assert len((await agent.list_resources()).resources) == 3


async def test_an_older_client_is_notified_of_new_pictures_on_its_own_channel(sandbox: Sandbox, tmp_path: Path) -> None:
    heard = anyio.Event()

    async def handle(message: IncomingMessage) -> None:
        if isinstance(message, ResourceListChangedNotification):
            heard.set()

    async with (
        app_over(sandbox.url, tmp_path) as app,
        Client(build_server(app), mode="legacy", message_handler=handle) as agent,
    ):
        capabilities = agent.server_capabilities.resources
        assert capabilities is not None
        assert capabilities.list_changed
        await agent.call_tool("submit_job", {"prompt": "a fox"})
        with anyio.fail_after(HANG_SECONDS):
            await heard.wait()


# ---- over HTTP ----


async def over_http(folder: Path, transport: str, mode: str, data: bytes, check: Callable[[Client, str], Any]) -> None:
    """Run a check against a server over HTTP whose pictures are all `data`."""
    async with app_over(API, folder, transport=api_that_draws(data)) as app:
        application = build_application(app, transport)
        # The sandbox's server does not run the lifespan of an application.
        async with application.router.lifespan_context(application), serving(application) as url:
            address = f"{url}{PATHS[transport]}"
            async with Client(sse_client(address) if transport == "sse" else address, mode=mode) as agent:
                await check(agent, url)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_over_http_the_text_has_a_url_for_the_file(tmp_path: Path, transport: str, mode: str) -> None:
    async def check(agent: Client, url: str) -> None:
        result = await agent.call_tool(VEGA, {"prompt": "a fox 狐"})
        (image,) = job_of(result)["images"]
        assert text_of(result).endswith(f"\nURI: {image['uri']}\nImage: {image['url']}")
        assert image["url"].partition("?")[0] == f"{url}/images/{image['id']}"
        assert image["path"] not in text_of(result)
        assert (await read(agent, "vega://gallery"))["pictures"][0]["file"] == image["url"]
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(image["url"])
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
            assert answer.headers["x-content-type-options"] == "nosniff"
            name = Path(image["path"]).name
            plain, encoded = name.replace("狐", ""), name.replace("狐", "%E7%8B%90")
            disposition = f"inline; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
            assert answer.headers["content-disposition"] == disposition
            assert answer.content == Path(image["path"]).read_bytes()
            unknown = await http.get(f"{url}/images/{'0' * 32}")
            assert (unknown.status_code, unknown.headers["content-type"]) == (404, "text/plain; charset=utf-8")
            for path in ("/images/", "/images/..%2f..%2fetc%2fpasswd", "/images/x"):
                assert (await http.get(url + path)).status_code == 404
            for header in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                assert (await http.get(image["url"], headers=header)).status_code in (403, 421)
            Path(image["path"]).unlink()
            gone = await http.get(image["url"])
            assert gone.status_code == 500
            assert f"Error: The picture {image['path']} cannot be read: " in gone.text

    await over_http(tmp_path, transport, mode, noise("JPEG", 64), check)


async def test_on_stdio_the_text_has_the_path(agent: Client) -> None:
    result = await agent.call_tool(VEGA, {"prompt": "a fox"})
    (image,) = job_of(result)["images"]
    assert text_of(result).endswith(f"\nImage: {image['path']}")
    assert "url" not in image


@pytest.mark.parametrize(
    ("transport", "mode", "whole"),
    [("http", "auto", True), ("http", "legacy", False), ("sse", "auto", False), ("sse", "legacy", False)],
)
async def test_a_picture_that_is_too_large_for_the_transport_is_reduced_and_the_text_says_where_the_original_is(
    tmp_path: Path, transport: str, mode: str, *, whole: bool
) -> None:
    large = noise("PNG", 640)
    assert len(large) > 1_200_000

    async def check(agent: Client, url: str) -> None:
        (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
        contents = (await agent.read_resource(image["uri"])).contents
        first = contents[0]
        assert isinstance(first, BlobResourceContents)
        data = b64decode(first.blob)
        if whole:
            assert len(contents) == 1
            assert sha256(data).hexdigest() == image["sha256"]
            return
        with Image.open(io.BytesIO(data)) as shown:
            assert (shown.format, shown.size, first.mime_type) == ("JPEG", (640, 640), "image/jpeg")
        assert 300_000 < len(data) <= 700_000
        said = contents[1]
        assert isinstance(said, TextResourceContents)
        assert image["url"].startswith(f"{url}/images/{image['id']}?")
        assert said.text.endswith(f"The original is at {image['url']}")
        assert "(image/png, 1," in said.text

    await over_http(tmp_path, transport, mode, large, check)


async def test_on_stdio_and_in_memory_a_picture_of_any_size_is_read_completely(tmp_path: Path) -> None:
    async with (
        app_over(API, tmp_path, transport=api_that_draws(noise("PNG"))) as app,
        Client(build_server(app), mode="legacy") as agent,
    ):
        (image,) = job_of(await agent.call_tool(VEGA, {"prompt": "a fox"}))["images"]
        data, mime_type = await blob(agent, image["uri"])
    assert mime_type == "image/png"
    assert len(data) > 3_000_000
    assert metadata.read(data) is not None
