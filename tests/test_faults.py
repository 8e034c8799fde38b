"""Each fault of the API as an agent sees it through the tools."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from conftest import NO_PAUSE, Sandbox, app_over, job_of, text_of
from mcp.client import Client

from mcp_vega.server.context import AppContext

# The faults do not depend on the protocol's version, so one version is enough.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("agent", ["auto"], indirect=True)]

RT = "generate_image_vegart"


@pytest.fixture
async def app(sandbox: Sandbox, tmp_path: Path) -> AsyncGenerator[AppContext]:
    """The shared fixture, without pauses between attempts."""
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE) as app:
        yield app


HARMLESS = ["output-list", "output-object", "output-base64", "output-missing", "no-cost", "status-word",
            "status-foreign", "poll-502", "late", "429*2"]  # fmt: skip


@pytest.mark.parametrize("fault", HARMLESS)
async def test_after_a_harmless_fault_the_call_still_ends_with_its_picture_paid_once(
    agent: Client, sandbox: Sandbox, fault: str
) -> None:
    asked = await agent.call_tool("submit_job", {"prompt": f"a fox [fault:{fault}]"})
    request_id = job_of(asked)["request_id"]
    result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    job = job_of(result)
    assert job["state"] == "COMPLETED"
    assert Path(job["images"][0]["path"]).exists()
    assert len(sandbox.account.calls) == 1


async def test_a_v1_call_that_the_api_queues_is_followed_until_its_picture_is_there(
    agent: Client, sandbox: Sandbox
) -> None:
    job = job_of(await agent.call_tool(RT, {"prompt": "a fox [fault:envelope]"}))
    assert len(job["images"]) == 1
    assert [call.route for call in sandbox.account.calls.values()] == ["v1"]
    assert sandbox.account.requests["GET status"] >= 1


async def test_figures_that_the_api_does_not_report_are_unknown(agent: Client) -> None:
    text = text_of(await agent.call_tool(RT, {"prompt": "a fox [fault:no-cost]"}))
    assert {"Seconds: unknown", "Cost: unknown", "Credits left: unknown"} <= set(text.splitlines())


ENDINGS = [
    ("400", "no", "HTTP 400"),
    ("401", "no", "HTTP 401"),
    ("402", "no", "HTTP 402"),
    ("403", "no", "HTTP 403"),
    ("406", "no", "HTTP 406"),
    ("410", "no", "HTTP 410"),
    ("500", "unknown", "HTTP 500"),
    ("502-after", "unknown", "HTTP 502"),
    ("504", "unknown", "HTTP 504"),
    ("cut", "yes", "cut off"),
    ("failed", "unknown", "ran out of memory"),
    ("moderation", "no", "Content policy violation"),
    ("error-200", "yes", "Something went wrong"),
    ("empty", "yes", "nothing that can be read"),
    ("html", "yes", "sent no picture"),
    ("not-image", "yes", "sent no picture"),
    ("truncated", "yes", "cut off"),
]


@pytest.mark.parametrize(("fault", "charged", "words"), ENDINGS)
async def test_a_failed_call_says_what_happened_whether_it_was_charged_and_what_to_do(
    agent: Client, sandbox: Sandbox, fault: str, charged: str, words: str
) -> None:
    result = await agent.call_tool(RT, {"prompt": f"a fox [fault:{fault}]"})
    assert result.is_error
    what, money, next_step = text_of(result).splitlines()
    assert words in what
    assert money == f"Charged: {charged}."
    assert next_step.startswith("Next: ")
    assert sandbox.paid_requests == 1


@pytest.mark.parametrize(
    ("fault", "charged", "words"),
    [
        ("failed", "no", "ran out of memory"),
        ("moderation", "no", "refused to draw this"),
        ("truncated", "yes", "no complete picture"),
        ("media-403", "yes", "HTTP 403"),
        ("media-foreign", "yes", "not allowed"),
        ("media-redirect", "yes", "not allowed"),
    ],
)
async def test_a_failed_job_says_the_same_at_every_check(
    agent: Client, sandbox: Sandbox, fault: str, charged: str, words: str
) -> None:
    asked = await agent.call_tool("submit_job", {"prompt": f"a fox [fault:{fault}]"})
    request_id = job_of(asked)["request_id"]
    first = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert first.is_error
    assert words in text_of(first)
    assert f"Charged: {charged}." in text_of(first)
    again = await agent.call_tool("check_job", {"request_id": request_id})
    assert text_of(again).splitlines()[:2] == text_of(first).splitlines()[:2]
    assert sandbox.paid_requests == 1


async def test_without_credits_the_error_says_where_to_add_some(agent: Client, sandbox: Sandbox) -> None:
    sandbox.account.credits *= 0
    for tool in (RT, "submit_job"):
        text = text_of(await agent.call_tool(tool, {"prompt": "a fox"}))
        assert "Insufficient credits" in text
        assert "Charged: no." in text
        assert "https://cloud.segmind.com/billing" in text


async def test_a_model_that_v2_does_not_know_is_drawn_by_v1(agent: Client, sandbox: Sandbox) -> None:
    sandbox.account.models["v2"].clear()
    arguments = {"prompt": "a fox", "model": "segmind-vega-rt-v1"}
    request_id = job_of(await agent.call_tool("submit_job", arguments))["request_id"]
    result = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert job_of(result)["state"] == "COMPLETED"
    assert [call.route for call in sandbox.account.calls.values()] == ["v1"]


@pytest.mark.parametrize("words", ["", "[fault:failed]"])
async def test_after_an_unreadable_answer_to_a_submission_the_charge_is_unknown(
    agent: Client, sandbox: Sandbox, words: str
) -> None:
    first = await agent.call_tool("submit_job", {"prompt": f"a fox [fault:html] {words}"})
    assert "no usable request id" in text_of(first)
    assert "Charged: unknown." in text_of(first)
    request_id = text_of(first).partition("request_id ")[2].split()[0]
    last = await agent.call_tool("check_job", {"request_id": request_id, "wait_seconds": 45})
    assert "Charged: no." in text_of(last) if words else job_of(last)["images"]
    assert sandbox.paid_requests == 1
