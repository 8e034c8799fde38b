"""The sandbox as a plain HTTP client sees it, section by section of the API's documents."""

import io
import json
from base64 import b64decode
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from conftest import HANG_SECONDS, HISTORY, KEY, TLS, Sandbox
from PIL import Image, ImageStat

from mcp_vega.network.serving import serving
from mcp_vega.parameters import MODELS
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import Paint, build_sandbox, cached_paint
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour
from mcp_vega.sandbox.painter import paint

pytestmark = pytest.mark.anyio

HOUR = 3600
DAY = 24 * HOUR


@pytest.fixture(name="paint")
def real_paint() -> Paint:
    return cached_paint


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=sandbox.url, headers={"x-api-key": KEY}, trust_env=False, verify=TLS
    ) as client:
        yield client


async def submitted(http: httpx.AsyncClient, **body: Any) -> str:
    response = await http.post("/v2/segmind-vega", json={"prompt": "a fox", "seed": 1, **body})
    assert response.status_code == 200
    return response.json()["request_id"]


# ---- v1 ----


@pytest.mark.parametrize("model", ["segmind-vega", "segmind-vega-rt-v1"])
async def test_v1_answers_with_the_picture_and_reports_the_call_in_headers(http: httpx.AsyncClient, model: str) -> None:
    response = await http.post(f"/v1/{model}", json={"prompt": "a fox", "seed": 1, "base64": False})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/jpeg"
    cost = {"segmind-vega": 0.00225, "segmind-vega-rt-v1": 0.002}[model]
    assert float(response.headers["x-cost"]) == cost
    assert float(response.headers["x-remaining-credits"]) == 10 - cost
    assert response.headers["x-seed-value"] == "1"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))


async def test_v1_answers_with_base64_if_that_is_requested(http: httpx.AsyncClient) -> None:
    one = (await http.post("/v1/segmind-vega", json={"prompt": "a fox", "seed": 1, "base64": True})).json()
    assert b64decode(one["image"]) == paint("a fox", 1)
    two = (await http.post("/v1/segmind-vega", json={"prompt": "a fox", "base64": True, "samples": 2})).json()
    assert two["outputs"] == len(two["image"]) == 2


async def test_v1_refuses_bad_parameters_immediately(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    bodies = {406: {"prompt": "a fox", "scheduler": "Euler B"}, 400: {"prompt": "a fox", "num_inference_steps": 5}}
    for status, body in bodies.items():
        assert (await http.post("/v1/segmind-vega", json=body)).status_code == status
    assert (await http.post("/v1/segmind-vega", json={})).status_code == 400
    assert sandbox.account.credits == 10


# ---- v2 ----


async def test_v2_queues_a_call_then_has_its_status_and_then_its_result(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    answer = (await http.post("/v2/segmind-vega", json={"prompt": "a fox", "seed": 1, "samples": 2})).json()
    assert answer["status"] == "QUEUED"
    assert answer["poll_url"] == answer["status_url"] == f"{sandbox.url}/v2/requests/{answer['request_id']}/status"

    status = (await http.get(answer["status_url"])).json()
    assert status["status"] == "COMPLETED"
    assert status["metrics"]["cost"] == 0.0045

    result = (await http.get(answer["response_url"])).json()
    assert result["output"] == result["images"][0]["url"]
    assert (result["seed"], result["prompt"]) == ("1", "a fox")
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as anybody:
        pictures = [(await anybody.get(image["url"])).content for image in result["images"]]
    assert pictures == [paint("a fox", 1, 0), paint("a fox", 1, 1)]


async def test_a_job_changes_its_state_as_time_passes(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.account.speed = 1000
    request_id = await submitted(http, num_inference_steps=50)
    states: list[str] = []
    for seconds in (0, 350, 2 * 2360 + 1):
        sandbox.account.skip(seconds)
        states.append((await http.get(f"/v2/requests/{request_id}/status")).json()["status"])
    assert states == ["QUEUED", "PROCESSING", "COMPLETED"]


async def test_v2_queues_a_call_with_a_bad_body_and_the_job_fails_with_422_without_charge(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    request_id = await submitted(http, scheduler="Euler B")
    response = await http.get(f"/v2/requests/{request_id}/status")
    assert response.status_code == 422
    assert response.json()["status"] == "FAILED"
    assert "scheduler" in response.json()["error"]
    assert (await http.get(f"/v2/requests/{request_id}")).status_code == 422
    assert sandbox.account.credits == 10


async def test_results_expire_after_an_hour_and_pictures_after_a_week(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    request_id = await submitted(http)
    url = (await http.get(f"/v2/requests/{request_id}")).json()["output"]
    sandbox.account.skip(HOUR + 1)
    gone = await http.get(f"/v2/requests/{request_id}/status")
    assert (gone.status_code, gone.json()) == (404, {"error": f"Request {request_id} not found"})
    assert (await http.get(url)).status_code == 200
    sandbox.account.skip(7 * DAY)
    assert (await http.get(url)).status_code == 404


async def test_a_request_with_an_unknown_id_gets_404(http: httpx.AsyncClient) -> None:
    for path in ("/v2/requests/none/status", "/v2/requests/none", HISTORY + "/none", "/generations/none-0.jpeg"):
        assert (await http.get(path)).status_code == 404


# ---- the order of the checks ----


async def test_a_call_is_refused_for_the_same_reason_as_by_the_api(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    path, good = "/v1/segmind-vega", {"prompt": "a fox"}
    sandbox.account.rate_limit = 5

    async def status(method: str = "POST", url: str = path, **request: Any) -> int:
        response = await http.request(method, url, **request)
        return response.status_code

    assert await status("GET", headers={"x-api-key": ""}) == 401
    assert await status("GET", headers={"x-api-key": "wrong"}) == 401
    assert await status("GET", content=b"x") == 405
    assert await status(url="/v1/none", content=b"x") == 406
    assert await status(url="/v1/none", json=[]) == 404
    assert await status(url="/v1/segmind-vega-v0", json=[]) == 410
    assert await status(json=[]) == 400
    sandbox.account.skip(61)
    sandbox.account.credits *= 0
    assert await status(json={}) == 406
    assert await status(url="/v2/segmind-vega", json={}) == 402
    sandbox.account.rate_limit = 1
    refused = await http.post("/v1/none", json=good)
    assert refused.status_code == 429
    assert refused.headers["x-rate-limit-reset-at-utc"]


async def test_errors_of_the_gateway_and_answers_to_a_wrong_verb_are_pages(http: httpx.AsyncClient) -> None:
    wrong_verb = await http.get("/v1/segmind-vega")
    gateway = await http.post("/v1/segmind-vega", json={"prompt": "a fox [fault:502]"})
    assert (wrong_verb.status_code, gateway.status_code) == (405, 502)
    assert all(page.headers["content-type"].startswith("text/html") for page in (wrong_verb, gateway))


async def test_there_is_a_rate_limit_only_if_one_is_set_and_it_ends_after_a_minute(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    for _ in range(8):
        await submitted(http)
    sandbox.account.rate_limit = 5
    body = {"prompt": "a fox"}
    assert (await http.post("/v2/segmind-vega", json=body)).status_code == 429
    sandbox.account.skip(61)
    assert (await http.post("/v2/segmind-vega", json=body)).status_code == 200


# ---- money, history, control ----


async def test_each_call_lowers_the_credits_by_its_cost(http: httpx.AsyncClient) -> None:
    await submitted(http, samples=4, num_inference_steps=50)
    assert (await http.get("/v1/get-user-credits")).json() == {"credits": 10 - 8 * 0.00225, "free-credits": 0.0}


async def test_the_history_has_a_row_for_each_picture_of_every_call(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await http.post("/v1/segmind-vega-rt-v1", json={"prompt": "first"})
    sandbox.account.skip(1)
    await submitted(http, samples=2)
    sandbox.account.skip(1)
    await submitted(http, scheduler="none")
    page = (await http.get(HISTORY)).json()
    assert [row["model_status"] for row in page["data"]] == ["FAILED", "COMPLETED", "COMPLETED", "COMPLETED"]
    assert [row["credits_deduction"] for row in page["data"]] == [0, 0.0045, 0.0045, 0.002]
    vega_rt = (await http.get(HISTORY, params={"model_name": "vega-rt", "per_page": 1})).json()["data"]
    assert [row["request_body"] for row in vega_rt] == ['{"prompt": "first"}']
    assert (await http.get(HISTORY, params={"page": 2, "per_page": 3})).json()["data"] == page["data"][3:]
    assert (await http.get(HISTORY, params={"from_date": "2000-01-01", "to_date": "2000-01-02"})).json()["data"] == []
    oldest_first = (await http.get(HISTORY, params={"sort_order": "asc"})).json()["data"]
    assert [row["model_status"] for row in oldest_first] == ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]


async def test_a_page_after_the_last_is_empty_and_one_before_the_first_is_refused(http: httpx.AsyncClient) -> None:
    await submitted(http)
    assert (await http.get(HISTORY, params={"page": 2})).json()["data"] == []
    before = await http.get(HISTORY, params={"page": 0})
    assert (before.status_code, before.json()) == (400, {"error": "page: must be at least 1"})
    for wrong in ({"page": "x"}, {"per_page": 0}, {"from_date": "2000-01-01"}, {"to_date": "soon"}):
        assert (await http.get(HISTORY, params=wrong)).status_code == 400


async def test_the_history_of_a_key_has_only_the_calls_with_that_key(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    mine = await submitted(http)
    other = {"x-api-key": "SG_another"}
    await http.post("/v1/segmind-vega", json={"prompt": "a wolf"}, headers=other)
    (theirs,) = (await http.get(HISTORY, headers=other)).json()["data"]
    assert [row["request_id"] for row in (await http.get(HISTORY)).json()["data"]] == [mine]
    assert (await http.get(f"{HISTORY}/{mine}")).json()["request_id"] == mine
    assert (await http.get(f"{HISTORY}/{theirs['request_id']}")).status_code == 404
    shown = (await http.get("/_sandbox")).text + repr(sandbox.account.calls)
    assert theirs["request_id"] in shown
    assert not [key for key in (KEY, "SG_another") if key in shown]


# ---- a history that misleads ----


async def page_of(http: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    response = await http.get(HISTORY, params=query)
    assert response.status_code == 200
    return response.json()


async def ids_of(http: httpx.AsyncClient, **query: Any) -> list[str]:
    return [row["request_id"] for row in (await page_of(http, **query))["data"]]


async def set_history(http: httpx.AsyncClient, **settings: Any) -> None:
    """Change how the history reports the calls."""
    assert (await http.post("/_sandbox", json={"history": settings})).status_code == 200


async def test_a_call_appears_late_in_the_history(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await set_history(http, late=2 * HOUR)
    request_id = await submitted(http)
    sandbox.account.skip(HOUR)
    assert await ids_of(http) == []
    assert (await http.get(f"{HISTORY}/{request_id}")).status_code == 404
    sandbox.account.skip(HOUR)
    assert await ids_of(http) == [request_id]
    assert (await http.get(f"{HISTORY}/{request_id}")).status_code == 200


async def test_a_page_may_be_shorter_than_requested_without_saying_so(http: httpx.AsyncClient) -> None:
    ids = [await submitted(http) for _ in range(5)]
    await set_history(http, per_page=2)
    first = await page_of(http, per_page=100)
    assert (len(first["data"]), first["per_page"], first["total"]) == (2, 100, 5)
    pages = [await ids_of(http, per_page=100, page=number) for number in (1, 2, 3, 4)]
    assert [len(each) for each in pages] == [2, 2, 1, 0]
    assert sorted(each for page in pages for each in page) == sorted(ids)
    assert len(await ids_of(http)) == 2


async def test_pages_may_be_numbered_from_zero(http: httpx.AsyncClient) -> None:
    request_id = await submitted(http)
    await set_history(http, first_page=0)
    assert await ids_of(http, page=0) == await ids_of(http) == [request_id]
    assert await ids_of(http, page=1) == []
    assert (await http.get(HISTORY, params={"page": -1})).status_code == 400


async def test_times_may_be_those_of_another_zone_without_saying_so(http: httpx.AsyncClient) -> None:
    await submitted(http)
    (truth,) = (await page_of(http))["data"]
    await set_history(http, time_zone=5.5)
    (row,) = (await page_of(http))["data"]
    local, utc = (datetime.fromisoformat(each["model_created"]) for each in (row, truth))
    assert local.tzinfo is None
    assert local - utc.replace(tzinfo=None) == timedelta(hours=5.5)
    await set_history(http, time_zone=None)
    assert (await page_of(http))["data"] == [truth]


BODY = {"prompt": "a fox of many words, in the snow", "seed": 7}


@pytest.mark.parametrize(
    ("inputs", "as_json", "as_python"),
    [
        ("full", json.dumps(BODY), str(BODY)),
        ("missing", None, None),
        ("nested", json.dumps({"input": BODY}), str({"input": BODY})),
        ("no-seed", json.dumps({"prompt": BODY["prompt"]}), str({"prompt": BODY["prompt"]})),
        ("null-seed", json.dumps({**BODY, "seed": None}), str({**BODY, "seed": None})),
        ("cut", json.dumps(BODY)[:40], str(BODY)[:40]),
    ],
)
async def test_the_inputs_of_a_call_may_have_another_form(
    http: httpx.AsyncClient, sandbox: Sandbox, inputs: str, as_json: str | None, as_python: str | None
) -> None:
    await set_history(http, inputs=inputs)
    await http.post("/v1/segmind-vega-rt-v1", json=BODY)
    sandbox.account.skip(1)
    request_id = (await http.post("/v2/segmind-vega-rt-v1", json=BODY)).json()["request_id"]
    assert [row["request_body"] for row in (await page_of(http))["data"]] == [as_python, as_json]
    assert (await http.get(f"{HISTORY}/{request_id}")).json()["request_body"] == as_python


async def test_models_may_have_titles_and_no_slug_finds_them(http: httpx.AsyncClient) -> None:
    for model in MODELS:
        await http.post(f"/v2/{model}", json={"prompt": "a fox"})
    await set_history(http, models="titles")
    assert {row["model_name"] for row in (await page_of(http))["data"]} == {"Segmind Vega", "Segmind Vega RT"}
    assert len(await ids_of(http, model_name="Vega RT")) == 1
    assert [await ids_of(http, model_name=model) for model in MODELS] == [[], []]


async def test_a_page_may_not_say_how_many_rows_there_are(http: httpx.AsyncClient) -> None:
    await submitted(http)
    await set_history(http, total=False)
    assert (await page_of(http)).keys() == {"data", "page", "per_page"}


async def test_the_date_may_be_missing_or_from_a_wrong_clock(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    async def off() -> float:
        said = parsedate_to_datetime((await http.get(HISTORY)).headers["date"])
        return said.timestamp() - sandbox.account.now

    sandbox.account.skip(DAY)
    assert abs(await off()) < HANG_SECONDS
    await set_history(http, date_off=-HOUR)
    assert abs(await off() + HOUR) < HANG_SECONDS
    request_id = await submitted(http)
    await set_history(http, date=False)
    for path in (HISTORY, f"{HISTORY}/{request_id}"):
        assert "date" not in (await http.get(path)).headers


async def test_the_history_may_be_an_error_with_status_200(http: httpx.AsyncClient) -> None:
    request_id = await submitted(http)
    await set_history(http, error=True)
    page = await page_of(http)
    assert page.keys() == {"error", "data"}
    assert (page["data"], (await http.get(f"{HISTORY}/{request_id}")).json()) == ([], page)


async def test_the_history_may_have_only_another_accounts_calls() -> None:
    account = Account(speed=0, clock=lambda: 1_800_000_100)
    async with (
        serving(build_sandbox(account)) as url,
        httpx.AsyncClient(base_url=url, headers={"x-api-key": KEY}, trust_env=False, verify=TLS) as http,
    ):
        request_id = await submitted(http)
        await set_history(http, account="another")
        strangers = (await page_of(http, per_page=100))["data"]
        assert (await http.get(f"{HISTORY}/{request_id}")).status_code == 404
        assert (await http.get(f"{HISTORY}/{strangers[0]['request_id']}")).json() == strangers[0]
        account.skip(600)
        assert (await page_of(http, per_page=100))["data"][1:] == strangers[:-1]
    assert len({row["request_id"] for row in strangers}) > 20
    assert {row["model_name"] for row in strangers} == set(MODELS)
    assert not [row for row in strangers if "a fox" in row["request_body"]]
    assert all(datetime.fromisoformat(row["model_created"]).timestamp() <= 1_800_000_100 for row in strangers)


async def test_the_oldest_call_may_come_first_whatever_order_is_requested(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    first = await submitted(http)
    sandbox.account.skip(1)
    second = await submitted(http)
    await set_history(http, order="ascending")
    for order in ("desc", "asc"):
        assert await ids_of(http, sort_order=order) == [first, second]


async def test_the_history_may_mislead_in_several_ways_at_the_same_time(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    for _ in range(3):
        await submitted(http)
    sandbox.account.skip(2 * HOUR)
    await submitted(http)
    await set_history(http, late=HOUR, per_page=2, first_page=0, inputs="no-seed", models="titles", total=False)
    await set_history(http, date=False, time_zone=-3)  # earlier settings are kept
    response = await http.get(HISTORY, params={"page": 1, "model_name": "Segmind"})
    (row,) = response.json()["data"]
    assert (row["model_name"], row["request_body"]) == ("Segmind Vega", "{'prompt': 'a fox'}")
    assert not row["model_created"].endswith("+00:00")
    assert "date" not in response.headers
    assert "total" not in response.json()
    sandbox.account.history = HistoryBehaviour()
    assert len(await ids_of(http)) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"order": "ascending", "wind": 3}, "no setting 'wind'; known: late, per_page, first_page"),
        ({"order": "ascending", "inputs": "rhymes"}, "history, inputs: Input should be 'full', 'missing'"),
        ({"order": "ascending", "late": -1}, "history, late: Input should be greater than or equal to 0"),
        (5, "known: late, per_page, first_page"),
    ],
)
async def test_a_wrong_setting_of_the_history_changes_nothing_and_the_error_lists_the_right_ones(
    http: httpx.AsyncClient, sandbox: Sandbox, wrong: Any, words: str
) -> None:
    refused = await http.post("/_sandbox", json={"history": wrong})
    assert refused.status_code == 400
    assert words in refused.json()["error"]
    assert sandbox.account.history == HistoryBehaviour()


async def test_the_faults_of_the_account_are_in_every_paid_call(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    state = (await http.post("/_sandbox", json={"faults": ["no-cost", "503*1"]})).json()
    assert state["faults_of_every_call"] == ["no-cost", "503*1"]
    answers = [await http.post("/v1/segmind-vega", json={"prompt": "a fox"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert "x-cost" not in answers[1].headers
    status = (await http.get(f"/v2/requests/{await submitted(http)}/status")).json()
    assert status["metrics"] == {}
    sandbox.account.faults = ()
    assert "x-cost" in (await http.post("/v1/segmind-vega", json={"prompt": "a fox"})).headers


async def test_a_route_knows_only_the_models_it_was_given(http: httpx.AsyncClient) -> None:
    state = (await http.post("/_sandbox", json={"models": {"v2": ["segmind-vega"]}})).json()
    assert state["models"] == {"v1": list(MODELS), "v2": ["segmind-vega"]}
    paths = ("/v2/segmind-vega", "/v2/segmind-vega-rt-v1", "/v1/segmind-vega-rt-v1")
    assert [(await http.post(path, json={"prompt": "a fox"})).status_code for path in paths] == [200, 404, 200]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"faults": ["no-cost", "nonsense"]}, "has no fault 'nonsense'"),
        ({"faults": "no-cost"}, "faults: Input should be a valid list"),
        ({"models": {"v3": []}}, "known: segmind-vega, segmind-vega-rt-v1"),
        ({"models": {"v2": ["segmind-vega-v0"]}}, "known: segmind-vega, segmind-vega-rt-v1"),
        ({"credits": "many"}, "could not convert string to float"),
        ({"speed": []}, "must be a string or a real number"),
        ({"wind": 3}, "no setting 'wind'; known: skip, credits"),
    ],
)
async def test_a_wrong_setting_changes_nothing(
    http: httpx.AsyncClient, sandbox: Sandbox, wrong: dict[str, Any], words: str
) -> None:
    refused = await http.post("/_sandbox", json={"rate_limit": 7, **wrong})
    assert (refused.status_code, sandbox.account.rate_limit) == (400, 0)
    assert words in refused.json()["error"]


async def test_the_control_path_shows_the_state_and_changes_it(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    state = (await http.post("/_sandbox", json={"credits": 3, "speed": 0.5, "rate_limit": 7, "skip": 60})).json()
    assert state["credits"] == 3
    assert "moderation" in state["faults"]
    assert state["history"] == HistoryBehaviour().model_dump()
    assert (sandbox.account.speed, sandbox.account.rate_limit) == (0.5, 7)


async def test_a_result_can_expire_on_request_and_a_drawing_can_have_a_cold_start(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    expired = await submitted(http, prompt="a fox [fault:expired]")
    assert (await http.get(f"/v2/requests/{expired}/status")).status_code == 404
    sandbox.account.speed = 1
    cold = await submitted(http, prompt="a fox [fault:cold-start]")
    sandbox.account.skip(20)
    assert (await http.get(f"/v2/requests/{cold}/status")).json()["status"] == "PROCESSING"
    sandbox.account.skip(3)
    assert (await http.get(f"/v2/requests/{cold}/status")).json()["status"] == "COMPLETED"


async def test_a_fault_can_be_limited_to_a_number_of_calls(http: httpx.AsyncClient) -> None:
    body = {"prompt": "a fox [fault:503*2]"}
    statuses = [(await http.post("/v1/segmind-vega", json=body)).status_code for _ in range(3)]
    assert statuses == [503, 503, 200]
    unknown = await http.post("/v1/segmind-vega", json={"prompt": "[fault:nonsense]"})
    assert unknown.status_code == 400
    assert "GET /_sandbox lists" in unknown.json()["error"]


# ---- the pictures ----


def test_a_picture_depends_on_prompt_seed_and_number_alone() -> None:
    assert paint("a fox", 1) == paint("a fox", 1)
    assert len({paint("a fox", 1), paint("a fox", 2), paint("a wolf", 1), paint("a fox", 1, 1)}) == 4


@pytest.mark.parametrize("prompt", ["a lighthouse at dusk", "neon city at night", "jungle at noon", "snow", "", "❄"])
def test_a_picture_is_neither_noise_nor_a_single_colour(prompt: str) -> None:
    data = paint(prompt, 7)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
        spread = max(ImageStat.Stat(picture).stddev)
    assert spread > 20
    # Noise of this size does not compress below a megabyte.
    assert len(data) < 200_000
