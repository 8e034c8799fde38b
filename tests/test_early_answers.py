"""Early answers: what a host gets before the SDK has loaded is what the SDK would have answered.

Most servers here are forks of one process, see `early.py`. To recognise an answer that was sent early, a test marks the
stored answers: the mark then is in what the host gets.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from conftest import HANG_SECONDS, KEY
from lines import BOM
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import JSONRPCResponse
from test_startup import SCRIPT
from test_stdio import killed_when_it_hangs
from test_transports import COMMAND, MODES, environment

import mcp_vega
from mcp_vega.server.stdio import fingerprint
from mcp_vega.server.stdio.early_answers import EarlyAnswers
from mcp_vega.server.stdio.recorder import FILES_KEPT, AnswerRecorder
from mcp_vega.server.stdio.stored_answers import CHECKSUM_BYTES, FOLDER, Request, StoredAnswers
from mcp_vega.server.stdio.streams import LINE_BYTES
from mcp_vega.server.tools import SANDBOX_NOTE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is answered early there")

MARK = {"marked": True}
# The same as no arguments, but spelled so that nothing is answered early.
PLAIN = ["--transport=stdio"]
Message = dict[str, Any]
Line = Message | str


def request(id_: object, method: str, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def notification(method: str, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def hello(id_: object = 1, name: str = "test", **changes: Any) -> Message:
    client = {"name": name, "version": "1"}
    return request(
        id_, "initialize", **{"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client} | changes
    )


def modern(id_: object, method: str, *, capabilities: bool = True) -> Message:
    meta: Message = {"protocolVersion": "2026-07-28", "clientInfo": {"name": "test", "version": "1"}}
    if capabilities:
        meta["clientCapabilities"] = {}
    return request(id_, method, _meta={f"io.modelcontextprotocol/{name}": value for name, value in meta.items()})


INITIALIZED = notification("notifications/initialized")
TOOLS = request(2, "tools/list")
# The lines of a host, and the ids of the requests that are answered early once the answers are known.
SEQUENCES: dict[str, tuple[list[Line], list[object]]] = {
    "all at the same time": (
        [hello(), INITIALIZED, TOOLS, request("2", "ping"), request(3, "prompts/list"), request(4, "resources/list")],
        [1, 2, "2", 3],
    ),
    "after a call everything waits": (
        [hello(), INITIALIZED, request(3, "tools/call", name="check_job", arguments={}), TOOLS],
        [1],
    ),
    "a cancellation after the answer": (
        [hello(), TOOLS, notification("notifications/cancelled", requestId=2), request(2, "resources/list")],
        [1, 2],
    ),
    "a list twice": ([hello(), INITIALIZED, TOOLS, request(3, "tools/list")], [1, 2]),
    "an id again": ([hello(), INITIALIZED, TOOLS, request(2, "resources/list")], [1, 2]),
    "tools first": ([TOOLS, hello(), request(3, "ping")], []),
    "a notification first": ([INITIALIZED, hello(), TOOLS], [1, 2]),
    "an unknown version": ([hello(protocolVersion="1999-01-01"), TOOLS], [1, 2]),
    "a modern version in initialize": ([hello(protocolVersion="2026-07-28"), TOOLS], [1, 2]),
    "an initialize without a client": ([request(1, "initialize", protocolVersion="2025-06-18"), TOOLS], []),
    "capabilities that are wrong": ([hello(capabilities={"roots": 5}), TOOLS], []),
    "a capability that is wrong inside": ([hello(capabilities={"roots": {"listChanged": "perhaps"}}), TOOLS], []),
    "initialize twice": ([hello(), hello(5), TOOLS], [1]),
    "a cursor": ([hello(), INITIALIZED, request(2, "tools/list", cursor="x")], [1, 2]),
    "no params, and null": (
        [hello(), {**TOOLS, "params": None}, {"jsonrpc": "2.0", "id": 3, "method": "ping"}],
        [1, 2, 3],
    ),
    "modern": ([modern(1, "server/discover"), modern(2, "tools/list"), modern(3, "prompts/list")], [1, 2, 3]),
    "modern without capabilities": ([modern(1, "server/discover", capabilities=False), modern(2, "tools/list")], []),
    "modern without discovery": ([modern(2, "tools/list"), modern(3, "ping")], []),
    "discovery, then initialize": ([modern(1, "server/discover"), hello(2), request(3, "tools/list")], [1]),
    "both eras": ([modern(1, "server/discover"), TOOLS, modern(3, "tools/list")], [1]),
    "a client that gets text only": ([hello(name="@cline/core"), INITIALIZED, TOOLS], [1, 2]),
    "a byte order mark": ([BOM + json.dumps(hello()), TOOLS], []),
    "two on a line": ([json.dumps(hello()) + json.dumps(TOOLS), request(3, "ping")], []),
    "rubbish, then a ping": ([hello(), "Welcome!", request(3, "ping")], [1]),
    "an id that is not plain": ([hello(1.0), TOOLS], []),
    "a request with an error": ([{**hello(), "error": {"code": 1, "message": "x"}}, TOOLS], []),
    "a line that is too long": ([hello(), f'{{"id": 2, "method": "{"x" * LINE_BYTES}"}}', request(3, "ping")], [1]),
    "much at the same time": ([hello(), *[notification("x", text="x" * 9000)] * 300, TOOLS], [1]),
}


def expected(line: Line) -> int:
    """How many answers a line gets."""
    return max(line.count('"method"'), 1) if isinstance(line, str) else "id" in line


@dataclass
class Start:
    """A start of the server in a folder, which holds its home, and how it ended."""

    folder: Path
    lines: list[Line]
    kind: str = "pipe"
    arguments: list[str] = field(default_factory=list[str])
    variables: dict[str, str] = field(default_factory=dict[str, str])
    waits: bool = True  # until all requests are answered, before stdin ends
    code: int = -1
    answers: list[Message] = field(default_factory=list[Message])
    said: str = ""

    def as_json(self) -> Message:
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in self.lines)
        home = {
            "MCP_VEGA_HOME": str(self.folder / "home"),
            "MCP_VEGA_GALLERY": str(self.folder),
        }
        return {
            "folder": str(self.folder),
            "text": text,
            "expected": sum(map(expected, self.lines)) if self.waits else 0,
            "kind": self.kind,
            "arguments": self.arguments,
            "environment": {**home, "SEGMIND_API_KEY": KEY, **self.variables},
        }

    def ended(self, code: int, output: str) -> None:
        self.code = code
        self.answers = [json.loads(line) for line in output.splitlines()]
        self.said = (self.folder / "err").read_text(encoding="utf-8")

    @property
    def sorted(self) -> list[str]:
        """The answers without marks, in an order of their own: answers may overtake each other."""
        plain = [
            {**each, "result": {name: value for name, value in each["result"].items() if name not in MARK}}
            if "result" in each
            else each
            for each in self.answers
        ]
        return sorted(json.dumps(each, sort_keys=True) for each in plain)

    @property
    def early(self) -> list[object]:
        """The ids of the answers with a mark."""
        return [each["id"] for each in self.answers if MARK.items() <= each.get("result", {}).items()]


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "home").rglob(f"{FOLDER}/*"))


def change(file: Path, **changes: Any) -> None:
    """Change all stored results."""
    stored = StoredAnswers("", 0)
    stored.key, stored.answers = json.loads(file.read_bytes()[CHECKSUM_BYTES:])
    for _, result in stored.answers.values():
        result.update(changes)
    file.write_bytes(stored.as_bytes())


def mark(folder: Path) -> None:
    for file in stored(folder):
        change(file, **MARK)


class Starter:
    """Starts servers of a copy of the package, so that a test may change its files.

    Attributes:
        site: The folder of the copy.
    """

    def __init__(self, site: Path) -> None:
        self.site = site
        shutil.copytree(Path(mcp_vega.__file__).parent, site / "mcp_vega")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("early.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(site)},
        )

    def run(self, *starts: Start) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([each.as_json() for each in starts]) + "\n")
        self._process.stdin.flush()
        with killed_when_it_hangs(self._process):
            ended = json.loads(self._process.stdout.readline())
        for start, (code, output) in zip(starts, ended, strict=True):
            start.ended(code, output)

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Generator[Starter]:
    starter = Starter(tmp_path_factory.mktemp("site"))
    yield starter
    starter.close()


def learned(starter: Starter, folder: Path, *lines: Line, **more: Any) -> list[Path]:
    """Start a server once; returns the files that it stores."""
    start = Start(folder, [hello(), INITIALIZED, TOOLS, *lines], **more)
    starter.run(start)
    assert (start.code, start.said, start.early) == (0, "", [])
    return stored(folder)


def test_a_host_gets_the_answers_of_the_sdk_in_every_order_of_requests(starter: Starter, tmp_path: Path) -> None:
    folders = {name: tmp_path / f"{number}" for number, name in enumerate(SEQUENCES)}

    def run(names: Iterable[str], **more: Any) -> dict[str, Start]:
        starts = {name: Start(folders[name], SEQUENCES[name][0], **more) for name in names}
        starter.run(*starts.values())
        return starts

    def all_stored() -> dict[str, list[str]]:
        return {name: [file.read_text() for file in stored(folder)] for name, folder in folders.items()}

    plain = run(list(SEQUENCES)[::6], arguments=PLAIN)
    first, kept = run(SEQUENCES), all_stored()
    for folder in folders.values():
        mark(folder)
    marked = run(SEQUENCES, kind="socket")
    for name, (_, early) in SEQUENCES.items():
        assert (first[name].code, marked[name].code) == (0, 0), name
        assert marked[name].sorted == first[name].sorted, name
        assert (first[name].early, marked[name].early) == ([], early), name
        assert marked[name].said.count("out of date") == len(early), name
        assert first[name].said == "", name
    for name, start in plain.items():
        assert start.sorted == first[name].sorted, name
    assert all_stored() == kept  # corrected


def test_answers_that_are_not_out_of_date_are_sent_once_and_change_nothing(starter: Starter, tmp_path: Path) -> None:
    (file,) = learned(starter, tmp_path, request(3, "ping"), arguments=["--sandbox"])
    assert [each.stat().st_mode & 0o777 for each in (file, file.parent)] == [0o600, 0o700]
    before = file.stat()
    ended_early = Start(tmp_path, [hello(), TOOLS, request(3, "ping")], arguments=["--sandbox"])
    ended_early.waits = False
    starter.run(ended_early)
    assert sorted(each["id"] for each in ended_early.answers) == [1, 2, 3]
    assert SANDBOX_NOTE in ended_early.answers[0]["result"]["instructions"]
    assert (ended_early.code, ended_early.said) == (0, "")
    after = file.stat()  # its time of access may change: it was read
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, before.st_mtime_ns, before.st_size)


def test_an_answer_is_only_sent_early_if_nothing_has_changed_that_it_depends_on(
    starter: Starter, tmp_path: Path
) -> None:
    (file,) = learned(starter, tmp_path)
    mark(tmp_path)
    marked = file.read_text()

    def early(**more: Any) -> list[object]:
        file.write_text(marked)
        start = Start(tmp_path, [hello(), TOOLS], **more)
        starter.run(start)
        assert (start.code, "out of date" in start.said) == (0, bool(start.early))
        return start.early

    assert early() == [1, 2]
    assert early(variables={"SEGMIND_API_KEY": "SG_other"}) == [1, 2]
    assert early(variables={"MCP_VEGA_WAIT_SECONDS": "5"}) == []
    assert early(variables={"MCP_VEGA_PREVIEW": "huge"}) == []
    assert early(arguments=["--sandbox"]) == []
    assert early(arguments=PLAIN) == []
    assert early(kind="file") == []
    source = starter.site / "mcp_vega" / "server" / "tools.py"
    status = source.stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert early() == []
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert early() == [1, 2]
    (starter.site / "mcp-99.0.dist-info").mkdir()
    assert early() == []
    (starter.site / "mcp-99.0.dist-info").rmdir()


def test_answers_are_stored_next_to_the_ledger_however_the_sandbox_is_chosen(starter: Starter, tmp_path: Path) -> None:
    ledger, in_sandbox = f"home/{FOLDER}", f"home/sandbox/{FOLDER}"
    folders = {
        "false": [ledger],  # in this way and the next, the bundle for Claude Desktop sets it
        "true": [in_sandbox],
        "${user_config.sandbox}": [ledger],
        "1": [in_sandbox],
        "yes": [],  # spelled so that the folder is not known early
    }
    starts = {
        value: Start(tmp_path / str(number), [hello()], variables={"MCP_VEGA_SANDBOX": value})
        for number, value in enumerate(folders)
    }
    starter.run(*starts.values())
    for value, start in starts.items():
        assert [str(file.parent.relative_to(start.folder)) for file in stored(start.folder)] == folders[value], value


def test_nothing_is_stored_if_a_setting_cannot_be_used(starter: Starter, tmp_path: Path) -> None:
    start = Start(tmp_path, [hello(), TOOLS, request(3, "resources/list")], variables={"MCP_VEGA_PREVIEW": "huge"})
    starter.run(start)
    assert "MCP_VEGA_PREVIEW cannot be used" in json.dumps(start.answers)
    assert (start.code, stored(tmp_path)) == (0, [])


RESULT = {"instructions": "Draw a fox"}


def opened(folder: Path, opening: Message) -> tuple[StoredAnswers, Request]:
    answers = StoredAnswers(str(folder), 1)
    request = answers.request_in(json.dumps(opening))
    assert request
    return answers, request


def content_for(opening: Message) -> bytes:
    answers, request = opened(Path(os.devnull), opening)
    answers.answers[request.method] = (request.params, RESULT)
    return answers.as_bytes()


def result_in(folder: Path) -> Message | None:
    answers, request = opened(folder, hello())
    answers.load()
    return answers.result_for(request)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "cut": lambda right: right[:-1],
    "zeros": lambda right: right[:50] + bytes(len(right) - 50),
    "another letter": lambda right: right.replace(b"fox", b"box"),
    "another host": lambda _: content_for(hello(name="other")),
    "huge": lambda right: right + b" " * 10_000_000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_gives_no_answers(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = Path(opened(tmp_path, hello())[0].file)
    file.write_bytes(content_for(hello()))
    assert result_in(tmp_path) == RESULT
    file.write_bytes(damage(file.read_bytes()))
    assert result_in(tmp_path) is None


def test_the_file_of_another_user_gives_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(opened(tmp_path, hello())[0].file).write_bytes(content_for(hello()))
    assert result_in(tmp_path) == RESULT
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert result_in(tmp_path) is None


def test_nothing_is_answered_early_if_the_files_of_the_package_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "PACKAGE", "/packages.zip/mcp_vega")
    with pytest.raises(FileNotFoundError):
        fingerprint.fingerprint_of([], {})


def test_an_answer_may_come_while_another_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, come = Event(), Event()

    def slowly(self: StoredAnswers) -> bytes:
        methods = b""
        for method in self.answers:
            begun.set()
            come.wait(HANG_SECONDS)
            methods += method.encode()
        return methods

    monkeypatch.setattr(StoredAnswers, "as_bytes", slowly)
    known, _ = opened(tmp_path / FOLDER, hello())
    early = SimpleNamespace(folder=str(tmp_path / FOLDER), fingerprint=1, may_store=True, sent=[], stored=known)
    recorder = AnswerRecorder(cast("EarlyAnswers", early))
    for line in (hello(), TOOLS):
        recorder.note_line(json.dumps(line))
        recorder.is_for_host(JSONRPCResponse(jsonrpc="2.0", id=line["id"], result={}))
        assert begun.wait(HANG_SECONDS)
    come.set()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    (file,) = (tmp_path / FOLDER).iterdir()
    assert file.read_bytes() == b"initializetools/list"


def test_whatever_is_at_the_place_of_the_file_a_server_starts_as_before(starter: Starter, tmp_path: Path) -> None:
    (file,) = learned(starter, tmp_path)
    right = file.read_text()
    file.write_text("[")
    assert learned(starter, tmp_path) == [file]
    assert file.read_text() == right  # replaced
    file.unlink()
    os.mkfifo(file)
    assert learned(starter, tmp_path) == [file]
    file.unlink()
    file.mkdir()
    learned(starter, tmp_path)
    file.rmdir()
    file.parent.rmdir()  # nothing else was left in it
    file.parent.touch()
    learned(starter, tmp_path)
    file.parent.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file.parent.symlink_to(elsewhere)
    learned(starter, tmp_path)
    assert list(elsewhere.iterdir()) == []


def test_few_files_are_kept(starter: Starter, tmp_path: Path) -> None:
    (file,) = learned(starter, tmp_path)
    for number in range(30):
        (file.parent / f"{number}.json").touch()
        os.utime(file.parent / f"{number}.json", (number, number))
    file.write_text("")
    assert file in learned(starter, tmp_path)
    assert len(stored(tmp_path)) == FILES_KEPT


# ---- real processes ----

# As a module that Python imports when it starts: pydantic cannot be loaded, or not yet.
GATE = """
import os, sys, time

def hanging(path, *arguments, _open=os.open, **more):
    if os.environ["GATE"] == "no disk" and "early-answers" in str(path):
        time.sleep(600)
    return _open(path, *arguments, **more)

os.open = hanging

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic" and os.environ["GATE"] == "shut":
            time.sleep(600)
        if name == "pydantic" and os.environ["GATE"] == "broken":
            raise ImportError("pydantic is broken")

sys.meta_path.insert(0, Gate())
"""


def test_signals_and_a_failing_import_end_a_server_that_has_answered_already(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(GATE)

    def ask(gate: str) -> tuple["subprocess.Popen[str]", Message]:
        variables = environment(tmp_path, PYTHONPATH=str(tmp_path), GATE=gate, SEGMIND_API_KEY=KEY)
        pipe = subprocess.PIPE
        process = subprocess.Popen(SCRIPT, env=variables, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(hello()) + "\n")
        process.stdin.flush()
        with killed_when_it_hangs(process):
            return process, json.loads(process.stdout.readline())

    process, answer = ask("open")
    assert process.communicate(timeout=HANG_SECONDS) == ("", "")
    process, late = ask("no disk")
    assert late == answer
    process.kill()
    process.communicate()
    for gate, number, code, said in [
        ("shut", signal.SIGTERM, -signal.SIGTERM, ""),
        ("shut", signal.SIGINT, 130, ""),
        ("broken", 0, 1, "This program cannot be loaded: pydantic is broken. Install mcp-vega again.\n"),
    ]:
        process, early = ask(gate)
        assert early == answer
        process.send_signal(number)
        assert process.communicate(timeout=HANG_SECONDS) == ("", said)
        assert process.returncode == code


@pytest.mark.anyio
async def test_the_python_client_of_either_era_accepts_early_answers(tmp_path: Path) -> None:
    async def use(mode: str) -> tuple[str | None, list[str], str]:
        command = StdioServerParameters(
            command=COMMAND[0], args=COMMAND[1:], env=environment(tmp_path / mode, SEGMIND_API_KEY=KEY)
        )
        async with Client(stdio_client(command), mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool("check_job", {})
            return client.instructions, [each.name for each in tools.tools], str(result.content)

    async def use_twice(mode: str) -> None:
        (tmp_path / mode).mkdir()
        first = await use(mode)
        (file,) = stored(tmp_path / mode)
        change(file, instructions="early")
        assert await use(mode) == ("early", *first[1:])

    async with anyio.create_task_group() as tasks:
        for mode in MODES:
            tasks.start_soon(use_twice, mode)
