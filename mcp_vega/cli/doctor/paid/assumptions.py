"""All assumptions, in the order of the page; the last ones could be tested only with time, money or failures."""

from mcp_vega.cli.doctor.paid.every_call import EVERY_CALL
from mcp_vega.cli.doctor.paid.finding import Assumption, not_tried
from mcp_vega.cli.doctor.paid.history_pages import HISTORY_PAGES
from mcp_vega.cli.doctor.paid.history_rows import HISTORY_ROWS
from mcp_vega.cli.doctor.paid.v1 import V1
from mcp_vega.cli.doctor.paid.v2 import V2


def _untried(name: str, documented: str, assumed: str, why: str) -> Assumption:
    """An assumption that these calls do not test."""
    return Assumption(name, documented, assumed, "", lambda _: not_tried(why))


UNTRIED = (
    _untried(
        "only success is charged",
        "only HTTP 200 is billed",
        "a 4xx is free, and so is a FAILED job without a cost; a 5xx may be charged",
        "no call was made to fail",
    ),
    _untried(
        "lost answers",
        "the history lists every call, also failed and unfinished ones",
        "it shows a call whose answer was lost within a day, however the call ended",
        "no answer was thrown away",
    ),
    _untried(
        "repeated calls",
        "no idempotency key: each POST is a new call",
        "the same, so a call is retried only when it certainly did not run",
        "it would be charged twice",
    ),
    _untried(
        "several pictures",
        "samples up to 4 (Vega); for v1 the form of the answer is not documented",
        "v2 draws them and lists each in images; the history has a row for each",
        "each call draws one picture",
    ),
    _untried(
        "records and pictures",
        "a job's record is kept for 1 hour, its picture for 7 days",
        "the same",
        "the test would take that long",
    ),
)

ASSUMPTIONS = (*EVERY_CALL, *V1, *V2, *HISTORY_PAGES, *HISTORY_ROWS, *UNTRIED)
