"""Messages that no host should send: every message that needs an answer gets one, and a right message is unchanged."""

import json
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from conftest import HANG_SECONDS, KEY, Sandbox
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import BOM, LINES, RIGHT, check_line
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR
from test_http_access import HttpServer, served
from test_transports import COMMAND, environment, shake_hands, started

from mcp_vega.server.context import AppContext
from mcp_vega.server.stdio.messages import MOST_VALUES, Outcome, Refusal, read_line
from mcp_vega.server.stdio.streams import LINE_BYTES, LineReader

# Every run uses the same examples, and keeps none.
drawn = settings(deadline=None, derandomize=True, database=None, max_examples=600)

# ---- every kind of message, with a real server ----

DIGITS = "9" * 5000
# The id of an answer and the code of its error. A result has no code, even if it is the error of a tool.
Answer = tuple[Any, int | None]
RESULT = None


def message(id_: str = "7", method: str = '"ping"', params: str = "{}", version: str = '"2.0"', **more: str) -> str:
    """A request as JSON; its members are given as JSON."""
    members = {"jsonrpc": version, "id": id_, "method": method, "params": params, **more}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members.items() if value) + "}"


def call(argument: str, tool: str = "check_job", name: str = "request_id", id_: str = "7") -> str:
    """A tool's call with one argument, as JSON."""
    return message(id_, '"tools/call"', f'{{"name": "{tool}", "arguments": {{"{name}": {argument}}}}}')


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


PING = message()
NO_TEXT = '""'
LONG = "x" * LINE_BYTES
LINES_AND_ANSWERS: dict[str, tuple[str | bytes, list[Answer]]] = {
    "right": (PING, [(7, RESULT)]),
    "a byte order mark": (BOM + PING, [(7, RESULT)]),
    "byte order marks and blanks": (f"{BOM} \t{BOM}{PING} {BOM}\r", [(7, RESULT)]),
    "half of an emoji": (call(r'"fox \ud83e"', "generate_image_vegart", "prompt"), [(7, RESULT)]),
    "half of an emoji in the method": (message(method=r'"fox \ud83e"'), [(7, -32601)]),
    "half of an emoji in the id": (message(r'"fox \ud83e"'), [("fox \ufffd", RESULT)]),
    "half of an emoji where more is wrong": (message(params=r'["\ud83e"]'), [(7, INVALID_REQUEST)]),
    "both halves in the wrong order": (call(r'"\udd8a\ud83e"'), [(7, RESULT)]),
    "both halves": (call(r'"\ud83e\udd8a"'), [(7, RESULT)]),
    "not UTF-8": (call('"?"').encode().replace(b"?", b"\xff\xfe"), [(7, RESULT)]),
    "half of an emoji as bytes": (call('"?"').encode().replace(b"?", b"\xed\xa0\xbe"), [(7, RESULT)]),
    "CRLF": (f"{PING}\r", [(7, RESULT)]),
    "a CR as a blank": (PING.replace(", ", ",\r"), [(7, RESULT)]),
    "CRs between messages": (f"{PING}\r{message('8')}\r", [(7, RESULT), (8, RESULT)]),
    "other blanks": (f"\t  {PING}\t", [(7, RESULT)]),
    "a blank of Unicode": (f"\u00a0{PING}", [(7, PARSE_ERROR)]),
    "several on a line": (PING + message('"b"') + message("2.5"), [(7, RESULT), ("b", RESULT), (2.5, INVALID_REQUEST)]),
    "one and rubbish": (f"{PING}}}", [(7, RESULT), (None, PARSE_ERROR)]),
    "rubbish and one": (f"Welcome! {PING}", [(7, PARSE_ERROR)]),
    "one and a number": (f"{PING} 5", [(7, RESULT), (None, PARSE_ERROR)]),
    "a batch": (f"[{PING}, {message('8')}]", [(7, INVALID_REQUEST), (8, INVALID_REQUEST)]),
    "an empty batch": ("[]", [(None, INVALID_REQUEST)]),
    "a batch of what needs no answer": (f"[{message('')}, 5]", [(None, INVALID_REQUEST)]),
    "params a list": (message(params="[]"), [(7, INVALID_REQUEST)]),
    "params a number": (message(params="5"), [(7, INVALID_REQUEST)]),
    "params text": (message(params='"x"'), [(7, INVALID_REQUEST)]),
    "params null": (message(params="null"), [(7, RESULT)]),
    "no params": (message(params=""), [(7, RESULT)]),
    "id null": (message("null"), [(None, INVALID_REQUEST)]),
    "id true": (message("true"), [(None, INVALID_REQUEST)]),
    "id a list": (message("[7]"), [(None, INVALID_REQUEST)]),
    "id 2.5": (message("2.5"), [(2.5, INVALID_REQUEST)]),
    "id 7.0": (message("7.0"), [(7, RESULT)]),
    "id infinite": (message("1e999"), [(None, INVALID_REQUEST)]),
    "id of 5,000 digits": (message(DIGITS), [(None, INVALID_REQUEST)]),
    "id of 4,000 digits": (message(DIGITS[:4000]), [(int(DIGITS[:4000]), RESULT)]),
    "id of 5,000 digits as text": (message(f'"{DIGITS}"'), [(DIGITS, RESULT)]),
    "id 2.5, spelled otherwise": (message("", **{r"\u0069d": "2.5"}), [(2.5, INVALID_REQUEST)]),
    "two ids": (message("8", **{"id ": "1"}).replace('"id "', '"id"'), [(1, RESULT)]),
    "an argument of 5,000 digits": (call(DIGITS), [(7, RESULT)]),
    "an argument that is no number": (call("NaN"), [(7, RESULT)]),
    "100,000 brackets": (call(nested(100_000)), [(7, INVALID_REQUEST)]),
    "5,000 brackets, the id last": (f'{{"method": "ping", "params": {nested(5000)}, "id": 7}}', [(7, PARSE_ERROR)]),
    "300 brackets": (call(nested(300)), [(7, INVALID_REQUEST)]),
    "150 brackets": (call(nested(150)), [(7, RESULT)]),
    "NUL": ("\0", [(None, PARSE_ERROR)]),
    "NUL in it": (call('"\0"'), [(7, PARSE_ERROR)]),
    "NUL after it": (f"{PING}\0", [(7, RESULT), (None, PARSE_ERROR)]),
    "NUL, spelled": (call(r'"\u0000"'), [(7, RESULT)]),
    "version missing": (message(version=""), [(7, INVALID_REQUEST)]),
    "version wrong": (message(version='"1.0"'), [(7, INVALID_REQUEST)]),
    "version a number": (message(version="2.0"), [(7, INVALID_REQUEST)]),
    "method missing": (message(method=""), [(7, INVALID_REQUEST)]),
    "method a number": (message(method="5"), [(7, INVALID_REQUEST)]),
    "method null": (message('"x"', method="null"), [("x", INVALID_REQUEST)]),
    "method unknown": (message(method='"nonsense"'), [(7, -32601)]),
    "an object of nothing": ("{}", [(None, INVALID_REQUEST)]),
    "a number": ("5", [(None, INVALID_REQUEST)]),
    "text": ('"ping"', [(None, INVALID_REQUEST)]),
    "null": ("null", [(None, INVALID_REQUEST)]),
    "not JSON": ("Content-Length: 80", [(None, PARSE_ERROR)]),
    "a comma too many": ('{"id": "a", }', [("a", PARSE_ERROR)]),
    "cut": (PING[:-3], [(7, PARSE_ERROR)]),
    "quotes inside of text": (call('"say "hi""'), [(7, PARSE_ERROR)]),
    "text without an end, the id last": (
        '{"method": "x\\, "params": {}, "jsonrpc": "2.0", "id": 7}',
        [(7, PARSE_ERROR)],
    ),
    "a request that has an error": (message(params="5", error='{"code": 1, "message": ""}'), [(7, INVALID_REQUEST)]),
    "as long as it may be": (call(f'"{LONG[len(call(NO_TEXT)) :]}"'), [(7, RESULT)]),
    "too long": (call(f'"{LONG}"'), [(7, INVALID_REQUEST)]),
    "too long, the id last": (
        f'{{"method": "{LONG}", "params": {{}}, "jsonrpc": "2.0", "id": 7}}',
        [(7, INVALID_REQUEST)],
    ),
    "too long, and no id": (LONG * 3, [(None, INVALID_REQUEST)]),
    "too many values": (call(f"[{'[],' * MOST_VALUES}0]"), [(7, INVALID_REQUEST)]),
    "many commas in text": (call(f'"{"[,{" * MOST_VALUES}"'), [(7, RESULT)]),
    # Messages that get no answer.
    "nothing": ("", []),
    "blanks": (f" \t{BOM}\r", []),
    "a notification": (message("", '"notifications/initialized"'), []),
    "a malformed notification": (message("", '"notifications/initialized"', "[]"), []),
    "a response": (message(method="", params="", result="{}"), []),
    "a malformed response": (message(method="", params="", result="5"), []),
    "a response that is cut": (message(method="", params="", result="{}")[:-2], [(None, PARSE_ERROR)]),
}


def test_every_message_that_needs_an_answer_gets_one(sandbox_in_thread: Sandbox, tmp_path: Path) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    with started(tmp_path, **variables) as process, killed_when_it_hangs(process):
        assert process.stdin
        shake_hands(process)
        wrong: dict[str, Counter[Answer]] = {}
        for name, (line, expected) in LINES_AND_ANSWERS.items():
            text = line.encode() if isinstance(line, str) else line
            os.write(process.stdin.fileno(), text + b"\n" + message('"ping after it"').encode() + b"\n")
            found = answers_until(process, {"ping after it": 1, **Counter(id_ for id_, _ in expected)})
            if found != Counter([*expected, ("ping after it", RESULT)]):
                wrong[name] = found
        assert wrong == {}
        output, _ = process.communicate(timeout=HANG_SECONDS)
    # The notification that there is a new picture may come at any time.
    assert ('"id"' in output, process.returncode) == (False, 0)
    assert [call.body["prompt"] for call in sandbox_in_thread.account.calls.values()] == ["fox \ufffd"]


@contextmanager
def killed_when_it_hangs(process: "subprocess.Popen[str]") -> Generator[None]:
    killer = threading.Timer(HANG_SECONDS, process.kill)
    killer.start()
    try:
        yield
    finally:
        killer.cancel()


def answers_until(process: "subprocess.Popen[str]", ids: dict[Any, int]) -> "Counter[Answer]":
    """Read the server's answers until there are enough of them with these ids."""
    assert process.stdout
    found: Counter[Answer] = Counter()
    while any(sum(times for (id_, _), times in found.items() if id_ == each) < ids[each] for each in ids):
        answer = json.loads(process.stdout.readline())
        if "id" in answer:
            found[answer["id"], answer.get("error", {}).get("code")] += 1
    return found


def test_a_file_on_stdin_is_answered_to_its_end_without_a_final_newline(tmp_path: Path) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    notification = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
    asked = [message("1", '"initialize"', json.dumps(hello)), notification, message("2", '"tools/list"'), PING]
    (tmp_path / "in").write_text("\n".join([f"{BOM}Hello", message("2.5"), *asked]))
    with (tmp_path / "in").open("rb") as stdin:
        done = subprocess.run(
            COMMAND,
            stdin=stdin,
            capture_output=True,
            env=environment(tmp_path, MCP_VEGA_SANDBOX="1"),
            timeout=HANG_SECONDS,
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(each["id"], "result" in each) for each in answers}
    assert found == {(None, False), (2.5, False), (1, True), (2, True), (7, True)}
    assert done.stderr == b""


# ---- the reader ----


async def read_all(fd: int) -> list[Outcome]:
    """What a reader finds until the end of a file: lines for the SDK, and errors for the host."""
    found: list[Outcome] = []

    async def take(answer: SessionMessage) -> None:
        assert isinstance(answer.message, Refusal)
        found.append(answer.message)

    reader = LineReader(fd)
    reader.send = take
    async for line in reader:
        found.append(line)  # noqa: PERF401  in order with the errors
    return found


async def read_from_pipe(*pieces: bytes) -> list[Outcome]:
    """What a reader finds if each piece arrives after it has read the piece before."""
    ends, found = os.pipe(), list[Outcome]()

    async def read() -> None:
        found.extend(await read_all(ends[0]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for piece in pieces:
            await anyio.wait_all_tasks_blocked()
            os.write(ends[1], piece)
        await anyio.wait_all_tasks_blocked()
        os.close(ends[1])
    os.close(ends[0])
    return found


def shown(outcomes: list[Outcome]) -> list[str]:
    return [each if isinstance(each, str) else each.model_dump_json() for each in outcomes]


@drawn
@given(LINES)
def test_each_request_in_any_line_is_answered_once_and_quickly(line: bytes) -> None:
    started_at = time.process_time()
    outcomes = list(read_line(line.decode(errors="replace")))
    assert time.process_time() - started_at < 1
    check_line(line, outcomes)


@settings(drawn, max_examples=200)
@given(RIGHT)
def test_a_right_line_is_passed_on_unchanged(text: str) -> None:
    assert list(read_line(text)) == [text]


@settings(drawn, max_examples=40)
@given(st.lists(LINES, max_size=4), st.lists(st.integers(0, 500), max_size=4), st.sampled_from([b"", b"\n"]))
@pytest.mark.anyio
async def test_lines_are_the_same_in_any_pieces(lines: list[bytes], cuts: list[int], end: bytes) -> None:
    stream = b"\n".join(lines) + end
    places = [0, *sorted(place for place in cuts if place < len(stream)), len(stream)]
    pieces = [stream[start:stop] for start, stop in pairwise(places) if start < stop]
    one_by_one = [outcome for line in lines for outcome in read_line(line.decode(errors="replace"))]
    assert shown(await read_from_pipe(*pieces)) == shown(one_by_one)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["file", "socket"])
async def test_stdin_may_be_a_file_or_a_socket(tmp_path: Path, kind: str) -> None:
    text = f"{BOM}{PING}\r\n\n{PING}"
    if kind == "file":
        (tmp_path / "lines").write_text(text, encoding="utf-8", newline="")
        with (tmp_path / "lines").open("rb") as file:
            found = await read_all(file.fileno())
    else:
        near, far = socket.socketpair()
        with near:
            with far:
                far.sendall(text.encode())
            found = await read_all(near.fileno())
    assert found == [PING, PING]


@pytest.mark.anyio
async def test_a_line_that_is_too_long_is_answered_before_its_end_and_the_lines_after_it_are_read() -> None:
    ends, found = os.pipe(), list[str]()
    reader = LineReader(ends[0])
    answered, ended = anyio.Event(), anyio.Event()

    async def take(answer: SessionMessage) -> None:
        assert answer.message.model_dump()["id"] == 7
        assert not answered.is_set(), "the line was answered before"
        answered.set()

    async def read() -> None:
        found.extend([line async for line in reader])
        ended.set()

    reader.send = take
    with anyio.fail_after(HANG_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.to_thread.run_sync(os.write, ends[1], call(f'"{LONG}')[:-3].encode())
            await answered.wait()
            await anyio.to_thread.run_sync(os.write, ends[1], f'{LONG}, "id": 8}}\n{PING}\n'.encode())
            os.close(ends[1])
    os.close(ends[0])
    assert found == [PING]


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"", message("", "5").encode()], ids=["nothing", "a malformed notification"])
async def test_many_lines_without_an_answer_let_other_tasks_run(line: bytes) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        ends = os.pipe()
        os.write(ends[1], (line + b"\n") * 500)
        os.close(ends[1])
        assert await read_all(ends[0]) == []
        os.close(ends[0])
        tasks.cancel_scope.cancel()
    assert turns >= 500


# With a parser that backtracks, or reads everything, each of these takes seconds or minutes.
SLOW = {
    "quotes": '"' * LINE_BYTES,
    "escaped quotes": '"' + r"\"" * (LINE_BYTES // 2),
    "escaped quotes and a backslash": '"' + r"\"" * (LINE_BYTES // 2) + "\\",
    "ids": '{"a": "' + ',"id":1' * (LINE_BYTES // 7) + "}",
    "ids as text": "{" + ',"id":"' * (LINE_BYTES // 7),
    "blanks": '{"id"' + " " * LINE_BYTES,
    "commas and blanks": ", " * (LINE_BYTES // 2) + "}",
    "brackets": "[" * LINE_BYTES,
    "lists in lists": message(params="[" + ",".join([nested(5)] * (LINE_BYTES // 11)) + "]"),
    "digits": message(params=f"[{'9' * LINE_BYTES}]"),
    "long numbers": message(params=f'["{BOM}", {",".join(["9" * 4300] * (LINE_BYTES // 4301))}, "\\ud83e"]'),
    "messages": message("", "5") * (MOST_VALUES // 4),
    "half emojis": call('"' + r"\ud83e" * (LINE_BYTES // 6) + '"'),
}


@pytest.mark.parametrize("line", SLOW.values(), ids=SLOW)
def test_no_line_takes_long(line: str) -> None:
    started_at = time.process_time()
    list(read_line(line))
    assert time.process_time() - started_at < 1


# ---- over HTTP ----


@asynccontextmanager
async def way_in(http: httpx.AsyncClient, server: HttpServer) -> AsyncGenerator[str]:
    """The URL for messages. Over SSE it is the URL of a session whose answers nobody reads."""
    if server.transport == "http":
        yield server.endpoint
        return
    async with http.stream("GET", server.endpoint) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                yield server.url + line.removeprefix("data: ")
                return


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_same_messages_are_answered_over_http(app: AppContext, transport: str) -> None:
    headers = {
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": "2025-11-25",
    }
    async with (
        served(app, transport, callers=()) as server,
        httpx.AsyncClient(trust_env=False, headers=headers) as http,
        way_in(http, server) as url,
    ):
        for name, (line, expected) in LINES_AND_ANSWERS.items():
            if not expected or name.startswith("too long"):
                continue  # without an answer there is only a status, and a line that is too long has another one
            answer = await http.post(url, content=line)
            errors = [each for each in expected if each[1] in (INVALID_REQUEST, PARSE_ERROR)]
            if len(expected) == 1 and not errors:
                assert answer.status_code == (200 if transport == "http" else 202), name
                continue
            # A request over HTTP has one answer. Several messages in it are an error as well.
            error = answer.json()
            found = (error["id"], error["error"]["code"])
            assert (answer.status_code, found) == (400, [*errors, (expected[0][0], INVALID_REQUEST)][0]), name
