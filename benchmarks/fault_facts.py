"""Which faults, connections and tools benchmarks/faults.py tries, what is true of each, and the words of its table."""

from decimal import Decimal
from typing import Any

from mcp_vega.sandbox.faults import FAILURES, FAULTS
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour
from mcp_vega.sandbox.odd_answers import (
    BALANCES,
    COSTS,
    ERROR_TEXTS,
    ERRORS,
    INVALID,
    PICTURE_HEADERS,
    SHAPES,
    TEXTS,
)

REFUSED = (307, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 422, 429, 500, 502, 503, 504)
STATUSES = {*map(str, REFUSED), "429*3", *(f"{status}-after" for status in (500, 502, 504))}
ALL = sorted({"none", *STATUSES, *FAULTS} - {"NNN", "NNN-after"})
# These meet every connection, the others the plain one.
DISTURBED = ("none", "failed", "500-after", "output-base64")
# So many that their text has a separator of thousands.
CREDITS = Decimal(1234)
# Request histories that tell badly; the calls with these faults, of which the first has run, are looked up in them.
LOST = ("504-after", "504")
HISTORIES = {
    "history late": ("the request history shows a call after 90 seconds", HistoryBehaviour(late=90)),
    "history capped": ("it has one row a page, and no total", HistoryBehaviour(per_page=1, total=False)),
    "history from 0": ("it counts its pages from 0", HistoryBehaviour(first_page=0)),
    "history in IST": ("its times are those of India, and do not say so", HistoryBehaviour(time_zone=5.5)),
    "history nested": ("the inputs of its rows are one level deeper", HistoryBehaviour(inputs="nested")),
    "history renamed": ("it has other names for the models", HistoryBehaviour(models="titles")),
    "history seedless": ("its rows have no seed", HistoryBehaviour(inputs="no-seed")),
    "history empty": ("its rows have no inputs", HistoryBehaviour(inputs="missing")),
    "history foreign": ("it is that of another account", HistoryBehaviour(account="another")),
    "history undated": ("it does not tell the API's time", HistoryBehaviour(date=False)),
    "history failing": ("it answers with an error under 200", HistoryBehaviour(error=True)),
}  # fmt: skip
# In these it cannot be known how a call ended.
BLIND = ("history seedless", "history empty", "history foreign", "history failing")
# The tools' calls, by the names that the table gives them.
TOOLS: dict[str, dict[str, Any]] = {
    "generate_image_vega": {},
    "generate_image_vega, 2 samples": {"samples": 2},
    "generate_image_vegart": {},
    "submit_job": {},
}
CHECK = "check_job"
# With these a call does not run, and only its history can tell; it needs calls before and after it for that.
LOST_BEFORE = ("408", "500", "502", "503", "504")
OTHER = "another"
# The pictures of these can never be had, of the latter where they have addresses (v2).
SPOILT, GUARDED = ("truncated", "not-image", "empty"), ("media-403", "media-foreign", "media-redirect")
# What the agent must have read where no picture came: the API's own words, or what is to be set right.
WORDS = dict.fromkeys((*ERRORS, *ERROR_TEXTS), INVALID) | FAILURES | {"307": "SEGMIND_BASE_URL"}
# The answers with these can be read: nothing else is asked but how the job stands, and no error is told.
READABLE = (
    *COSTS, *BALANCES, *SHAPES, *TEXTS, *PICTURE_HEADERS, "trailing", "media-slow", "429-retry-after", "429-retry-date",
    "status-case", "status-succeeded", "silent-pictures",
)  # fmt: skip
# The sandbox is at once done, but where a fault takes its time.
SPEEDS = {"cold-start": 0.22, "status-word": 0.05, "status-case": 0.05}
# The table in docs/faults.md, and the words above it.
HEADINGS = ("fault", "connection", "tool", "what the agent saw", "charged", "in the end", "gallery", "POSTs")
INTRODUCTION = """\
# What an agent sees when the API or the way to it fails

Every fault of the sandbox, as each tool meets it, and some of them over bad connections or with a request history that
tells badly. This makes the table, and checks in every row that no picture is lost, none is paid for twice, the agent is
told the truth about the charge, what is reported oddly is read rightly or told as unknown, the key is in no text, log
or file, and every answer comes in time:

```console
$ .venv/bin/python benchmarks/faults.py --write
```

A **fault** is what a prompt asks for with `[fault:NAME]`; `GET /_sandbox` lists what each means. `429*3` is met three
times, `none` is no fault. One picture is drawn over v1, several are over v2, as is all that submit_job draws; a fault
of the other way does nothing. The **connections**:

{connections}

The agent saw pictures, `still drawing` with a request id (a call waited for {wait} seconds, and other times were
shortened, too), or the code of an error; **charged** is what it was told then. **In the end** is what check_job told
when nobody worked on the job any more and, where more could still be learnt, an hour, a day and two hours later, each
time at a server started then, over a plain connection. **gallery** counts the files there: pictures, and what came in
the place of pictures. **POSTs** counts the paid calls that arrived at the API for the job, those that it refused apart.
A row of check_job tells of the job in the row of submit_job before it. Before and after a call that did not run and
lost its answer another picture is drawn: without, it cannot be proven that it never ran.

"""
