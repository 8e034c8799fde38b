"""A minimal host: it starts the server over stdio, shakes hands, calls tools, and can kill it."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
# How mcp-vega is compared, and the settings of the previews for it.
PREVIEWS = {"without previews": "off", "with previews": "auto"}
NUMBERS = itertools.count(1)


def environment(folder: Path, base_url: str, **variables: str) -> dict[str, str]:
    """The environment of a server: the folders of its gallery and its ledger, the API, a key, and more settings."""
    return {
        **os.environ,
        "MCP_VEGA_GALLERY": str(folder / "gallery"),
        "MCP_VEGA_HOME": str(folder / "home"),
        "SEGMIND_BASE_URL": base_url,
        "SEGMIND_API_KEY": "SG_benchmark",
        **variables,
    }


class Host:
    """One server process. As a context manager, it closes the server's stdin after the block, as hosts do.

    Args:
        folder: The folder of the gallery and the ledger.
        base_url: The URL of the API.
        under: A program with arguments that starts the server with the same stdin and stdout, such as strace.
        program: The arguments with which Python starts the server.
        executable: Another program than this Python.
        variables: More settings.
    """

    def __init__(
        self,
        folder: Path,
        base_url: str,
        *,
        under: Sequence[str] = (),
        program: Sequence[str] = ("-m", "mcp_vega"),
        executable: str = sys.executable,
        **variables: str,
    ) -> None:
        self.process = subprocess.Popen(
            [*under, executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("a", encoding="utf-8"),
            env=environment(folder, base_url, **variables),
        )
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def shake_hands(self) -> None:
        """Begin the session."""
        self.send("initialize", **HELLO)
        self.receive()
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, method: str, **params: Any) -> int:
        """Send a request; returns its number."""
        self._number += 1
        self._write({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        return self._number

    def call(self, tool: str, **arguments: Any) -> int:
        """Call a tool; returns the request's number."""
        return self.send("tools/call", name=tool, arguments=arguments)

    def draw(self, calls: int = 1) -> None:
        """Ask for pictures with calls at the same time, and wait for all of them."""
        for _ in range(calls):
            self.call("generate_image_vega", prompt=f"a fox {next(NUMBERS)}")
        for _ in range(calls):
            answer = self.receive()
            if not answer or answer["result"].get("isError"):
                raise SystemExit(f"no picture: {answer}")

    def _write(self, message: dict[str, Any]) -> None:
        self.send_line(json.dumps(message).encode())

    def send_line(self, line: bytes) -> None:
        """Send any line; the newline is added."""
        assert self.process.stdin
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next answer; the server's own requests and notifications are skipped. Empty if the server has ended."""
        assert self.process.stdout
        while (line := self.process.stdout.readline()).endswith(b"\n"):
            message = json.loads(line)
            if "id" in message and "method" not in message:
                return message
        return {}

    def kill(self) -> None:
        """Kill the process immediately."""
        self.process.kill()
        self._close()

    def leave(self) -> None:
        """Close stdin, as hosts do, and wait until the server ends."""
        assert self.process.stdin
        self.process.stdin.close()
        self._close()

    def _close(self) -> None:
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
