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
_STDOUT_FIX = (
    "Find the code that prints when Python starts, such as a sitecustomize module or a script around the command, and "
    "change it to print to stderr"
)


@dataclass
class HandshakeResult:
    """The result of a handshake. Times are seconds since the start, or 0 if no answer came.

    Attributes:
        initialized: When initialize was answered.
        listed: When tools/list was answered.
        tools: The names in that answer.
        foreign: The first line on stdout that is not JSON-RPC.
        code: The exit code; None if the server did not end in time, and was killed.
        stderr: All that it printed there.
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
    """Start a server as a host does, and end it again: the check handshake.

    The server has a ledger of its own in a temporary folder, so that it continues no job of the user or of a team.

    Args:
        environment: The server's environment variables.
        command: The command that starts it.
        seconds: How long the server may take, from its start to its end.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="mcp-vega-", ignore_cleanup_errors=True)
    except FileNotFoundError:  # a server does not need one
        said = "not tried, because no folder for temporary files can be written"
        return [Check("handshake", State.NOTE, said, "Set TMPDIR to a folder that can be written, then try again")]
    with temporary as folder:
        result = _handshake(command, {**environment, "MCP_VEGA_HOME": folder, "MCP_VEGA_LEDGER": ""}, seconds)
    if result.listed or result.foreign:
        return [_answered(result)]
    asked = "tools/list" if result.initialized else "initialize"
    detail = f"the server ended with exit code {result.code} before it answered {asked}"
    if result.code is None:
        detail = f"the server did not answer {asked} within {seconds:.0f} s"
    said = [line for line in result.stderr.splitlines() if line.strip()]
    if said:
        # Our own errors begin with a line that says what happened, and a traceback ends with one.
        detail += f": {quoted(next((line for line in said if line.startswith('Error: ')), said[-1]))}"
    fix = f"Run `{' '.join(command)}` in a terminal and read its messages"
    return [Check("handshake", State.BAD, detail, fix)]


def _handshake(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> HandshakeResult:
    """Send initialize and tools/list to a server, close its stdin, and read its stdout to the end."""
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
    """A line as a message of JSON-RPC; None if it is not one."""
    try:
        message = as_object(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return message if message.get("jsonrpc") == "2.0" else None


def _answered(result: HandshakeResult) -> Check:
    """The check of a server that has listed its tools, or has printed something that is not JSON-RPC."""
    from mcp_vega.server.tools import DEFINITIONS

    if result.foreign:
        printed = quoted(result.foreign.decode(errors="replace"), 80)
        said = f"the server printed something to stdout that is not JSON-RPC: {printed}"
        return Check("handshake", State.BAD, said, _STDOUT_FIX)
    if sorted(result.tools) != sorted(each.name for each in DEFINITIONS):
        said = f"the server lists the wrong tools: {', '.join(result.tools) or 'none'}"
        return Check("handshake", State.BAD, said, "Install mcp-vega again")
    times = f"answered in {result.initialized:.1f} s, listed {len(result.tools)} tools in {result.listed:.1f} s"
    said = f"{times}; printed nothing else to stdout"
    if result.code is None:
        said += "; but the server did not end after its stdin was closed"
        return Check("handshake", State.BAD, said, "Report this")
    if result.initialized > HOST_SECONDS:
        fix = f"Some hosts wait only {HOST_SECONDS:.0f} s: set a longer time-out in the host"
        return Check("handshake", State.NOTE, said, fix)
    return Check("handshake", State.GOOD, said)
