"""Spans of OpenTelemetry: what each call did at the API, in the database and in the bucket."""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import HISTORY, KEY, NO_PAUSE, Sandbox, app_over, begun, job_of, until
from mcp.client import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.telemetry.recorder import set_recorder

pytestmark = pytest.mark.anyio

PROMPT = "an unmistakable heron"


class Spans:
    """The spans that have ended so far."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    def start(self) -> None:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):  # the first test of this process: it can be set only once
            provider = TracerProvider()
            trace.set_tracer_provider(provider)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.provider = provider

    def stop(self) -> None:
        self._exporter.shutdown()

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def ours(self) -> list[ReadableSpan]:
        return [
            each for each in self.ended if each.instrumentation_scope and each.instrumentation_scope.name == "mcp_vega"
        ]

    @property
    def paths(self) -> set[str]:
        """Each of our spans by the names of its ancestors and its own."""
        return {self.path(each) for each in self.ours}

    def path(self, span: ReadableSpan) -> str:
        known = {each.context.span_id: each for each in self.ended if each.context}
        parent = span.parent and known.get(span.parent.span_id)
        if span.parent and not parent:
            return f"? > {span.name}"  # the parent has not ended yet
        return f"{self.path(parent)} > {span.name}" if parent else span.name

    def named(self, name: str) -> list[ReadableSpan]:
        return [each for each in self.ours if each.name == name]


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    found.start()
    yield found
    found.stop()


def words_of(span: ReadableSpan) -> str:
    """All texts in a span."""
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    return f"{span.name} {dict(span.attributes or {})} {events} {span.status.description}"


CALL = "tools/call generate_image_vegart"


@pytest.mark.usefixtures("each_ledger")
async def test_what_a_call_and_its_job_do_is_shown_below_the_sdks_span(
    sandbox: Sandbox, tmp_path: Path, spans: Spans
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        await agent.call_tool("generate_image_vegart", {"prompt": PROMPT})
        await app.service.store.written()
        await until(lambda: spans.named("job"))
    expected = {f"{CALL} > {each}" for each in ("begin", "job", "end_wait")}
    expected |= {f"{CALL} > job > {each}" for each in ("mark_sent", "POST /v1/{model}", "save")}
    assert expected <= spans.paths
    # Nothing has a trace of its own: the server looks for work again and again.
    assert {each.partition(" > ")[0] for each in spans.paths} == {CALL}

    (request,) = spans.named("POST /v1/{model}")
    address = httpx.URL(sandbox.url)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": address.host,
        "server.port": address.port,
        "url.template": "/v1/{model}",
    }
    assert (request.kind, request.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    (begin,) = spans.named("begin")
    assert (begin.attributes or {})["db.system.name"] in ("sqlite", "postgresql")


async def test_a_span_has_no_prompt_no_key_and_no_id_of_the_api(sandbox: Sandbox, tmp_path: Path, spans: Spans) -> None:
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        drawn = await agent.call_tool("generate_image_vega", {"prompt": PROMPT, "samples": 2})
        await agent.call_tool("generate_image_vega", {"prompt": f"{PROMPT} [fault:402]"})
        await agent.call_tool("check_job", {"request_id": job_of(drawn)["request_id"]})
        await until(lambda: len(spans.named("job")) == 2)
        await app.service.client.history(
            model=None, since=app.service.config.clock().date(), until=app.service.config.clock().date(), page=1
        )
    assert {"POST /v2/{model}", "GET /v2/requests/{id}", "GET"} <= {each.name for each in spans.ours}
    secret = ("heron", KEY, job_of(drawn)["request_id"], str(tmp_path), "?")
    assert {each for each in secret for span in spans.ours if each in words_of(span)} == set()


def refuse(_: httpx.Request) -> httpx.Response:
    return httpx.Response(402, text=PROMPT)


def cut(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout(PROMPT, request=request)


@pytest.mark.parametrize(("answer", "error"), [(refuse, "402"), (cut, "ReadTimeout")])
async def test_a_request_that_fails_says_how_without_the_text_of_the_error(
    tmp_path: Path, spans: Spans, answer: Callable[[httpx.Request], httpx.Response], error: str
) -> None:
    api = httpx.MockTransport(lambda request: httpx.Response(503) if HISTORY in request.url.path else answer(request))
    async with (
        app_over("https://api.example", tmp_path, transport=api, policy=NO_PAUSE) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool("generate_image_vegart", {"prompt": PROMPT})
        await until(lambda: spans.named("job"))
    (request,) = spans.named("POST /v1/{model}")
    assert (request.attributes or {})["error.type"] == error
    assert (request.status.status_code, request.status.description, request.events) == (StatusCode.ERROR, None, ())
    (job,) = spans.named("job")
    assert job.status.status_code is StatusCode.ERROR


async def test_the_work_on_a_job_that_is_continued_later_is_a_trace_of_its_own(
    sandbox: Sandbox, tmp_path: Path, spans: Spans
) -> None:
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, wait_seconds=0) as app, Client(build_server(app)) as agent:
        await agent.call_tool("generate_image_vegart", {"prompt": PROMPT})
        await until(lambda: sandbox.paid_requests)
    sandbox.let_go()
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        await agent.list_tools()  # the first request lets the server look for such jobs
        await until(lambda: spans.named("continue job"))
    (job,) = spans.named("continue job")
    assert (job.parent, job.status.status_code) == (None, StatusCode.UNSET)
    assert "continue job > GET /inference-request/request-history" in spans.paths
    roots = {each.partition(" > ")[0] for each in spans.paths}
    assert roots == {CALL, "continue job"}


async def test_a_call_that_asks_for_a_job_is_not_the_parent_of_the_work_on_it(
    sandbox: Sandbox, tmp_path: Path, spans: Spans
) -> None:
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path) as app:
        job = await begun(app.service, VegaRTParameters(prompt=PROMPT))
        await until(lambda: sandbox.paid_requests)
    sandbox.let_go()
    async with app_over(sandbox.url, tmp_path) as app:
        with trace.get_tracer("test").start_as_current_span("asks"):
            await app.service.check(job.request_id)
        await until(lambda: spans.named("continue job"))
    assert {"asks > claim", "continue job > save"} <= spans.paths


async def test_a_refusal_of_the_work_is_not_a_failure_of_the_database(
    sandbox: Sandbox, tmp_path: Path, spans: Spans
) -> None:
    limits: dict[str, Any] = {"limits": Limits(usd_a_day=Decimal(0))}
    async with app_over(sandbox.url, tmp_path, **limits) as app, Client(build_server(app)) as agent:
        assert (await agent.call_tool("generate_image_vegart", {"prompt": PROMPT})).is_error
    assert {each.status.status_code for each in spans.named("begin")} == {StatusCode.UNSET}


async def test_requests_to_the_bucket_are_shown_without_the_words_of_the_prompt(
    sandbox: Sandbox, tmp_path: Path, spans: Spans, bucket: str
) -> None:
    from mcp_vega.storage.images.bucket import Bucket

    async with app_over(sandbox.url, tmp_path, images=Bucket(bucket)) as app, Client(build_server(app)) as agent:
        drawn = await agent.call_tool("generate_image_vegart", {"prompt": PROMPT})
        await until(lambda: spans.named("job"))
        assert job_of(drawn)["images"]
    assert f"{CALL} > job > s3 create" in spans.paths
    (kept,) = (each for each in spans.named("s3 create") if "job" in spans.path(each))
    name = bucket.removeprefix("s3://").partition("/")[0]
    assert dict(kept.attributes or {}) == {"rpc.service": "s3", "rpc.method": "create", "aws.s3.bucket": name}
    assert not [each for each in spans.ours if "heron" in words_of(each)]


class Broken(SpanProcessor):
    """Fails at each of our spans; and at each figure, as a recorder."""

    def __init__(self) -> None:
        self.failures = 0
        self.active = True  # a processor cannot be removed

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._fail

    def _fail(self, *_: object) -> None:
        self.failures += 1
        raise ValueError("broken")

    def on_start(self, span: ReadableSpan, parent_context: Any = None) -> None:  # noqa: ARG002
        if self.active and span.instrumentation_scope and span.instrumentation_scope.name == "mcp_vega":
            self._fail()

    def on_end(self, span: ReadableSpan) -> None:
        self.on_start(span)


async def test_a_recorder_and_a_span_processor_that_fail_break_no_call(
    sandbox: Sandbox, tmp_path: Path, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Any = Broken()
    spans.provider.add_span_processor(broken)
    set_recorder(broken)
    try:
        async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
            assert job_of(await agent.call_tool("generate_image_vega", {"prompt": PROMPT}))["state"] == "COMPLETED"
    finally:
        set_recorder(None)
        broken.active = False
    assert broken.failures > 2
    assert caplog.text.count("could not be recorded") == 1
