"""An assumption about the API, and the result of comparing it with what was seen.

A finding contains no key, id or balance, because users show it to others.
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

# The most characters of a text from outside that are shown.
WORD = 60
# Errors about the account, which say nothing about the form of answers.
ABOUT_THE_ACCOUNT = (errors.Unauthorized, errors.InsufficientCredits, errors.Forbidden, errors.RateLimited)


class Verdict(StrEnum):
    """The result of comparing an assumption."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_SEEN = "not seen"
    NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Finding:
    """What was observed; `fix` replaces the assumption's own if it says more."""

    verdict: Verdict
    observed: str
    fix: str = ""


Compare = Callable[[Observations], Finding]


@dataclass(frozen=True)
class Assumption:
    """Something that this software assumes of the API.

    Attributes:
        name: Its subject.
        documented: What the vendor's documents, SDK or recorded answers say.
        assumed: What this software relies on.
        fix: What the user should do if the API does something else.
        compare: Compares it with what was seen.
    """

    name: str
    documented: str
    assumed: str
    fix: str
    compare: Compare


def assumption(name: str, *, documented: str, assumed: str, fix: str) -> Callable[[Compare], Assumption]:
    """A decorator that makes an assumption of the function that compares it."""
    return lambda compare: Assumption(name, documented, assumed, fix, compare)


# ---- findings ----


def holds(observed: str) -> Finding:
    """The finding that an assumption holds."""
    return Finding(Verdict.HOLDS, observed)


def differs(observed: str, fix: str = "") -> Finding:
    """The finding that the API does something else."""
    return Finding(Verdict.DIFFERS, observed, fix)


def holds_if(condition: object, observed: str) -> Finding:
    """The finding that an assumption holds, or that the API does something else."""
    return holds(observed) if condition else differs(observed)


def not_seen(observed: str) -> Finding:
    """The finding that nothing was seen to compare with."""
    return Finding(Verdict.NOT_SEEN, observed)


def not_tried(observed: str) -> Finding:
    """The finding that nothing was tried to compare with."""
    return Finding(Verdict.NOT_TRIED, observed)


def together(findings: Iterable[Finding]) -> Finding:
    """Several findings as one: it differs if one of them differs; else it holds if one of them holds."""
    found = list(findings)
    order = [Verdict.DIFFERS, Verdict.HOLDS, Verdict.NOT_SEEN, Verdict.NOT_TRIED]
    verdict = min((each.verdict for each in found), key=order.index)
    observed = dict.fromkeys(each.observed for each in found)
    fixes = dict.fromkeys(each.fix for each in found if each.fix and each.verdict is verdict)
    return Finding(verdict, "; ".join(observed), "; ".join(fixes))


def of_each(
    seen: Observations, route: Route, answers: Answers, look: Callable[[Drawn, ApiResponse], Finding]
) -> Finding:
    """The findings of answers to calls of a route, together; if there are no answers, the reason."""
    return together(look(drawn, exchange.response) for drawn, exchange in answers) if answers else absent(seen, route)


def absent(seen: Observations, route: Route) -> Finding:
    """The reason why there are no answers to calls of a route."""
    for drawn in seen.drawn:
        if drawn.picture.route is route:
            return not_seen(f"{drawn.picture.name} failed: {drawn.error.what}" if drawn.error else "no answer had it")
    reasons = [reason for name, reason in seen.left_out.items() if name.endswith(route)]
    return not_tried(reasons[0] if reasons else f"no picture was drawn by {route}")


def refusal(drawn: Drawn, response: ApiResponse) -> Finding:
    """The finding of an answer to a paid call that is not a success."""
    text = error_text(response)
    said = f"HTTP {response.status}" + (f": {text}" if text else "")
    return not_seen(said) if isinstance(drawn.error, ABOUT_THE_ACCOUNT) else differs(said)


# ---- texts from outside ----


def word(foreign: object) -> str:
    """A text from outside, made safe to show, and not too long."""
    text = printable(str(foreign))
    return f"{text[:WORD]}{'…' if len(text) > WORD else ''}"


def names(foreign: Iterable[object]) -> str:
    """Names from outside as a list for people."""
    return ", ".join(word(each) for each in foreign) or "none"


def media_type(response: ApiResponse) -> str:
    """The media type of an answer."""
    return word(response.headers.get("content-type", "no content type").partition(";")[0].strip())


def form_of_id(text: str) -> str:
    """The form of an id, without the id itself."""
    if re.fullmatch("[0-9a-f]{32}", text):
        return "32 hex digits"
    is_uuid = re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)
    return "a UUID" if is_uuid else f"{len(text)} characters"


def host_of(url: object) -> str:
    """The host of an address, without parts that may contain an id."""
    found = re.match(r"https?://[^/?#@]+", str(url))
    return word(found[0]) if found else "no address"


def allow(urls: Iterable[str]) -> str:
    """The setting that lets pictures be fetched from these addresses; empty if no setting does."""
    hosts = [word(found[1]) for url in urls if (found := re.match(r"https://([^/:?#@]+)(?=[/?#]|$)", url))]
    return f"If you trust it, add {names(dict.fromkeys(hosts))} to MCP_VEGA_MEDIA_HOSTS" if hosts else ""


def is_number(value: object) -> bool:
    """Whether a value is one of JSON's numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)
