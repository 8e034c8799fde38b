# pyright: basic, reportMissingTypeStubs=false
# The SDK is untyped.
"""The vendor's own SDK uses the sandbox: if the SDK works with it, the sandbox behaves like the Segmind API."""

import sys
from collections.abc import Iterator

import pytest
from conftest import HANG_SECONDS, HISTORY, KEY, Sandbox
from segmind import InferenceFailed, InferenceTimeout, SegmindClient, SegmindError

from mcp_vega.sandbox.app import Paint, cached_paint
from mcp_vega.sandbox.painter import paint


@pytest.fixture(name="paint")
def real_paint() -> Paint:
    return cached_paint


@pytest.fixture
def vendor(sandbox_in_thread: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindClient]:
    # The history's URL is a constant of the SDK. All other URLs follow from the base URL.
    module = sys.modules["segmind.generations"]  # the attribute with this name is an object of the SDK
    monkeypatch.setattr(module, "REQUEST_HISTORY_URL", sandbox_in_thread.url + HISTORY)
    client = client_of(sandbox_in_thread, KEY)
    yield client
    client._client.close()  # noqa: SLF001  the SDK has no other way to close it


def client_of(sandbox: Sandbox, key: str) -> SegmindClient:
    return SegmindClient(api_key=key, base_url=sandbox.url + "/v1")


def test_run_queues_a_call_waits_and_returns_the_result(vendor: SegmindClient) -> None:
    result = vendor.run("segmind-vega", prompt="a fox", seed=1, samples=2)
    assert result["status"] == "COMPLETED"
    assert result["metrics"]["cost"] == 0.0045
    assert [image["content_type"] for image in result["images"]] == ["image/jpeg"] * 2


def test_run_sync_returns_the_picture(vendor: SegmindClient) -> None:
    response = vendor.run_sync("segmind-vega-rt-v1", prompt="a fox", seed=1, base64=False)
    assert response.content == paint("a fox", 1)


def test_submit_async_returns_a_handle_to_wait_for_the_result(vendor: SegmindClient) -> None:
    job = vendor.submit_async("segmind-vega", prompt="a fox")
    assert job.wait(timeout=HANG_SECONDS, interval=0.01)["status"] == "COMPLETED"
    stuck = vendor.submit_async("segmind-vega", prompt="a fox [fault:stuck]")
    with pytest.raises(InferenceTimeout):
        stuck.wait(timeout=0.05, interval=0.01)


def test_a_failed_job_is_an_error_of_the_sdk(vendor: SegmindClient) -> None:
    with pytest.raises(InferenceFailed) as caught:
        vendor.run("segmind-vega", prompt="a fox [fault:moderation]")
    assert "Content policy violation" in (caught.value.detail or "")


def test_a_wrong_key_gets_401(sandbox_in_thread: Sandbox) -> None:
    client = client_of(sandbox_in_thread, "wrong")
    with pytest.raises(SegmindError) as caught:
        client.run("segmind-vega", prompt="a fox")
    assert (caught.value.status, caught.value.detail) == (401, "Invalid API key")
    client._client.close()  # noqa: SLF001  the SDK has no other way to close it


def test_an_unknown_id_gets_404(vendor: SegmindClient) -> None:
    job = vendor.submit_async("segmind-vega", prompt="a fox")
    job.status_url = job.status_url.replace(job.request_id, "0" * 32)
    with pytest.raises(SegmindError) as caught:
        job.wait()
    assert (caught.value.status, caught.value.detail) == (404, f"Request {'0' * 32} not found")


def test_the_history_lists_the_calls(vendor: SegmindClient) -> None:
    vendor.run_sync("segmind-vega", prompt="a fox")
    vendor.run("segmind-vega-rt-v1", prompt="a wolf")
    rows = vendor.generations.history(per_page=10)["data"]
    assert {row["model_name"] for row in rows} == {"segmind-vega", "segmind-vega-rt-v1"}
    one = vendor.generations.get(rows[0]["request_id"])
    assert one == rows[0]
