"""The faults that a prompt can ask for, so that anyone can see what happens when the API misbehaves.

A prompt with `[fault:NAME]` meets the fault each time, one with `[fault:NAME*2]` the first two times that
the same prompt is sent. Several may stand in one prompt.
"""

import re
from collections.abc import Sequence

FAULTS = {
    "NNN": "a paid call is refused with this status (400 to 599) and not charged",
    "NNN-after": "a paid call runs and is charged, but its answer has this status",
    "cold-start": "the drawing takes 20 seconds longer",
    "hang": "a paid call runs, but its answer never comes",
    "cut": "a paid call runs, but the connection ends in the middle of the answer",
    "empty": "the answer to a paid call, or the picture, has no bytes",
    "html": "the answer to a paid call is an HTML page under 200",
    "error-200": "the answer to a paid call is an error under 200",
    "failed": "the drawing fails: v1 answers with 500, a job becomes FAILED",
    "moderation": "the drawing is not allowed: v1 answers with 400, a job becomes FAILED",
    "truncated": "the picture ends in its middle",
    "not-image": "the picture is a text",
    "no-cost": "cost, balance and seconds are reported nowhere",
    "envelope": "v1 only: the call is queued and answered as by v2",
    "output-list": "v2 only: the result's `output` is a list of addresses",
    "output-object": "v2 only: the result's `output` is an object with a `url`",
    "output-base64": "v2 only: the result carries the pictures themselves as base64",
    "output-missing": "v2 only: the result names no picture",
    "status-word": "v2 only: the job's state is a word that is not documented until it is completed",
    "status-foreign": "v2 only: the submission names status and result addresses on another host",
    "late": "v2 only: the first two looks at a job find nothing",
    "poll-502": "v2 only: the first two looks at a job get an HTML page with 502",
    "stuck": "the drawing never ends: v1 does not answer, a job stays queued",
    "expired": "v2 only: the result has expired when the job is completed",
    "media-403": "v2 only: the picture's address refuses",
    "media-foreign": "v2 only: the picture's address is on another host",
    "media-redirect": "v2 only: the picture's address redirects to another host",
}
# Another host, for the faults that name one.
FOREIGN = "https://elsewhere.example"
_NAME = r"([a-z0-9-]+)(?:\*(\d+))?"


class Faults:
    """The faults of one call, whose prompt (or whatever stands in its place) was sent `times_seen` times before.

    `always` are the names of others that every call meets, written as in a prompt: `NAME` or `NAME*2`.
    """

    def __init__(self, prompt: object, times_seen: int, always: Sequence[str] = ()) -> None:
        text = prompt if isinstance(prompt, str) else ""
        written = [*re.findall(rf"\[fault:{_NAME}\]", text), *(name.partition("*")[::2] for name in always)]
        self._names = {name for name, times in written if not times or times_seen < int(times)}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def unknown(self) -> str | None:
        """A name that is not in `FAULTS`, if there is one."""
        return next((name for name in sorted(self._names) if not is_known(name)), None)

    def status(self, suffix: str = "") -> int | None:
        """The status to refuse the call with; that with the suffix `-after`, to answer with although it ran."""
        return next((int(name[:3]) for name in self._names if re.fullmatch(rf"\d{{3}}{suffix}", name)), None)

    def error(self) -> str:
        """The words that the drawing fails with; empty where it does not."""
        if "moderation" in self:
            return "Content policy violation: the prompt was flagged by moderation"
        return "The model ran out of memory" if "failed" in self else ""


def is_known(written: str) -> bool:
    """Whether a fault is in `FAULTS`, as it is written in a prompt: `NAME` or `NAME*2`."""
    found = re.fullmatch(_NAME, written)
    return found is not None and re.sub(r"^[45]\d\d(?=$|-after$)", "NNN", found[1]) in FAULTS
