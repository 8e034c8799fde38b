"""The faults that a prompt can ask for, so that anyone can see what happens when the API misbehaves.

`[fault:NAME]` in a prompt causes the fault each time. `[fault:NAME*2]` causes it the first two times that the same
prompt is sent. A prompt may contain several faults.
"""

import re
from collections.abc import Sequence

FAULTS = {
    # Refusals.
    "NNN": "a paid call is refused with this status (300 to 599) and not charged; a 3xx redirects to another host",
    "NNN-after": "a paid call runs and is charged, but its answer has this status",
    "429-retry-after": "a paid call is refused once with 429; only `Retry-After: 3` says how long to wait",
    "429-retry-date": "a paid call is refused once with 429; only a `Retry-After` with a date says how long to wait",
    "errors-list": 'a paid call is refused with 400 and `{"errors": [{"message": …}]}`',
    "error-detail": 'a paid call is refused with 400 and `{"detail": [{"loc": …, "msg": …}]}`',
    "error-nested": "a paid call is refused with 400 and an `error` whose `message` is three objects deep",
    "error-list": "a paid call is refused with 400 and a list of texts",
    "error-text": "a paid call is refused with 400 and a plain text",
    "error-xml": "a paid call is refused with 400 and XML",
    "error-huge": "a paid call is refused with 400 and an `error` of 30 MB",
    "nsfw-200": 'a paid call is not drawn and not charged; the answer is `{"success": false, "message": …}` with 200',
    # Calls that run slowly, fail, or have no usable answer.
    "cold-start": "the drawing takes 20 seconds longer",
    "stuck": "the drawing never ends: v1 does not answer, a job stays queued",
    "hang": "a paid call runs, but its answer never comes",
    "cut": "a paid call runs, but the connection ends in the middle of the answer",
    "empty": "the answer to a paid call, or the picture, has no bytes",
    "html": "the answer to a paid call is an HTML page with status 200",
    "error-200": "the answer to a paid call is an error with status 200",
    "failed": "the drawing fails: v1 answers with 500, a job becomes FAILED",
    "moderation": "the drawing is not allowed: v1 answers with 400, a job becomes FAILED",
    "envelope": "v1 only: the call is queued, and the answer is like v2's",
    # Cost and balance.
    "no-cost": "cost, balance and seconds are reported nowhere",
    "cost-comma": "the cost is reported as a text with a comma, `0,00225`",
    "cost-text": "the cost is reported as a text with its currency, `$0.00225 USD`",
    "cost-zero": "the cost is reported as 0, although the call is charged",
    "cost-huge": "the cost is reported as 100000000000000",
    "cost-negative": "the cost is reported as a negative number",
    "credits-thousands": "the balance is reported as a text with thousands separators and cents, `1,234.50`",
    # States of a job.
    "status-word": "v2 only: until the job is completed, its state is a word that is not documented",
    "status-case": "v2 only: states are in lower case, or have spaces around them",
    "status-succeeded": "v2 only: the completed job's state is SUCCEEDED",
    "silent-pictures": "v2 only: the job's state stays PROCESSING, but once it is completed it has the pictures",
    "silent-error": "as `failed`, but the job's state stays PROCESSING with status 200, and `error` has a text",
    "error-upper": "as `failed`, but the job's state is ERROR with status 200, and `error` has a text",
    "failed-422": "as `failed`, but the job's state is in lower case",
    "status-foreign": "v2 only: the status and result URLs of the submission are on another host",
    "late": "v2 only: the first two status requests for a job find nothing",
    "poll-502": "v2 only: the first two status requests for a job get an HTML page with 502",
    "expired": "v2 only: the result has expired when the job is completed",
    # Where the pictures are in the answer.
    "output-list": "v2 only: the result's `output` is a list of URLs",
    "output-object": "v2 only: the result's `output` is an object with a `url`",
    "output-base64": "v2 only: the result contains the pictures themselves as base64",
    "output-missing": "v2 only: the result has no picture",
    "output-images": 'the pictures are in `{"output": {"images": [{"url": …}]}}`',
    "top-list": "the answer with the pictures is a list of their URLs",
    "deep": "the URLs of the pictures are six levels deep",
    "among-urls": "the answer has other URLs besides those of the pictures: of documents, of a logo, of the job itself",
    "thumbnails": "the URL of a small copy is next to each picture's URL",
    "b64-json": 'the pictures are in `{"data": [{"b64_json": …}]}`',
    "data-uri": "the pictures are data URIs whose scheme is in capitals",
    "base64-urlsafe": "the pictures are base64 with `-` and `_`, and without `=` at the end",
    "base64-lines": "the pictures are base64 with line breaks",
    "hex": "the pictures are hexadecimal digits",
    # The pictures.
    "truncated": "the picture is cut off in the middle",
    "not-image": "a text comes instead of the picture",
    "png-profile": "the picture is a PNG whose colour profile unpacks to 3 MB",
    "trailing": "other bytes follow the picture",
    "type-html": "the picture's content type is `text/html`",
    "gzip-lie": "the headers say that the picture is compressed with gzip, but it is not",
    "brotli-lie": "the headers say that the picture is compressed with Brotli, but it is not",
    "media-slow": "the picture's URL answers after half a second",
    "media-403": "v2 only: the picture's URL answers with 403",
    "media-foreign": "v2 only: the picture's URL is on another host",
    "media-redirect": "v2 only: the picture's URL redirects to another host",
}
# These occur only the first time that a prompt is sent, unless the prompt says how often.
ONCE = ("429-retry-after", "429-retry-date")
# The faults that make the drawing fail, and the error message of each.
OUT_OF_MEMORY = "The model ran out of memory"
FAILURES = {
    "moderation": "Content policy violation: the prompt was flagged by moderation",
    "nsfw-200": "NSFW content detected",
    "failed": OUT_OF_MEMORY,
    "silent-error": OUT_OF_MEMORY,
    "error-upper": OUT_OF_MEMORY,
    "failed-422": OUT_OF_MEMORY,
}
# Another host, for the faults with URLs on another host.
OTHER_HOST = "https://elsewhere.example"
_NAME = r"([a-z0-9-]+)(?:\*(\d+))?"


class Faults:
    """The faults of one call, whose prompt was sent `times_seen` times before. The prompt may be of a wrong type.

    `always` are more faults, which every call has, written as in a prompt: `NAME` or `NAME*2`.
    """

    def __init__(self, prompt: object, times_seen: int, always: Sequence[str] = ()) -> None:
        text = prompt if isinstance(prompt, str) else ""
        written = [*re.findall(rf"\[fault:{_NAME}\]", text), *(name.partition("*")[::2] for name in always)]
        limits = ((name, times or "1" * (name in ONCE)) for name, times in written)
        self._names = {name for name, limit in limits if not limit or times_seen < int(limit)}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def unknown(self) -> str | None:
        """Return a name that is not in `FAULTS`, if there is one."""
        return next((name for name in sorted(self._names) if not is_known(name)), None)

    def status(self, suffix: str = "") -> int | None:
        """Return the status of the refusal; with the suffix `-after`, the status of the answer to a call that ran."""
        return next((int(name[:3]) for name in self._names if re.fullmatch(rf"\d{{3}}{suffix}", name)), None)

    def error(self) -> str:
        """Return the error message of the drawing; empty if it does not fail."""
        return next((words for name, words in FAILURES.items() if name in self), "")


def is_known(written: str) -> bool:
    """Whether a fault, written as in a prompt (`NAME` or `NAME*2`), is in `FAULTS`."""
    found = re.fullmatch(_NAME, written)
    return found is not None and re.sub(r"^[345]\d\d(?=$|-after$)", "NNN", found[1]) in FAULTS
