"""Takes the figures for Prometheus. Only a server over HTTP imports this module, if MCP_VEGA_METRICS_PORT is set."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mcp_vega.telemetry.recorder import JobOutcome, Load, Outcome, Recorder, TransactionKind

# The upper ends of the histograms' buckets, in seconds: for work on this machine, for a request to another machine, and
# for a picture.
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
MEDIUM = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300)


class Labels(NamedTuple):
    """The values of labels that this package does not know: with them, the figures begin at 0."""

    tools: Iterable[str]
    models: Iterable[str]


class _Registry(CollectorRegistry):
    """The figures of this package. All names begin alike."""

    def counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"mcp_vega_{name}", says, labels, registry=self)

    def gauge(self, name: str, says: str, *labels: str) -> Gauge:
        return Gauge(f"mcp_vega_{name}", says, labels, registry=self)

    def histogram(self, name: str, says: str, *labels: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(f"mcp_vega_{name}", says, labels, buckets=tuple(buckets), registry=self)


class PrometheusRecorder(Recorder):
    """Takes the figures, in a registry of its own.

    Args:
        version: The version of this program.
        labels: The tools and the models.
        load: Returns what the server does now. It is called at each reading.
    """

    def __init__(self, version: str, labels: Labels, load: Callable[[], Load]) -> None:
        disable_created_metrics()  # they would double the number of figures
        self.registry = registry = _Registry()
        counter, histogram = registry.counter, registry.histogram
        self._tool_calls = counter(
            "tool_calls",
            "Calls of tools. A call of a tool that does not exist counts as the tool `unknown`.",
            "tool",
            "outcome",
        )
        self._tool_call_seconds = histogram(
            "tool_call_seconds", "Seconds until a call of a tool was answered.", "tool", buckets=(*SHORT, 10, 45, 60)
        )
        self._jobs_ended = counter(
            "jobs_ended",
            "Jobs that ended in this server. A job counts again if its `unknown` outcome becomes known later.",
            "model",
            "outcome",
        )
        self._job_seconds = histogram("job_seconds", "Seconds from a call until its outcome.", "model", buckets=LONG)
        self._spent = counter(
            "spent_usd",
            "US dollars for the jobs that ended in this server: as the API reported, else estimated.",
            "model",
        )
        self._pictures = counter("pictures", "Pictures that this server saved.", "model")
        self._api_requests = counter(
            "api_requests",
            "Requests to the API by the HTTP status of the answer; `none` if no answer came.",
            "operation",
            "status",
        )
        self._api_request_seconds = histogram(
            "api_request_seconds", "Seconds until a request to the API was answered.", "operation", buckets=LONG
        )
        self._rate_limited = counter("api_rate_limited", "Requests that the API refused with status 429.")
        self._previews = counter("previews", "Previews that were made, or were in the cache of the gallery.", "source")
        self._preview_seconds = histogram(
            "preview_seconds", "Seconds until the previews of one result were made.", buckets=SHORT
        )
        self._transactions = counter(
            "ledger_transactions",
            "Transactions of the ledger. Deferred ones are written while nobody waits.",
            "kind",
            "outcome",
        )
        self._transaction_seconds = histogram(
            "ledger_transaction_seconds", "Seconds until a transaction of the ledger was done.", "kind", buckets=SHORT
        )
        self._bucket_requests = counter("bucket_requests", "Requests to the bucket.", "operation", "outcome")
        self._bucket_request_seconds = histogram(
            "bucket_request_seconds", "Seconds until a request to the bucket was done.", "operation", buckets=MEDIUM
        )
        self._ready = registry.gauge("ready", "1 if the server accepts calls, else 0.")
        registry.gauge("info", "Always 1; the label is the version.", "version").labels(version).set(1)
        self._begin_at_zero(labels)
        registry.register(_LoadCollector(load))
        ProcessCollector(registry=registry)

    def _begin_at_zero(self, labels: Labels) -> None:
        """Let the figures exist before anything has happened, so that Prometheus sees the first increase."""
        for tool in labels.tools:
            for outcome in Outcome:
                self._tool_calls.labels(tool, outcome)
            self._tool_call_seconds.labels(tool)
        for model in labels.models:
            for ended in JobOutcome:
                self._jobs_ended.labels(model, ended)
            for each in (self._job_seconds, self._spent, self._pictures):
                each.labels(model)
        for kind in TransactionKind:
            for outcome in Outcome:
                self._transactions.labels(kind, outcome)
            self._transaction_seconds.labels(kind)
        for source in ("made", "cache"):
            self._previews.labels(source)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The figures in the format that fits the header `Accept`, and the media type of that format."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    # ---- the figures ----

    def tool_called(self, tool: str, outcome: Outcome, seconds: float) -> None:
        self._tool_calls.labels(tool, outcome).inc()
        self._tool_call_seconds.labels(tool).observe(seconds)

    def job_ended(self, model: str, outcome: JobOutcome, seconds: float) -> None:
        self._jobs_ended.labels(model, outcome).inc()
        self._job_seconds.labels(model).observe(seconds)

    def spent(self, model: str, usd: float) -> None:
        self._spent.labels(model).inc(usd)

    def pictures_kept(self, model: str, count: int) -> None:
        self._pictures.labels(model).inc(count)

    def api_requested(self, operation: str, status: int | None, seconds: float) -> None:
        self._api_requests.labels(operation, _status_label(status)).inc()
        self._api_request_seconds.labels(operation).observe(seconds)
        if status == 429:
            self._rate_limited.inc()

    def previews_made(self, count: int, seconds: float) -> None:
        self._previews.labels("made").inc(count)
        self._preview_seconds.observe(seconds)

    def preview_reused(self) -> None:
        self._previews.labels("cache").inc()

    def ledger_used(self, kind: TransactionKind, outcome: Outcome, seconds: float) -> None:
        self._transactions.labels(kind, outcome).inc()
        self._transaction_seconds.labels(kind).observe(seconds)

    def bucket_requested(self, operation: str, outcome: Outcome, seconds: float) -> None:
        self._bucket_requests.labels(operation, outcome).inc()
        self._bucket_request_seconds.labels(operation).observe(seconds)

    def set_ready(self, *, ready: bool) -> None:
        """Report whether the server accepts calls."""
        self._ready.set(ready)


class _LoadCollector(Collector):
    """The figures of this moment."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        jobs = GaugeMetricFamily("mcp_vega_jobs", "Jobs that this server works on, by state.", labels=["state"])
        for state, count in load.jobs.items():
            jobs.add_metric([state], count)
        yield jobs
        for name, says, value in (
            ("slots_used", "Paid calls of this server that are at the API.", load.slots_used),
            ("slots", "How many paid calls all servers together may have at the API.", load.slots),
            ("calls_waiting", "Calls of this server that wait for their turn.", load.calls_waiting),
            (
                "pictures_on_own_disk",
                "Pictures that this server can move to the gallery, but has not moved yet.",
                load.pictures_on_own_disk,
            ),
        ):
            yield GaugeMetricFamily(f"mcp_vega_{name}", says, value)


# The statuses that HTTP defines, those of nginx and Cloudflare included. Others count together with their class.
KNOWN_STATUSES = frozenset(
    (*range(200, 209), *range(300, 309), *range(400, 452), 499, *range(500, 512), *range(520, 531))
)


def _status_label(status: int | None) -> str:
    if status is None:
        return "none"
    return str(status) if status in KNOWN_STATUSES else f"{status // 100}xx"
