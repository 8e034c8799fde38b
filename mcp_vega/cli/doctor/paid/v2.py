"""The assumptions about queued jobs: `POST /v2/{slug}`, the status, the result, the addresses of pictures."""

import re
from typing import Any

from mcp_vega.cli.doctor.paid.finding import (
    Finding,
    absent,
    allow,
    assumption,
    differs,
    form_of_id,
    holds,
    holds_if,
    host_of,
    is_number,
    media_type,
    names,
    not_seen,
    not_tried,
    of_each,
    refusal,
    together,
    word,
)
from mcp_vega.cli.doctor.paid.observation import UNKNOWN_ID, Drawn, Observations, media_urls
from mcp_vega.cli.doctor.paid.v1 import compare_seed
from mcp_vega.errors import GenerationFailed
from mcp_vega.job import REQUEST_ID, Route, State
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.segmind.response import ApiResponse, error_text
from mcp_vega.segmind.values import as_object, parse_cost

SUBMISSION = ("request_id", "status", "poll_url", "status_url", "response_url")
METRICS = {"inference_time", "cost", "remaining_credits"}
STATES = {*State} - {State.UNKNOWN}
NO_V2 = (404, 405, 410)


@assumption(
    "v2: submission",
    documented=f"HTTP 200 with {', '.join(SUBMISSION)}; status QUEUED; the id a UUID, recorded as 32 hex digits",
    assumed="the same; only request_id is needed",
    fix="Report it. If the answer has a request_id, nothing is lost",
)
def _submission(seen: Observations) -> Finding:
    def look(drawn: Drawn, response: ApiResponse) -> Finding:
        if not response.ok:
            return refusal(drawn, response)
        fields = response.fields
        request_id = str(fields.get("request_id", ""))
        form = form_of_id(request_id) if request_id else "missing"
        said = f"HTTP {response.status}, {names(fields)}; status {word(fields.get('status'))}; the id is {form}"
        usual = fields.keys() >= {*SUBMISSION} and (response.status, fields["status"]) == (200, State.QUEUED)
        return holds_if(usual and re.fullmatch(REQUEST_ID, request_id), said)

    # If VegaRT is refused, that is another row: v2: VegaRT.
    posts = [(drawn, each) for drawn, each in seen.posts(Route.V2) if each.response.ok or not _is_vegart(drawn)]
    return of_each(seen, Route.V2, posts, look)


def _is_vegart(drawn: Drawn) -> bool:
    return isinstance(drawn.picture.parameters, VegaRTParameters)


@assumption(
    "v2: addresses",
    documented="status_url and response_url of a submission",
    assumed="/v2/requests/{id}/status and /v2/requests/{id} of the API; only these are used",
    fix="Nothing to change if the job's status was answered: the key goes to no other host. Report it",
)
def _addresses(seen: Observations) -> Finding:
    def look(_: Drawn, response: ApiResponse) -> Finding:
        fields = response.fields
        result = f"{seen.base_url}/v2/requests/{fields.get('request_id')}"
        derived = {"poll_url": f"{result}/status", "status_url": f"{result}/status", "response_url": result}
        others = {name: url for name, address in derived.items() if (url := fields.get(name)) not in (None, address)}
        said = names(f"another {name}, on {host_of(url)}" for name, url in others.items())
        return holds_if(not others, said if others else "these addresses")

    posts = [(drawn, each) for drawn, each in seen.posts(Route.V2) if each.response.ok]
    return of_each(seen, Route.V2, posts, look)


@assumption(
    "v2: looks",
    documented="HTTP 200 for every question about the status; soon after the submission 404 is possible",
    assumed="HTTP 200 for every question; 422 for a job that failed",
    fix="Nothing to change if the picture came: after a 5xx, and a 404 in the first 15 s, the API is asked again. "
    "Report it",
)
def _looks(seen: Observations) -> Finding:
    def look(_: Drawn, response: ApiResponse) -> Finding:
        failed = response.status == 422 and response.fields.get("status") == State.FAILED
        return holds_if(failed or response.status == 200, f"HTTP {response.status}")

    return of_each(seen, Route.V2, seen.looks(), look)


@assumption(
    "v2: status words",
    documented="QUEUED, PROCESSING, COMPLETED, FAILED",
    assumed="these four; with any other word, the job counts as still running",
    fix="Report it: a job in an unknown state is followed for an hour",
)
def _states(seen: Observations) -> Finding:
    posts = [(drawn, each) for drawn, each in seen.posts(Route.V2) if each.response.ok]
    fields = [exchange.response.fields for _, exchange in (*posts, *seen.looks())]
    words = [str(each["status"]) for each in fields if "status" in each]
    return holds_if({*words} <= STATES, names(dict.fromkeys(words))) if words else absent(seen, Route.V2)


@assumption(
    "v2: metrics",
    documented="inference_time of a completed job; newer servers add cost, remaining_credits, queue_time, total_time",
    assumed="inference_time, cost and remaining_credits, as numbers",
    fix="Report it. Until then the cost and balance of queued jobs are unknown, and the spending limit is checked with "
    "estimates: leave a margin in MCP_VEGA_SPENDING_LIMIT_USD",
)
def _metrics(seen: Observations) -> Finding:
    def look(_: Drawn, response: ApiResponse) -> Finding:
        metrics = as_object(response.fields.get("metrics"))
        odd = {name for name in METRICS & metrics.keys() if not is_number(metrics[name])}
        odd |= {"cost"} if "cost" in metrics and parse_cost(metrics["cost"]) is None else set()
        said = names(metrics) + (f"; not usable: {names(sorted(odd))}" if odd else "")
        return holds_if(metrics.keys() >= METRICS and not odd, said)

    completed = [(drawn, each) for drawn, each in seen.looks() if _status(each.response) == State.COMPLETED]
    return of_each(seen, Route.V2, completed, look)


def _status(response: ApiResponse) -> str:
    return str(response.fields.get("status", "")).strip().upper()


@assumption(
    "v2: result",
    documented="output (the first picture's address) and images, a list of objects with url",
    assumed="both, with the same address",
    fix="Report it. Other known forms are read as well; an answer that cannot be read is kept in `unreadable`",
)
def _result(seen: Observations) -> Finding:
    def look(_: Drawn, response: ApiResponse) -> Finding:
        fields, urls = response.fields, media_urls(response.fields)
        output, images = _kind(fields.get("output")), _kind(fields.get("images"))
        said = f"{names(fields)}; output is {output}, images {images}"
        return holds_if(output == "an address" and images == "a list of objects with url" and len(urls) == 1, said)

    return of_each(seen, Route.V2, seen.results(), look)


def _kind(value: Any) -> str:
    """The form of a value that may be a picture's address."""
    match value:
        case None:
            return "missing"
        case str():
            return "an address" if "://" in value else f"a text of {len(value):,} characters"
        case [{"url": str()}, *_]:
            return "a list of objects with url"
        case list():
            return "a list"
        case dict():
            return f"an object with {names(value)}"  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return "a number"


@assumption(
    "v2: seed",
    documented="seed, a text",
    assumed="if present, the seed that was sent",
    fix="Report it: the same seed may not draw the same picture again",
)
def _seed(seen: Observations) -> Finding:
    def look(drawn: Drawn, response: ApiResponse) -> Finding:
        seed = response.fields.get("seed")
        return not_seen("it is missing") if seed is None else compare_seed(drawn, str(seed))

    return of_each(seen, Route.V2, seen.results(), look)


@assumption(
    "v2: media host",
    documented="https://images.segmind.com",
    assumed="that host, the API's own address, or a host in MCP_VEGA_MEDIA_HOSTS",
    fix="Report it: pictures are fetched only over https on the usual port; others stay at their address",
)
def _media_host(seen: Observations) -> Finding:
    urls = [url for _, each in seen.results() for url in media_urls(each.response.fields)]
    if not urls:
        return absent(seen, Route.V2)
    urls += [each.response.headers["location"] for _, each in seen.media() if "location" in each.response.headers]
    refused = [url for url in urls if not seen.may_fetch.get(url)]
    said = names(dict.fromkeys(map(host_of, urls)))
    return differs(said, allow(refused)) if refused else holds(said)


@assumption(
    "v2: media",
    documented="public, kept for 7 days",
    assumed="a picture, which can be fetched immediately and without the key",
    fix="Report it: the picture stays at its address for 7 days, and `mcp-vega jobs ID` says so",
)
def _media(seen: Observations) -> Finding:
    def look(_: Drawn, response: ApiResponse) -> Finding:
        kind = media_type(response)
        return holds_if(response.ok and kind.startswith("image/"), f"HTTP {response.status}, {kind}")

    arrived = [(drawn, each) for drawn, each in seen.media() if "location" not in each.response.headers]
    return of_each(seen, Route.V2, arrived, look)


@assumption(
    "v2: unknown id",
    documented="HTTP 404",
    assumed="HTTP 404: such a job is looked up in the history",
    fix="Report it: a job whose record has expired may be followed for an hour",
)
def _unknown_id(seen: Observations) -> Finding:
    answers = seen.exchanges.get(UNKNOWN_ID)
    if not answers:
        return not_seen("no answer came")
    return holds_if(answers[-1].response.status == 404, f"HTTP {answers[-1].response.status}")


@assumption(
    "v2: failure",
    documented="HTTP 422 with status FAILED and the reason in error",
    assumed="the same; not charged, unless the answer has a cost",
    fix="Report it: such a job may be followed for an hour before it counts as failed",
)
def _failure(seen: Observations) -> Finding:
    failed = [each.response for _, each in seen.looks() if _status(each.response) == State.FAILED]
    found = [
        holds_if(each.status == 422 and error_text(each), f"HTTP {each.status}, {names(each.fields)}")
        for each in failed
    ]
    return together(found) if found else not_seen("no job failed")


@assumption(
    "v2: VegaRT",
    documented="for v1 only",
    assumed="v2 draws it; or v2 refuses it with 404, 405 or 410, which costs nothing, and then v1 draws it",
    fix="Report it. Until then draw with generate_image_vegart, and queue jobs only with segmind-vega",
)
def _vegart(seen: Observations) -> Finding:
    drawn = next((each for each in seen.drawn if each.picture.route is Route.V2 and _is_vegart(each)), None)
    if drawn is None:
        return not_tried(seen.left_out.get("VegaRT by v2", "it was not drawn by v2"))
    answers = [each.response for of, each in seen.posts(Route.V2) if of is drawn]
    if not answers:
        return not_seen("no answer came")
    status, failed = answers[0].status, drawn.error
    if answers[0].ok:
        return (
            differs(f"it was queued and failed: {failed.what}")
            if isinstance(failed, GenerationFailed)
            else holds("v2 drew it")
        )
    if status not in NO_V2:
        return refusal(drawn, answers[0])
    said = f"v2 refused it with HTTP {status}, and v1"
    return differs(f"{said} did not draw it either: {failed.what}") if failed else holds(f"{said} drew it")


V2 = (
    _submission,
    _addresses,
    _looks,
    _states,
    _metrics,
    _result,
    _seed,
    _media_host,
    _media,
    _unknown_id,
    _failure,
    _vegart,
)
