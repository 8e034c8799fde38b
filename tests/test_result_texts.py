"""The texts of results: their order, the sandbox's money, plain words in progress, clients that get only text."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import NO_PAUSE, Sandbox, app_over, begun, images_of, job_of, text_of, until
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp_types import CallToolResult, Implementation

from mcp_vega.job import SANDBOX, Job
from mcp_vega.jobs.progress import progress_of
from mcp_vega.network.serving import serving
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.app import PATHS, build_application
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
LIMITS = Limits(Decimal("0.02"))
LONG_PROMPT = "A lighthouse on a rocky cliff at dusk, warm light in the windows, storm clouds, oil painting"


def labels(result: CallToolResult) -> list[str]:
    """The labels of all lines but the first."""
    return [line.partition(": ")[0] for line in text_of(result).splitlines()[1:]]


# ---- the order ----


async def test_the_places_of_the_pictures_are_always_the_last_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    facts = ["Seed", "Steps", "Seconds", "Cost", "Credits left", "Request id", "Spending limit", "Sandbox"]
    asked = {"prompt": "a fox", "samples": 2}
    async with (
        app_over(sandbox.url, tmp_path, sandbox=True, limits=LIMITS, wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        # The API never draws this one, so it is still under way at the second call.
        under_way = await agent.call_tool(VEGA, {**asked, "prompt": "an owl [fault:stuck]"})
        again = await agent.call_tool(VEGA, {**asked, "prompt": "an owl [fault:stuck]"})
        assert labels(under_way) == ["Cost", "Spending limit", "Sandbox", "State", "Request id"]
        assert labels(again) == ["Note", *labels(under_way)]
        begun = await agent.call_tool(VEGA, asked)
        question = {"request_id": job_of(begun)["request_id"], "wait_seconds": 45}
        drawn = await agent.call_tool("check_job", question)
        assert labels(drawn) == [*facts, *["URI", "Image"] * 2]
        first, second = job_of(drawn)["images"]
        await app.gallery.delete(first["id"], datetime.now(UTC))
        left = await agent.call_tool("check_job", question)
        listed = await agent.call_tool("check_job", {})
    assert labels(left) == ["Note", *facts, "URI", "Image"]
    assert text_of(left).endswith(f"\nURI: {second['uri']}\nImage: {second['path']}")
    assert labels(listed)[2:] == ["Spending limit", "Sandbox"]


@pytest.mark.parametrize(("pretend", "characters"), [(False, 360), (True, 420)])
async def test_the_text_of_a_picture_takes_little_of_a_models_context(
    sandbox: Sandbox, tmp_path: Path, *, pretend: bool, characters: int
) -> None:
    """These are about 150 and 170 tokens (o200k): such a text has about 2.4 characters a token."""
    given: dict[str, Any] = {"api": SANDBOX, "sandbox": True} if pretend else {}
    async with app_over(sandbox.url, tmp_path, **given) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(VEGA, {"prompt": LONG_PROMPT})
    text = text_of(result)
    (image,) = job_of(result)["images"]
    assert text.startswith("Segmind-Vega drew “A lighthouse on a rocky cliff …”.\n")
    folder = Path(image["path"]).parent
    assert len(text.replace(str(folder), f"/home/ada/Pictures/mcp-vega/{folder.name}")) <= characters


async def test_if_no_disk_takes_a_picture_its_uri_is_the_last_line(tmp_path: Path, sandbox: Sandbox) -> None:
    async with app_over(sandbox.url, tmp_path, images=MemoryImageStore()) as app:
        for client, shown in ((None, 1), (CLINE, 0)):
            async with Client(build_server(app), client_info=client) as agent:
                result = await agent.call_tool(RT, {"prompt": "a fox"})
            assert re.fullmatch("URI: vega://images/[0-9a-f]{32}", text_of(result).splitlines()[-1])
            assert len(images_of(result)) == shown


# ---- the sandbox's money ----


async def test_every_amount_of_the_sandbox_is_pretend_and_no_other_amount_is(sandbox: Sandbox, tmp_path: Path) -> None:
    seen: dict[bool, list[str]] = {}
    for pretend in (True, False):
        # The ledger has another name for the API of the sandbox inside the server than for one at a URL.
        given: dict[str, Any] = {"api": SANDBOX, "sandbox": True} if pretend else {}
        async with (
            app_over(sandbox.url, tmp_path / str(pretend), limits=Limits(Decimal("0.0065")), **given) as app,
            Client(build_server(app)) as agent,
        ):
            drawn = await agent.call_tool(VEGA, {"prompt": "a fox"})
            queued = await agent.call_tool("submit_job", {"prompt": "an owl [fault:stuck]"})
            refused = await agent.call_tool(VEGA, {"prompt": "a cat", "samples": 4})
            listed = await agent.call_tool("check_job", {})
            prompts = [
                await agent.get_prompt("illustrate", {"passage": "The sea."}),
                await agent.get_prompt("explore", {"idea": "a fox"}),
                await agent.get_prompt("vary", {"image": job_of(drawn)["images"][0]["id"], "change": "at night"}),
            ]
            tools = {tool.name: tool.description or "" for tool in (await agent.list_tools()).tools}
            assert all(("money is pretend" in tools[name]) is pretend for name in (VEGA, RT, "submit_job"))
            assert ("money is pretend" in (agent.instructions or "")) is pretend
            assert all(len(text.encode()) < 1000 for text in tools.values())
        texts = [text_of(result) for result in (drawn, queued, refused, listed)]
        texts += [each.messages[0].content.model_dump()["text"] for each in prompts]
        seen[pretend] = [amount for text in texts for amount in re.findall(r"\$\d[\d.,]*\d(?: \(pretend\))?", text)]
    for pretend, amounts in seen.items():
        assert [amount.endswith(" (pretend)") for amount in amounts] == [pretend] * 16


# ---- clients that give their model the result as text ----

CLINE = Implementation(name="@cline/core", version="3.0.0")
OTHER = Implementation(name="cline", version="3.0.0")


async def answers(agent: Client) -> list[CallToolResult]:
    """A picture, a full picture, one job, the list of jobs, and errors."""
    drawn = await agent.call_tool(RT, {"prompt": "a fox", "seed": 7})
    assert "Seed: 7" in text_of(drawn)
    request_id = re.findall("^Request id: (.+)$", text_of(drawn), re.MULTILINE)[0]
    return [
        drawn,
        await agent.call_tool(RT, {"prompt": "an owl", "base64": True}),
        await agent.call_tool("check_job", {"request_id": request_id}),
        await agent.call_tool("check_job", {}),
        await agent.call_tool(RT, {"prompt": "a fox [fault:402]"}),
        await agent.call_tool(RT, {"prompt": ""}),
        await agent.call_tool("draw", {}),
    ]


def data_in(result: CallToolResult) -> set[str]:
    """The names of this server's data in a result. In newer protocol versions, the SDK adds data of its own."""
    return {name for name in result.meta or {} if name.startswith("mcp-vega/")}


@asynccontextmanager
async def agent_over(app: AppContext, transport: str, mode: str, client: Implementation) -> AsyncGenerator[Client]:
    if transport == "memory":
        async with Client(build_server(app), mode=mode, client_info=client) as agent:
            yield agent
        return
    application = build_application(app, transport)
    async with application.router.lifespan_context(application), serving(application) as url:
        address = f"{url}{PATHS[transport]}"
        server = sse_client(address) if transport == "sse" else address
        async with Client(server, mode=mode, client_info=client) as agent:
            yield agent


@pytest.mark.parametrize(
    ("transport", "mode"),
    [("memory", "auto"), ("memory", "legacy"), ("http", "auto"), ("http", "legacy"), ("sse", "legacy")],
)
async def test_a_client_that_passes_results_on_as_text_gets_only_text(
    app: AppContext, transport: str, mode: str
) -> None:
    async with agent_over(app, transport, mode, CLINE) as agent:
        theirs = await answers(agent)
        lists = [await agent.list_tools(), await agent.list_resources(), await agent.list_prompts()]
    async with agent_over(app, transport, mode, OTHER) as agent:
        others = await answers(agent)
    assert [(len(result.content), result.meta) for result in theirs] == [(1, None)] * len(theirs)
    assert [each.meta for each in lists] == [None] * len(lists)
    assert [len(images_of(result)) for result in others] == [1, 1, 1, 1, 0, 0, 0]
    assert all(data_in(result) for result in others)
    assert "Note: this client passes pictures to its model as text, so the result has none;" in text_of(theirs[1])
    assert all(text_of(result).splitlines()[-1].startswith("Image: ") for result in theirs[:3])
    assert "sheet" not in text_of(theirs[3])


# ---- progress ----

RAW = re.compile("QUEUED|PROCESSING|COMPLETED|FAILED|UNKNOWN")


async def test_progress_after_a_lost_answer_says_for_how_long_segmind_is_asked(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The times of `reconciler.py`: it looks for a minute, or for ten minutes if the call is said to be running."""
    sent, late = datetime.now(UTC), [0.0]
    sandbox.account.history_status = 503
    given: dict[str, Any] = {"pace": 1, "clock": lambda: sent + timedelta(seconds=late[0])}
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE, **given) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox [fault:504-after]"))

        async def lost() -> Job | None:
            found = await app.service.get(job.local_id)
            return found if found.error else None

        job = await until(lost)
        said = list[str]()
        for late[0] in (0, 59, 60, 599, 600):
            said += [progress_of(app.service, job).message]
        said += [progress_of(app.service, replace(job, held=False)).message]
    asking = "The answer was lost; asking Segmind whether it ran"
    assert said == [
        *[f"{asking} (up to 60 s)"] * 2,
        *[f"{asking} (up to 10 min)"] * 2,
        asking,
        "The answer was lost; it is not known yet whether the call ran",
    ]


async def test_a_job_takes_longer_than_usual_after_one_and_a_half_times_the_average(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    late = [0.0]
    began = datetime.now(UTC)
    given: dict[str, Any] = {"pace": 1, "clock": lambda: began + timedelta(seconds=late[0])}
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, **given) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: sandbox.paid_requests)
        job = await app.service.get(job.local_id)
        progress = list[tuple[str, bool]]()
        for late[0] in (1, 1.7, 2.4, 2.6):  # drawing takes 1.68 s
            elapsed, total, message = progress_of(app.service, job)
            progress.append((message, total is not None and total >= elapsed))
        sandbox.let_go()
    assert progress == [
        ("Drawing: 1 s of about 2 s", True),
        ("Drawing: 2 s of about 2 s", True),
        ("Drawing: 2 s of about 2 s", True),
        ("Drawing: 3 s, longer than usual (about 2 s)", False),
    ]


async def test_a_waiting_call_is_not_late_and_the_text_says_when_to_ask_again(sandbox: Sandbox, tmp_path: Path) -> None:
    began, late = datetime.now(UTC), [0.0]
    given: dict[str, Any] = {"pace": 1, "clock": lambda: began + timedelta(seconds=late[0])}
    async with app_over(sandbox.url, tmp_path, **given) as app, Client(build_server(app)) as agent:
        # The API asks for 3 s, and drawing takes 2.36 s.
        refused = await agent.call_tool("submit_job", {"prompt": "a fox [fault:429-retry-after*9]"})
        late[0] = 100
        later = await agent.call_tool("check_job", {"request_id": job_of(refused)["request_id"]})
    assert re.search(r" \(the API's rate limit allows .* UTC\)\. Call check_job .* in about 6 s\. ", text_of(refused))
    assert text_of(later).startswith("Queued: ")
    assert re.search(r"Call check_job .* in about 3 s\. ", text_of(later))
    assert "longer than usual" not in text_of(later)


async def test_a_server_that_continues_a_sent_call_of_another_says_that_the_answer_was_lost(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001  a callback
        heard.append(message)

    now = datetime.now(UTC)
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, clock=lambda: now) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: sandbox.paid_requests)
    sandbox.account.history_status = 503
    async with (
        app_over(sandbox.url, tmp_path, pace=1, clock=lambda: now) as app,
        Client(build_server(replace(app, progress_after=0))) as agent,
    ):
        checked = await agent.call_tool("check_job", {"request_id": job.local_id}, progress_callback=hear)
    assert heard == ["The answer was lost; asking Segmind whether it ran"]
    assert text_of(checked).startswith(
        "Segmind's answer was lost; the server is asking whether Segmind-VegaRT drew “a fox”. Call check_job with the "
        "request id below in about "
    )


@pytest.mark.parametrize("fault", ["", " [fault:failed]", " [fault:402]", " [fault:504-after]", " [fault:stuck]"])
async def test_only_the_line_of_the_state_has_a_raw_state(sandbox: Sandbox, tmp_path: Path, fault: str) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001  a callback
        heard.append(message or "")

    async with (
        app_over(sandbox.url, tmp_path, policy=NO_PAUSE, wait_seconds=0.2, heartbeat=0.02) as app,
        Client(build_server(replace(app, progress_after=0))) as agent,
    ):
        texts: list[str] = []
        for tool in (RT, "submit_job"):
            called = await agent.call_tool(tool, {"prompt": f"a fox{fault}"}, progress_callback=hear)
            texts += text_of(called).splitlines()
        texts += text_of(await agent.call_tool("check_job", {})).splitlines()
        for job in await app.service.store.latest(2):
            question = {"request_id": job.local_id, "wait_seconds": 0.1}
            checked = await agent.call_tool("check_job", question, progress_callback=hear)
            texts += text_of(checked).splitlines()
    assert heard
    assert [text for text in (*texts, *heard) if RAW.search(text) and not text.startswith("State: ")] == []
