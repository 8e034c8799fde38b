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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from stat import S_ISFIFO, S_ISSOCK
from typing import Any

from mcp_vega.server.stdio.fingerprint import fingerprint_of
from mcp_vega.server.stdio.stored_answers import FOLDER, OPENINGS, Request, StoredAnswers

# If more is sent while the SDK loads, the rest stays in the pipe.
MOST_BYTES_READ = 1_000_000
CHUNK_BYTES = 64_000
# How soon the importing thread lets the thread here run (s). Python's default is 0.005.
SWITCH_SECONDS = 0.0005


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
    options = [each for each in arguments if each not in ("--sandbox", "--local")]
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
    """The folder of the ledger, or None if only `mcp_vega.settings` can find it, which takes too long to import."""
    data = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    default = os.path.join(environment.get("XDG_DATA_HOME") or data, "mcp-vega")
    home = os.path.expanduser(environment.get("MCP_VEGA_HOME") or default)
    if not os.path.isabs(home):
        return None
    # The bundle for Claude Desktop sets `true` or `false`. Other spellings lead to a folder where nothing is stored.
    in_sandbox = sandbox or environment.get("MCP_VEGA_SANDBOX", "").lower() in ("1", "true")
    return os.path.join(home, "sandbox") if in_sandbox else home
