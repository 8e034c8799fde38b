# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false
# The vendor's SDK is untyped.
"""An engine as its clients see it: plain HTTP, the vendor's SDK, and the unchanged server of this package."""

import io
import json
import sys
from base64 import b64decode
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import segmind
from anyio.from_thread import start_blocking_portal
from conftest import HANG_SECONDS, HISTORY, KEY, TLS, app_over, images_of, job_of, text_of, until
from mcp.client import Client
from PIL import Image
from stub_painter import NAME, BlockingStub, RunningEngine, StubPainter, pictures_of, serving_engine

from mcp_vega.engine import drawings as calls
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.painter import InThread
from mcp_vega.parameters import MODELS, Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio

VEGA, RT = "segmind-vega", "segmind-vega-rt-v1"
FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1}
OUT_OF_MEMORY = EngineError(
    "The device has too little memory for this picture", "Close other programs, then call again"
)


@pytest.fixture
def painter() -> StubPainter:
    return StubPainter()


@pytest.fixture
async def engine(painter: StubPainter) -> AsyncGenerator[RunningEngine]:
    async with serving_engine(painter) as engine:
        yield engine


@pytest.fixture
async def http(engine: RunningEngine) -> AsyncGenerator[httpx.AsyncClient]:
    async with client_of(engine) as client:
        yield client


def client_of(engine: RunningEngine, key: str = KEY) -> httpx.AsyncClient:
    headers = {"x-api-key": key}
    return httpx.AsyncClient(base_url=engine.url, headers=headers, trust_env=False, verify=TLS, timeout=HANG_SECONDS)


async def submitted(http: httpx.AsyncClient, **body: Any) -> str:
    response = await http.post(f"/v2/{VEGA}", json={**FOX, **body})
    assert response.status_code == 200
    return response.json()["request_id"]


async def ended(http: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    """The last status of a job."""
    while True:
        status = (await http.get(f"/v2/requests/{request_id}/status")).json()
        if status["status"] in ("COMPLETED", "FAILED"):
            return status


async def raw_status(http: httpx.AsyncClient, request_id: str) -> str:
    """The state of a job in the history, which does not wait."""
    return (await http.get(f"{HISTORY}/{request_id}")).json()["model_status"]


# ---- v1 ----


@pytest.mark.parametrize("model", MODELS)
async def test_v1_answers_with_the_picture_and_reports_the_call_in_headers(http: httpx.AsyncClient, model: str) -> None:
    response = await http.post(f"/v1/{model}", json=FOX)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert response.content == pictures_of(MODELS[model].model_validate(FOX), 1)[0]
    assert (response.headers["x-cost"], response.headers["x-seed-value"]) == ("0", "1")
    assert float(response.headers["x-generation-time"].strip("[]")) >= 0
    assert await raw_status(http, response.headers["x-request-id"]) == "COMPLETED"


async def test_v1_answers_with_base64_if_that_is_requested(http: httpx.AsyncClient) -> None:
    one = (await http.post(f"/v1/{VEGA}", json={**FOX, "base64": True})).json()
    two = (await http.post(f"/v1/{VEGA}", json={**FOX, "base64": True, "samples": 2})).json()
    expected = pictures_of(VegaParameters(**FOX, samples=2), 1)
    assert b64decode(one["image"]) == expected[0]
    assert [b64decode(each) for each in two["image"]] == expected
    assert (two["outputs"], two["image_format"]) == (2, "jpeg")


async def test_v1_becomes_a_job_of_v2_if_the_picture_takes_long(painter: StubPainter) -> None:
    painter.pause()
    async with serving_engine(painter, hold_seconds=0) as engine, client_of(engine) as http:
        response = await http.post(f"/v1/{VEGA}", json=FOX)
        envelope = response.json()
        assert (response.status_code, envelope["status"]) == (200, "QUEUED")
        url = f"{engine.url}/v2/requests/{envelope['request_id']}"
        assert (envelope["status_url"], envelope["response_url"]) == (f"{url}/status", url)
        painter.go_on()
        assert (await ended(http, envelope["request_id"]))["status"] == "COMPLETED"
        assert len((await http.get(url)).json()["output"]) == 1


# ---- v2 ----


async def test_v2_queues_a_call_then_has_its_status_and_then_its_pictures(http: httpx.AsyncClient) -> None:
    request_id = await submitted(http, samples=3)
    status = await ended(http, request_id)
    assert status["request_id"] == request_id
    metrics = status["metrics"]
    assert (metrics["cost"], metrics["progress"]) == (0, 1)
    assert metrics["total_time"] == pytest.approx(metrics["queue_time"] + metrics["inference_time"], abs=0.002)
    result = (await http.get(f"/v2/requests/{request_id}")).json()
    assert (result["status"], result["seed"], result["prompt"]) == ("COMPLETED", "1", "a fox")
    pictures = [b64decode(each) for each in result["output"]]
    alone = [pictures_of(VegaParameters(prompt="a fox"), seed)[0] for seed in (1, 2, 3)]
    assert pictures == alone, "picture k is the one of seed + k"
    with Image.open(io.BytesIO(pictures[0])) as picture:
        assert picture.format == "JPEG"


async def test_a_seed_of_minus_1_is_drawn_by_the_engine(http: httpx.AsyncClient) -> None:
    seeds = [(await http.post(f"/v1/{VEGA}", json={"prompt": "a fox"})).headers["x-seed-value"] for _ in range(2)]
    assert len(set(seeds)) == 2
    assert all(int(seed) >= 0 for seed in seeds)


async def test_progress_counts_the_steps(http: httpx.AsyncClient, painter: StubPainter) -> None:
    painter.pause(step=5)
    request_id = await submitted(http, num_inference_steps=20)

    async def progress() -> float:
        return (await http.get(f"/v2/requests/{request_id}")).json()["metrics"]["progress"]

    assert await until(progress) <= 0.25

    async def is_paused() -> bool:
        return await progress() == 0.25

    assert await until(is_paused)
    painter.go_on()
    assert (await ended(http, request_id))["metrics"]["progress"] == 1


async def test_a_status_waits_for_news(http: httpx.AsyncClient, painter: StubPainter) -> None:
    painter.pause()
    request_id = await submitted(http)
    await until(lambda: painter.begun)
    statuses: list[str] = []

    async def look() -> None:
        statuses.append((await http.get(f"/v2/requests/{request_id}/status")).json()["status"])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        # Another answer comes meanwhile, so the status has had its chance.
        for _ in range(3):
            await http.get(HISTORY)
        assert statuses == []
        painter.go_on()
    assert statuses == ["COMPLETED"]


async def test_a_status_without_news_comes_after_a_while(painter: StubPainter) -> None:
    painter.pause()
    async with serving_engine(painter, hold_seconds=0.05) as engine, client_of(engine) as http:
        request_id = await submitted(http)
        await until(lambda: painter.begun)
        response = await http.get(f"/v2/requests/{request_id}/status")
        assert (response.status_code, response.json()["status"]) == (200, "PROCESSING")
        painter.go_on()


async def test_an_unknown_id_is_a_call_that_failed_for_free(http: httpx.AsyncClient) -> None:
    """Its client may have queued it before a restart, and must not wait for it."""
    for method, path in (
        ("GET", "/v2/requests/none/status"),
        ("GET", "/v2/requests/none"),
        ("DELETE", "/v2/requests/none"),
    ):
        response = await http.request(method, path)
        assert response.status_code == 422
        body = response.json()
        assert (body["status"], body["metrics"]["cost"]) == ("FAILED", 0)
        assert "restarted" in body["error"]
        assert "call again" in body["error"]


# ---- the queue ----


async def test_three_clients_are_served_one_at_a_time_in_order(engine: RunningEngine, painter: StubPainter) -> None:
    painter.pause()
    prompts = ["first", "second", "third"]
    async with client_of(engine, "SG_a") as one, client_of(engine, "SG_b") as two, client_of(engine, "SG_c") as three:
        clients = [one, two, three]
        ids = [await submitted(http, prompt=prompt) for http, prompt in zip(clients, prompts, strict=True)]
        await until(lambda: painter.begun)
        states = [(await one.get(f"/v2/requests/{each}")).json()["status"] for each in ids]
        assert states == ["PROCESSING", "QUEUED", "QUEUED"]
        painter.go_on()
        for http, each in zip(clients, ids, strict=True):
            assert (await ended(http, each))["status"] == "COMPLETED"
    assert (painter.begun, painter.drawn, painter.most_at_once) == (prompts, prompts, 1)


async def test_a_painter_with_several_devices_draws_several_calls_at_the_same_time() -> None:
    painter = StubPainter(at_once=2)
    painter.pause()
    async with serving_engine(painter) as engine, client_of(engine) as http:
        ids = [await submitted(http, prompt=f"fox {number}") for number in range(3)]
        await until(lambda: len(painter.begun) == 2)
        painter.go_on()
        for each in ids:
            assert (await ended(http, each))["status"] == "COMPLETED"
    assert painter.most_at_once == 2


async def test_a_full_queue_asks_to_come_later(
    http: httpx.AsyncClient, painter: StubPainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MOST_CALLS", 2)
    painter.pause()
    ids = [await submitted(http) for _ in range(2)]
    refused = await http.post(f"/v1/{VEGA}", json=FOX)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    painter.go_on()
    for each in ids:
        await ended(http, each)
    assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200


async def test_the_engine_knows_how_long_it_was_not_used(painter: StubPainter) -> None:
    now = [0.0]
    async with serving_engine(painter, clock=lambda: now[0]) as engine, client_of(engine) as http:
        drawings = engine.drawings
        now[0] += 600
        assert (drawings.is_busy, drawings.unused_seconds) == (False, 600)
        painter.pause()
        request_id = await submitted(http)
        now[0] += 3600
        assert (drawings.is_busy, drawings.unused_seconds) == (True, 0), "a drawing may take hours"
        painter.go_on()
        await ended(http, request_id)
        now[0] += 5
        assert (drawings.is_busy, drawings.unused_seconds) == (False, 5)
        await ended(http, request_id)
        assert drawings.unused_seconds == 0, "somebody asks for it"


# ---- cancellation ----


async def test_a_call_that_waits_can_be_cancelled(http: httpx.AsyncClient, painter: StubPainter) -> None:
    painter.pause()
    first, second, third = [await submitted(http, prompt=prompt) for prompt in ("first", "second", "third")]
    await until(lambda: painter.begun)
    response = await http.delete(f"/v2/requests/{second}")
    assert (response.status_code, response.json()["status"], response.json()["metrics"]["cost"]) == (422, "FAILED", 0)
    painter.go_on()
    for each in (first, third):
        assert (await ended(http, each))["status"] == "COMPLETED"
    assert painter.begun == ["first", "third"]


async def test_a_drawing_is_cancelled_between_two_steps_and_then_the_next_one_begins() -> None:
    painter = BlockingStub()
    async with serving_engine(InThread(painter)) as engine, client_of(engine) as http:
        first, second = await submitted(http), await submitted(http)
        painter.steps.release()
        await until(lambda: painter.done == 1)
        assert (await http.delete(f"/v2/requests/{first}")).json()["status"] == "FAILED"
        assert "cancelled" in (await ended(http, first))["error"]
        assert painter.begun == 1, "the next one waits until the present step is done"
        painter.steps.release()
        await until(lambda: painter.begun == 2)
        assert painter.done == 2
        painter.steps.release(25)
        assert (await ended(http, second))["status"] == "COMPLETED"


async def test_cancelling_a_finished_call_changes_nothing(http: httpx.AsyncClient) -> None:
    request_id = await submitted(http)
    await ended(http, request_id)
    response = await http.delete(f"/v2/requests/{request_id}")
    assert (response.status_code, response.json()["status"]) == (200, "COMPLETED")
    assert (await http.get(f"/v2/requests/{request_id}")).json()["output"]


async def test_the_end_of_the_engine_cancels_the_drawing_and_frees_the_painter() -> None:
    painter = StubPainter()
    painter.pause()
    async with serving_engine(painter) as engine, client_of(engine) as http:
        await submitted(http)
        await until(lambda: painter.begun)
    assert painter.drawing == 0
    assert painter.drawn == []
    assert painter.closed


# ---- failures ----


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (OUT_OF_MEMORY, "too little memory for this picture. Close other programs, then call again"),
        (RuntimeError("CUDA error: unspecified launch failure"), "CUDA error: unspecified launch failure"),
    ],
)
async def test_a_drawing_that_fails_says_why_and_stops_no_other(
    http: httpx.AsyncClient, painter: StubPainter, error: Exception, shown: str
) -> None:
    def fail(parameters: Parameters, _step: int) -> None:
        if parameters.prompt == "too large":
            raise error

    painter.before_step = fail
    first, second = await submitted(http, prompt="too large"), await submitted(http)
    response = await http.get(f"/v2/requests/{first}/status")
    while response.json()["status"] == "PROCESSING":
        response = await http.get(f"/v2/requests/{first}/status")
    assert (response.status_code, response.json()["metrics"]["cost"]) == (422, 0)
    assert shown in response.json()["error"]
    assert (await http.get(f"/v2/requests/{first}")).status_code == 422
    assert (await ended(http, second))["status"] == "COMPLETED"
    by_v1 = await http.post(f"/v1/{VEGA}", json={**FOX, "prompt": "too large"})
    assert (by_v1.status_code, by_v1.json()["status"]) == (422, "FAILED")
    assert shown in by_v1.json()["error"]


@pytest.mark.parametrize("pictures", [[], [b"no picture"]])
async def test_a_painter_that_draws_no_picture_is_a_failure(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes]
) -> None:
    async def draw(*_: Any) -> list[bytes]:
        return pictures

    monkeypatch.setattr(StubPainter, "draw", draw)
    answer = await http.post(f"/v1/{VEGA}", json=FOX)
    assert (answer.status_code, answer.json()["error"]) == (422, "The engine drew 0 pictures instead of 1. Call again")


async def test_calls_wait_while_the_painter_loads(painter: StubPainter) -> None:
    painter.pause_load()
    async with serving_engine(painter) as engine, client_of(engine) as http:
        request_id = await submitted(http)
        assert (await http.get(f"/v2/requests/{request_id}")).json()["status"] == "QUEUED"
        painter.go_on()
        assert (await ended(http, request_id))["status"] == "COMPLETED"
    assert painter.loads == 1


@pytest.mark.parametrize("error", [EngineError("There are no weights", "Run `mcp-vega weights`"), OSError("no driver")])
async def test_calls_fail_with_the_reason_why_the_painter_cannot_load_and_the_next_one_loads_again(
    painter: StubPainter, error: Exception
) -> None:
    def fail() -> None:
        if painter.loads == 1:
            raise error

    painter.before_load = fail
    painter.pause_load()
    async with serving_engine(painter) as engine, client_of(engine) as http:
        ids = [await submitted(http) for _ in range(3)]
        painter.go_on()
        for each in ids:
            status = await ended(http, each)
            assert status["status"] == "FAILED"
            assert str(error) in status["error"]
        assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200
    assert painter.loads == 2


# ---- what is kept ----


async def test_a_call_is_forgotten_an_hour_after_its_end(painter: StubPainter) -> None:
    now = [0.0]
    async with serving_engine(painter, clock=lambda: now[0]) as engine, client_of(engine) as http:
        request_id = await submitted(http)
        await ended(http, request_id)
        now[0] += 3600
        assert (await ended(http, request_id))["status"] == "COMPLETED"
        now[0] += 1
        assert "does not keep this call any more" in (await ended(http, request_id))["error"]
        assert (await http.get(HISTORY)).json()["total"] == 0


async def test_the_oldest_calls_are_forgotten_first_if_they_take_too_much_memory(painter: StubPainter) -> None:
    size = len(pictures_of(VegaParameters(prompt="a fox"), 1)[0])
    async with serving_engine(painter, kept_bytes=4 * size) as engine, client_of(engine) as http:
        ids = [await submitted(http, seed=number) for number in range(5)]
        for each in ids:
            await ended(http, each)
        kept = {row["request_id"] for row in (await http.get(HISTORY)).json()["data"]}
        assert 1 < len(kept) < 5
        assert kept == set(ids[-len(kept) :])


# ---- the order of the checks ----


async def test_a_call_is_refused_for_the_same_reason_as_by_the_api(
    http: httpx.AsyncClient, painter: StubPainter
) -> None:
    async def status(method: str = "POST", url: str = f"/v1/{VEGA}", **request: Any) -> int:
        return (await http.request(method, url, **request)).status_code

    nothing = {"x-api-key": ""}
    for version in ("v1", "v2"):
        url, unknown = f"/{version}/{VEGA}", f"/{version}/segmind-sdxl"
        assert await status("GET", unknown, headers=nothing) == 401
        assert await status("GET", unknown, headers={"x-api-key": "wrong"}) == 401
        assert await status("GET", unknown) == 405
        assert await status(url=unknown, content="{}") == 406
        assert await status(url=unknown, json=FOX) == 404
        for body in ("", "[]", "nothing", "[" * 10_000, '{"seed": ' + "9" * 5000 + "}"):
            assert await status(url=url, content=body, headers={"content-type": "application/json"}) == 400
        assert await status(url=url, json={"seed": 1}) == 400
        assert await status(url=url, json={**FOX, "num_inference_steps": 5}) == 400
        assert await status(url=url, json={**FOX, "img_width": 512}) == 400
        assert await status(url=url, json={**FOX, "scheduler": "Euler B"}) == 406
        assert await status(url=url, json={**FOX, "prompt": "x" * 2**18}) == 413
    assert painter.begun == []
    assert (await http.get(HISTORY)).json()["total"] == 0


async def test_a_refusal_names_the_parameter(http: httpx.AsyncClient) -> None:
    response = await http.post(f"/v2/{VEGA}", json={**FOX, "num_inference_steps": 5})
    assert response.json() == {"error": "num_inference_steps: Input should be greater than or equal to 20"}


async def test_other_parameters_than_the_models_are_ignored_as_by_the_api(http: httpx.AsyncClient) -> None:
    assert (await http.post(f"/v1/{RT}", json={**FOX, "scheduler": "Euler", "strength": 1})).status_code == 200


async def test_texts_of_any_characters_are_drawn(http: httpx.AsyncClient) -> None:
    """The longest text that the tools accept, each character with the longest escape, fits into a body."""
    prompt = "\N{FOX FACE}" * 10_000
    response = await http.post(f"/v1/{VEGA}", json={"prompt": prompt, "negative_prompt": prompt, "seed": 1})
    assert response.status_code == 200
    row = (await http.get(HISTORY)).json()["data"][0]
    assert json.loads(row["request_body"])["negative_prompt"] == prompt


async def test_a_key_of_the_engine_is_the_only_one(painter: StubPainter) -> None:
    async with serving_engine(painter, key="secret") as engine, client_of(engine) as http:
        for key, status in ((b"secret", 200), (b"secre", 401), (b"SG_other", 401), (b"secret\xfc", 401)):
            response = await http.get("/v1/get-user-credits", headers={b"x-api-key": key})
            assert response.status_code == status


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8764", "127.0.0.1:8764", "127.1.2.3", "[::1]:8764"])
async def test_loopback_names_are_accepted(http: httpx.AsyncClient, host: str) -> None:
    response = await http.post(f"/v2/{VEGA}", json=FOX, headers={"host": host})
    assert response.json()["status_url"].startswith(f"http://{host}/v2/")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:8764", "10.0.0.1", "[", ""])
async def test_a_web_page_cannot_reach_the_engine_by_a_host_name_of_its_own(http: httpx.AsyncClient, host: str) -> None:
    response = await http.get("/v1/get-user-credits", headers={"host": host})
    assert response.status_code == 403
    assert "Host" in response.json()["error"]


async def test_with_a_key_of_its_own_an_engine_can_have_any_host_name(painter: StubPainter) -> None:
    async with serving_engine(painter, key="SG_secret") as engine, client_of(engine, "SG_secret") as http:
        for host, status in (("engine.example", 200), ("engine.example:443", 200), ("a b", 403)):
            response = await http.get("/v1/get-user-credits", headers={"host": host})
            assert response.status_code == status


# ---- what each response says ----


async def test_each_response_says_that_it_is_free_and_what_draws(http: httpx.AsyncClient) -> None:
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/v1/get-user-credits", {}),
        ("GET", "/v1/get-user-credits", {"headers": {"x-api-key": "wrong"}}),
        ("GET", "/v1/get-user-credits", {"headers": {"host": "evil.example"}}),
        ("POST", f"/v1/{VEGA}", {"json": FOX}),
        ("POST", f"/v1/{VEGA}", {"json": {}}),
        ("GET", "/v2/requests/none/status", {}),
        ("OPTIONS", f"/v1/{VEGA}", {"headers": {"origin": "https://evil.example"}}),
        ("GET", "/nowhere", {}),
        ("GET", HISTORY, {}),
    ]
    for method, path, options in requests:
        headers = (await http.request(method, path, **options)).headers
        assert (headers["x-mcp-vega-free"], headers["x-mcp-vega-engine"]) == ("1", NAME)
        assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", None), ("Grafikkarte für Füchse\r\n", "Grafikkarte f?r F?chse??"), ("x" * 200, "x" * 100)],
)
async def test_the_name_of_the_painter_becomes_a_header(name: str, shown: str | None) -> None:
    async with serving_engine(StubPainter(name=name)) as engine, client_of(engine) as http:
        assert (await http.get("/v1/get-user-credits")).headers.get("x-mcp-vega-engine") == shown


async def test_the_balance_is_0(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/get-user-credits")).json() == {"credits": 0, "free-credits": 0}


# ---- the request history ----


async def test_the_history_lists_the_calls_newest_first(http: httpx.AsyncClient, painter: StubPainter) -> None:
    def fail(parameters: Parameters, _step: int) -> None:
        if parameters.prompt == "too large":
            raise OUT_OF_MEMORY

    painter.before_step = fail
    await http.post(f"/v1/{RT}", json=FOX)
    await http.post(f"/v1/{VEGA}", json={**FOX, "prompt": "too large"})
    painter.pause()
    pending = await submitted(http, seed=-1)
    response = await http.get(HISTORY)
    rows = response.json()["data"]
    assert [row["model_name"] for row in rows] == [VEGA, VEGA, RT]
    assert [row["model_status"] for row in rows] == ["PENDING", "FAILED", "COMPLETED"]
    assert [row["error"] for row in rows] == [None, str(OUT_OF_MEMORY), None]
    assert {row["credits_deduction"] for row in rows} == {0}
    assert json.loads(rows[2]["request_body"]) == VegaRTParameters(**FOX).body(base64=False)
    assert json.loads(rows[0]["request_body"])["seed"] >= 0, "the seed that was drawn"
    assert abs(datetime.fromisoformat(rows[0]["model_created"]) - datetime.now(UTC)) < timedelta(seconds=HANG_SECONDS)
    assert abs(parsedate_to_datetime(response.headers["date"]) - datetime.now(UTC)) < timedelta(seconds=HANG_SECONDS)
    assert (await http.get(f"{HISTORY}/{pending}")).json() == {**rows[0], "latency_ms": pytest.approx(0, abs=10**6)}
    assert (await http.get(f"{HISTORY}/none")).status_code == 404
    painter.go_on()


async def test_the_history_shows_only_the_calls_made_with_the_same_key(
    engine: RunningEngine, http: httpx.AsyncClient
) -> None:
    request_id = (await http.post(f"/v1/{RT}", json=FOX)).headers["x-request-id"]
    async with client_of(engine, "SG_other") as other:
        assert (await other.get(HISTORY)).json()["total"] == 0
        assert (await other.get(f"{HISTORY}/{request_id}")).status_code == 404
    assert (await http.get(HISTORY)).json()["total"] == 1


async def test_an_address_with_a_slash_at_the_end_is_no_way_around_the_key(engine: RunningEngine) -> None:
    async with client_of(engine, "") as nobody:
        assert (await nobody.get("/v1/get-user-credits/")).status_code == 404


async def test_the_history_has_pages_and_filters(http: httpx.AsyncClient) -> None:
    for number in range(3):
        await http.post(f"/v1/{VEGA}", json={**FOX, "seed": number})
    await http.post(f"/v1/{RT}", json={**FOX, "seed": 3})
    today = datetime.now(UTC).date()

    async def seeds(**query: Any) -> list[int]:
        rows = (await http.get(HISTORY, params=query)).json()["data"]
        return [json.loads(row["request_body"])["seed"] for row in rows]

    assert await seeds(page=1, per_page=3) == [3, 2, 1]
    assert await seeds(page=2, per_page=3) == [0]
    assert await seeds(page=3, per_page=3) == []
    assert await seeds(model_name=RT) == [3]
    assert await seeds(status="FAILED") == []
    assert await seeds(sort_order="asc", sort_by="model_created") == [0, 1, 2, 3]
    assert await seeds(from_date=today - timedelta(days=1), to_date=today + timedelta(days=1)) == [3, 2, 1, 0]
    assert await seeds(to_date=today - timedelta(days=1)) == []
    for query in ({"page": 0}, {"page": "x"}, {"per_page": 0}, {"from_date": "today"}):
        assert (await http.get(HISTORY, params=query)).status_code == 400


# ---- the vendor's own SDK ----


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[segmind.SegmindClient]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving_engine(StubPainter())) as engine:
        # The history's URL is a constant of the SDK. All other URLs follow from the base URL.
        module = sys.modules["segmind.generations"]  # the attribute with this name is an object of the SDK
        monkeypatch.setattr(module, "REQUEST_HISTORY_URL", engine.url + HISTORY)
        client = segmind.SegmindClient(api_key=KEY, base_url=engine.url + "/v1", timeout=HANG_SECONDS)
        yield client
        client._client.close()  # noqa: SLF001  the SDK has no other way to close it


def test_the_vendors_sdk_draws_by_both_routes_and_lists_the_calls(vendor: segmind.SegmindClient) -> None:
    expected = pictures_of(VegaParameters(**FOX, samples=2), 1)
    assert vendor.run_sync(RT, **FOX).content == expected[0]
    result = vendor.run(VEGA, samples=2, **FOX)
    assert (result["status"], result["metrics"]["cost"]) == ("COMPLETED", 0)
    assert [b64decode(each) for each in result["output"]] == expected
    rows = vendor.generations.history(per_page=10)["data"]
    assert [row["model_name"] for row in rows] == [VEGA, RT]
    assert vendor.generations.get(rows[0]["request_id"]) == rows[0]


def test_the_vendors_sdk_understands_the_errors(vendor: segmind.SegmindClient) -> None:
    with pytest.raises(segmind.SegmindError) as caught:
        vendor.run(VEGA, **FOX, num_inference_steps=1)
    assert caught.value.status == 400
    job = vendor.submit_async(VEGA, **FOX)
    job.status_url = job.status_url.replace(job.request_id, "0" * 32)
    with pytest.raises(segmind.InferenceFailed) as failed:
        job.wait()
    assert "restarted" in (failed.value.detail or "")


# ---- the server of this package, unchanged ----


@asynccontextmanager
async def agent_of(engine: RunningEngine, folder: Path, **options: Any) -> AsyncGenerator[Client]:
    async with app_over(engine.url, folder, **options) as app, Client(build_server(app)) as agent:
        yield agent


async def test_all_four_tools_draw_by_the_engine(engine: RunningEngine, tmp_path: Path) -> None:
    async with agent_of(engine, tmp_path) as agent:
        one = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": 1})
        several = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": 1, "samples": 3})
        rt = await agent.call_tool("generate_image_vegart", {"prompt": "a fox", "seed": 1})
        submission = await agent.call_tool("submit_job", {"prompt": "a fox", "seed": 1, "model": RT})
        request_id = job_of(submission)["request_id"]
        checked = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    for result, count in ((one, 1), (several, 3), (rt, 1), (checked, 1)):
        job = job_of(result)
        assert (job["state"], job["seed"], job["cost_usd"], len(job["images"])) == ("COMPLETED", 1, 0, count)
        assert len(images_of(result)) == count
    with (
        Image.open(job_of(several)["images"][2]["path"]) as kept,
        Image.open(io.BytesIO(pictures_of(VegaParameters(prompt="a fox"), 3)[0])) as expected,
    ):
        assert kept.tobytes() == expected.tobytes()


async def test_a_picture_that_takes_longer_than_v1_waits_arrives_all_the_same(
    painter: StubPainter, tmp_path: Path
) -> None:
    async with (
        serving_engine(painter, hold_seconds=0.05) as engine,
        agent_of(engine, tmp_path, wait_seconds=0) as agent,
    ):
        painter.pause()
        result = await agent.call_tool("generate_image_vegart", {"prompt": "a fox", "seed": 1})
        request_id = job_of(result)["request_id"]
        assert job_of(result)["state"] in ("QUEUED", "PROCESSING")
        await until(lambda: painter.begun)
        painter.go_on()

        async def checked() -> Any:
            result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
            return result if job_of(result)["state"] == "COMPLETED" else None

        assert job_of(await until(checked))["cost_usd"] == 0


async def test_a_failure_is_not_charged_and_says_what_to_do(
    engine: RunningEngine, painter: StubPainter, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise OUT_OF_MEMORY

    painter.before_step = fail
    async with agent_of(engine, tmp_path) as agent:
        by_v1 = await agent.call_tool("generate_image_vega", {"prompt": "a fox"})
        by_v2 = await agent.call_tool("generate_image_vega", {"prompt": "a wolf", "samples": 2})
    for result in (by_v1, by_v2):
        assert result.is_error
        assert "too little memory for this picture. Close other programs" in text_of(result)
        assert "Charged: no" in text_of(result)


async def test_a_job_of_an_engine_that_was_restarted_ends_uncharged(tmp_path: Path) -> None:
    painter = StubPainter()
    painter.pause()
    async with serving_engine(painter, hold_seconds=0) as old, serving_engine(StubPainter()) as new:
        port = httpx.URL(old.url).port

        class SamePort(httpx.AsyncHTTPTransport):
            """A client of the old engine's port, which the new engine takes."""

            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                request.url = request.url.copy_with(port=port)
                return await super().handle_async_request(request)

        async with agent_of(old, tmp_path, transport=SamePort(verify=TLS)) as agent:
            submission = await agent.call_tool("submit_job", {"prompt": "a fox"})
            await until(lambda: painter.begun)
            port = httpx.URL(new.url).port
            request_id = job_of(submission)["request_id"]
            result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert result.is_error
    assert "restarted" in text_of(result)
    assert "Charged: no" in text_of(result)


async def test_a_call_whose_answer_was_lost_is_found_in_the_history(engine: RunningEngine, tmp_path: Path) -> None:
    class Lossy(httpx.AsyncHTTPTransport):
        """Loses the answers to calls."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.method == "POST":
                await response.aread()
                raise httpx.ReadError("lost")
            return response

    async with agent_of(engine, tmp_path, transport=Lossy(verify=TLS)) as agent:
        await agent.call_tool("submit_job", {"prompt": "a fox"})

        async def is_done() -> bool:
            return " done " in text_of(await agent.call_tool("check_job", {}))

        await until(is_done)
    async with client_of(engine) as http:
        assert (await http.get(HISTORY)).json()["total"] == 1
