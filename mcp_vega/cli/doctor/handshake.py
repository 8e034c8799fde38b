"""A server, started as a host starts it: whether it answers, and prints nothing else."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Timer
from typing import IO, Any, cast

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.redaction import quoted
from mcp_vega.segmind.values import as_object

COMMAND = (sys.executable, "-m", "mcp_vega")
# The shortest time that a known host gives a server to start.
HOST_SECONDS = 10.0

_CLIENT = {"name": "mcp-vega-doctor", "version": "1"}
_INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": _CLIENT}
_MESSAGES: tuple[dict[str, Any], ...] = (
    {"id": 1, "method": "initialize", "params": _INITIALIZE},
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/list", "params": {}},
)
_STDOUT_MEND = (
    "Find what prints when Python starts, such as a sitecustomize module or a script around the command, and have it "
    "print to stderr"
)


@dataclass
class HandshakeResult:
    """What came of a handshake; times are seconds since the start, and 0 where no answer came.

    Attributes:
        initialized: When initialize was answered.
        listed: When tools/list was answered.
        tools: The names in that answer.
        foreign: The first line on stdout that is no JSON-RPC.
        code: The exit code; None where the server did not end in time, and was killed.
        stderr: All of it.
    """

    initialized: float = 0.0
    listed: float = 0.0
    tools: list[str] = field(default_factory=list[str])
    foreign: bytes = b""
    code: int | None = None
    stderr: str = ""


def check_handshake(
    environment: Mapping[str, str], *, command: Sequence[str] = COMMAND, seconds: float = 20.0
) -> list[Check]:
    """Start a server as a host does and let it go again: the check handshake.

    Its ledger is one of its own, so that it takes up no job.

    Args:
        environment: The server's.
        command: What starts it.
        seconds: How long it may take until it has ended.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="mcp-vega-", ignore_cleanup_errors=True)
    except FileNotFoundError:  # a server needs none
        said = "not tried, since no folder for temporary files can be written"
        return [Check("handshake", State.NOTE, said, "Set TMPDIR to a folder that can, then look again")]
    with temporary as folder:
        result = _handshake(command, {**environment, "MCP_VEGA_HOME": folder}, seconds)
    if result.listed or result.foreign:
        return [_answered(result)]
    asked = "tools/list" if result.initialized else "initialize"
    detail = f"the server ended with exit code {result.code} and no answer to {asked}"
    if result.code is None:
        detail = f"no answer to {asked} within {seconds:.0f} s"
    said = [line for line in result.stderr.splitlines() if line.strip()]
    if said:
        # Of our own errors the first line says what, of a traceback the last one.
        detail += f": {quoted(next((line for line in said if line.startswith('Error: ')), said[-1]))}"
    mend = f"Run `{' '.join(command)}` in a terminal and read what it says"
    return [Check("handshake", State.BAD, detail, mend)]


def _handshake(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> HandshakeResult:
    """Have a server answer initialize and tools/list, close its stdin and read its stdout to the end."""
    result, begun, pipe = HandshakeResult(), time.monotonic(), subprocess.PIPE
    with (
        tempfile.TemporaryFile(dir=environment["MCP_VEGA_HOME"]) as stderr,
        suppress(BrokenPipeError),  # it ended before it read anything
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, env=environment) as process,  # noqa: S603
    ):
        stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        timer = Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        with suppress(BrokenPipeError):
            for message in _MESSAGES:
                stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            stdin.flush()
        for line in stdout:
            message = _message(line)
            if message is None:
                result.foreign = result.foreign or line
            elif message.get("id") == 1:
                result.initialized = time.monotonic() - begun
            elif message.get("id") == 2:
                result.listed = time.monotonic() - begun
                tools = as_object(message.get("result")).get("tools", [])
                result.tools = [str(as_object(each).get("name")) for each in tools]
                stdin.close()
        process.wait()
        timer.cancel()
        if time.monotonic() - begun < seconds:
            result.code = process.returncode
        stderr.seek(0)
        result.stderr = stderr.read().decode(errors="replace")
    return result


def _message(line: bytes) -> dict[str, Any] | None:
    """A line as a message of JSON-RPC; None where it is none."""
    try:
        message = as_object(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return message if message.get("jsonrpc") == "2.0" else None


def _answered(result: HandshakeResult) -> Check:
    """The check of a server that has listed its tools, or printed something else."""
    from mcp_vega.server.tools import DEFINITIONS

    if result.foreign:
        said = quoted(result.foreign.decode(errors="replace"), 80)
        return Check("handshake", State.BAD, f"the server's stdout carries what is no JSON-RPC: {said}", _STDOUT_MEND)
    if sorted(result.tools) != sorted(each.name for each in DEFINITIONS):
        said = f"the server lists other tools than it should: {', '.join(result.tools) or 'none'}"
        return Check("handshake", State.BAD, said, "Install mcp-vega anew")
    times = f"answered in {result.initialized:.1f} s, {len(result.tools)} tools in {result.listed:.1f} s"
    said = f"{times}; stdout is clean"
    if result.code is None:
        said += "; but the server did not leave when its stdin ended"
        return Check("handshake", State.BAD, said, "Report this")
    if result.initialized > HOST_SECONDS:
        return Check("handshake", State.NOTE, said, f"Some hosts wait {HOST_SECONDS:.0f} s: have them wait longer")
    return Check("handshake", State.GOOD, said)
