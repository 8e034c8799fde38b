"""The log on stderr, as text or as JSON. No line has a key. Only with DEBUG may a line quote a caller's text.

Callers choose prompts, names and ids, so an error or an exception may quote any of them. This package logs the code of
such an error instead. For all other lines, and for those of other packages, this module leaves out what may be such a
text.
"""

import json
import logging
import re
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, cast

from mcp_vega.redaction import redacted
from mcp_vega.telemetry.log_context import JOB, REQUEST

# The fields of a line in JSON, in this order. Those after `message` are left out if they are not known.
FIELDS = ("time", "level", "logger", "message", "job", "request_id", "rpc_id", "trace_id", "span_id", "exception")

# Loggers whose lower levels are left out. httpx would log every URL, httpcore every header, even with DEBUG.
_LEVELS = {"httpx": logging.WARNING, "httpcore": logging.WARNING}
# The same unless the level is DEBUG: the MCP SDK quotes the URIs of resources and the ids of sessions, OpenTelemetry
# quotes a header of the caller. uvicorn logs seven steps of each start and end, and the figures have a uvicorn as well.
_LEVELS_UNLESS_DEBUG = {
    **_LEVELS,
    "mcp": logging.WARNING,
    "uvicorn": logging.WARNING,
    "opentelemetry": logging.ERROR,
}
# These loggers quote a header, a parameter of the URL or an exception, after a colon or on further lines.
_QUOTING = {"asyncio", "mcp.server.sse", "mcp.server.transport_security"}
# The name of a picture's file begins with words of the prompt. Seed and id are left, so that the file can be found.
_FILE_NAME = re.compile(r"(?<![^\s/\\\"'“(])[^\s/\\\"'“(]+-(\d+-(?:[0-9a-f]{32}|[0-9a-f]{8})\.[a-z]{3,4})\b")

# How many characters of a JSON-RPC id are shown: the caller has chosen it.
_MOST_ID = 100
# JSON's integers are exact up to here in all languages.
_MOST_INTEGER = 2**53


def log_to_stderr(level: str, form: Literal["text", "json"]) -> None:
    """Log to stderr from now on. The MCP SDK then sets up no log of its own."""
    quotes = level == "DEBUG"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(quotes=quotes) if form == "json" else _TextFormatter(quotes=quotes))
    logging.basicConfig(level=level, handlers=[handler])
    for name, least in (_LEVELS if quotes else _LEVELS_UNLESS_DEBUG).items():
        logging.getLogger(name).setLevel(max(least, logging.getLevelNamesMapping()[level]))
    if form == "json":
        _log_the_rest()


def _log_the_rest() -> None:
    """Log what Python would write to stderr as plain text: warnings, and errors that nothing has handled."""
    logging.captureWarnings(capture=True)
    logger = logging.getLogger(__name__)
    sys.excepthook = lambda kind, error, trace: logger.critical("The server broke", exc_info=(kind, error, trace))
    threading.excepthook = lambda broken: logger.error("A thread broke", exc_info=broken.exc_value)
    sys.unraisablehook = lambda broken: logger.error("An error could not be raised", exc_info=broken.exc_value)


class _Formatter(ABC, logging.Formatter):
    """Makes a line from a record. It never raises, whatever is in the record."""

    def __init__(self, *, quotes: bool) -> None:
        super().__init__()
        self._quotes = quotes  # whether a line may quote a caller's text

    def format(self, record: logging.LogRecord) -> str:
        message = self._or_type(self._message, record)
        error = record.exc_info[1] if record.exc_info else None
        return self._line(record, message, self._or_type(self._trace, error) if error else "")

    @abstractmethod
    def _line(self, record: logging.LogRecord, message: str, exception: str) -> str:
        """The line with these parts."""

    def _or_type(self, text_of: Callable[[Any], str], source: object) -> str:
        try:
            text = redacted(text_of(source))
        except Exception as error:  # noqa: BLE001  for example a text of an object that has no text
            return f"This part of the log cannot be shown ({type(error).__name__})"
        return text if self._quotes else _FILE_NAME.sub(r"…-\1", text)

    def _message(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  the arguments do not fit the text
            text = str(record.msg)
        return re.split("[:\n]", text, maxsplit=1)[0] if record.name in _QUOTING and not self._quotes else text

    def _trace(self, error: BaseException) -> str:
        lines = traceback.format_exception(error) if self._quotes else _without_messages(error)
        return "".join(lines).rstrip("\n")


class _TextFormatter(_Formatter):
    def _line(self, record: logging.LogRecord, message: str, exception: str) -> str:
        line = f"{record.levelname} {record.name}: {message}"
        return f"{line}\n{exception}" if exception else line


class _JsonFormatter(_Formatter):
    def _line(self, record: logging.LogRecord, message: str, exception: str) -> str:
        known = {
            "time": _time(record.created),
            "level": str(record.levelname),
            "logger": str(record.name),
            "message": message,
            **self._subjects(),
            **_span(),
        }
        values = known | ({"exception": exception} if exception else {})
        # ASCII, whatever the encoding of stderr. Half a character cannot be read in every language.
        return json.dumps({name: _readable(values[name]) for name in FIELDS if name in values})

    def _subjects(self) -> dict[str, str | int]:
        """The ids of the job that is worked on, and of the request that is answered."""
        job, request = JOB.get(), REQUEST.get()
        ids: dict[str, str | int] = {}
        if job and job.value:
            ids |= {"job": job.value.local_id, "request_id": redacted(job.value.request_id)}
        if request and request.value is not None:
            rpc_id = request.value
            is_exact = isinstance(rpc_id, int) and abs(rpc_id) <= _MOST_INTEGER
            ids["rpc_id"] = rpc_id if is_exact else self._or_type(str, rpc_id)[:_MOST_ID]
        return ids


def _time(seconds: float) -> str:
    """A Unix time (s) as in RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _span() -> dict[str, str]:
    """The ids of the current span of OpenTelemetry, if there is one."""
    from opentelemetry import trace  # only with JSON

    span = trace.get_current_span().get_span_context()
    return {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"} if span.is_valid else {}


def _readable(value: str | int) -> str | int:
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _without_messages(error: BaseException) -> Iterator[str]:
    """A traceback with the types of the errors, but without their messages. Of the system's errors, it has the reason.

    Several errors are in the order in which they were raised.
    """
    chain = [error]
    while following := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        if any(following is each for each in chain):
            break
        chain.append(following)
    for each in reversed(chain):
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(each.__traceback__)
        reason = f": {each.strerror}" if isinstance(each, OSError) and each.strerror else ""
        yield f"{type(each).__qualname__}{reason}\n"
        if isinstance(each, BaseExceptionGroup):
            for part in cast("tuple[BaseException, ...]", each.exceptions):
                yield from (f"  {line}" for line in "".join(_without_messages(part)).splitlines(keepends=True))
