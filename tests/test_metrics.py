"""Figures for Prometheus: they are right, their number is limited, and nothing private is in them."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import anyio
import httpx
import pytest
from conftest import NO_PAUSE, Sandbox, app_over, job_of, until, wait_until
from mcp.client import Client
from pages import read, rows
from services import promtool, require_packages
from stores import NO_LIMITS, a_job, ledger_at
from test_command_line import run
from test_http_access import HttpServer
from test_transports import address, complaints, started

from mcp_vega import __version__
from mcp_vega.cli.doctor import check as doctor
from mcp_vega.cli.doctor.team import check_metrics
from mcp_vega.errors import LedgerError, SpendingLimitReached
from mcp_vega.job import Image, ImageLocation, Job, State
from mcp_vega.jobs.running import RunningJobs
from mcp_vega.parameters import MODELS
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.telemetry.recorder import Load, Outcome, set_recorder

require_packages("prometheus_client")

from mcp_vega.telemetry.prometheus import Labels, PrometheusRecorder  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.services]

PROMPT, TOKEN = "an unmistakable heron", "a-token-of-a-test"
TOOL, MODEL = "generate_image_vegart", "segmind-vega-rt-v1"
SERVER = ["--transport", "http", "--port", "0", "--sandbox"]
IDLE = Load({"queued": 0}, slots_used=0, slots=16, calls_waiting=0, pictures_on_own_disk=0)

Figures = dict[str, float]


def parsed(text: str) -> Figures:
    """The figures by their names with labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


# The log then has the address.
AT_ANY_PORT = {"MCP_VEGA_METRICS_PORT": "0", "MCP_VEGA_LOG_LEVEL": "INFO"}


def scraped(url: str) -> str:
    return httpx.get(url, trust_env=False).raise_for_status().text


def metrics_url(folder: Path) -> str:
    return wait_until(lambda: re.search(r"http://\S+/metrics", complaints(folder)))[0]


@pytest.fixture
def recorder() -> Iterator[PrometheusRecorder]:
    """Takes the figures of the servers in this process."""
    found = PrometheusRecorder(__version__, Labels([TOOL], MODELS), lambda: IDLE)
    set_recorder(found)
    yield found
    set_recorder(None)


def of(recorder: PrometheusRecorder) -> Figures:
    return parsed(recorder.text("")[0].decode())


def increased(before: Figures, after: Figures) -> Figures:
    """What has changed between two readings."""
    changes = {name: value - before.get(name, 0) for name, value in after.items()}
    return {name: change for name, change in changes.items() if change}


# ---- the server ----


async def test_a_server_counts_what_it_does_without_anything_private(tmp_path: Path) -> None:
    variables = {**AT_ANY_PORT, "MCP_VEGA_CALLS_AT_ONCE": "3", "MCP_VEGA_AUTH_TOKENS": f"alice:{TOKEN}"}
    with started(tmp_path, *SERVER, **variables):
        url, server = metrics_url(tmp_path), HttpServer(address(tmp_path).removesuffix("/mcp"), "http")
        before = parsed(scraped(url))
        async with server.agent(TOKEN) as agent:
            job = job_of(await agent.call_tool(TOOL, {"prompt": PROMPT}))
            for number in range(3):
                await agent.call_tool(f"no_tool_{number}", {})
        done = f'mcp_vega_jobs_ended_total{{model="{MODEL}",outcome="done"}}'
        wait_until(lambda: parsed(scraped(url))[done])
        text = scraped(url)
        async with httpx.AsyncClient(trust_env=False) as http:
            others = await http.post(url), await http.get(url.removesuffix("/metrics"))
            rebound = await http.get(url, headers={"host": f"evil.example:{httpx.URL(url).port}"})
    assert [each.status_code for each in others] == [405, 404]
    assert (rebound.status_code, "(host_not_allowed)" in rebound.text, "mcp_vega_" in rebound.text) == (
        421,
        True,
        False,
    )
    after = parsed(text)
    assert after["mcp_vega_ready"] == 1
    expected = {
        f'mcp_vega_tool_calls_total{{outcome="ok",tool="{TOOL}"}}': 1,
        'mcp_vega_tool_calls_total{outcome="error",tool="unknown"}': 3,
        f'mcp_vega_tool_call_seconds_count{{tool="{TOOL}"}}': 1,
        f'mcp_vega_job_seconds_count{{model="{MODEL}"}}': 1,
        f'mcp_vega_spent_usd_total{{model="{MODEL}"}}': 0.002,
        f'mcp_vega_pictures_total{{model="{MODEL}"}}': 1,
        'mcp_vega_api_requests_total{operation="generate",status="200"}': 1,
        'mcp_vega_api_request_seconds_count{operation="generate"}': 1,
        'mcp_vega_previews_total{source="made"}': 1,
        "mcp_vega_preview_seconds_count": 1,
    }
    changes = increased(before, after)
    assert {name: changes.get(name) for name in expected} == pytest.approx(expected)
    assert changes['mcp_vega_ledger_transactions_total{kind="write",outcome="ok"}'] >= 3
    assert changes['mcp_vega_ledger_transaction_seconds_count{kind="write"}'] >= 3
    assert (after["mcp_vega_slots"], after["mcp_vega_slots_used"]) == (3, 0)
    assert after[f'mcp_vega_info{{version="{__version__}"}}'] == 1
    private = ("heron", "alice", TOKEN, "SG_", job["request_id"], "no_tool", str(tmp_path))
    assert [each for each in private if each in text] == []


def test_promtool_accepts_the_figures(recorder: PrometheusRecorder) -> None:
    recorder.api_requested("generate", 200, 0.5)
    recorder.bucket_requested("create", Outcome.OK, 0.5)
    text = recorder.text("")[0]
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_client_that_sends_its_request_slowly_blocks_nobody(tmp_path: Path) -> None:
    with started(tmp_path, *SERVER, **AT_ANY_PORT):
        url = httpx.URL(metrics_url(tmp_path))
        with closing(socket.create_connection((url.host, url.port or 0))) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\n")
            assert scraped(str(url))


# ---- what cannot be served ----


def test_a_port_that_is_taken_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*SERVER, folder=tmp_path, MCP_VEGA_METRICS_PORT=port)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Port {port} on 127.0.0.1 is not available" in done.stderr
    assert "Set MCP_VEGA_METRICS_PORT to another port" in done.stderr


def test_doctor_says_whether_a_server_can_serve_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment({"MCP_VEGA_METRICS_PORT": "9464"})
    (check,) = check_metrics(settings)
    assert (check.state, check.detail.endswith(" at 127.0.0.1, port 9464")) == (doctor.State.GOOD, True)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)  # as if it were not installed
    (check,) = check_metrics(settings)
    assert (check.state, "mcp-vega[team]" in check.fix) == (doctor.State.BAD, True)


# ---- figures of jobs ----


JOBS = 'mcp_vega_jobs_ended_total{{model="segmind-vega-rt-v1",outcome="{}"}}'
SPENT = f'mcp_vega_spent_usd_total{{model="{MODEL}"}}'


def ended(recorder: PrometheusRecorder) -> tuple[float, ...]:
    """How many jobs are done, have failed, or have an unknown outcome; and what they cost, in US dollars."""
    found = of(recorder)
    return (*(found[JOBS.format(each)] for each in ("done", "failed", "unknown")), round(found[SPENT], 6))


@pytest.mark.parametrize(
    ("fault", "history_status", "expected"),
    [
        ("", 200, (1, 0, 0, 0.002)),
        ("[fault:402]", 200, (0, 1, 0, 0)),
        ("[fault:504-after]", 200, (1, 0, 0, 0.002)),  # the request history has its picture
        ("[fault:504-after]", 503, (0, 0, 1, 0.002)),  # with the estimate
    ],
)
async def test_a_job_and_its_cost_count_once_and_are_logged_once_when_the_work_on_it_has_ended(  # noqa: PLR0913, PLR0917
    sandbox: Sandbox,
    tmp_path: Path,
    recorder: PrometheusRecorder,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    history_status: int,
    expected: tuple[float, ...],
) -> None:
    sandbox.account.history_status = history_status
    caplog.set_level("INFO")
    async with app_over(sandbox.url, tmp_path, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        await agent.call_tool(TOOL, {"prompt": f"a fox {fault}"})
        await until(lambda: not app.service.active)
        assert ended(recorder) == expected
        if history_status == 503:
            sandbox.account.history_status = 200
            (job,) = await app.service.store.latest(1)
            await agent.call_tool("check_job", {"request_id": job.request_id, "wait_seconds": 45})
            await until(lambda: not app.service.active)
            assert ended(recorder) == (1, 0, 1, 0.002)
    assert of(recorder)[f'mcp_vega_pictures_total{{model="{MODEL}"}}'] == ended(recorder)[0]
    assert caplog.text.count(" ended: ") == sum(ended(recorder)[:3])


class FailingStore(JobStore):
    """A store that does not save jobs for a while."""

    fails = False

    async def save(self, job: Job, *, release: bool = False) -> Job | None:
        if self.fails:
            raise LedgerError("the ledger does not answer")
        return await super().save(job, release=release)


async def test_a_job_that_is_saved_later_counts_once(tmp_path: Path, recorder: PrometheusRecorder) -> None:
    store, job = ledger_at(tmp_path).store(FailingStore), a_job()
    await store.begin(job, NO_LIMITS)
    jobs = RunningJobs(store)
    running = jobs.add(job)
    store.fails = True
    location = ImageLocation("/pictures", "fox.jpg")
    image = Image(id="1", location=location, mime_type="image/jpeg", width=1, height=1, bytes=1, sha256="")
    await jobs.update(job, state=State.COMPLETED, open=False, ended=job.created, images=(image,))
    await jobs.remove(running)
    store.fails = False
    await jobs.save_again()
    assert await store.get(job.local_id)
    await store.close()
    assert ended(recorder) == (1, 0, 0, 0.002)


async def test_the_load_shows_the_jobs_the_slots_and_the_calls_that_wait(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.hold()
    async with app_over(sandbox.url, tmp_path, wait_seconds=0, limits=Limits(calls_at_once=1)) as app:
        assert app.service.load == Load(dict.fromkeys(map(str.lower, State), 0), 0, 1, 0, 0)
        async with Client(build_server(app)) as agent:
            for seed in (1, 2):
                await agent.call_tool(TOOL, {"prompt": "a fox", "seed": seed})
            await until(lambda: app.service.load.calls_waiting)
            await until(lambda: app.service.load.jobs["processing"])
            load = app.service.load
        sandbox.let_go()
        await until(lambda: not app.service.active)
        assert app.service.load.slots_used == 0
    assert (load.slots_used, load.calls_waiting, load.jobs["processing"], load.jobs["queued"]) == (1, 1, 1, 1)


# ---- other figures ----


async def test_refusals_by_the_rate_limit_are_counted(
    sandbox: Sandbox, tmp_path: Path, recorder: PrometheusRecorder
) -> None:
    async with app_over(sandbox.url, tmp_path) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(TOOL, {"prompt": "a fox [fault:429*1]"}))
    found = of(recorder)
    requests = 'mcp_vega_api_requests_total{{operation="generate",status="{}"}}'
    assert [found[requests.format(status)] for status in (429, 200)] == [1, 1]
    assert found["mcp_vega_api_rate_limited_total"] == 1


def test_an_api_with_odd_statuses_cannot_create_figures_without_limit(recorder: PrometheusRecorder) -> None:
    for status in range(100, 10_000):
        recorder.api_requested("generate", status, 0.1)
    assert len([each for each in of(recorder) if each.startswith("mcp_vega_api_requests_total")]) < 200


async def test_a_preview_of_the_gallery_is_made_once(
    sandbox: Sandbox, tmp_path: Path, recorder: PrometheusRecorder
) -> None:
    async with app_over(sandbox.url, tmp_path, preview="off") as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(TOOL, {"prompt": "a fox"}))
        (job,) = await app.service.store.latest(1)
        for _ in range(3):
            await app.gallery.preview(job.images[0])
    found = of(recorder)
    assert [found[f'mcp_vega_previews_total{{source="{each}"}}'] for each in ("made", "cache")] == [1, 2]


async def test_a_transaction_fails_only_if_the_database_does(tmp_path: Path, recorder: PrometheusRecorder) -> None:
    def count(kind: str, outcome: str) -> float:
        return of(recorder)[f'mcp_vega_ledger_transactions_total{{kind="{kind}",outcome="{outcome}"}}']

    store, job = JobStore.in_file(tmp_path / "ledger.sqlite3"), a_job()
    with pytest.raises(SpendingLimitReached):
        await store.begin(job, Limits(usd_a_day=Decimal(0)))
    assert (count("write", "ok"), count("write", "error")) == (1, 0)
    store.mark_delivered(job, job.created)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await store.get(job.local_id)
    await store.close()
    assert (count("deferred", "ok"), count("read", "cancelled"), count("read", "error")) == (1, 1, 0)
    (tmp_path / "broken").write_text("not a database" * 1000)
    broken = JobStore.in_file(tmp_path / "broken")
    with pytest.raises(LedgerError):
        await broken.get(job.local_id)
    await broken.close()
    assert count("read", "error") == 1


async def test_requests_to_the_bucket_are_counted(
    sandbox: Sandbox, tmp_path: Path, recorder: PrometheusRecorder, bucket: str
) -> None:
    from mcp_vega.storage.images.bucket import Bucket

    async with app_over(sandbox.url, tmp_path, images=Bucket(bucket)) as app, Client(build_server(app)) as agent:
        job_of(await agent.call_tool(TOOL, {"prompt": "a fox"}))
        (job,) = await app.service.store.latest(1)
        location = job.images[0].location
        assert await Bucket(bucket).is_missing(location.key) is False
        assert await Bucket(bucket).is_missing("2026-11-20/none.jpg")  # an answer, not a failure
        await app.service.image_mover.move_back()
    found = of(recorder)
    outcomes = {name: value for name, value in found.items() if name.startswith("mcp_vega_bucket_requests_total")}
    assert {re.findall('"([^"]+)"', name)[1] for name in outcomes} == {"ok"}
    assert outcomes['mcp_vega_bucket_requests_total{operation="look_up",outcome="ok"}'] == 2
    assert outcomes['mcp_vega_bucket_requests_total{operation="create",outcome="ok"}'] >= 2


# ---- the documents ----


def test_the_table_of_figures_is_that_of_the_registry(recorder: PrometheusRecorder) -> None:
    recorder.api_requested("generate", 200, 0.1)
    recorder.bucket_requested("create", Outcome.OK, 0.1)

    def names(of_figure: str) -> list[str]:
        """The labels of a figure, without `le` of a histogram."""
        labels = {each for sample in metrics[of_figure].samples for each in sample.labels}
        return sorted(labels - {"le"})

    metrics = {each.name: each for each in recorder.registry.collect() if each.name.startswith("mcp_vega_")}
    expected = [
        [
            f"`{name}{'_total' if metric.type == 'counter' else ''}`",
            metric.type,
            ", ".join(f"`{each}`" for each in names(name)) or "–",
            metric.documentation,
        ]
        for name, metric in metrics.items()
    ]
    assert rows(read("docs/operating.md"), "figure") == expected
