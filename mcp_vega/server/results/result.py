"""What all tool results have: the text and the previews, what can still be spent, and where the API is the sandbox."""

import json
from collections.abc import Sequence
from typing import Any

from mcp_types import CallToolResult, ImageContent, TextContent

from mcp_vega.errors import VegaError
from mcp_vega.server.client_info import CURRENT_CLIENT
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.storage.ledger.spending import dollars

SANDBOX = "Sandbox: a stand-in for Segmind on this machine; no key, no network and no money is used."
# How many characters of text and data go beside the previews of a result without taking from their share.
BESIDE_PREVIEWS = 10_000


async def result_of(
    app: AppContext, text: str, meta: dict[str, Any], notes: Sequence[str] = (), previews: Sequence[ImageContent] = ()
) -> CallToolResult:
    """A result that also says what can still be spent today, where there is a limit."""
    lines = [text]
    if budget := await app.service.budget():
        lines += [f"Spending limit: {dollars(budget.left)} of {dollars(budget.limit)} left today (UTC)"]
        figures = {"limit_usd": budget.limit, "spent_usd": budget.spent, "left_usd": budget.left}
        meta["mcp-vega/spending"] = {name: float(figure) for name, figure in figures.items()}
    lines += [f"Note: {note}." for note in notes]
    shown = TextContent(type="text", text=_marked(app, "\n".join(lines)))
    return CallToolResult(content=[shown, *previews], _meta=meta or None)


def of_error(app: AppContext, error: VegaError) -> CallToolResult:
    """The result of a call that failed."""
    error = records.error_for(app, error, CURRENT_CLIENT.get())
    text = TextContent(type="text", text=_marked(app, error.text))
    return CallToolResult(content=[text], is_error=True, _meta={"mcp-vega/error": records.error_data(error)})


def taken_by(text: str, meta: dict[str, Any]) -> int:
    """How many characters of what previews may take a result's text and data take from them."""
    return max(len(text) + len(json.dumps(meta, ensure_ascii=False)) - BESIDE_PREVIEWS, 0)


def _marked(app: AppContext, text: str) -> str:
    """The text, with a line that says so where the API is the sandbox."""
    return f"{text}\n{SANDBOX}" if app.sandbox else text
