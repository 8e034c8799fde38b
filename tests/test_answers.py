"""How the API's answers are read: figures, states, errors and times, in many notations."""

import gzip
import json
import struct
import threading
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import API, NO_PAUSE, api_that_draws, app_over, begun, handle, images_of, job_of, noise, pixels, text_of
from conftest import until as wait_for
from mcp.client import Client
from test_client import BODY, JPEG, MEDIA, ChunkedStream, Script, answering, client_over, wait_told_by

from mcp_vega import errors
from mcp_vega.errors import Charged
from mcp_vega.imaging import metadata
from mcp_vega.job import Receipt, State
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.segmind import parsing
from mcp_vega.segmind.body import MOST_PARTS, decompressed
from mcp_vega.segmind.history import HistoryPage
from mcp_vega.segmind.parsing import Generation, Submission
from mcp_vega.segmind.response import ApiResponse
from mcp_vega.server.app import build_server
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio


async def receipt_of(headers: dict[str, str], metrics: dict[str, Any] | None = None) -> Receipt:
    """The figures in the headers of a v1 call, or in the metrics of a v2 result."""
    if metrics is None:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        generation = await answering(httpx.Response(200, content=JPEG, headers=encoded)).generate("segmind-vega", BODY)
    else:
        body = {"status": "COMPLETED", "output": MEDIA, "metrics": metrics}
        generation = await answering(httpx.Response(200, json=body, headers=headers)).result("r1")
    assert isinstance(generation, Generation)
    return generation.receipt


# ---- figures ----

# A balance in several notations, with its value.
FIGURES = {
    "1234.5": "1234.5",
    "1,234.50": "1234.50",
    "1.234,50": "1234.50",
    "1 234,50": "1234.50",
    "1'234.50": "1234.50",
    "1,234,567": "1234567",
    "0,00225": "0.00225",
    "12,3": "12.3",
    "0,125": "0.125",
    "$9.81": "9.81",
    "9.81 USD": "9.81",
    "-$0.35": "-0.35",
    "[9.81]": "9.81",
    "9.81, 9.81": "9.81",
    "9.81e0": "9.81",
    "1,234": None,  # a thousand or one? nobody knows
    "12,345": None,
    "9.81, 9.82": None,
    "9.81 EUR": None,
    "€9.81": None,
    "9.81%": None,
    "about 9": None,
    "1,23,456.0": None,
    "1e14000": None,
    "9" * 5000: None,
}


@pytest.mark.parametrize(("written", "meant"), FIGURES.items(), ids=[each[:12] for each in FIGURES])
async def test_a_figure_is_read_in_any_notation_that_has_one_meaning(written: str, meant: str | None) -> None:
    expected = None if meant is None else Decimal(meant)
    assert (await receipt_of({"x-remaining-credits": written})).credits_left == expected
    assert (await receipt_of({}, {"remaining_credits": written})).credits_left == expected


@pytest.mark.parametrize("cost", ["0", "0.0", "-0.00", "0,00", "1e-9", "1e14", "100000", "-0.00225", "1,234"])
async def test_an_impossible_cost_is_unknown_and_counts_as_the_usual_cost(tmp_path: Path, cost: str) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=JPEG, headers={"x-cost": cost})

    limits = Limits(Decimal("0.005"))
    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(handler), limits=limits) as app,
        Client(build_server(app)) as agent,
    ):
        first, second, third = [
            await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": seed}) for seed in range(3)
        ]
    assert "Cost: unknown" in text_of(first)
    assert job_of(second)["cost_usd"] is None
    assert "(spending_limit_reached)" in text_of(third)


async def test_a_cost_of_0_is_believed_if_the_api_says_that_it_is_free() -> None:
    free = {"x-mcp-vega-free": "1"}
    for receipt in (await receipt_of(free), await receipt_of(free | {"x-cost": "0"}), await receipt_of(free, {})):
        assert receipt.cost == 0
    assert (await receipt_of(free | {"x-cost": "0.002"})).cost == Decimal("0.002")


@pytest.mark.parametrize("cost", [[0.00225, 0.00225], "[0.00225, 0.00225]", "0.00225, 0.00225"])
async def test_several_costs_are_unknown_because_they_may_or_may_not_add_up(cost: Any) -> None:
    assert (await receipt_of({}, {"cost": cost})).cost is None
    assert (await receipt_of({}, {"pricing": {"cost": 12}})).cost is None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2.1", "2.1"), ("[2.1]", "2.1"), ("2,1", "2.1"), ("2.1s", "2.1"), ("2100ms", None), ("-1", None)],
)
async def test_seconds_are_read_with_and_without_a_unit(written: str, seconds: str | None) -> None:
    receipt = await receipt_of({"x-generation-time": written})
    assert receipt.seconds == (None if seconds is None else Decimal(seconds))


# ---- states ----

STATES = {
    "completed": State.COMPLETED,
    " Completed\n": State.COMPLETED,
    "SUCCEEDED": State.COMPLETED,
    "success": State.COMPLETED,
    "Failed": State.FAILED,
    "ERROR": State.FAILED,
    "cancelled": State.FAILED,
    "queued": State.QUEUED,
    "In Queue": State.QUEUED,
    "pending": State.QUEUED,
    "in-progress": State.PROCESSING,
    "RUNNING": State.PROCESSING,
    "WARMING_UP": State.PROCESSING,
}


@pytest.mark.parametrize(("word", "state"), STATES.items())
async def test_a_state_is_recognised_in_any_case_and_with_any_spaces(word: str, state: State) -> None:
    client = answering(httpx.Response(200, json={"request_id": "r1", "status": word}))
    assert (await client.status("r1")).state is state
    assert (await answering(httpx.Response(200, json={"data": {"status": word}})).status("r1")).state is state


@pytest.mark.parametrize(
    ("status", "body", "words", "charged"),
    [
        (422, {"status": "failed", "error": "out of memory"}, "out of memory", Charged.NO),
        (200, {"status": "ERROR", "error": {"message": "out of memory"}}, "out of memory", Charged.NO),
        (200, {"status": "error", "message": "no GPU", "metrics": {"cost": 0.002}}, "no GPU", Charged.YES),
        (200, {"status": "CRASHED", "error": "out of memory"}, "out of memory", Charged.UNKNOWN),
        (200, {"status": "PROCESSING", "error": "out of memory"}, "out of memory", Charged.UNKNOWN),
        (200, {"success": False, "message": "no GPU"}, "no GPU", Charged.UNKNOWN),
        (200, {"success": False, "message": "NSFW"}, "NSFW", Charged.NO),
        (200, {"status": "error", "message": "no GPU"}, "no GPU", Charged.UNKNOWN),
        (200, {"status": "error", "message": "no GPU", "request_id": "r1"}, "no GPU", Charged.NO),
        (200, {"status": "FAILED", "metrics": {"cost": "0.002 credits"}}, "no reason", Charged.UNKNOWN),
    ],
)
async def test_an_error_ends_a_job_whatever_its_state_is(
    status: int, body: dict[str, Any], words: str, charged: Charged
) -> None:
    (seen,) = [each async for each in answering(httpx.Response(status, json=body)).watch("r1", expected=0)]
    assert seen.state is State.FAILED
    assert seen.error
    assert words in seen.error.what
    assert seen.error.charged is charged


NOTHINGS: list[Any] = [None, "", "  ", "none", "null", False, [], {}, 0.02, "no error", "N/A", "-", [None], [""],
                       {"code": 0, "message": ""}, {"count": 0, "items": []}]  # fmt: skip


@pytest.mark.parametrize("nothing", NOTHINGS, ids=str)
async def test_words_that_mean_no_error_are_not_an_error(nothing: Any) -> None:
    client = answering(httpx.Response(200, json={"status": "PROCESSING", "error": nothing}))
    assert (await client.status("r1")).state is State.PROCESSING


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ({"status": "COMPLETED", "error": "a worker was restarted"}, State.COMPLETED),
        ({"status": "COMPLETED", "webhook": {"success": False, "error": "refused"}}, State.COMPLETED),
        ({"status": "PROCESSING", "worker": {"error": "preempted, retrying"}}, State.PROCESSING),
        ({"success": False, "status": "QUEUED", "message": "waiting for a GPU"}, State.QUEUED),
        ({"success": True, "error": None, "status": "queued"}, State.QUEUED),
        ({"status": {"state": "completed"}}, State.COMPLETED),
        ({"Status": "JobStatus.COMPLETED"}, State.COMPLETED),
    ],
)
async def test_an_error_that_is_not_about_the_job_does_not_end_it(body: dict[str, Any], state: State) -> None:
    assert (await answering(httpx.Response(200, json=body)).status("r1")).state is state


@pytest.mark.parametrize("body", [{"status": "error", "message": "x"}, {"success": False, "message": "x"}])
@pytest.mark.parametrize("status", [401, 404, 429, 503])
async def test_an_error_about_the_request_is_not_an_error_of_the_job(status: int, body: dict[str, Any]) -> None:
    client = client_over(lambda _: httpx.Response(status, json=body), retry_seconds=0)
    with pytest.raises(errors.SegmindError) as caught:
        await client.status("r1")
    assert not isinstance(caught.value, errors.GenerationFailed)


def api_with_status(status: dict[str, Any], *, media: int = 200) -> httpx.MockTransport:
    """An API whose jobs always have this status, and never a result."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/status"):
            return httpx.Response(200, json=status)
        if request.url.path.startswith("/v2/requests/"):
            return httpx.Response(200, json={"status": "PROCESSING"})
        if request.url.path.endswith(".jpeg"):
            return httpx.Response(media, content=JPEG)
        return handle(JPEG)(request)

    return httpx.MockTransport(answer)


async def test_pictures_in_the_status_of_a_job_complete_it(tmp_path: Path) -> None:
    status = {"status": "PROCESSING", "images": [f"{API}/1.jpeg"]}
    async with (
        app_over(API, tmp_path, transport=api_with_status(status)) as app,
        Client(build_server(app)) as agent,
    ):
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "a fox", "samples": 1}))["request_id"]
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
        assert len(images_of(result)) == 1


async def test_pictures_of_a_job_that_failed_are_kept(tmp_path: Path) -> None:
    status = {"status": "FAILED", "error": "the upload of 1 of 2 failed", "images": [f"{API}/1.jpeg"]}
    async with (
        app_over(API, tmp_path, transport=api_with_status(status)) as app,
        Client(build_server(app)) as agent,
    ):
        request_id = job_of(await agent.call_tool("submit_job", {"prompt": "a fox", "samples": 2}))["request_id"]
        result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
        assert len(images_of(result)) == 1


@pytest.mark.parametrize(
    "status",
    [
        {"status": "PROCESSING", "images": [f"{API}/1.jpeg"]},
        {"status": "PROCESSING", "future_links": [f"{API}/1.jpeg"]},
        {"status": "PROCESSING", "progress": 0.3, "current_image": b64encode(JPEG).decode()},
    ],
    ids=["announced", "announced elsewhere", "unfinished"],
)
async def test_pictures_that_are_not_available_yet_do_not_complete_a_job(
    tmp_path: Path, status: dict[str, Any]
) -> None:
    async with app_over(API, tmp_path, transport=api_with_status(status, media=404), policy=NO_PAUSE) as app:
        job = (await app.service.submit(VegaParameters(prompt="a fox"))).job
        (running,) = await wait_for(lambda: [each for each in app.service.active if each.state is State.PROCESSING])
        assert (running.local_id, running.error) == (job.local_id, None)


# ---- errors ----

BODIES: list[tuple[httpx.Response, str]] = [
    (httpx.Response(400, json={"error": "x"}), "“x”"),
    (httpx.Response(400, json={"errors": [{"message": "x"}, {"message": "y"}]}), "“x; y”"),
    (httpx.Response(400, json={"errors": {"seed": ["too large"]}}), "“seed: too large”"),
    (httpx.Response(400, json={"prompt": ["may not be blank"]}), "“prompt: may not be blank”"),
    (httpx.Response(400, json={"Message": "x", "Type": "y"}), "“x”"),
    (httpx.Response(400, json={"errorMessage": "x"}), "“x”"),
    (httpx.Response(400, json={"fault": {"faultstring": "x"}}), "“x”"),
    (
        httpx.Response(400, text="seed < 1000", headers={"content-type": "application/json"}),
        "“seed < 1000”",
    ),
    (
        httpx.Response(
            400, content="zu groß".encode("latin-1"), headers={"content-type": "text/plain; charset=latin-1"}
        ),
        "“zu groß”",
    ),
    (httpx.Response(400, text='{"error": "x"}{"error": "y"}'), "“x”"),
    (httpx.Response(400, json={"error": "Bad Request", "message": "x"}), "“Bad Request; x”"),
    (httpx.Response(400, json={"error": True, "message": "x"}), "“x”"),
    (httpx.Response(400, json={"error": {"details": {"reason": "x"}}}), "“x”"),
    (httpx.Response(400, json={"detail": [{"loc": ["body", "seed"], "msg": "too large"}]}), "“seed: too large”"),
    (httpx.Response(400, json={"error": {"code": "seed_too_large"}}), "“seed_too_large”"),
    (httpx.Response(400, json=[{"error": "x"}]), "“x”"),
    (httpx.Response(400, json="x"), "“x”"),
    (httpx.Response(400, text="The seed is too large."), "“The seed is too large.”"),
    (httpx.Response(400, content=b"x"), "“x”"),
    (
        httpx.Response(400, text="<Error><Message>x</Message></Error>", headers={"content-type": "application/xml"}),
        "“x”",
    ),
]


@pytest.mark.parametrize(("response", "words"), BODIES, ids=[words for _, words in BODIES])
async def test_the_words_of_an_error_are_found_at_any_place(response: httpx.Response, words: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        await answering(response).generate("segmind-vega", BODY)
    assert caught.value.what == f"The API answered with HTTP 400: {words}"
    assert caught.value.next_step == errors.Refused.next_step


@pytest.mark.parametrize(
    "response",
    [httpx.Response(400), httpx.Response(400, html="<h1>Bad</h1>"), httpx.Response(400, json={"error": {"code": 7}})],
)
async def test_an_error_without_words_names_only_the_status(response: httpx.Response) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        await answering(response).generate("segmind-vega", BODY)
    assert caught.value.what == "The API answered with HTTP 400"
    assert caught.value.next_step == "The API gave no reason. Check the call and SEGMIND_BASE_URL"


async def test_a_refusal_with_status_200_is_a_refusal_and_not_charged() -> None:
    body = {"success": False, "message": "NSFW content detected"}
    for route in ("generate", "submit"):
        with pytest.raises(errors.ContentBlocked, match="NSFW content detected") as caught:
            await getattr(answering(httpx.Response(200, json=body)), route)("segmind-vega", BODY)
        assert caught.value.charged is Charged.NO


async def test_a_redirect_is_an_error_with_the_setting_and_the_target() -> None:
    for status in (301, 303):
        answer = httpx.Response(status, headers={"location": "https://login.example/"})
        with pytest.raises(errors.SegmindError) as caught:
            await answering(answer).generate("segmind-vega", BODY)
        assert "SEGMIND_BASE_URL" in caught.value.what
        assert "“https://login.example/”" in caught.value.what


@pytest.mark.parametrize("status", [408, 409, 425, 499, 503])
async def test_a_passing_error_is_retried_if_the_request_is_free(status: int) -> None:
    script = Script(httpx.Response(status), httpx.Response(200, json={"status": "QUEUED"}))
    assert (await client_over(script).status("r1")).state is State.QUEUED


@pytest.mark.parametrize(
    "body",
    [
        {"id": "abc", "model": {"id": "vega"}},
        {"requestId": "abc"},
        {"data": {"request_id": "abc"}},
        [{"job_id": "abc"}],
        {"request_id": "null", "taskId": "abc"},
    ],
)
async def test_the_id_of_a_queued_job_is_found_under_other_names(body: Any) -> None:
    assert await answering(httpx.Response(200, json=body)).submit("segmind-vega", BODY) == Submission("abc")


async def test_an_answer_that_queues_a_call_has_no_picture_whatever_urls_it_has() -> None:
    body = {
        "request_id": "abc",
        "message": "queued",
        "dashboard": "https://elsewhere.example/abc",
        "urls": [f"{API}/a"],
    }
    assert await answering(httpx.Response(200, json=body)).generate("segmind-vega", BODY) == Submission("abc")


async def test_a_call_that_has_an_id_may_be_running_whatever_else_the_answer_says() -> None:
    body = {"status": "error", "request_id": "r1", "message": "still running"}
    with pytest.raises(errors.GenerationFailed) as caught:
        await answering(httpx.Response(200, json=body)).generate("segmind-vega", BODY)
    assert caught.value.charged is Charged.UNKNOWN


async def test_an_answer_that_the_code_fails_to_read_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: ApiResponse) -> Receipt:
        raise ZeroDivisionError

    monkeypatch.setattr(parsing, "parse_receipt", breaks)
    with pytest.raises(errors.UnreadableAnswer) as caught:
        await answering(httpx.Response(200, content=JPEG)).generate("segmind-vega", BODY)
    assert caught.value.received == JPEG


@pytest.mark.parametrize("value", [json.loads("[" * 900 + "]" * 900), [[7]], [7] * 10**5])
async def test_lists_instead_of_figures_do_not_lose_the_picture(value: Any) -> None:
    body = {"image": b64encode(JPEG).decode(), "seed": value, "cost": value}
    generation = await answering(httpx.Response(200, json=body)).generate("segmind-vega", BODY)
    assert isinstance(generation, Generation)
    assert generation.pictures == (JPEG,)


ROW = {"request_id": "r1", "model_name": "segmind-vega", "model_status": "Success", "model_created": 1795176000}


@pytest.mark.parametrize("body", [[ROW], {"data": [ROW]}, {"items": [ROW]}, {"data": {"rows": [ROW], "total": 1}}])
async def test_the_rows_of_a_history_page_are_found_at_any_place(body: Any) -> None:
    (row,) = (await page_of(body)).rows
    assert (row.request_id, row.state, row.names_zone) == ("r1", State.COMPLETED, True)
    assert row.created == datetime(2026, 11, 20, 12, tzinfo=UTC)


ICON = "https://images.segmind.com/icon.png"


@pytest.mark.parametrize(
    ("fields", "urls"),
    [
        ({"model_status": "PENDING", "model_icon": ICON}, ()),
        ({"model_status": "FAILED", "picture": MEDIA}, ()),
        ({"model_thumbnail": ICON, "assets": {"file": MEDIA}}, (MEDIA,)),
        ({"generation_url": MEDIA, "model_icon": ICON}, (MEDIA,)),
        ({"model_status": "PENDING", "generation_url": MEDIA}, (MEDIA,)),
        ({"generation_url": f"{MEDIA}, {MEDIA}?2"}, (MEDIA, f"{MEDIA}?2")),
        ({"generation_url": [MEDIA]}, (MEDIA,)),
        ({"generation_url": "/generations/1.jpeg"}, ("/generations/1.jpeg",)),
        ({"generation_url": "HTTPS://IMAGES.SEGMIND.COM/1.JPEG"}, ("HTTPS://IMAGES.SEGMIND.COM/1.JPEG",)),
    ],
)
async def test_the_pictures_of_a_row_are_those_of_its_call(fields: dict[str, Any], urls: tuple[str, ...]) -> None:
    (row,) = (await page_of([{**ROW, **fields}])).rows
    assert row.urls == urls


@pytest.mark.parametrize(
    "body", [{}, {"data": {}}, {"calls": [ROW]}, {"data": [], "status": "ERROR"}, {"data": [], "success": False}, "[]"]
)
async def test_a_history_in_an_unknown_form_does_not_count_as_empty(body: Any) -> None:
    with pytest.raises(errors.ServiceUnavailable, match="unknown form"):
        await page_of(body)


async def page_of(body: Any) -> HistoryPage:
    client = answering(httpx.Response(200, json=body))
    return await client.history(model=None, since=date(2026, 11, 19), until=date(2026, 11, 20), page=1)


# ---- times to wait ----


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "8"}, 8),
        ({"retry-after": "8.5"}, 8.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:08 GMT", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"x-rate-limit-reset-at-utc": "2026-11-20T12:00:08", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"x-rate-limit-reset-at-utc": "1795176008", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"retry-after": "2", "x-rate-limit-reset-at-utc": "2026-11-20T12:00:08",
          "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"retry-after": "Fri, 20 Nov 2020 12:00:00 GMT"}, 0),
        ({"retry-after": "8s"}, 8),
        ({"retry-after": "3, 8"}, 8),
        ({"retry-after": "Fri, 20 Nov 2026 12:00:03 GMT, Fri, 20 Nov 2026 12:00:08 GMT",
          "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"x-rate-limit-reset-at-utc": "2026-11-20 12:00:08 UTC", "date": "Fri, 20 Nov 2026 12:00:00 GMT"}, 8),
        ({"retry-after": "172800"}, 86400),
    ],
)  # fmt: skip
async def test_the_api_is_left_alone_for_as_long_as_it_asks_in_any_form(
    headers: dict[str, str], seconds: float
) -> None:
    assert await wait_told_by(httpx.Response(429, headers=headers)) == timedelta(seconds=seconds)


async def test_a_date_is_compared_with_this_machines_clock_if_the_api_sends_no_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    waited = await wait_told_by(httpx.Response(429, headers={"retry-after": later}))
    assert timedelta(minutes=9) < waited <= timedelta(minutes=10)


@pytest.mark.parametrize("told", ["soon", "1e11", "9" * 400, ""])
async def test_an_impossible_time_to_wait_counts_as_none(told: str) -> None:
    with pytest.raises(errors.RateLimited) as caught:
        await answering(httpx.Response(429, headers={"retry-after": told})).generate("segmind-vega", BODY)
    assert caught.value.wait is None
    assert caught.value.next_step == "Wait a minute, then call again"


async def test_a_refused_call_is_not_sent_again_before_the_wait_is_over(tmp_path: Path) -> None:
    script = Script(httpx.Response(429, headers={"retry-after": "200"}), httpx.Response(200, content=JPEG))
    async with app_over(API, tmp_path, transport=httpx.MockTransport(script)) as app:
        job = await begun(app.service, VegaRTParameters(prompt="a fox"))
        (refused,) = await wait_for(lambda: [each for each in app.service.active if each.next_try])
        assert refused.next_try is not None
        assert timedelta(seconds=195) < refused.next_try - job.created < timedelta(seconds=260)
        assert len(script.requests) == 1


@pytest.mark.parametrize("created", ["0001-01-01T00:00:00Z", "1969-12-31T12:00:00Z", "9999-12-31T23:59:59Z"])
async def test_a_call_made_elsewhere_is_fetched_even_if_its_time_in_the_history_cannot_be_right(
    tmp_path: Path, created: str
) -> None:
    """Some programs write the year 1 for a time that they do not know."""
    row = {"request_id": "r1", "model_name": "segmind-vega", "model_created": created, "status": "COMPLETED"}

    def answer(request: httpx.Request) -> httpx.Response:
        match request.url.path.rpartition("/")[2]:
            case "status":
                return httpx.Response(200, json={"status": "COMPLETED"})
            case "r1" if "/requests/" in request.url.path:
                return httpx.Response(200, content=JPEG)
            case _:
                return httpx.Response(200, json={**row, "request_body": {"prompt": "a fox", "seed": 7}})

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("check_job", {"request_id": "r1", "wait_seconds": 45})
        assert len(images_of(result)) == 1
        assert "r1 done" in text_of(await agent.call_tool("check_job", {}))


# ---- bytes ----


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    png = noise("PNG", 64)
    return png[:33] + chunk(kind, data) + png[33:]


def with_segment(kind: int, data: bytes) -> bytes:
    jpeg = noise("JPEG", 64)
    return jpeg[:2] + bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


ODD_PICTURES = {
    "a profile of 3 MB": with_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
    "a text of 3 MB": with_chunk(b"zTXt", b"text\0\0" + zlib.compress(bytes(3_000_000))),
    "a profile packed in no known way": with_chunk(b"iCCP", b"profile\0\7rubbish"),
    "a broken colour space": with_chunk(b"cHRM", b"\0"),
    "a broken transparency": with_chunk(b"tRNS", b"\0"),
    "a broken animation": with_chunk(b"acTL", b"\0"),
    "a text with a wrong checksum": with_chunk(b"tEXt", b"a\0b").replace(b"a\0b", b"a\0c", 1),
    "a density with a wrong checksum": with_chunk(b"pHYs", bytes(9)).replace(bytes(9), bytes(8) + b"\1", 1),
    "a profile with a wrong checksum": with_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"b")).replace(b"a\0", b"b\0", 1),
    "a JPEG with half a JFIF": with_segment(0xE0, b"JFIF\0"),
    "a JPEG with half a profile": with_segment(0xE2, b"ICC_PROFILE\0"),
    "a JPEG with half of Adobe's": with_segment(0xEE, b"Adobe"),
}


@pytest.mark.parametrize("data", ODD_PICTURES.values(), ids=ODD_PICTURES)
async def test_a_picture_with_odd_metadata_is_kept_unchanged(tmp_path: Path, data: bytes) -> None:
    async with (
        app_over(API, tmp_path, transport=api_that_draws(data)) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("generate_image_vegart", {"prompt": "a fox"})
    assert len(images_of(result)) == 1
    (image,) = job_of(result)["images"]
    assert metadata.strip(Path(image["path"]).read_bytes()) == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-odd"])
async def test_a_picture_with_a_wrong_content_encoding_is_taken_as_it_is(encoding: str) -> None:
    answer = httpx.Response(200, content=ChunkedStream(JPEG), headers={"content-encoding": encoding})
    generation = await answering(answer).generate("segmind-vega", BODY)
    assert isinstance(generation, Generation)
    assert generation.pictures == (JPEG,)


RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
PACKED = {
    "gzip": gzip.compress(JPEG[:1000]) + gzip.compress(JPEG[1000:]),
    "": gzip.compress(JPEG),
    "deflate": zlib.compress(JPEG),
    " Deflate": RAW.compress(JPEG) + RAW.flush(),
}


@pytest.mark.parametrize(("encoding", "data"), PACKED.items())
async def test_a_compressed_picture_is_decompressed_whatever_its_header_says(encoding: str, data: bytes) -> None:
    answer = httpx.Response(200, content=ChunkedStream(data), headers={"content-encoding": encoding})
    generation = await answering(answer).generate("segmind-vega", BODY)
    assert isinstance(generation, Generation)
    assert generation.pictures == (JPEG,)


def test_only_the_first_parts_of_a_body_of_very_many_compressed_parts_are_read() -> None:
    """A body can have a million parts, and each takes time."""
    assert decompressed(gzip.compress(b"a") * 2000, {}, 10_000) == b"a" * MOST_PARTS


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
async def test_a_large_body_is_processed_in_a_thread_even_if_it_is_small_on_its_way(
    packed: Callable[[bytes], bytes],
) -> None:
    body = packed(json.dumps({"error": "a fox " * 500_000}).encode())
    parsed: list[bool] = []
    client = answering(httpx.Response(400, content=ChunkedStream(body)))
    client.observe(lambda exchange: parsed.append("json" in vars(exchange.response)))
    with pytest.raises(errors.BadRequest):
        await client.generate("segmind-vega", BODY)
    assert parsed == [True], "its JSON is there before the event loop needs it"


async def test_a_url_without_a_host_is_on_the_apis_host() -> None:
    script = Script(httpx.Response(200, content=JPEG))
    assert await client_over(script).download("/generations/1.jpeg") == JPEG
    assert str(script.requests[0].url) == f"{API}/generations/1.jpeg"
    with pytest.raises(errors.MediaError, match="not allowed"):
        await client_over(script).download("//elsewhere.example/1.jpeg")


# ---- large answers, several pictures ----


class InPieces(httpx.AsyncByteStream):
    """A body that arrives as fast as it is read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


LARGE: dict[str, Callable[[], httpx.Response]] = {
    "an error": lambda: httpx.Response(400, stream=InPieces(json.dumps({"error": "x\u00e9" * 2_000_000}).encode())),
    "a picture": lambda: httpx.Response(200, stream=InPieces(json.dumps({"image": "AAAA" * 4_000_000}).encode())),
}


@pytest.mark.parametrize("name", LARGE)
async def test_a_large_answer_is_read_in_a_thread_so_that_other_calls_continue(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    threads, known = set[int](), json.detect_encoding

    def noting(data: bytes) -> str:
        threads.add(threading.get_ident())
        return known(data)

    monkeypatch.setattr(json, "detect_encoding", noting)
    with pytest.raises(errors.SegmindError) as caught:
        await answering(LARGE[name]()).generate("segmind-vega", BODY)
    assert len(caught.value.what) < 400
    assert threads
    assert threading.get_ident() not in threads


async def test_the_pictures_of_a_call_are_fetched_at_the_same_time_and_kept_in_order(tmp_path: Path) -> None:
    pictures = {f"/{number}.jpeg": noise("JPEG", 64 + number) for number in range(4)}
    asked, all_asked = set[str](), anyio.Event()

    class Api(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            path = request.url.path
            if path not in pictures:
                return handle(JPEG)(request)
            asked.add(path)
            if len(asked) == len(pictures):
                all_asked.set()
            await all_asked.wait()  # waits forever if they are fetched one after the other
            return httpx.Response(200, content=pictures[path])

    async with (
        app_over(API, tmp_path, transport=Api()) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "samples": 4})
    kept = [pixels(Path(image["path"]).read_bytes()) for image in job_of(result)["images"]]
    assert kept == [pixels(data) for data in pictures.values()]
