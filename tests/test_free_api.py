"""An API that costs nothing: the engine on this machine, and an engine of the user's own somewhere else.

The API here is the sandbox, with the headers of an engine on its answers.
"""

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, HISTORY, NO_PAUSE, Sandbox, app_over, begun, images_of, job_of, paint_small, text_of, until
from mcp.client import Client
from test_command_line import run, run_beside
from test_page import page_of
from test_schemas import TOOLS_BYTES, WITH_INSTRUCTIONS_BYTES, WITH_META_BYTES

from mcp_vega.imaging import metadata
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.job import LOCAL, SANDBOX, Job
from mcp_vega.jobs.progress import progress_of
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
CARD = "NVIDIA GeForce RTX 4090"
NOTHING = Limits(Decimal(0), usd_a_day_each=Decimal(0))


@dataclass
class Engine(httpx.AsyncBaseTransport):
    """The way to an API whose answers are those of an engine: they say what draws, and that it costs nothing.

    Attributes:
        headers: What it adds to each answer.
        seconds: How long each drawing takes, as the answers say.
        dies: Whether it ends before the answer to a call.
    """

    headers: dict[str, str] = field(default_factory=lambda: {"x-mcp-vega-free": "1", "x-mcp-vega-engine": CARD})
    seconds: float = 2
    dies: bool = False
    inner: httpx.AsyncHTTPTransport = field(default_factory=lambda: httpx.AsyncHTTPTransport(verify=False))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self.inner.handle_async_request(request)
        body = await answer.aread()
        await answer.aclose()
        if self.dies and request.method == "POST":
            raise httpx.ReadError("the connection was closed", request=request)
        headers = {**answer.headers, **self.headers, "x-cost": "0", "x-generation-time": str(self.seconds)}
        headers.pop("x-remaining-credits", None)
        if b'"metrics"' in body:
            metrics = {"cost": 0, "inference_time": self.seconds}
            body = json.dumps({**json.loads(body), "metrics": metrics}).encode()
            headers["content-length"] = str(len(body))
        return httpx.Response(answer.status_code, headers=headers, content=body)

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def local_app(
    url: str, folder: Path, engine: httpx.AsyncBaseTransport, **given: Any
) -> AsyncGenerator[AppContext]:
    """The context of a server with `--local`, whose engine is at a URL."""
    async with app_over(url, folder, transport=engine, api=LOCAL, **given) as app:
        yield replace(app, local=True)


# ---- a picture ----


@pytest.mark.parametrize("tool", [VEGA, "submit_job"])
async def test_a_picture_of_this_machine_costs_nothing_and_says_what_drew_it(
    sandbox: Sandbox, tmp_path: Path, tool: str
) -> None:
    """By v1 and by v2."""
    async with local_app(sandbox.url, tmp_path, Engine()) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(tool, {"prompt": "a fox", "seed": 7})
        if not images_of(result):
            assert "\nCost: $0.00\n" in text_of(result)
            question = {"request_id": job_of(result)["request_id"], "wait_seconds": 45}
            result = await agent.call_tool("check_job", question)
        lines = text_of(result).splitlines()
        assert lines[1] == f"Note: Drawn on this machine ({CARD})."
        assert {"Cost: $0.00", "Seconds: 2", "Seed: 7"} <= {*lines}
        assert not re.search("Credits|unknown|about", text_of(result))
        assert job_of(result)["cost_usd"] == 0
        job = await app.service.get(job_of(result)["request_id"])
        assert (job.charged, job.base_url) == ("no", "local")
        assert await app.service.store.spending.on(datetime.now(UTC).date()) == 0
        recipe = metadata.read(Path(job_of(result)["images"][0]["path"]).read_bytes())
    assert recipe is not None
    assert recipe.data["engine"] == "local"
    assert recipe.text.endswith("Model: segmind-vega, Version: mcp-vega local")


async def test_a_picture_of_another_engine_of_ones_own_is_free_as_well(sandbox: Sandbox, tmp_path: Path) -> None:
    async with app_over(sandbox.url, tmp_path, transport=Engine()) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(RT, {"prompt": "a fox"})
        job = await app.service.get(job_of(result)["request_id"])
        recipe = metadata.read(Path(job_of(result)["images"][0]["path"]).read_bytes())
        assert await app.service.store.spending.on(datetime.now(UTC).date()) == 0
    lines = text_of(result).splitlines()
    assert lines[1] == f"Note: Drawn by your engine ({CARD})."
    assert "Cost: $0.00" in lines
    assert "Credits left" not in text_of(result)
    assert job.charged == "no"
    assert recipe is not None
    assert recipe.drawn_by == LOCAL


async def test_only_an_api_that_is_free_says_what_draws(sandbox: Sandbox, tmp_path: Path) -> None:
    paid = Engine(headers={"x-mcp-vega-engine": CARD, "x-cost": "0.002"})
    async with app_over(sandbox.url, tmp_path, transport=paid) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(RT, {"prompt": "a fox"})
    assert CARD not in text_of(result)


async def test_the_name_of_what_draws_is_shown_safely(sandbox: Sandbox, tmp_path: Path) -> None:
    """An engine somewhere else may say anything."""
    name = "card\x1b[2J " + "x" * 200
    engine = Engine(headers={"x-mcp-vega-free": "1", "x-mcp-vega-engine": name})
    async with app_over(sandbox.url, tmp_path, transport=engine) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(RT, {"prompt": "a fox"})
    note = text_of(result).splitlines()[1]
    assert note.startswith("Note: Drawn by your engine (card")
    assert note.isprintable()
    assert len(note) < 150


async def test_an_engine_without_a_name_draws_on_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    engine = Engine(headers={"x-mcp-vega-free": "1"})
    async with local_app(sandbox.url, tmp_path, engine) as app, Client(build_server(app)) as agent:
        result = await agent.call_tool(RT, {"prompt": "a fox"})
    assert text_of(result).splitlines()[1] == "Note: Drawn on this machine."


async def test_a_call_that_joins_a_free_job_pays_nothing_again(sandbox: Sandbox, tmp_path: Path) -> None:
    async with local_app(sandbox.url, tmp_path, Engine(), wait_seconds=0) as app, Client(build_server(app)) as agent:
        sandbox.hold()
        first = await agent.call_tool(RT, {"prompt": "a fox"})
        again = await agent.call_tool(RT, {"prompt": "a fox"})
        sandbox.let_go()
    assert job_of(first)["seed"] == job_of(again)["seed"]
    assert "so this is the job of that call and nothing is drawn again" in text_of(again)


# ---- limits ----


@pytest.mark.parametrize("tool", [RT, "submit_job"])
async def test_a_spending_limit_of_0_lets_this_machine_draw_and_no_other_api(
    sandbox: Sandbox, tmp_path: Path, tool: str
) -> None:
    """Both share a ledger."""
    home = tmp_path / "home"
    async with (
        app_over(sandbox.url, tmp_path / "paid", home=home, limits=NOTHING) as app,
        Client(build_server(app)) as agent,
    ):
        refused = await agent.call_tool(tool, {"prompt": "a fox"})
    assert "(spending_limit_reached)" in text_of(refused)
    async with (
        local_app(sandbox.url, tmp_path / "free", Engine(), home=home, limits=NOTHING) as app,
        Client(build_server(app)) as agent,
    ):
        drawn = await agent.call_tool(tool, {"prompt": "a fox"})
    assert job_of(drawn)["state"] != "FAILED"
    assert "Spending limit" not in text_of(drawn)
    assert "mcp-vega/spending" not in (drawn.meta or {})


async def test_a_limit_that_the_api_has_used_up_does_not_stop_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    home, limits = tmp_path / "home", Limits(Decimal("0.002"))
    async with (
        app_over(sandbox.url, tmp_path / "paid", home=home, limits=limits) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
    async with (
        local_app(sandbox.url, tmp_path / "free", Engine(), home=home, limits=limits) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
        assert await app.service.store.spending.on(datetime.now(UTC).date()) == Decimal("0.002")


async def test_drawings_of_this_machine_use_up_none_of_the_apis_calls_in_a_minute(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    async with (
        local_app(sandbox.url, tmp_path / "free", Engine(), home=home) as app,
        Client(build_server(app)) as agent,
    ):
        for number in range(3):
            job_of(await agent.call_tool(RT, {"prompt": f"fox {number}"}))
    limits = Limits(calls_a_minute=1)
    async with (
        app_over(sandbox.url, tmp_path / "paid", home=home, limits=limits, wait_seconds=20) as app,
        Client(build_server(app)) as agent,
    ):
        assert job_of(await agent.call_tool(RT, {"prompt": "an owl"}))["state"] == "COMPLETED"


# ---- errors ----


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("500", "outcome_unknown"),
        ("failed", "outcome_unknown"),
        ("error-200", "generation_failed"),
        ("empty", "unreadable_answer"),
        ("401", "unauthorized"),
        ("404", "not_found"),
    ],
)
async def test_no_error_of_a_free_api_is_charged_or_names_an_account(
    sandbox: Sandbox, tmp_path: Path, fault: str, code: str, *, local: bool
) -> None:
    given: dict[str, Any] = {"api": LOCAL} if local else {}
    async with (
        app_over(sandbox.url, tmp_path, transport=Engine(), policy=NO_PAUSE, **given) as app,
        Client(build_server(replace(app, local=local))) as agent,
    ):
        result = await agent.call_tool(RT, {"prompt": f"a fox [fault:{fault}]"})
        (job,) = await app.service.store.latest(5)
    assert result.is_error
    assert re.search(rf"\(({code})\)\.\nCharged: no\.\nNext: ", text_of(result)), text_of(result)
    assert "segmind.com" not in text_of(result)
    assert (job.charged, job.open) == ("no", False)


async def test_a_lost_answer_of_this_machine_is_not_charged(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.account.history_status = 503
    async with (
        local_app(sandbox.url, tmp_path, Engine(dies=True), policy=NO_PAUSE) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool(RT, {"prompt": "a fox"})
        (job,) = await app.service.store.latest(5)
        looked = await agent.call_tool("check_job", {"request_id": job.request_id})
        assert await app.service.store.spending.on(datetime.now(UTC).date()) == 0
        said = progress_of(app.service, job).message
    for each in (result, looked):
        assert "Charged: no." in text_of(each)
        assert not re.search(r"segmind\.com|Do not repeat", text_of(each))
        assert (each.meta or {})["mcp-vega/error"]["charged"] == "no"
    assert "Segmind" not in said
    assert job.charged == "no"


# ---- what agents and people read ----


async def test_in_local_mode_agents_read_no_price_and_that_nothing_is_paid(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        local_app(sandbox.url, tmp_path, Engine()) as app,
        Client(build_server(app), mode="legacy") as agent,
    ):
        drawn = await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 2})
        picture = job_of(drawn)["images"][0]["id"]
        prompts = [
            await agent.get_prompt("illustrate", {"passage": "The sea."}),
            await agent.get_prompt("explore", {"idea": "a fox"}),
            await agent.get_prompt("vary", {"image": picture, "change": "at night"}),
        ]
        listed = await agent.list_tools()
        instructions = agent.instructions or ""
    texts = [each.messages[0].content.model_dump()["text"] for each in prompts]
    descriptions = {tool.name: tool.description or "" for tool in listed.tools}
    for text in (instructions, *texts, *descriptions.values()):
        assert not re.search(r"\$\d|\bpaid\b|costs about", text), text
    assert "drawn on this machine and cost nothing" in instructions
    assert all("this machine at no cost" in descriptions[name] for name in (VEGA, RT, "submit_job"))
    assert all("path or URL" in descriptions[name] for name in (VEGA, RT, "check_job"))
    shown = [tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"meta"}) for tool in listed.tools]
    tools = len(json.dumps(shown, separators=(",", ":")))
    whole = listed.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert tools <= TOOLS_BYTES
    assert tools + len(instructions.encode()) <= WITH_INSTRUCTIONS_BYTES
    assert len(json.dumps(whole, separators=(",", ":"))) <= WITH_META_BYTES


async def test_the_page_and_the_app_know_that_this_machine_draws(sandbox: Sandbox, tmp_path: Path) -> None:
    async with local_app(sandbox.url, tmp_path, Engine()) as app, page_of(app) as page:
        async with Client(build_server(app)) as agent:
            drawn = await agent.call_tool(RT, {"prompt": "a fox"})
        state = (await page.get("/gallery/state")).json()
        async with page_of(replace(app, local=False)) as other:
            assert (await other.get("/gallery/state")).json()["free"] == ""
    assert (state["free"], state["spent"]["total_usd"]) == ("local", 0)
    assert (drawn.meta or {})["mcp-vega/local"] is True


async def test_the_command_jobs_says_that_drawings_of_this_machine_cost_nothing(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with (
        local_app(sandbox.url, tmp_path / "gallery", Engine(), home=tmp_path / "home") as app,
        Client(build_server(app)) as agent,
    ):
        job = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
    table = await run_beside("jobs", folder=tmp_path)
    assert re.search(r"a fox +vegart +\$0\.00 +done ", table.stdout), table
    in_full = await run_beside("jobs", job["request_id"], folder=tmp_path)
    assert re.search(r"^API: +local$", in_full.stdout, re.MULTILINE)
    assert re.search(r"^Charged: +no\nCost: +\$0\.00\nSeconds: ", in_full.stdout, re.MULTILINE)
    assert f"Drawn on this machine ({CARD})" in in_full.stdout
    spent = await run_beside("jobs", "--spent", folder=tmp_path)
    assert spent.stderr.startswith("Nothing spent yet in ")
    (record,) = json.loads((await run_beside("jobs", "--json", folder=tmp_path)).stdout)
    assert (record["charged"], record["cost_usd"], record["base_url"]) == ("no", 0, "local")


# ---- recipes ----


def file_of(drawn_by: str, folder: Path) -> str:
    file = folder / f"{drawn_by or 'api'}.jpg"
    recipe = Recipe(VegaRTParameters(prompt="a fox", seed=7), drawn_by=drawn_by)
    file.write_bytes(metadata.embed(paint_small("a fox", 7, 0), recipe))
    return str(file)


@pytest.mark.parametrize(
    ("drawn_by", "options", "note"),
    [
        (LOCAL, [], "drawn by your own engine; the API draws"),
        (SANDBOX, [], "painted by the sandbox; the API draws"),
        ("", ["--local"], "drawn by the API; the engine on this machine draws"),
        (SANDBOX, ["--local"], "painted by the sandbox; the engine on this machine draws"),
        ("", ["--sandbox"], "drawn by the API; the sandbox paints"),
        ("", [], ""),
        (SANDBOX, ["--sandbox"], ""),
        (LOCAL, ["--local"], ""),
    ],
)
def test_draw_like_says_if_another_engine_draws_now(
    tmp_path: Path, drawn_by: str, options: list[str], note: str
) -> None:
    """Nothing can be drawn here without a key or weights, except in the sandbox; the note comes before that."""
    weights = {"MCP_VEGA_WEIGHTS": str(tmp_path / "no-weights")}
    done = run("draw", "--like", file_of(drawn_by, tmp_path), *options, folder=tmp_path, **weights)
    said = [line for line in done.stderr.splitlines() if line.startswith("Note: the picture was")]
    assert said == ([f"Note: the picture was {note} another one."] if note else [])


def test_draw_like_does_not_guess_what_draws_at_another_address(tmp_path: Path) -> None:
    api = {"SEGMIND_BASE_URL": "http://127.0.0.1:9", "SEGMIND_API_KEY": ""}
    done = run("draw", "--like", file_of(LOCAL, tmp_path), folder=tmp_path, **api)
    assert "Note: the picture was" not in done.stderr


def test_the_recipe_of_a_picture_says_if_an_engine_of_ones_own_drew_it(tmp_path: Path) -> None:
    file = file_of(LOCAL, tmp_path)
    said = run("recipe", file, folder=tmp_path).stdout
    assert said.endswith(
        "Model: segmind-vega-rt-v1, Version: mcp-vega local\n"
        "Drawn by an engine of your own with the open weights, not by the API\n"
    )
    assert json.loads(run("recipe", file, "--json", folder=tmp_path).stdout)["engine"] == "local"


# ---- how long a drawing takes ----


@dataclass
class Clock:
    """A clock that a test sets."""

    ahead: float = 0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.began + timedelta(seconds=self.ahead)


async def drawn_for(app: AppContext, sandbox: Sandbox, clock: Clock, seconds: float) -> None:
    """Draw a picture that takes so long."""
    sandbox.hold()
    before = sandbox.paid_requests
    job = await begun(app.service, VegaRTParameters(prompt=f"fox {before}"))
    await until(lambda: sandbox.paid_requests > before)
    clock.ahead += seconds
    sandbox.let_go()

    async def is_done() -> bool:
        return (await app.service.get(job.local_id)).complete

    await until(is_done)


async def said_after(
    app: AppContext, sandbox: Sandbox, clock: Clock, seconds: float, parameters: VegaParameters | VegaRTParameters
) -> str:
    """The progress of a drawing after so many seconds."""
    sandbox.hold()
    before = sandbox.paid_requests
    job = await begun(app.service, parameters)
    await until(lambda: sandbox.paid_requests > before)
    clock.ahead += seconds
    said = progress_of(app.service, await app.service.get(job.local_id)).message
    sandbox.let_go()
    return said


async def test_the_expected_time_follows_the_last_drawings_of_the_same_api_and_model(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    clock, engine, home = Clock(), Engine(seconds=40), tmp_path / "home"
    given: dict[str, Any] = {"pace": 1, "clock": clock, "home": home}
    async with local_app(sandbox.url, tmp_path / "one", engine, **given) as app:
        first = await said_after(app, sandbox, clock, 12, VegaRTParameters(prompt="an owl"))
        assert first == "Drawing: 12 s", "there is no documented time for this machine"
        await drawn_for(app, sandbox, clock, 40)
        fox = VegaRTParameters(prompt="a fox")
        assert await said_after(app, sandbox, clock, 12, fox) == "Drawing: 12 s of about 40 s"
    async with local_app(sandbox.url, tmp_path / "two", engine, **given) as app:
        await drawn_for(app, sandbox, clock, 40)  # by now, the receipts of the other server have been read
        twice = VegaRTParameters(prompt="two foxes", num_inference_steps=8)
        assert await said_after(app, sandbox, clock, 12, twice) == "Drawing: 12 s of about 80 s"
        late = await said_after(app, sandbox, clock, 90, VegaRTParameters(prompt="three foxes"))
        assert late == "Drawing: 90 s, longer than usual (about 40 s)"
        other_model = await said_after(app, sandbox, clock, 5, VegaParameters(prompt="a fox"))
        assert other_model == "Drawing: 5 s"
    async with app_over(sandbox.url, tmp_path / "paid", **given) as app:
        paid = await said_after(app, sandbox, clock, 1, VegaRTParameters(prompt="a fox"))
        assert paid == "Drawing: 1 s of about 2 s", "the times of this machine are not those of the API"


async def test_a_new_server_reads_the_last_times_from_the_ledger(sandbox: Sandbox, tmp_path: Path) -> None:
    clock, engine, home = Clock(), Engine(seconds=40), tmp_path / "home"
    given: dict[str, Any] = {"pace": 1, "clock": clock, "home": home}
    async with local_app(sandbox.url, tmp_path / "one", engine, **given) as app:
        await drawn_for(app, sandbox, clock, 40)
    async with local_app(sandbox.url, tmp_path / "two", engine, **given) as app:
        sandbox.hold()
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: app.service.expected_seconds(job))
        assert app.service.expected_seconds(job) == 40
        sandbox.let_go()


async def test_one_slow_drawing_and_impossible_times_change_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    clock, engine = Clock(), Engine(seconds=4)
    async with local_app(sandbox.url, tmp_path, engine, pace=1, clock=clock) as app:
        for engine.seconds, passed in ((4, 4), (4, 4), (100, 100), (4, 4), (9_000_000, 4)):
            await drawn_for(app, sandbox, clock, passed)
        job = Job.of_call(VegaRTParameters(prompt="a fox"), route="v1", base_url=LOCAL, created=clock())
        assert app.service.expected_seconds(job) == 4


async def test_the_progress_of_the_engine_tells_when_a_first_drawing_is_ready(tmp_path: Path) -> None:
    """A quarter is drawn after 10 s, so the rest takes 30 s."""
    clock = Clock()

    def answer(request: httpx.Request) -> httpx.Response:
        free = {"x-mcp-vega-free": "1", "x-mcp-vega-engine": CARD}
        if request.method == "POST":
            return httpx.Response(200, json={"request_id": "r1", "status": "QUEUED"}, headers=free)
        if request.url.path == HISTORY:
            return httpx.Response(503)
        clock.ahead = max(clock.ahead, 15)
        drawing = clock.ahead - 5
        metrics = {"cost": 0, "inference_time": drawing, "queue_time": 5, "progress": drawing / 40}
        body = {"request_id": "r1", "status": "PROCESSING", "metrics": metrics}
        return httpx.Response(200, json=body, headers=free)

    engine = httpx.MockTransport(answer)
    async with (
        local_app(API, tmp_path, engine, pace=1, clock=clock, wait_seconds=0) as app,
        Client(build_server(app)) as agent,
    ):
        asked = await agent.call_tool("submit_job", {"prompt": "a fox"})
        found = await app.service.get(job_of(asked)["request_id"])
        await until(lambda: app.service.expected_seconds(found))
        clock.ahead = 20
        under_way = await app.service.get(job_of(asked)["request_id"])
        said = progress_of(app.service, under_way)
        text = text_of(await agent.call_tool("check_job", {"request_id": job_of(asked)["request_id"]}))
    assert re.fullmatch(r"Drawing: 20 s of about 4[45] s", said.message)
    assert said.total == pytest.approx(45, abs=1)
    assert re.search(r"with the request id below in about 2[45] s", text)


async def test_jobs_of_other_apis_in_the_ledger_stay_readable_for_a_local_server(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """They cost what they cost, and a job of this machine is free wherever it is shown."""
    home = tmp_path / "home"
    async with app_over(sandbox.url, tmp_path / "paid", home=home) as app, Client(build_server(app)) as agent:
        paid = job_of(await agent.call_tool(RT, {"prompt": "a fox"}))
    async with (
        local_app(sandbox.url, tmp_path / "free", Engine(), home=home) as app,
        Client(build_server(app)) as agent,
    ):
        free = job_of(await agent.call_tool(RT, {"prompt": "an owl"}))
        seen = await agent.call_tool("check_job", {"request_id": paid["request_id"]})
    assert f"Cost: ${paid['cost_usd']:g}" in text_of(seen)
    assert "Credits left: $" in text_of(seen)
    async with app_over(sandbox.url, tmp_path / "paid", home=home) as app, Client(build_server(app)) as agent:
        seen = await agent.call_tool("check_job", {"request_id": free["request_id"]})
    assert "Cost: $0.00" in text_of(seen)
    store = JobStore.in_file(home / "ledger.sqlite3")
    assert {each.charged for each in await store.latest(9)} == {"yes", "no"}
    await store.close()


async def test_a_server_for_the_api_says_who_can_finish_a_job_of_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    home = tmp_path / "home"
    sandbox.hold()
    async with local_app(sandbox.url, tmp_path / "free", Engine(), home=home) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        await until(lambda: sandbox.paid_requests)
    sandbox.let_go()
    async with app_over(sandbox.url, tmp_path / "paid", home=home) as app, Client(build_server(app)) as agent:
        seen = text_of(await agent.call_tool("check_job", {"request_id": job.local_id}))
    assert "begun for the engine on this machine; only a server with --local can finish it" in seen
    assert "Cost: about" not in seen
