"""Every assumption, in the order of the page; last those that only time, money or bad luck would settle."""

from mcp_vega.cli.doctor.paid.every_call import EVERY_CALL
from mcp_vega.cli.doctor.paid.finding import Assumption, not_tried
from mcp_vega.cli.doctor.paid.history_pages import HISTORY_PAGES
from mcp_vega.cli.doctor.paid.history_rows import HISTORY_ROWS
from mcp_vega.cli.doctor.paid.v1 import V1
from mcp_vega.cli.doctor.paid.v2 import V2


def _untried(name: str, documented: str, assumed: str, why: str) -> Assumption:
    """An assumption that nothing here is done about."""
    return Assumption(name, documented, assumed, "", lambda _: not_tried(why))


UNTRIED = (
    _untried(
        "only success is charged",
        "only HTTP 200 is billed",
        "a 4xx and a job that FAILED without a cost are free; after a 5xx it is not known",
        "no call is made to fail",
    ),
    _untried(
        "lost answers",
        "the history lists every call, failed and unfinished ones included",
        "a call whose answer was lost is in it within a day, however it ended",
        "no answer is thrown away",
    ),
    _untried(
        "repeated calls",
        "no idempotency key: each POST is a new call",
        "the same, so that a call is sent again only if it surely did not run",
        "it would be paid for twice",
    ),
    _untried(
        "several pictures",
        "samples up to 4 (Vega); by v1 in forms that are not known",
        "they are asked for by v2, which names each in images; the history has a row for each",
        "one picture of each kind is drawn",
    ),
    _untried(
        "records and pictures",
        "a job's record is kept for 1 hour, its picture for 7 days",
        "the same",
        "it takes as long",
    ),
)

ASSUMPTIONS = (*EVERY_CALL, *V1, *V2, *HISTORY_PAGES, *HISTORY_ROWS, *UNTRIED)
