"""The faults of the sandbox with odd answers: each sends what the documents say, and is charged as in the ledger."""

import io
import json
import time
import zlib
from base64 import b64decode, urlsafe_b64decode
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import HISTORY, KEY, TLS, Sandbox, serving_sandbox
from PIL import Image

from mcp_vega.sandbox import odd_answers
from mcp_vega.sandbox.account import TOO_SOON
from mcp_vega.sandbox.app import cached_paint
from mcp_vega.sandbox.faults import FAULTS

pytestmark = pytest.mark.anyio

INVALID = "seed: must be at most 999999999999999"


def fox(_prompt: str, _seed: int, index: int) -> bytes:
    """The same picture for every prompt: the faults are words in prompts, and painting takes time."""
    return cached_paint("a fox", 7, index)


FOXES = [fox("", 0, index) for index in range(2)]


@pytest.fixture
async def sandbox() -> AsyncGenerator[Sandbox]:
    async with serving_sandbox(paint=fox) as sandbox:
        yield sandbox


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=sandbox.url, headers={"x-api-key": KEY}, trust_env=False, verify=TLS
    ) as client:
        yield client


async def drawn(http: httpx.AsyncClient, fault: str, route: str = "v1", **body: Any) -> httpx.Response:
    return await http.post(f"/{route}/segmind-vega", json={"prompt": f"a fox [fault:{fault}]", "seed": 7, **body})


async def queued(http: httpx.AsyncClient, fault: str, **body: Any) -> str:
    return f"/v2/requests/{(await drawn(http, fault, 'v2', **body)).json()['request_id']}"


def test_the_document_names_every_odd_answer() -> None:
    odd = odd_answers
    tables = (odd.COSTS, odd.BALANCES, odd.STATES, odd.ERRORS, odd.ERROR_TEXTS, odd.PICTURES, odd.PICTURE_HEADERS)
    document = (Path(__file__).parent.parent / "docs" / "sandbox.md").read_text(encoding="utf-8")
    for name in {name for table in (*tables, odd.TEXTS, odd.SHAPES) for name in table}:
        assert name in FAULTS
        assert f"`{name}`" in document, name


# ---- figures ----


# the cost in a header, and in JSON
COSTS: dict[str, tuple[str, Any]] = {
    "cost-comma": ("0,00225", "0,00225"),
    "cost-text": ("$0.00225 USD", "$0.00225 USD"),
    "cost-zero": ("0", 0),
    "cost-huge": ("100000000000000", 1e14),
    "cost-negative": ("-0.00225", "-0.00225"),
}


async def test_an_odd_cost_is_reported_and_the_right_one_is_charged(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    reported: dict[str, tuple[str, Any]] = {}
    for fault in COSTS:
        url = await queued(http, fault)
        told = [(await http.get(path)).json()["metrics"]["cost"] for path in (f"{url}/status", url)]
        assert told[0] == told[1]
        reported[fault] = (await drawn(http, fault)).headers["x-cost"], told[0]
    assert reported == COSTS
    assert sandbox.account.credits == 10 - 10 * Decimal("0.00225")
    rows = (await http.get(HISTORY)).json()["data"]
    assert [row["credits_deduction"] for row in rows] == [0.00225] * 10


async def test_a_balance_can_have_a_thousands_separator(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.account.credits += 1225
    assert (await drawn(http, "credits-thousands")).headers["x-remaining-credits"] == "1,235.00"
    metrics = (await http.get(await queued(http, "credits-thousands"))).json()["metrics"]
    assert metrics["remaining_credits"] == "1,235.00"


# ---- states ----


@pytest.mark.parametrize(
    ("fault", "words", "status"),
    [
        ("status-case", ["queued", " Processing ", "completed"], 200),
        ("status-case][fault:failed", ["queued", " Processing ", "Failed"], 422),
        ("status-succeeded", ["QUEUED", "PROCESSING", "SUCCEEDED"], 200),
        ("silent-pictures", ["PROCESSING"] * 3, 200),
        ("silent-error", ["PROCESSING"] * 3, 200),
        ("error-upper", ["QUEUED", "PROCESSING", "ERROR"], 200),
        ("failed-422", ["QUEUED", "PROCESSING", "failed"], 422),
    ],
)
async def test_states_can_have_odd_words(
    http: httpx.AsyncClient, sandbox: Sandbox, fault: str, words: list[str], status: int
) -> None:
    sandbox.account.speed = 1000
    url = await queued(http, fault)
    said: list[str] = []
    for seconds in (0, 350, 2360):
        sandbox.account.skip(seconds)
        last = await http.get(f"{url}/status")
        said.append(last.json()["status"])
    assert said == words
    result = await http.get(url)
    assert (last.status_code, result.status_code, result.json()["status"]) == (status, status, words[-1])
    (call,) = sandbox.account.calls.values()
    failed = call.state(sandbox.account.now) == "FAILED"
    assert ("error" in last.json(), call.cost == 0) == (failed, failed)
    assert ("images" in last.json()) == (fault == "silent-pictures")
    assert ("images" in result.json()) != failed


# ---- refusals ----


XML = '<?xml version="1.0"?><Error><Code>400</Code><Message>{}</Message></Error>'
ERRORS: dict[str, tuple[str, Any]] = {
    "errors-list": ("application/json", {"errors": [{"code": "invalid_parameter", "message": INVALID}]}),
    "error-detail": (
        "application/json",
        {"detail": [{"type": "value_error", "loc": ["body", "seed"], "msg": INVALID}]},
    ),
    "error-nested": ("application/json", {"error": {"code": 400, "details": {"reason": {"message": INVALID}}}}),
    "error-list": ("application/json", [INVALID]),
    "error-text": ("text/plain; charset=utf-8", INVALID),
    "error-xml": ("application/xml", XML.format(INVALID)),
}


@pytest.mark.parametrize("route", ["v1", "v2"])
async def test_the_words_of_a_refusal_can_be_in_an_odd_body(
    http: httpx.AsyncClient, sandbox: Sandbox, route: str
) -> None:
    for fault, (kind, body) in ERRORS.items():
        answer = await drawn(http, fault, route)
        assert (answer.status_code, answer.headers["content-type"]) == (400, kind)
        assert (answer.text if isinstance(body, str) else answer.json()) == body
        assert (await drawn(http, f"{fault}][fault:503", route)).status_code == 503
    assert (sandbox.account.calls, sandbox.account.credits) == ({}, 10)


async def test_the_words_of_a_refusal_can_be_very_long(http: httpx.AsyncClient) -> None:
    answer = await drawn(http, "error-huge")
    assert answer.status_code == 400
    assert len(answer.json()["error"]) > 29_000_000


@pytest.mark.parametrize("route", ["v1", "v2"])
async def test_a_refusal_with_status_200_costs_nothing(http: httpx.AsyncClient, sandbox: Sandbox, route: str) -> None:
    answer = await drawn(http, "nsfw-200", route)
    assert (answer.status_code, answer.json()) == (200, {"success": False, "message": "NSFW content detected"})
    assert sandbox.account.credits == 10
    (row,) = (await http.get(HISTORY)).json()["data"]
    assert (row["model_status"], row["credits_deduction"], row["error"]) == ("FAILED", 0, "NSFW content detected")


@pytest.mark.parametrize("fault", ["429-retry-after", "429-retry-date"])
async def test_a_call_is_refused_once_and_the_answer_says_when_to_call_again(
    http: httpx.AsyncClient, sandbox: Sandbox, fault: str
) -> None:
    before = sandbox.account.now
    refused = await drawn(http, fault)
    assert refused.status_code == 429
    assert "x-rate-limit-reset-at-utc" not in refused.headers
    told = refused.headers["retry-after"]
    seconds = int(told) if fault == "429-retry-after" else parsedate_to_datetime(told).timestamp() - before
    assert seconds >= 3
    assert (await drawn(http, fault)).status_code == 200
    assert sandbox.account.requests[TOO_SOON] == 1
    assert (await drawn(http, f"{fault}*2][fault:503*1")).status_code == 429
    sandbox.account.skip(5)
    assert (await drawn(http, f"{fault}*2][fault:503*1")).status_code == 429
    assert sandbox.account.requests[TOO_SOON] == 2


async def test_only_calls_before_the_end_of_the_rate_limit_are_counted(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    refused = await drawn(http, "429*1")
    until = datetime.fromisoformat(refused.headers["x-rate-limit-reset-at-utc"] + "+00:00").timestamp()
    sandbox.account.skip(until - sandbox.account.now)
    await drawn(http, "none-such")
    assert sandbox.account.requests[TOO_SOON] == 0


async def test_a_call_can_be_redirected_to_another_host(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    answer = await drawn(http, "307")
    assert (answer.status_code, answer.headers["location"]) == (307, "https://elsewhere.example/v1")
    assert sandbox.account.calls == {}
    assert (await drawn(http, "299")).status_code == 400


# ---- the places of pictures in an answer ----


def decoded(decode: Callable[[str], bytes]) -> Callable[[Any], list[bytes]]:
    """A function that decodes the field `image`: a text, or a list of texts."""
    return lambda body: [
        decode(text) for text in ([body["image"]] if isinstance(body["image"], str) else body["image"])
    ]


def of_data_uri(text: str) -> bytes:
    assert text.startswith("DATA:image/jpeg;base64,")
    return b64decode(text.partition(",")[2])


def of_url_safe(text: str) -> bytes:
    assert "=" not in text
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def of_lines(text: str) -> bytes:
    assert all(len(line) <= 76 for line in text.split("\r\n"))
    return b64decode(text)


async def fetched(http: httpx.AsyncClient, pictures: list[Any]) -> list[bytes]:
    return [each if isinstance(each, bytes) else (await http.get(each)).content for each in pictures]


SHAPES: dict[str, Callable[[Any], list[Any]]] = {
    "output-images": lambda body: [each["url"] for each in body["output"]["images"]],
    "top-list": lambda body: body,
    "deep": lambda body: [each["artifact"]["image"]["url"] for each in body["data"]["result"]["outputs"]],
    "among-urls": lambda body: body["result"],
    "thumbnails": lambda body: [each["url"] for each in body["images"]],
    "b64-json": lambda body: [b64decode(each["b64_json"]) for each in body["data"]],
    "data-uri": decoded(of_data_uri),
    "base64-urlsafe": decoded(of_url_safe),
    "base64-lines": decoded(of_lines),
    "hex": decoded(bytes.fromhex),
}


async def test_pictures_can_be_at_undocumented_places(http: httpx.AsyncClient) -> None:
    for fault, pictures in SHAPES.items():
        one = await drawn(http, fault)
        assert await fetched(http, pictures(one.json())) == FOXES[:1]
        assert one.headers["x-cost"] == "0.00225"
        two = (await drawn(http, fault, base64=True, samples=2)).json()
        assert await fetched(http, pictures(two)) == FOXES
        result = (await http.get(await queued(http, fault, samples=2))).json()
        assert await fetched(http, pictures(result)) == FOXES
        if isinstance(result, dict):
            assert (result["status"], result["metrics"]["cost"]) == ("COMPLETED", 0.0045)


async def test_urls_of_pictures_can_be_among_other_urls(http: httpx.AsyncClient, sandbox: Sandbox) -> None:
    body = (await drawn(http, "among-urls")).json()
    assert body["poll_url"].startswith(f"{sandbox.url}/v2/requests/")
    assert body["model"]["logo"] == "https://elsewhere.example/logo.png"
    (image,) = (await drawn(http, "thumbnails")).json()["images"]
    with Image.open(io.BytesIO((await http.get(image["thumbnail"])).content)) as picture:
        assert picture.size == (256, 256)


# ---- the pictures ----


async def raw(http: httpx.AsyncClient, path: str, method: str = "GET", **request: Any) -> tuple[httpx.Headers, bytes]:
    """The headers of an answer and its unchanged bytes."""
    async with http.stream(method, path, **request) as response:
        return response.headers, b"".join([piece async for piece in response.aiter_raw()])


HEADERS = {
    "trailing": ("content-type", "image/jpeg"),
    "type-html": ("content-type", "text/html; charset=utf-8"),
    "gzip-lie": ("content-encoding", "gzip"),
    "brotli-lie": ("content-encoding", "br"),
    "png-profile": ("content-type", "image/png"),
}


async def test_by_both_routes_a_picture_can_be_odd(http: httpx.AsyncClient) -> None:
    for fault, (name, value) in HEADERS.items():
        body = {"prompt": f"a fox [fault:{fault}]", "seed": 7}
        media = (await http.get(await queued(http, fault))).json()["output"]
        for headers, data in (await raw(http, "/v1/segmind-vega", "POST", json=body), await raw(http, media)):
            assert headers[name] == value
            if fault == "png-profile":
                assert profile_of(data) == 3_000_000
            else:
                assert data.startswith(FOXES[0])
                assert (len(data) > len(FOXES[0])) == (fault == "trailing")


def profile_of(png: bytes) -> int:
    """The number of bytes in a PNG's decompressed colour profile. Pillow refuses a profile of this size."""
    start = png.index(b"iCCP")
    length = int.from_bytes(png[start - 4 : start], "big")
    name, _, packed = png[start + 4 : start + 4 + length].partition(b"\0\0")
    assert name
    return len(zlib.decompress(packed))


async def test_slow_pictures_take_time_and_the_parallel_downloads_are_counted(
    http: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    images = (await http.get(await queued(http, "media-slow", samples=2))).json()["images"]
    fetched: dict[int, bytes] = {}

    async def fetch(index: int) -> None:
        fetched[index] = (await http.get(images[index]["url"])).content

    started = time.monotonic()
    await fetch(0)
    assert time.monotonic() - started >= 0.5
    assert sandbox.account.most_fetched == 1
    async with anyio.create_task_group() as tasks:
        for index in range(2):
            tasks.start_soon(fetch, index)
    assert [fetched[0], fetched[1]] == FOXES
    assert (await http.get("/_sandbox")).json()["most_fetched"] == 2


async def test_several_odd_answers_can_be_combined(http: httpx.AsyncClient) -> None:
    answer = await drawn(http, "b64-json][fault:trailing][fault:cost-comma")
    assert answer.headers["x-cost"] == "0,00225"
    (each,) = json.loads(answer.content)["data"]
    assert b64decode(each["b64_json"])[len(FOXES[0]) :].endswith(b"<!-- cached -->\r\n")
