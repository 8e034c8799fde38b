"""Answers the first requests of a host while the SDK is still being imported.

The answers come from earlier starts: each is what the SDK answered when the same host sent the same request. A thread
reads stdin and sends them. When the SDK is ready, it reads everything again, so its state is the same as without early
answers. `recorder.py` stores its answers for the next start, and drops those that were sent early.

This module is imported before anything is answered, so it imports only small modules.
"""

import _thread
import json
import os
import select
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from stat import S_ISFIFO, S_ISSOCK
from typing import Any, NamedTuple, cast

from mcp_vega import __version__

OPENINGS = ("initialize", "server/discover")
# These answers are always the same. Those that depend on the pictures or the jobs wait for the SDK.
METHODS = (*OPENINGS, "ping", "tools/list", "prompts/list", "resources/templates/list")
# The packages whose versions decide the answers, as in the names of their folders `NAME-VERSION.dist-info`.
PACKAGES = {"mcp", "mcp_types", "pydantic", "pydantic_core"}

# The folder of this package.
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))

# The folder of the files, next to the ledger. A file has about 12 kB.
FOLDER = "early-answers"
MOST_FILE_BYTES = 300_000
CHECKSUM_BYTES = 8
# Longer requests wait for the SDK.
LINE_CHARS = 10_000
# If more is sent while the SDK loads, the rest stays in the pipe.
MOST_BYTES_READ = 1_000_000
CHUNK_BYTES = 64_000
# How soon the importing thread lets the thread here run (s). Python's default is 0.005.
SWITCH_SECONDS = 0.0005


class Request(NamedTuple):
    """A request whose answer may be stored. Its parameters are JSON with sorted keys."""

    id: int | str
    method: str
    params: str


class StoredAnswers:
    """The SDK's answers to the first requests of a host.

    Each opening request has a file of its own, because the later answers depend on it: on the version of the protocol
    and on the client's name.

    Args:
        folder: The folder of the files.
        fingerprint: A number that changes with everything else that the answers depend on.

    Attributes:
        file: The path of the file; empty before the opening request.
        key: What the answers in the file depend on.
        answers: The parameters and the result of each method.
    """

    def __init__(self, folder: str, fingerprint: int) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._is_over = False
        self.file = self.key = ""
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {}

    def request_in(self, line: str) -> Request | None:
        """The request of a line if its answer may be stored, and sent early.

        The first request decides the version of the protocol. If it does not open a session, nothing is sent early. The
        same holds for everything after a second opening, a line that is not plainly valid, or the call of a tool.
        """
        if self._is_over or not line.strip():
            return None
        try:
            request = _parsed(line)
        except (ValueError, RecursionError):
            self._is_over = True
            return None
        if request is None:
            return None
        if (request.method in OPENINGS) == bool(self.file) or request.method == "tools/call":
            self._is_over = True
            return None
        if not self.file:
            self.key = json.dumps([self._fingerprint, request.method, request.params])
            self.file = os.path.join(self._folder, f"{zlib.crc32(self.key.encode()):08x}.json")
        return request if request.method in METHODS else None

    def result_for(self, request: Request) -> dict[str, Any] | None:
        """The result of exactly this request; None if it is not known."""
        params, result = self.answers.get(request.method, ("", None))
        return result if params == request.params else None

    def load(self) -> None:
        """Read the file. This may take long, for example if its disk is in the network."""
        with suppress(OSError):  # there is no such file
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK)
            try:
                content = os.read(descriptor, MOST_FILE_BYTES)
                # Another user may have made the folder. An agent reads these answers, and trusts them.
                is_own = os.fstat(descriptor).st_uid == os.getuid()
            finally:
                os.close(descriptor)
            checksum, stored = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
            if is_own and checksum == _checksum(stored):
                key, answers = json.loads(stored)
                # If the SDK has no result for the opening request, everything after it waits as well.
                if key == self.key and not answers.keys().isdisjoint(OPENINGS):
                    self.answers = answers

    def as_bytes(self) -> bytes:
        """The content of the file. It begins with a checksum, so that a damaged file gives no answers."""
        content = json.dumps([self.key, self.answers]).encode()
        return _checksum(content) + content


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _parsed(line: str) -> Request | None:
    """The request of a line; None for a notification.

    Raises:
        ValueError: The line is unusual, so `messages.py` has to read it.
    """
    message: Any = json.loads(line) if len(line) <= LINE_CHARS else None
    fields = cast("dict[str, Any]", message if isinstance(message, dict) else {})
    id_, method, params = fields.get("id"), fields.get("method"), fields.get("params")
    is_plain = fields.get("jsonrpc") == "2.0" and fields.keys() <= {"jsonrpc", "id", "method", "params"}
    if not (is_plain and isinstance(method, str) and isinstance(params, dict | None)):
        raise ValueError
    if "id" not in fields:
        return None
    if type(id_) is int or (isinstance(id_, str) and id_.isascii()):
        return Request(id_, method, json.dumps(params, sort_keys=True))
    raise ValueError


class EarlyAnswers:
    """Answers requests from stdin in a thread, until `stop` is called.

    Args:
        folder: See `StoredAnswers`.
        fingerprint: See `StoredAnswers`.

    Attributes:
        read: Everything that was read from stdin.
        sent: The requests that were answered, with their results.
        stored: The answers for this host.
        may_store: Whether the folder is the right one, so that files may be written there.
    """

    may_store = False

    def __init__(self, folder: str, fingerprint: int) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.read = b""
        self.sent: list[tuple[Request, dict[str, Any]]] = []
        self.stored = StoredAnswers(folder, fingerprint)
        self._stopping, self._stop = os.pipe()
        self._may_run = _thread.allocate_lock()
        self._switch_seconds = sys.getswitchinterval()

    def start(self) -> None:
        """Begin to answer."""
        self._may_run.acquire()
        _thread.start_new_thread(self._run, ())
        sys.setswitchinterval(SWITCH_SECONDS)

    def stop(self) -> None:
        """Stop; returns when nothing more is read or sent."""
        os.write(self._stop, b"x")
        self._may_run.acquire()
        os.close(self._stop)
        os.close(self._stopping)
        sys.setswitchinterval(self._switch_seconds)

    def _run(self) -> None:
        try:
            for line in self._lines():
                request = self.stored.request_in(line)
                if request and request.method in OPENINGS:
                    # `stop` does not wait for the disk.
                    self._may_run.release()
                    self.stored.load()
                    if not self._may_run.acquire(blocking=False):
                        return
                result = request and self.stored.result_for(request)
                # Each is sent once. Then all fit into a pipe, so a host may send everything before it reads.
                if request and result is not None and all(sent.method != request.method for sent, _ in self.sent):
                    _send({"jsonrpc": "2.0", "id": request.id, "result": result})
                    self.sent.append((request, result))
        except OSError:
            pass  # stdin or stdout cannot be used: the server reports it when it has started
        finally:
            self._may_run.release()

    def _lines(self) -> Iterator[str]:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._stopping, select.POLLIN)
        rest = b""
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if 0 in ready:
                chunk = os.read(0, CHUNK_BYTES)
                self.read += chunk
                if not chunk or len(self.read) > MOST_BYTES_READ:
                    poll.unregister(0)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if self._stopping in ready:
                return


def _send(message: dict[str, Any]) -> None:
    """Write a message to stdout."""
    data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


# The early answers of this process. A process has only one stdin.
EARLY_ANSWERS: ContextVar[EarlyAnswers | None] = ContextVar("early answers", default=None)


def serves_stdio(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the command with these arguments serves over stdio, in the ways that hosts are told to start it."""
    options = [each for each in arguments if each != "--sandbox"]
    return options in ([], ["--transport", "stdio"]) and "_ARGCOMPLETE" not in environment


def start_early_answers(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Begin to answer. On Windows, and if stdin is a file or a terminal, nothing is answered early."""
    home = _home_of(environment, sandbox="--sandbox" in arguments)
    with suppress(OSError, RuntimeError):  # a file vanished, or there are too many open files or threads
        mode = os.fstat(0).st_mode
        if sys.platform != "win32" and home and (S_ISFIFO(mode) or S_ISSOCK(mode)):
            early = EarlyAnswers(os.path.join(home, FOLDER), fingerprint_of(arguments, environment))
            early.start()
            EARLY_ANSWERS.set(early)


def _home_of(environment: Mapping[str, str], *, sandbox: bool) -> str | None:
    """The folder of the ledger, or None if only `settings.py` can find it, which takes too long to import."""
    data = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    default = os.path.join(environment.get("XDG_DATA_HOME") or data, "mcp-vega")
    home = os.path.expanduser(environment.get("MCP_VEGA_HOME") or default)
    if not os.path.isabs(home):
        return None
    # The bundle for Claude Desktop sets `true` or `false`. Other spellings lead to a folder where nothing is stored.
    in_sandbox = sandbox or environment.get("MCP_VEGA_SANDBOX", "").lower() in ("1", "true")
    return os.path.join(home, "sandbox") if in_sandbox else home


def fingerprint_of(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """A number that changes with the interpreter, the versions of the packages, this package's files and the settings.

    Of the secrets among the settings, it only depends on whether they are set.
    """
    settings = {
        name: bool(value) if "KEY" in name or "TOKEN" in name else value
        for name, value in environment.items()
        if name.startswith(("MCP_VEGA_", "SEGMIND_"))
    }
    parts = [sys.version, sys.path, __version__, [*arguments], sorted(settings.items()), _versions(), _files()]
    return zlib.crc32(repr(parts).encode())


def _versions() -> list[str]:
    """The names of the folders with the packages' metadata."""
    found: list[str] = []
    for folder in sys.path:
        with suppress(OSError):  # not every folder of the path exists
            found += (each for each in os.listdir(folder or ".") if each.partition("-")[0] in PACKAGES)
    return sorted(found)


def _files() -> list[tuple[str, int, int]]:
    """The files of this package, with their sizes and the times of their last changes."""
    found: list[tuple[str, int, int]] = []
    for folder, _, names in os.walk(PACKAGE):
        if not folder.endswith("__pycache__"):
            paths = [os.path.join(folder, name) for name in names]
            found += ((path, (status := os.stat(path)).st_size, status.st_mtime_ns) for path in paths)
    if not found:
        raise FileNotFoundError(PACKAGE)  # the package is inside a zip file
    return sorted(found)
