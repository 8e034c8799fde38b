"""`mcp-vega doctor --paid` compares the API with the documents: with a sandbox that follows them, and others."""

import io
import json
import re
import signal
import subprocess
import sys
from argparse import Namespace
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG_SECONDS, KEY, NO_PAUSE, PATIENT, Sandbox, app_over, wait_until
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from terminals import posix, terminal
from test_doctor import environment

from mcp_vega.cli.doctor.command import run_doctor
from mcp_vega.cli.doctor.paid import report
from mcp_vega.cli.doctor.paid.command import run_paid, show
from mcp_vega.cli.doctor.paid.observation import Observations
from mcp_vega.cli.doctor.paid.report import Row
from mcp_vega.cli.doctor.paid.trial import PICTURES, try_out
from mcp_vega.cli.parser.commands import build_parser
from mcp_vega.errors import InvalidArguments
from mcp_vega.network.serving import serving
from mcp_vega.parameters import MODELS
from mcp_vega.sandbox.account import Account, Call
from mcp_vega.sandbox.app import build_sandbox, cached_paint
from mcp_vega.sandbox.faults import OTHER_HOST
from mcp_vega.sandbox.history import HistoryRows, history_rows
from mcp_vega.settings import Settings

pytestmark = pytest.mark.anyio

COMMAND = [sys.executable, "-m", "mcp_vega"]
# What cannot be seen while there are no errors.
UNSEEN = {"rate limit", "v2: failure"}
UNTRIED = {"only success is charged", "lost answers", "repeated calls", "several pictures", "records and pictures"}

# ---- an API that differs ----


@dataclass
class Answer:
    """An answer of the sandbox before it is sent."""

    path: str
    status: int
    headers: dict[str, str]
    body: bytes


Rewrite = Callable[[Answer], None]
COUNT = iter(range(10**6))


class Rewritten:
    """An application whose answers are changed before they are sent."""

    def __init__(self, app: ASGIApp, rewrite: Rewrite) -> None:
        self._app = app
        self._rewrite = rewrite

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def later(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.start" or message.get("more_body"):
                return
            headers = {name.decode(): value.decode() for name, value in held[0]["headers"]}
            body = b"".join(part["body"] for part in held[1:])
            answer = Answer(scope["path"], held[0]["status"], headers, body)
            self._rewrite(answer)
            answer.headers["content-length"] = str(len(answer.body))
            raw = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            await send({"type": "http.response.body", "body": answer.body})

        await self._app(scope, receive, later)


def flat(side: int = 1024) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


PAINTED = flat()


@dataclass
class Deviation:
    """Ways in which an API differs from what is assumed, and the rows that must report it.

    Other rows may report it too, depending on how the client reads the answer.
    """

    differ: set[str]
    may_differ: set[str] = field(default_factory=set[str])
    account: Mapping[str, Any] = field(default_factory=dict[str, Any])
    history: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rewrite: Rewrite | None = None
    rows: HistoryRows = history_rows
    painted: bytes = PAINTED
    wait_seconds: float = 45
    observed: Sequence[str] = ()  # texts in the rows that differ
    fix: str = ""  # a part of the advice in one of these rows


@dataclass
class Tried:
    """The result of a run."""

    seen: Observations
    rows: dict[str, Row]
    account: Account

    def verdicts(self, verdict: str) -> set[str]:
        return {name for name, row in self.rows.items() if row.verdict == verdict}


async def tried(folder: Path, deviation: Deviation, most_usd: str = "0.02") -> Tried:
    account = Account(speed=0)
    for name, value in deviation.account.items():
        setattr(account, name, value)
    account.history = account.history.changed(dict(deviation.history))
    app: ASGIApp = build_sandbox(
        account, paint=lambda _prompt, _seed, _index: deviation.painted, history_rows=deviation.rows
    )
    served: Any = Rewritten(app, deviation.rewrite) if deviation.rewrite else app
    async with (
        serving(served) as url,
        app_over(url, folder / "gallery", policy=NO_PAUSE, wait_seconds=deviation.wait_seconds) as context,
    ):
        seen = await try_out(context, PICTURES, Decimal(most_usd), lambda _: None, pauses=(0, 0.01))
    return Tried(seen, {row.name: row for row in report.compare(seen, [KEY])}, account)


async def test_with_a_sandbox_that_follows_the_documents_nothing_differs(tmp_path: Path) -> None:
    found = await tried(tmp_path, Deviation(set()))
    assert found.verdicts("differs") == set()
    assert found.verdicts("not seen") == UNSEEN
    assert found.verdicts("not tried") == UNTRIED
    assert [drawn.picture.name for drawn in found.seen.drawn] == ["VegaRT by v1", "Vega by v2", "VegaRT by v2"]
    assert all(drawn.job and drawn.job.images[0].path for drawn in found.seen.drawn)
    assert len(found.account.calls) == 3


# ---- deviations ----

V1, V2, STATUS, BALANCE = "/v1/segmind-", "/v2/segmind-", "/status", "/v1/get-user-credits"
LIST, ENTRY = "/request-history", "/request-history/"


def answers(path: str, status: int, value: Any) -> Rewrite:
    """An API with another answer at URLs that contain `path`."""

    def rewrite(answer: Answer) -> None:
        if path in answer.path:
            answer.status, answer.body = status, json.dumps(value).encode()
            answer.headers["content-type"] = "application/json"

    return rewrite


def changed_json(path: str, change: Callable[[dict[str, Any]], Any]) -> Rewrite:
    """An API whose successful JSON answers are changed at URLs that contain `path`."""

    def rewrite(answer: Answer) -> None:
        if path in answer.path and answer.status == 200:
            answer.body = json.dumps(change(json.loads(answer.body))).encode()

    return rewrite


def header(name: str, value: str | None) -> Rewrite:
    """An API whose answers to v1 have another value of a header, or do not have it."""

    def rewrite(answer: Answer) -> None:
        if V1 in answer.path:
            answer.headers.pop(name, None)
            answer.headers |= {name: value} if value is not None else {}

    return rewrite


def once(rewrite: Rewrite, path: str) -> Rewrite:
    """Change only the first answer at URLs that contain `path`."""
    done: list[str] = []

    def first(answer: Answer) -> None:
        if path in answer.path and not done:
            done.append(answer.path)
            rewrite(answer)

    return first


def statuses(told: int, instead: int) -> Rewrite:
    """An API that answers with another HTTP status for jobs than is documented."""

    def rewrite(answer: Answer) -> None:
        if "/v2/requests/" in answer.path and answer.status == told:
            answer.status = instead

    return rewrite


def in_turn(*rewrites: Rewrite) -> Rewrite:
    def rewrite(answer: Answer) -> None:
        for each in rewrites:
            each(answer)

    return rewrite


def has(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: said | fields


def lacks(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: {key: value for key, value in said.items() if key != name}


def metrics(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: said | {"metrics": said["metrics"] | fields}


def rows(change: Callable[[dict[str, Any]], dict[str, Any]]) -> HistoryRows:
    """A history whose rows are changed."""
    return lambda call, base, now: [change(row) for row in history_rows(call, base, now)]


NO_VEGART = {"models": {"v1": {*MODELS}, "v2": {"segmind-vega"}}}
REFUSAL = {"error": "No such model"}


def two_rows(call: Call, base: str, now: float) -> list[dict[str, Any]]:
    """An API that makes each call twice, with another value each time."""
    return [row | {"latency_ms": next(COUNT)} for row in history_rows(call, base, now) for _ in range(2)]


MONEY = {"price", "charge", "history: cost"}
UNKNOWN_SEED = {"history: seed", "history: recognition"}
MEDIA = "add elsewhere.example to MCP_VEGA_MEDIA_HOSTS"
DEVIATIONS = {
    # answers to calls
    "headers in other notations": Deviation(
        {"v1: cost", "v1: credits left", "v1: seconds", "v1: seed", "v1: request id"},
        MONEY,
        rewrite=in_turn(
            *(header("x-cost", "0,002"), header("x-remaining-credits", "4,711.50")),
            *(header("x-generation-time", "2.1 s"), header("x-seed-value", "7"), header("x-request-id", None)),
        ),
        observed=("0,002", "','", "2.1 s", "not the seed that was sent", "it is missing"),
        fix="MCP_VEGA_SPENDING_LIMIT_USD",
    ),
    "no figures": Deviation(
        {"v1: cost", "v1: credits left", "v1: seconds", "v2: metrics"}, account={"faults": ["no-cost"]}
    ),
    "a cost of 0, another id, another media type": Deviation(
        {"v1: cost", "v1: answer", "history: id"},
        MONEY,
        rewrite=in_turn(
            header("x-cost", "0.0"), header("x-request-id", "of-another-call"), header("content-type", "text/plain")
        ),
    ),
    "JSON and a high cost": Deviation(
        {"v1: answer"} | MONEY,
        rewrite=in_turn(answers(V1, 200, {"image": b64encode(PAINTED).decode()}), header("x-cost", "0.0123")),
        observed=("JSON with image", "$0.0123"),
        fix="MCP_VEGA_SPENDING_LIMIT_USD",
    ),
    "queued by v1": Deviation({"v1: answer"}, account={"faults": ["envelope"]}, observed=["JSON with request_id"]),
    "a small picture after a long wait, a balance as a text": Deviation(
        {"balance", "pictures", "seconds until a picture"},
        painted=flat(512),
        wait_seconds=0,
        rewrite=changed_json(BALANCE, has(credits="9.81")),
        observed=("credits: str", "512×512"),
        fix="MCP_VEGA_WAIT_SECONDS",
    ),
    "refusals in other words": Deviation(
        {"balance", "refusals", "rate limit"},
        account=NO_VEGART,
        rewrite=in_turn(
            answers(V2 + "vega-rt", 404, {"message": "No"}),
            changed_json(BALANCE, lacks("free-credits")),
            once(answers("", 429, {"error": "Slower"}), BALANCE),
        ),
        fix="MCP_VEGA_REQUESTS_PER_MINUTE",
    ),
    "an unknown word, another seed, a balance that stays": Deviation(
        {"v2: status words", "v2: seed", "charge"},
        rewrite=in_turn(
            changed_json(BALANCE, has(credits=9.99999)),
            changed_json("/v2/requests/", has(seed="7")),
            once(changed_json(STATUS, has(status="WARMING_UP")), STATUS),
        ),
        observed=("WARMING_UP", "$0.00 for calls of $0.00625"),
    ),
    "no metrics, no poll_url, addresses elsewhere": Deviation(
        {"v2: metrics", "v2: submission", "v2: addresses"},
        account={"faults": ["status-foreign"]},
        rewrite=in_turn(changed_json(STATUS, has(metrics=None)), changed_json(V2, lacks("poll_url"))),
        observed=[f"another status_url, on {OTHER_HOST}"],
        fix="MCP_VEGA_SPENDING_LIMIT_USD",
    ),
    "known late, a list in output": Deviation(
        {"v2: looks", "v2: result"},
        account={"faults": ["late", "output-list"]},
        observed=("HTTP 404; HTTP 200", "output is a list"),
    ),
    "a gateway's error, an object in output": Deviation(
        {"v2: looks", "v2: result"},
        account={"faults": ["poll-502", "output-object"]},
        observed=("HTTP 502", "output is an object with url"),
    ),
    "base64 in output, a cost as a text, 400 for an unknown id": Deviation(
        {"v2: result", "v2: metrics", "v2: unknown id"},
        account={"faults": ["output-base64"]},
        rewrite=in_turn(changed_json(STATUS, metrics(cost="0.002 USD")), statuses(404, 400)),
        observed=("output is a text", "not usable: cost", "HTTP 400"),
    ),
    "no output, a word in lower case": Deviation(
        {"v2: result", "v2: submission", "v2: status words"},
        account={"faults": ["output-missing"]},
        rewrite=changed_json(V2, has(status="queued")),
        observed=("output is missing", "queued, COMPLETED"),
    ),
    "media elsewhere": Deviation(
        {"v2: media host", "history: picture"}, account={"faults": ["media-foreign"]}, fix=MEDIA
    ),
    "media that move": Deviation(
        {"v2: media host", "history: picture"}, account={"faults": ["media-redirect"]}, fix=MEDIA
    ),
    "media that refuse": Deviation(
        {"v2: media", "history: picture"}, account={"faults": ["media-403"]}, observed=["HTTP 403"]
    ),
    "failures under 200": Deviation(
        {"v1: answer", "v2: failure", "v2: VegaRT"},
        account={"faults": ["failed"]},
        rewrite=statuses(422, 200),
        observed=("HTTP 500", "HTTP 200, status, request_id, metrics, error"),
    ),
    "VegaRT refused by v2": Deviation({"v2: VegaRT"}, account=NO_VEGART, rewrite=answers(V2 + "vega-rt", 422, REFUSAL)),
    "a refusal that costs": Deviation({"v2: VegaRT", "charge"}, rewrite=answers(V2 + "vega-rt", 422, REFUSAL)),
    # pages of the history
    "a history elsewhere": Deviation({"history: address"}, account={"history_status": 404}, fix="SEGMIND_HISTORY_URL"),
    "a history with an error": Deviation({"history: address"}, history={"error": True}, observed=["cannot be read"]),
    "a list alone, without a Date": Deviation(
        {"history: form", "history: total", "history: clock"},
        history={"date": False},
        rewrite=changed_json(LIST, lambda said: said.get("data", said)),
        observed=("not an object", "the header Date is missing"),
    ),
    "titles, and another time": Deviation(
        {"history: model", "history: calls of a model", "history: clock"},
        history={"models": "titles", "date_off": 3600 * 5},
        observed=("Segmind Vega", "+5.0 h"),
        fix="Set this machine's clock",
    ),
    "two rows of a call, in another order, with other values": Deviation(
        {"history: rows of a call", "history: second look", "history: order"},
        history={"order": "ascending"},
        rows=two_rows,
        observed=("latency_ms", "oldest first"),
    ),
    "not one call alone, no total, nested inputs": Deviation(
        {"history: one call", "history: total", "history: inputs"},
        history={"total": False, "inputs": "nested"},
        rewrite=answers(ENTRY, 404, REFUSAL),
        observed=("JSON with input",),
    ),
    "short pages, times of elsewhere": Deviation(
        {"history: page size", "history: time"},
        history={"per_page": 1, "time_zone": 5.5},
        observed=("asked for 100: 1 of 3", "without a zone; +5.5 h"),
    ),
    "a first page 0, another cost, another state": Deviation(
        {"history: pages", "history: cost", "history: state"},
        history={"first_page": 0},
        rows=rows(has(credits_deduction=0.009, model_status="SUCCESS")),
        observed=("0.009; in the answer $0.002", "SUCCESS"),
    ),
    # rows of the history
    "a late history": Deviation({"history: delay"}, history={"late": 3600}, observed=["VegaRT by v1 never"]),
    "a stranger's history": Deviation({"history: delay"}, history={"account": "another"}),
    "no picture, no seed": Deviation(
        {"history: fields", "history: picture"} | UNKNOWN_SEED,
        history={"inputs": "no-seed"},
        rows=rows(lacks("generation_url")),
    ),
    "another id": Deviation({"history: id", "history: one call"}, rows=rows(has(request_id="an-id-of-its-own"))),
    "no inputs": Deviation({"history: inputs"} | UNKNOWN_SEED, history={"inputs": "missing"}, observed=["missing"]),
    "inputs cut short": Deviation(
        {"history: inputs"} | UNKNOWN_SEED, history={"inputs": "cut"}, observed=["neither JSON"]
    ),
    "a null seed": Deviation(UNKNOWN_SEED, history={"inputs": "null-seed"}),
}


@pytest.mark.parametrize("name", DEVIATIONS)
async def test_each_deviation_makes_only_its_own_rows_differ(name: str, tmp_path: Path) -> None:
    deviation = DEVIATIONS[name]
    found = await tried(tmp_path, deviation)
    differ = found.verdicts("differs")
    said = {each: found.rows[each].observed for each in differ}
    assert deviation.differ <= differ <= deviation.differ | deviation.may_differ, said
    assert all(any(words in each for each in said.values()) for words in deviation.observed), said
    fixes = [found.rows[each].fix for each in differ]
    assert all(fixes)
    assert any(deviation.fix in each for each in fixes), fixes
    assert {row.fix for name, row in found.rows.items() if name not in differ} == {""}
    assert len(found.account.calls) <= 3


# ---- money ----


async def test_a_model_that_v2_does_not_know_is_drawn_by_v1_and_paid_for_once(tmp_path: Path) -> None:
    found = await tried(tmp_path, Deviation(set(), account=NO_VEGART))
    assert found.verdicts("differs") == set()
    assert found.rows["v2: VegaRT"].observed == "v2 refused it with HTTP 404, and v1 drew it"
    assert [call.route for call in found.account.calls.values()] == ["v1", "v2", "v1"]


@pytest.mark.parametrize(
    ("most_usd", "cost", "drawn"),
    [("0.002", "0.002", ["v1"]), ("0.006", "0.002", ["v1", "v2"]), ("0.006", "0.005", ["v1"]), ("0.001", "0.002", [])],
)
async def test_a_call_that_would_exceed_the_limit_is_not_made_even_if_earlier_calls_cost_less(
    tmp_path: Path, most_usd: str, cost: str, drawn: list[str]
) -> None:
    found = await tried(tmp_path, Deviation(set(), rewrite=header("x-cost", cost)), most_usd)
    assert [call.route for call in found.account.calls.values()] == drawn
    assert found.rows["v2: VegaRT"].verdict == "not tried"
    assert found.rows["v2: VegaRT"].observed == f"it would have exceeded --max-usd ${most_usd}"
    assert found.rows["v2: status words"].verdict == ("holds" if "v2" in drawn else "not tried")


async def test_a_call_that_was_refused_for_the_rate_limit_waits_and_reports_only_the_rate_limit(tmp_path: Path) -> None:
    found = await tried(tmp_path, Deviation(set(), account={"faults": ["429*1"]}), "0.002")
    assert found.verdicts("differs") == set()
    assert found.rows["rate limit"].verdict == "holds"
    assert found.rows["v1: answer"].verdict == "holds"


async def test_without_credits_no_further_call_is_made(tmp_path: Path) -> None:
    found = await tried(tmp_path, Deviation(set(), account={"faults": ["402"]}))
    (first,) = found.seen.drawn
    assert first.error
    assert first.error.code == "insufficient_credits"
    assert found.seen.left_out == dict.fromkeys(
        ["Vega by v2", "VegaRT by v2"], "VegaRT by v1 failed before it (insufficient_credits)"
    )
    assert found.verdicts("differs") == set()


# ---- the command ----


def options(*arguments: str) -> Namespace:
    return build_parser().parse_args(["doctor", "--paid", *arguments])


def test_if_the_user_declines_every_picture_nothing_is_paid(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    settings = Settings.from_environment(environment(tmp_path, **api))
    assert run_paid(options(), settings, [KEY], ask=lambda question: bool(asked.append(question))) == 1
    assert asked == [
        "Draw VegaRT by v1, for about $0.002?",
        "Draw Vega by v2, for about $0.00225?",
        "Draw VegaRT by v2, for about $0.002?",
    ]
    assert capsys.readouterr().err == "Nothing was drawn.\n"
    assert sandbox_in_thread.account.requests.total() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--paid"], "stdin is not a terminal"),
        (["--paid", "--yes", "--max-usd", "0.001"], "--max-usd $0.001 is less than any picture costs"),
        (["--yes"], "--yes and --max-usd go with --paid"),
        (["--max-usd", "0"], "--yes and --max-usd go with --paid"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_drawn(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, arguments: list[str], words: str
) -> None:
    with pytest.raises(InvalidArguments, match=re.escape(words)):
        run_doctor(build_parser().parse_args(["doctor", *arguments]), environment(tmp_path, **api))
    assert sandbox_in_thread.paid_requests == 0


def test_a_refused_key_and_an_empty_account_are_reported_as_by_the_doctor(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = environment(tmp_path, **api)
    assert run_doctor(options("--yes"), {**variables, "SEGMIND_API_KEY": "no-key-at-all"}) == 1
    assert "To fix: key." in capsys.readouterr().out
    sandbox_in_thread.account.credits = Decimal(0)
    assert run_doctor(options("--yes", "--json"), variables) == 1
    checks = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in checks if check["state"] == "bad"] == ["balance"]
    assert sandbox_in_thread.paid_requests == 0


def test_the_spending_limit_is_kept(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = environment(tmp_path, **api, MCP_VEGA_SPENDING_LIMIT_USD="0.001")
    assert run_doctor(options("--yes"), limited) == 1
    printed = capsys.readouterr()
    assert "of today's $0.001 (UTC) are spent (spending_limit_reached)" in printed.err
    assert "VegaRT by v1 failed before it (spending_limit_reached)" in printed.out
    assert sandbox_in_thread.paid_requests == 0


@posix
@pytest.mark.parametrize("paint", [cached_paint], ids=["painted"])
def test_at_a_terminal_it_asks_for_each_picture_and_reports_what_it_saw(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    with terminal(typed="y\nn\n\n") as (stdin, _):
        done = subprocess.run(
            [sys.executable, "-m", "mcp_vega", "doctor", "--paid"],
            stdin=stdin,
            capture_output=True,
            encoding="utf-8",
            env=environment(tmp_path, **api),
            timeout=HANG_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("[y/N]") == 3
    (call,) = sandbox_in_thread.account.calls.values()
    assert (call.route, call.slug) == ("v1", "segmind-vega-rt-v1")
    (kept,) = re.findall("^Kept: (.+)$", done.stderr, re.MULTILINE)
    assert Path(kept).parent.parent == tmp_path / "pictures" / "gallery"
    (file,) = re.findall(r"^Written: (.+\.json)\. ", done.stderr, re.MULTILINE)
    told = json.loads(Path(file).read_text(encoding="utf-8"))
    assert re.fullmatch(r"holds: \d+, differs: 0, not seen: \d+, not tried: \d+", done.stdout.splitlines()[-1])
    assert max(map(len, done.stdout.splitlines())) <= 100
    verdicts = {row["name"]: row["verdict"] for row in told["rows"]}
    assert verdicts["history: picture"] == "holds"
    assert verdicts["v2: result"] == "not tried"
    for name, verdict in verdicts.items():
        assert f"\n{verdict:11}{name}\n" in f"\n{done.stdout}"
    first = next(each for each in told["answers"] if each["method"] == "POST")
    assert first["url"] == "/v1/segmind-vega-rt-v1"
    assert first["body"].startswith("image/jpeg, ")
    listed = next(each for each in told["answers"] if each["while"] == "history")
    assert listed["body"]["data"][0]["credits_deduction"] == "number"
    assert listed["url"].startswith("/inference-request/request-history?page=1&per_page=100&")


@posix
def test_if_it_is_interrupted_a_picture_that_is_paid_for_is_kept(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    sandbox_in_thread.hold()
    command = [*PATIENT, "doctor", "--paid", "--yes", "--max-usd", "0.002"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment(tmp_path, **api), text=True) as process:
        wait_until(lambda: sandbox_in_thread.account.calls)
        process.send_signal(signal.SIGINT)
        sandbox_in_thread.let_go()
        _, said = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 130
    (kept,) = re.findall("^Kept: (.+)$", said, re.MULTILINE)
    assert Path(kept).exists()


TOKEN = "an-access-token"


def echoes(answer: Answer) -> None:
    """An API that puts the key, the token and a number into every possible place."""
    answer.headers |= {"x-account": KEY, f"x-{KEY}".lower(): "1"}
    if V1 in answer.path:
        answer.headers |= {"x-cost": f"0.002 {KEY} {TOKEN}", "x-remaining-credits": "4711.4711"}
    if "/generations/" in answer.path:
        answer.headers["content-type"] = f"image/{KEY}"
    elif answer.headers["content-type"] == "application/json":
        said = json.loads(answer.body) | {KEY: KEY, "error_code": KEY}
        if STATUS in answer.path:
            said["metrics"] = {KEY: 1, TOKEN: 1, said["request_id"]: 1}
        for row in said.get("data", ()):
            row |= {"model_name": f"{row['model_name']} of {KEY}", "model_status": KEY, "request_body": KEY}
        answer.body = json.dumps(said).replace(KEY[-4:], "\\u0063" + KEY[-3:]).encode()


async def test_no_path_of_this_machine_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = await tried(tmp_path, Deviation(set(), account={"faults": ["not-image"]}), "0.002")
    settings = Settings.from_environment(environment(tmp_path, MCP_VEGA_GALLERY=str(tmp_path / "gallery")))
    settings.home_folder.mkdir(parents=True)
    assert show(found.seen, options(), settings, [KEY]) == 1
    printed = capsys.readouterr()
    (file,) = settings.home_folder.glob("doctor-paid-*.json")
    assert f"the received data is kept at {tmp_path}" in printed.err
    written = file.read_text(encoding="utf-8")
    assert "the received data is kept at …" in written
    assert str(tmp_path) not in printed.out + written


async def test_no_key_account_balance_or_id_is_shown_whatever_the_api_sends_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    balance = Decimal("7.314159")
    one_word = once(changed_json(STATUS, has(status=f"WARMING_UP {KEY}")), STATUS)
    found = await tried(tmp_path, Deviation(set(), account={"credits": balance}, rewrite=in_turn(one_word, echoes)))
    settings = Settings.from_environment(environment(tmp_path))
    settings.home_folder.mkdir(parents=True)
    assert show(found.seen, options(), settings, [KEY, TOKEN]) == 1
    assert show(found.seen, options("--json"), settings, [KEY, TOKEN]) == 1
    printed = capsys.readouterr()
    files = [*settings.home_folder.glob("doctor-paid-*.json")]  # one file if both runs were in the same second
    assert files
    shown = "".join((printed.out, *(file.read_text(encoding="utf-8") for file in files)))
    assert KEY[3:] not in (shown + printed.err).lower()
    assert TOKEN not in shown
    assert "4711" not in shown
    assert str(balance)[:4] not in shown
    calls = found.account.calls.values()
    assert calls
    assert not [call.id for call in calls if call.id in shown]
    accounts = {drawn.job.account for drawn in found.seen.drawn if drawn.job}
    assert accounts
    assert not [each for each in accounts if each in shown]
    assert str(tmp_path) not in shown


@pytest.mark.parametrize("odd", [None, -1e300, "x" * 1000, [[{"url": 5}]], {"a": [None]}])
async def test_an_answer_with_odd_values_is_compared_completely(tmp_path: Path, odd: Any) -> None:
    def fields(answer: Answer) -> None:
        if answer.headers["content-type"] == "application/json":
            kept = ("request_id", "status", "data")  # otherwise there would be nothing to compare
            said = {name: value if name in kept else odd for name, value in json.loads(answer.body).items()}
            said |= {"data": [dict.fromkeys(row, odd) | {"n": 1} for row in said["data"]]} if "data" in said else {}
            answer.body = json.dumps(said).encode()

    found = await tried(tmp_path, Deviation(set(), rewrite=fields))
    assert len(found.account.calls) == 3
    assert not [row for row in found.rows.values() if "could not be compared" in row.observed]
    assert json.dumps(report.record([*found.rows.values()], found.seen, [KEY], sandbox=False))
