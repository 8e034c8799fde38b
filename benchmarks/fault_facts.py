"""Which faults, connections and tools benchmarks/faults.py tries, what holds for each, and the text of its page."""

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
# These faults are tried with every connection, the others only with a plain one.
DISTURBED = ("none", "failed", "500-after", "output-base64")
# Large enough for a thousands separator.
CREDITS = Decimal(1234)
# Request histories that mislead. Calls with these faults, of which the first one ran, are looked up in them.
LOST = ("504-after", "504")
HISTORIES = {
    "history late": ("the history shows a call only after 90 seconds", HistoryBehaviour(late=90)),
    "history capped": ("a page of the history has one row, and no total", HistoryBehaviour(per_page=1, total=False)),
    "history from 0": ("the history counts its pages from 0", HistoryBehaviour(first_page=0)),
    "history in IST": ("the times are those of India, without a time zone", HistoryBehaviour(time_zone=5.5)),
    "history nested": ("the inputs of a row are one level deeper", HistoryBehaviour(inputs="nested")),
    "history renamed": ("the models have other names", HistoryBehaviour(models="titles")),
    "history seedless": ("the rows have no seed", HistoryBehaviour(inputs="no-seed")),
    "history empty": ("the rows have no inputs", HistoryBehaviour(inputs="missing")),
    "history foreign": ("the history shows the calls of another account", HistoryBehaviour(account="another")),
    "history undated": ("the answer does not contain the API's time", HistoryBehaviour(date=False)),
    "history failing": ("the answer has HTTP status 200, but its body is an error", HistoryBehaviour(error=True)),
}  # fmt: skip
# With these histories, the outcome of a call cannot be known.
BLIND = ("history seedless", "history empty", "history foreign", "history failing")
# The calls of the tools, by their names in the table.
TOOLS: dict[str, dict[str, Any]] = {
    "generate_image_vega": {},
    "generate_image_vega, 2 samples": {"samples": 2},
    "generate_image_vegart": {},
    "submit_job": {},
}
CHECK = "check_job"
# With these faults a call does not run, and only the history shows that. It needs an earlier and a later call.
LOST_BEFORE = ("408", "500", "502", "503", "504")
OTHER = "another"
# The pictures of these can never be fetched; those of GUARDED only if they have URLs (v2).
SPOILT, GUARDED = ("truncated", "not-image", "empty"), ("media-403", "media-foreign", "media-redirect")
# The text that the agent must have read if no picture came: the API's own words, or the setting to correct.
WORDS = dict.fromkeys((*ERRORS, *ERROR_TEXTS), INVALID) | FAILURES | {"307": "SEGMIND_BASE_URL"}
# Answers with these faults can be read: only the status is requested, and no error is reported.
READABLE = (
    *COSTS, *BALANCES, *SHAPES, *TEXTS, *PICTURE_HEADERS, "trailing", "media-slow", "429-retry-after", "429-retry-date",
    "status-case", "status-succeeded", "silent-pictures",
)  # fmt: skip
# The sandbox needs no time, except for a fault that takes time.
SPEEDS = {"cold-start": 0.22, "status-word": 0.05, "status-case": 0.05}
# The table in docs/faults.md, and the text above it.
HEADINGS = ("fault", "connection", "tool", "what the agent saw", "charged", "in the end", "gallery", "POSTs")
INTRODUCTION = """\
# What an agent sees when the API or the connection to it fails

The table below shows every fault of the [sandbox](sandbox.md) with each tool. Some faults are also shown over bad
connections, or with a request history that has missing or wrong data. This command makes the table:

```console
$ .venv/bin/python benchmarks/faults.py --write
```

It checks in every row that

- no picture is lost,
- no picture is paid for twice,
- the agent is told the truth about the charge,
- unusual answers are read correctly, or reported as unknown,
- the key is in no text, log or file,
- every answer comes in time.

## How to read the table

- **fault**: the prompt asks for the fault with `[fault:NAME]`. `GET /_sandbox` lists the meaning of each name. `429*3`
  means that the first three calls get this fault. `none` means no fault.
- **connection**: what is wrong with the connection to the API, or with the request history; see the list below.
- **tool**: one picture is drawn with v1 of the API. Several pictures, and all pictures of submit_job, are drawn with
  v2. A fault of v1 has no effect on v2, and a fault of v2 has no effect on v1. A row of check_job is about the job in
  the row of submit_job before it.
- **what the agent saw**: pictures, or `still drawing` with a request id, or the code of an error. (Here a call waited
  only {wait} seconds, and other times were shortened too.)
- **charged**: what the answer said about the charge.
- **in the end**: what check_job said when no server worked on the job any more. If the outcome could still change,
  check_job was asked up to three more times: an hour later, a day after that, and two hours after that. Each time a
  new server was started, with a plain connection.
- **gallery**: the number of files there: pictures, and what came instead of a picture (`unreadable`).
- **POSTs**: the number of paid calls for the job that arrived at the API, and the number that it refused.

In the rows with the faults 408, 500, 502, 503 and 504 the call does not run, and its answer is lost. There one other
picture is drawn before the call and one after it. Without these two pictures the server could not prove that the call
never ran.

The connections, and the request histories (`history …`):

{connections}

"""
