"""Starts mcp-vega many times in forked processes, so that the SDK is imported only once.

Each line on stdin is a start as JSON, and each line on stdout says how one ended. A start says what the server reads
(`lines`, `kind` of stdin), its `arguments`, and the `environment`. The server imports its last module when all lines
have been read from stdin, so every request that can be answered before has been answered before.
"""

import json
import os
import select
import socket
import sys
import threading
import time
from typing import Any

import anyio._backends._asyncio  # pyright: ignore[reportUnusedImport]  # noqa: F401
import mcp.server.stdio  # pyright: ignore[reportUnusedImport]  # noqa: F401

import mcp_vega.cli.serve.command  # pyright: ignore[reportUnusedImport]  # noqa: F401
from mcp_vega.cli.main import main
from mcp_vega.server.stdio.early_answers import EARLY_ANSWERS, MOST_BYTES_READ
from mcp_vega.server.stdio.stored_answers import StoredAnswers

LAST = "mcp_vega.cli.serve.command"


load = StoredAnswers.load


def load_and_note(self: StoredAnswers) -> None:
    load(self)
    Gate.loaded = True


StoredAnswers.load = load_and_note


class Gate:
    """Finds no module. It lets the import of the last module wait until this text has been read from stdin.

    If the text opens a session, it also waits until the stored answers have been read.
    """

    loaded = False

    def __init__(self, text: bytes) -> None:
        self._size = min(len(text), MOST_BYTES_READ)
        self._opening = StoredAnswers("", 0)
        for line in text.decode().split("\n"):
            self._opening.request_in(line)

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        early = EARLY_ANSWERS.get()
        while name == LAST and early and (len(early.read) < self._size or (self._opening.file and not Gate.loaded)):
            time.sleep(0.0005)


class Server:
    """A server in a forked process, with a pipe or a socket as its stdin.

    Stdin is closed when as many answers have come as the start expects: a server whose stdin has ended does not wait
    long for answers.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        self.answers = b""
        self.unsent: bytes = start["text"].encode()
        self._expected: int = start["expected"]
        stdin, self.stdin = _socket_pair() if start["kind"] == "socket" else os.pipe()
        if start["kind"] == "file":
            stdin = os.open(f"{start['folder']}/in", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            self.unsent = self.unsent[os.write(stdin, self.unsent) :]
            os.lseek(stdin, 0, os.SEEK_SET)
        self.stdout, stdout = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.dup2(os.open(f"{start['folder']}/err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            os.closerange(3, 1000)
            os.environ.update(start["environment"])
            del sys.modules[LAST]
            sys.meta_path.insert(0, Gate(self.unsent))  # type: ignore[arg-type]
            code = main(start["arguments"])
            for thread in threading.enumerate():
                if not thread.daemon and thread is not threading.main_thread():
                    thread.join()
            sys.stderr.flush()
            os._exit(code)  # an orderly end of Python would take as long as everything else
        os.close(stdin)
        os.close(stdout)
        os.set_blocking(self.stdin, False)

    def write(self) -> None:
        """Write what the pipe takes."""
        self.unsent = self.unsent[os.write(self.stdin, self.unsent) :]

    def close_stdin(self) -> None:
        """Close it if all is written and answered."""
        if self.stdin >= 0 and not self.unsent and self.answers.count(b"\n") >= self._expected:
            os.close(self.stdin)
            self.stdin = -1

    def read(self) -> bool:
        """Read answers; returns whether there may be more."""
        found = os.read(self.stdout, 1 << 20)
        self.answers += found
        return bool(found)


def _socket_pair() -> tuple[int, int]:
    near, far = socket.socketpair()
    return near.detach(), far.detach()


def run() -> None:
    """Run the starts of a line at the same time."""
    for line in sys.stdin:
        servers = [Server(start) for start in json.loads(line)]
        running = list(servers)
        while running:
            poll = select.poll()
            for server in running:
                poll.register(server.stdout, select.POLLIN)
                if server.unsent:
                    poll.register(server.stdin, select.POLLOUT)
            ready = {descriptor for descriptor, _ in poll.poll()}
            for server in [*running]:
                if server.stdin in ready and server.unsent:
                    server.write()
                if server.stdout in ready and not server.read():
                    running.remove(server)
                server.close_stdin()
        codes = [os.waitstatus_to_exitcode(os.waitpid(each.process, 0)[1]) for each in servers]
        ended = [[code, each.answers.decode()] for code, each in zip(codes, servers, strict=True)]
        sys.stdout.write(json.dumps(ended) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    run()
