"""The log on stderr: who reads it follows each job, and learns no prompt."""

import json
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import anyio
import httpx
import pytest
from conftest import KEY, Sandbox, images_of, job_of, text_of, unserved_port, until
from mcp import MCPError
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from opentelemetry import trace
from test_transports import COMMAND, STDERR, address, complaints, environment, started, started_by

from mcp_vega.telemetry.log_context import answering, working_on
from mcp_vega.telemetry.logs import FIELDS, log_to_stderr

pytestmark = pytest.mark.anyio

# No text of this program has this word.
WORD = "zyzzyva"
FAULTS = ["moderation", "failed", "error-detail", "not-image"]


@asynccontextmanager
async def serving(transport: str, folder: Path, **variables: str) -> AsyncGenerator[Client]:
    """A client of a real server whose stderr goes into a file."""
    if transport == "stdio":
        parameters = StdioServerParameters(
            command=COMMAND[0], args=COMMAND[1:], env=environment(folder, **variables), cwd=folder
        )
        with (folder / STDERR).open("w", encoding="utf-8") as stderr:
            async with Client(stdio_client(parameters, errlog=stderr)) as agent:
                yield agent
        return
    everywhere = ("--host", "0.0.0.0", "--insecure")  # noqa: S104  the server warns of both
    with started(folder, "--transport", transport, "--port", "0", *everywhere, **variables):
        url = address(folder).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        async with Client(sse_client(url) if transport == "sse" else url) as agent:
            yield agent


async def call_in_every_way(agent: Client) -> str:
    """Draw, and cause errors of many kinds, with the word in every text. Returns the request id of the drawn job."""
    prompts = {"prompt": f"a {WORD} at dusk", "negative_prompt": f"two {WORD}s"}
    drawn = job_of(await agent.call_tool("generate_image_vega", prompts))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("generate_image_vega", {**prompts, "scheduler": WORD}),
        ("generate_image_vega", {**prompts, WORD: 1}),
        (WORD, prompts),
        ("check_job", {"request_id": f"{WORD}-1"}),
        *(("generate_image_vega", {**prompts, "prompt": f"{WORD} [fault:{fault}]"}) for fault in FAULTS),
        ("submit_job", {**prompts, "prompt": f"{WORD} [fault:output-missing]"}),
    ]

    async def call(name: str, arguments: dict[str, Any]) -> None:
        result = await agent.call_tool(name, arguments)
        assert result.is_error or name == "submit_job", text_of(result)

    async with anyio.create_task_group() as tasks:
        for name, arguments in wrong:
            tasks.start_soon(call, name, arguments)
    await agent.read_resource(f"vega://gallery?q={WORD}")
    for uri in (f"vega://images/{WORD}", f"vega://{WORD}"):
        with pytest.raises(MCPError):
            await agent.read_resource(uri)
    return drawn["request_id"]


@pytest.mark.parametrize("transport", ["stdio", "sse", "http"])
async def test_every_line_is_json_and_a_jobs_lines_have_its_ids_but_no_text_of_its_caller(
    sandbox_in_thread: Sandbox, tmp_path: Path, transport: str
) -> None:
    variables = {"MCP_VEGA_LOG_FORMAT": "json", "MCP_VEGA_LOG_LEVEL": "INFO"}
    api = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    async with serving(transport, tmp_path, **variables, **api) as agent:
        request_id = await call_in_every_way(agent)
    lines = complaints(tmp_path).splitlines()
    if transport != "stdio":
        assert lines.pop(0).startswith("http://")
    assert WORD not in "".join(lines).lower()
    found = [json.loads(line) for line in lines]
    for each in found:
        assert list(each) == [name for name in FIELDS if name in each]
        assert {*FIELDS[:4]} <= {*each}
    (job,) = {each["job"] for each in found if each.get("request_id") == request_id}
    life = [each for each in found if each.get("job") == job]
    steps = ("was begun: segmind-vega by v1", "is sent", "is kept in", "ended: COMPLETED")
    assert all(step in each["message"] for step, each in zip(steps, life, strict=True))
    assert len({each["rpc_id"] for each in life}) == 1
    messages = [each["message"] for each in found]
    assert "check_job was answered with the error unknown_job" in messages
    assert any("ended: FAILED (content_blocked)" in message for message in messages)
    if transport != "stdio":
        assert not [each for each in found if each["logger"].startswith("uvicorn")]  # each start and end has many
        assert any(message.startswith("Anyone who reaches this address") for message in messages)


def test_a_server_whose_settings_are_wrong_says_so_in_json(tmp_path: Path) -> None:
    variables = {"MCP_VEGA_LOG_FORMAT": "json", "MCP_VEGA_PREVIEW": "huge"}
    with started(tmp_path, **variables) as process:
        process.communicate("")
    assert "MCP_VEGA_PREVIEW" in json.loads(complaints(tmp_path))["message"]


# ---- odd records ----


class Untold:
    def __str__(self) -> str:
        raise ValueError(WORD)

    __repr__ = __str__


def raised(error: Exception) -> Exception:
    """An error that was raised while another was handled."""
    try:
        try:
            raise ValueError(WORD)  # noqa: TRY301  what is tested
        except ValueError:
            raise error  # noqa: B904  the same
    except Exception as caught:  # noqa: BLE001
        return caught


def in_a_circle() -> Exception:
    first, second = ValueError(WORD), KeyError(WORD)
    first.__cause__, second.__cause__ = second, first
    return raised(first)


UNREADABLE = OSError(28, "No space left", f"/gallery/a-{WORD}-7-0123abcd.jpg")
ODD: dict[str, tuple[Callable[[logging.Logger], object], str]] = {
    "not a text": (lambda log: log.error({"a": 1}), "{'a': 1}"),
    "an object without a text": (lambda log: log.error(Untold()), "cannot be shown (ValueError)"),
    "an argument without a text": (lambda log: log.error("it is %s", Untold()), "it is %s"),
    "arguments that do not fit": (lambda log: log.error("%d and %s", *[WORD]), "%d and %s"),
    "half a character": (lambda log: log.error("a fox \ud83e"), "a fox ?"),
    "control characters": (lambda log: log.error("a\r\n\0\x1b[31m\u2028b"), "a\r\n\0\x1b[31m\u2028b"),
    "30 MB": (lambda log: log.error("x" * 30_000_000), "xxx"),
    "a key": (lambda log: log.error("the key %s", KEY), "the key SG_…"),
    "a file": (lambda log: log.error("at /a b/a-%s-7-0123abcd.jpg now", WORD), "at /a b/…-7-0123abcd.jpg now"),
    "an object storage": (
        lambda log: log.error("“s3://b/%s-7-%s.png”", WORD, "0a" * 16),
        f"“s3://b/…-7-{'0a' * 16}.png”",
    ),
    "an error": (lambda log: log.error("x", exc_info=raised(KeyError(WORD))), "ValueError\nTraceback"),
    "a full disk": (lambda log: log.error("x", exc_info=raised(UNREADABLE)), "OSError: No space left"),
    "errors in a circle": (lambda log: log.error("x", exc_info=in_a_circle()), "KeyError"),
    "a group": (
        lambda log: log.error("x", exc_info=raised(ExceptionGroup(WORD, [raised(KeyError(WORD))]))),
        "ExceptionGroup\n  Traceback",
    ),
    "no error": (lambda log: log.error("x", exc_info=True), "x"),  # noqa: LOG014  what is tested
    "another package": (lambda _: logging.getLogger("mcp.server.sse").warning("Invalid: %s", WORD), "Invalid"),
    "a thread that broke": (
        lambda _: threading.excepthook(SimpleNamespace(exc_value=raised(KeyError(WORD)))),  # pyright: ignore[reportArgumentType]
        "KeyError",
    ),
}


OpenLog = Callable[[str, Literal["text", "json"]], logging.Logger]


@pytest.fixture
def open_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLog]:
    """Sets up the log of this level and form as in a new process; returns its root."""
    hooks = ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook"))

    def opened(level: str, form: Literal["text", "json"]) -> logging.Logger:
        monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))
        monkeypatch.setattr(logging.Logger, "root", logging.root)
        monkeypatch.setattr(logging.Logger, "manager", logging.Manager(logging.root))
        for place, name in hooks:
            monkeypatch.setattr(place, name, getattr(place, name))
        log_to_stderr(level, form)
        return logging.root

    yield opened
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("what", ODD)
def test_any_record_becomes_one_line(capsys: pytest.CaptureFixture[str], open_log: OpenLog, what: str) -> None:
    write, shown = ODD[what]
    write(open_log("INFO", "json"))
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert len(said.splitlines()) == 1
    assert len(said) < 200_000
    line = json.loads(said)
    assert shown in line.get("exception", line["message"])
    assert KEY not in said
    assert WORD not in said


@dataclass
class Ids:
    local_id: str
    request_id: str


def test_a_line_has_the_ids_of_what_is_going_on_and_of_nothing_else(
    capsys: pytest.CaptureFixture[str], open_log: OpenLog
) -> None:
    log = open_log("INFO", "json")
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id=0xAB, span_id=0xCD, is_remote=False))
    job = Ids("local-1", "local-1")
    with trace.use_span(span), answering(7), working_on(job):
        log.info("begun")
        job.request_id = "r1"
        log.info("accepted")
        started_meanwhile = copy_context()
    for rpc_id in ("x" * 3000, 10**6000, 2**64, KEY):
        with answering(rpc_id):
            log.info("")
    started_meanwhile.run(log.info, "later")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    first = {key: lines[0][key] for key in FIELDS if key in lines[0] and key not in {"time", "logger"}}
    assert first == {
        "level": "INFO",
        "message": "begun",
        "job": "local-1",
        "request_id": "local-1",
        "rpc_id": 7,
        "trace_id": f"{0xAB:032x}",
        "span_id": f"{0xCD:016x}",
    }
    assert lines[1]["request_id"] == "r1"
    assert all(len(line["rpc_id"]) <= 100 for line in lines[2:6])
    assert KEY not in str(lines)
    assert not {"job", "request_id", "rpc_id"} & {*lines[6]}


def test_with_debug_an_error_is_complete(capsys: pytest.CaptureFixture[str], open_log: OpenLog) -> None:
    log = open_log("DEBUG", "text")
    log.error("it broke", exc_info=raised(KeyError("a fox")))
    assert capsys.readouterr().err.rstrip().endswith("KeyError: 'a fox'")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
async def test_a_server_whose_log_cannot_be_written_starts_and_draws(
    sandbox_in_thread: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / STDERR).symlink_to("/dev/full")
    settings = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY, "MCP_VEGA_LOG_LEVEL": "info"}
    with (
        unserved_port() as port,
        started_by(COMMAND, tmp_path, "--transport", "http", "--port", str(port), **settings) as process,
    ):

        def is_up() -> bool:
            assert process.poll() is None
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
            except httpx.ConnectError:
                return False

        await until(is_up)
        async with Client(f"http://127.0.0.1:{port}/mcp") as agent:
            assert images_of(await agent.call_tool("generate_image_vegart", {"prompt": "a fox"}))
