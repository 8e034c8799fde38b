"""Spans of OpenTelemetry, through its API alone: without its SDK in the process, nothing is recorded.

An attribute never has a prompt, a key, a caller, or a URL with its path or query. Errors appear as their class: texts
of errors may have such contents.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode

from mcp_vega.telemetry.failures import reporting_failure

Attributes = Mapping[str, str | int]

_tracer = trace.get_tracer("mcp_vega")


def current_context() -> Context:
    """The context of the code that runs now. Work that is done later, in a thread, needs it for its span."""
    return contexts.get_current()


@contextmanager
def detached() -> Generator[None]:
    """Start tasks that do not belong to the current request: their spans get no parent."""
    token = contexts.attach(Context())
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def span(name: str, attributes: Attributes, *, root: bool = False) -> Generator[Span]:
    """A span of work inside the server. With `root`, it begins a trace of its own."""
    with _opened(name, attributes, SpanKind.INTERNAL, Context() if root else None) as opened:
        yield opened


@contextmanager
def client_span(name: str, attributes: Attributes, context: Context | None = None) -> Generator[Span]:
    """A span of a request to another system. It has a parent: the current span, or that of the `context`.

    Without a parent, no span is opened: servers ask the ledger several times a second whether there is something to do,
    and each question would be a trace of its own.
    """
    if not trace.get_current_span(context).get_span_context().is_valid:
        yield INVALID_SPAN
        return
    with _opened(name, attributes, SpanKind.CLIENT, context) as opened:
        yield opened


@contextmanager
def _opened(name: str, attributes: Attributes, kind: SpanKind, context: Context | None) -> Generator[Span]:
    """A span while the block runs. Errors of the tracer, which others configure, do not reach the block."""
    opened = INVALID_SPAN
    with reporting_failure():
        opened = _tracer.start_span(name, context, kind, attributes)
    try:
        # Our own code sets the status: a message of an error may contain what must not be there.
        with trace.use_span(opened, record_exception=False, set_status_on_exception=False):
            yield opened
    finally:
        with reporting_failure():
            opened.end()


def mark_failed(failed: Span, error: str) -> None:
    """Note that the work of a span failed. `error` is the kind of error, from a small set, such as a class."""
    set_attribute(failed, "error.type", error)
    with reporting_failure():
        failed.set_status(StatusCode.ERROR)


def set_attribute(span: Span, name: str, value: str | int) -> None:
    """Note something about the work of a span."""
    with reporting_failure():
        span.set_attribute(name, value)
