"""An assumption about the API, and what came of comparing it with what was seen.

Keys, ids and balances are in no finding: it is made to be shown to others.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from mcp_vega import errors
from mcp_vega.cli.doctor.paid.observation import Answers, Drawn, Observations
from mcp_vega.job import Route
from mcp_vega.redaction import printable
from mcp_vega.segmind.response import ApiResponse, error_text

# Of a foreign word, the characters that are shown.
WORD = 60
# What an answer says of the account tells nothing of what is assumed of answers.
ABOUT_THE_ACCOUNT = (errors.Unauthorized, errors.InsufficientCredits, errors.Forbidden, errors.RateLimited)


class Verdict(StrEnum):
    """How an assumption came out."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_SEEN = "not seen"
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Finding:
    """What was observed; `mend` is what to do where that says more than the assumption's own."""

    verdict: Verdict
    observed: str
    mend: str = ""


Compare = Callable[[Observations], Finding]


@dataclass(frozen=True)
class Assumption:
    """Something that is taken for granted of the API.

    Attributes:
        name: What it is about.
        documented: What the vendor's documents, SDK or recorded answers say.
        assumed: What this software goes by.
        mend: What is to be done where the API does otherwise.
        compare: Looks at what was seen.
    """

    name: str
    documented: str
    assumed: str
    mend: str
    compare: Compare


def assumption(name: str, *, documented: str, assumed: str, mend: str) -> Callable[[Compare], Assumption]:
    """Makes an assumption of the function that compares it."""
    return lambda compare: Assumption(name, documented, assumed, mend, compare)


# ---- findings ----


def holds(observed: str) -> Finding:
    """The finding that an assumption holds."""
    return Finding(Verdict.HOLDS, observed)


def differs(observed: str, mend: str = "") -> Finding:
    """The finding that the API does otherwise."""
    return Finding(Verdict.DIFFERS, observed, mend)


def holds_if(condition: object, observed: str) -> Finding:
    """The finding that an assumption holds, or that the API does otherwise."""
    return holds(observed) if condition else differs(observed)


def not_seen(observed: str) -> Finding:
    """The finding that nothing was seen that would tell."""
    return Finding(Verdict.NOT_SEEN, observed)


def not_tried(observed: str) -> Finding:
    """The finding that nothing was done that would tell."""
    return Finding(Verdict.NOT_TRIED, observed)


def together(findings: Iterable[Finding]) -> Finding:
    """Findings of one kind as one: it differs if one does, and holds if one does and none differs."""
    found = list(findings)
    order = [Verdict.DIFFERS, Verdict.HOLDS, Verdict.NOT_SEEN, Verdict.NOT_TRIED]
    verdict = min((each.verdict for each in found), key=order.index)
    observed = dict.fromkeys(each.observed for each in found)
    mends = dict.fromkeys(each.mend for each in found if each.mend and each.verdict is verdict)
    return Finding(verdict, "; ".join(observed), "; ".join(mends))


def of_each(
    seen: Observations, route: Route, answers: Answers, look: Callable[[Drawn, ApiResponse], Finding]
) -> Finding:
    """What each of some answers to calls of a route says; where there are none, why."""
    return together(look(drawn, exchange.response) for drawn, exchange in answers) if answers else absent(seen, route)


def absent(seen: Observations, route: Route) -> Finding:
    """Why there is nothing that would tell of calls of a route."""
    for drawn in seen.drawn:
        if drawn.picture.route is route:
            return not_seen(f"{drawn.picture.name} failed: {drawn.error.what}" if drawn.error else "no answer told it")
    reasons = [reason for name, reason in seen.left_out.items() if name.endswith(route)]
    return not_tried(reasons[0] if reasons else f"no picture was drawn by {route}")


def refusal(drawn: Drawn, response: ApiResponse) -> Finding:
    """What an answer to a paid call says that is no success."""
    text = error_text(response)
    said = f"HTTP {response.status}" + (f": {text}" if text else "")
    return not_seen(said) if isinstance(drawn.error, ABOUT_THE_ACCOUNT) else differs(said)


# ---- foreign words ----


def word(foreign: object) -> str:
    """A foreign text made safe to show, and not too long."""
    text = printable(str(foreign))
    return f"{text[:WORD]}{'…' if len(text) > WORD else ''}"


def names(foreign: Iterable[object]) -> str:
    """Foreign names as a list for people."""
    return ", ".join(word(each) for each in foreign) or "none"


def media_type(response: ApiResponse) -> str:
    """What an answer says it is."""
    return word(response.headers.get("content-type", "no content type").partition(";")[0].strip())


def form_of_id(text: str) -> str:
    """What an id looks like, without the id."""
    if re.fullmatch("[0-9a-f]{32}", text):
        return "32 hex digits"
    is_uuid = re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)
    return "a UUID" if is_uuid else f"{len(text)} characters"


def host_of(url: object) -> str:
    """An address without what may be an id in it."""
    found = re.match(r"https?://[^/?#@]+", str(url))
    return word(found[0]) if found else "no address"


def allow(urls: Iterable[str]) -> str:
    """What lets pictures be fetched from where they are; empty where nothing does."""
    hosts = [word(found[1]) for url in urls if (found := re.match(r"https://([^/:?#@]+)(?=[/?#]|$)", url))]
    return f"If you trust it, add {names(dict.fromkeys(hosts))} to MCP_VEGA_MEDIA_HOSTS" if hosts else ""


def is_number(value: object) -> bool:
    """Whether a value is one of JSON's numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)
