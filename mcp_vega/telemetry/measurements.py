"""Each kind of work that is measured. One place gives both the span and the figures, so nothing is measured twice.

The names of the attributes are those of OpenTelemetry's semantic conventions, as far as there are any.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter

from opentelemetry.context import Context

from mcp_vega.telemetry.recorder import Outcome, TransactionKind, recorder
from mcp_vega.telemetry.spans import Attributes, client_span, mark_failed, set_attribute


class Measurement:
    """A piece of work that is measured.

    Attributes:
        error: The kind of the error that it failed with, such as a class; empty if it did not fail. By default, the
            class of the exception that ended it.
        failed: Whether an exception that ends it is a failure. If not, it is one of the expected answers.
        status: The HTTP status of the answer, if there is one.
        seconds: How long it took.
    """

    def __init__(self) -> None:
        self._begun = perf_counter()
        self._cancelled = False
        self.error = ""
        self.failed = True
        self.status: int | None = None
        self.seconds = 0.0

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        if self._cancelled:
            return Outcome.CANCELLED
        return Outcome.ERROR if self.error else Outcome.OK

    def end(self, exception: BaseException | None) -> None:
        """Note the end, and the exception that ended it."""
        self.seconds = perf_counter() - self._begun
        if isinstance(exception, Exception):
            self.error = self.error or (type(exception).__name__ if self.failed else "")
        elif exception:  # a cancellation is none
            self._cancelled = True


@contextmanager
def measured(report: Callable[[Measurement], None]) -> Generator[Measurement]:
    """Measure the block, and report it at its end."""
    measurement = Measurement()
    try:
        yield measurement
    except BaseException as error:
        measurement.end(error)
        raise
    else:
        measurement.end(None)
    finally:
        report(measurement)


def tool_call(tool: str) -> AbstractContextManager[Measurement]:
    """The call of a tool, by its name, or `unknown`. The SDK opens its span."""
    return measured(lambda call: recorder().tool_called(tool, call.outcome, call.seconds))


@contextmanager
def _in_span(
    name: str, attributes: Attributes, report: Callable[[Measurement], None], context: Context | None = None
) -> Generator[Measurement]:
    """Measure a request to another system, in a span. For the `context` see `client_span`."""
    with client_span(name, attributes, context) as span:

        def end(request: Measurement) -> None:
            if request.status is not None:
                set_attribute(span, "http.response.status_code", request.status)
                if request.status >= 400:
                    request.error = request.error or str(request.status)
            if request.outcome is Outcome.ERROR:
                mark_failed(span, request.error)
            elif request.outcome is Outcome.CANCELLED:
                set_attribute(span, "error.type", Outcome.CANCELLED)
            report(request)

        with measured(end) as measurement:
            yield measurement


def api_request(
    operation: str, method: str, template: str, host: str, port: int | None
) -> AbstractContextManager[Measurement]:
    """One request to the API.

    Args:
        operation: Its name, from a fixed set.
        method: The HTTP method.
        template: The path with names instead of ids; empty if it is not known.
        host: The host to which it goes.
        port: The port, None for the usual one.
    """
    attributes = {"http.request.method": method, "server.address": host, "url.template": template, "server.port": port}
    return _in_span(
        f"{method} {template}".rstrip(),
        {name: value for name, value in attributes.items() if value},
        lambda request: recorder().api_requested(operation, request.status, request.seconds),
    )


def transaction(
    kind: TransactionKind, system: str, operation: str, context: Context | None = None
) -> AbstractContextManager[Measurement]:
    """A transaction of the ledger.

    Args:
        kind: Whether it reads or writes.
        system: The database, as OpenTelemetry names it.
        operation: The function that does the work.
        context: The context of the caller, if the work is done in another thread.
    """
    return _in_span(
        operation,
        {"db.system.name": system, "db.operation.name": operation},
        lambda transaction: recorder().ledger_used(kind, transaction.outcome, transaction.seconds),
        context,
    )


def bucket_request(operation: str, service: str, bucket: str) -> AbstractContextManager[Measurement]:
    """One request to an object storage.

    Args:
        operation: Its name, from a fixed set.
        service: The service: s3, gs or az.
        bucket: The bucket.
    """
    attributes = {"rpc.service": service, "rpc.method": operation}
    attributes |= {"aws.s3.bucket": bucket} if service == "s3" else {}
    return _in_span(
        f"{service} {operation}",
        attributes,
        lambda request: recorder().bucket_requested(operation, request.outcome, request.seconds),
    )
