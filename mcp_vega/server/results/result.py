"""What all tool results have: the text and the previews, the rest of the spending limit, and the sandbox's mark."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mcp_types import CallToolResult, ImageContent, TextContent

from mcp_vega.errors import VegaError
from mcp_vega.job.free import of_free_call
from mcp_vega.server.client_info import CURRENT_CLIENT, ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.results import records
from mcp_vega.storage.ledger.spending import dollars

SANDBOX = "Sandbox: not Segmind, no real money."
# How the lines of notes and of the spending limit begin.
NOTE, LIMIT = "Note: ", "Spending limit: "
# So many characters of text and data do not reduce the space for the previews of a result.
BESIDE_PREVIEWS = 10_000


@dataclass(frozen=True)
class ResultText:
    """The text of a result, in the order of its parts.

    Some hosts show a person only the end of it. So the `last` lines are what the next step needs: the places of the
    pictures or, if the job has not finished, its state and its id. The rest of the spending limit and the mark of the
    sandbox are before them.
    """

    sentence: str
    notes: Sequence[str] = ()
    facts: Sequence[str] = ()
    last: Sequence[str] = ()

    def lines(self, further_facts: Sequence[str] = ()) -> list[str]:
        """All lines, with further facts behind its own."""
        notes = [f"{NOTE}{note}." for note in self.notes]
        return [self.sentence, *notes, *self.facts, *further_facts, *self.last]


async def result_of(
    app: AppContext, client: ClientInfo, text: ResultText, meta: dict[str, Any], previews: Sequence[ImageContent] = ()
) -> CallToolResult:
    """A result that also says how much its caller can still spend today, if there is a limit."""
    further: list[str] = []
    if budget := await app.service.budget(client.owner):
        left, limit = (dollars(amount, pretend=app.sandbox) for amount in (budget.left, budget.limit))
        further += [f"{LIMIT}{left} of {limit} left today (UTC)"]
        figures = {"limit_usd": budget.limit, "spent_usd": budget.spent, "left_usd": budget.left}
        meta["mcp-vega/spending"] = {name: float(figure) for name, figure in figures.items()}
    further += [SANDBOX] if app.sandbox else []
    if app.local:
        meta["mcp-vega/local"] = True
    shown = TextContent(type="text", text="\n".join(text.lines(further)))
    return CallToolResult(content=[shown, *previews], _meta=_data_for(client, meta))


def of_error(app: AppContext, error: VegaError) -> CallToolResult:
    """The result of a call that failed."""
    client = CURRENT_CLIENT.get()
    error = records.error_for(app, of_free_call(error) if app.local else error, client)
    text = f"{error.text}\n{SANDBOX}" if app.sandbox else error.text
    meta = _data_for(client, {"mcp-vega/error": records.error_data(error)})
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True, _meta=meta)


def taken_by(text: ResultText, meta: dict[str, Any]) -> int:
    """How many characters of the previews' share the text and the data of a result take."""
    length = len("\n".join(text.lines())) + len(json.dumps(meta, ensure_ascii=False))
    return max(length - BESIDE_PREVIEWS, 0)


def _data_for(client: ClientInfo, meta: dict[str, Any]) -> dict[str, Any] | None:
    return None if client.text_only else meta or None
