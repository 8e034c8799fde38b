"""The comparison as a page for people, and as a file that can be attached to a report.

Neither contains a key, an id, a balance or a path. They show the form of the answers, not the values.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any, cast
from urllib.parse import urlsplit

from mcp_vega import __version__
from mcp_vega.cli.doctor.check import without
from mcp_vega.cli.doctor.paid.assumptions import ASSUMPTIONS
from mcp_vega.cli.doctor.paid.finding import Assumption, Verdict, differs, media_type, word
from mcp_vega.cli.doctor.paid.observation import Observations
from mcp_vega.imaging.formats import recognise
from mcp_vega.segmind.response import Exchange

# The columns of the page: as many as the terminal has, but within these limits.
LEAST_WIDTH, WIDTH = 40, 100
# The columns in front of a line's text.
MARGIN, LABEL = 11, 12
# How many levels of a body are shown, and how many fields of an object.
DEPTH, FIELDS = 5, 40
# Shorter than any id of a call.
SHORT = 8


@dataclass(frozen=True)
class Row:
    """An assumption and what was observed; `fix` is empty unless they differ."""

    name: str
    documented: str
    assumed: str
    observed: str
    verdict: Verdict
    fix: str


def compare(seen: Observations, secrets: Iterable[str]) -> list[Row]:
    """Compare every assumption with what was seen; the rows contain none of the secrets."""
    hidden = [*secrets]
    return [_row(each, seen, hidden) for each in ASSUMPTIONS]


def _row(assumption: Assumption, seen: Observations, secrets: Sequence[str]) -> Row:
    try:
        found = assumption.compare(seen)
    except Exception as error:  # noqa: BLE001  an odd answer must not hide the other rows
        found = differs(f"it could not be compared ({type(error).__name__})", "Report it")
    fix = (found.fix or assumption.fix) if found.verdict is Verdict.DIFFERS else ""
    observed, fix = (_clean(text, seen, secrets) for text in (found.observed, fix))
    return Row(assumption.name, assumption.documented, assumption.assumed, observed, found.verdict, fix)


def _clean(text: str, seen: Observations, secrets: Sequence[str]) -> str:
    for request_id in _ids(seen):
        text = text.replace(request_id, "{id}")
    return without(text, secrets)


def _ids(seen: Observations) -> Iterator[str]:
    """The ids of calls, from all answers."""
    for drawn in seen.drawn:
        told = [drawn.job.remote_id, drawn.job.local_id] if drawn.job else []
        told += [row.request_id for row in (*drawn.rows, *drawn.again)]
        told += [each.response.headers.get("x-request-id") for each in seen.exchanges.get(drawn.picture.name, ())]
        yield from (each for each in told if each and len(each) >= SHORT)


# ---- for people ----


def page(rows: Sequence[Row], terminal: int | None) -> list[str]:
    """The rows, and what the user should do, as lines that fit the terminal, if there is one."""
    width = max(min(terminal or WIDTH, WIDTH), LEAST_WIDTH)
    lines: list[str] = []
    for row in rows:
        lines.append(f"{row.verdict:{MARGIN}}{row.name}")
        for label in ("documented", "assumed", "observed"):
            text = wrap(getattr(row, label), width - MARGIN - LABEL, break_on_hyphens=False) or ["–"]
            lines.append(f"{'':{MARGIN}}{label:{LABEL}}{text[0]}")
            lines += [f"{'':{MARGIN + LABEL}}{more}" for more in text[1:]]
    counts = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    lines += ["", ", ".join(f"{verdict}: {count}" for verdict, count in counts.items())]
    wrong = [row for row in rows if row.verdict is Verdict.DIFFERS]
    if wrong:
        lines.append("What to do:")
        for row in wrong:
            lines += wrap(f"- {row.name}: {row.fix}.", width, subsequent_indent="  ", break_on_hyphens=False)
    return lines


# ---- as JSON ----


def record(rows: Sequence[Row], seen: Observations, secrets: Iterable[str], *, sandbox: bool) -> dict[str, Any]:
    """Everything as JSON: the rows, the pictures, and the form of each answer."""
    hidden = [*secrets]
    told = {
        "mcp_vega": __version__,
        "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "api": "sandbox" if sandbox else seen.base_url,
        "history": "sandbox" if sandbox else seen.history_url,
        "rows": [asdict(row) for row in rows],
        "pictures": [
            {
                "picture": drawn.picture.name,
                "state": drawn.job.state if drawn.job else None,
                "images": len(drawn.job.images) if drawn.job else 0,
                "seconds": round(drawn.seconds, 3),
                "error": drawn.error and {"code": drawn.error.code, "what": drawn.error.what},
            }
            for drawn in seen.drawn
        ],
        "left_out": seen.left_out,
        "answers": [_answer(doing, each, seen) for doing, exchanges in seen.exchanges.items() for each in exchanges],
    }
    return _cleaned(told, seen, hidden)


def _answer(doing: str, exchange: Exchange, seen: Observations) -> dict[str, Any]:
    response = exchange.response
    return {
        "while": doing,
        "method": exchange.method,
        "url": _template(exchange, seen),
        "status": response.status,
        "content_type": media_type(response),
        "headers": sorted(map(word, response.headers)),
        "body": _body(response.body, response.json),
        "seconds": round(exchange.seconds, 3),
    }


def _template(exchange: Exchange, seen: Observations) -> str:
    """An address without ids; of a picture's address, the host alone."""
    url = urlsplit(exchange.url)
    if not seen.is_of_api(exchange):
        return f"{url.scheme}://{url.netloc}/…"
    path = re.sub(r"/(requests|request-history)/[^/?]+", r"/\1/{id}", url.path)
    return f"{path}?{url.query}" if url.query else path


def _body(data: bytes, json: Any) -> Any:
    if found := recognise(data):
        return f"{found.mime_type}, {len(data):,} bytes"
    return f"{len(data):,} bytes, not JSON" if json is None else _form(json)


def _form(value: Any, depth: int = DEPTH) -> Any:
    """The form of a JSON value: each value is replaced by its type, and of a list only the first value is kept."""
    if isinstance(value, dict):
        fields = list(cast("dict[str, Any]", value).items())[:FIELDS]
        return {word(name): _form(each, depth - 1) for name, each in fields} if depth else "object"
    if isinstance(value, list):
        return [_form(each, depth - 1) for each in cast("list[Any]", value)[:1]] if depth else "list"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "null" if value is None else "number"


def _cleaned(value: Any, seen: Observations, secrets: Sequence[str]) -> Any:
    """A JSON value without ids and secrets, also in the names of fields."""
    if isinstance(value, str):
        return _clean(value, seen, secrets)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value).items()
        return {_clean(name, seen, secrets): _cleaned(each, seen, secrets) for name, each in fields}
    if isinstance(value, list):
        return [_cleaned(each, seen, secrets) for each in cast("list[Any]", value)]
    return value
