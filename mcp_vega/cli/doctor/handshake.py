"""A server, started as a host starts it: whether it answers, and says nothing else."""

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.redaction import quoted
from mcp_vega.segmind.response import as_object

COMMAND = (sys.executable, "-m", "mcp_vega")
DEADLINE_SECONDS = 20.0
# The shortest time that a known host gives a server to start.
HOST_SECONDS = 10.0
# A line of more bytes is no answer to what is asked here.
LINE_BYTES = 1_000_000

_CLIENT = {"name": "mcp-vega-doctor", "version": "1"}
_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": _CLIENT}
MEND_NOISE = (
    "Find what prints when Python starts, such as a sitecustomize module or a script around the command, and have it "
    "print to stderr"
)


@dataclass
class _Talk:
    """What was heard from a server: seconds until its answers came, its tools, and what was no message."""

    begun: float = field(default_factory=time.monotonic)
    greeted: float | None = None
    listed: float | None = None
    tools: list[str] = field(default_factory=list[str])
    noise: bytes | None = None
    code: int | None = None


async def look_at_handshake(environment: Mapping[str, str]) -> list[Check]:
    """Start a server as a host does and let it go again: the check handshake.

    Its ledger is one of its own, so that it takes up no job.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="mcp-vega-", ignore_cleanup_errors=True)
    except FileNotFoundError:  # a server needs none
        said = "not tried, since no folder for temporary files can be written"
        return [Check("handshake", State.NOTE, said, "Set TMPDIR to a folder that can, then look again")]
    talk = _Talk()
    with temporary as folder:
        complaints = Path(folder) / "stderr"
        with complaints.open("wb") as stderr, anyio.move_on_after(DEADLINE_SECONDS):
            variables = {**environment, "MCP_VEGA_HOME": folder}
            async with await anyio.open_process(COMMAND, stdin=PIPE, stdout=PIPE, stderr=stderr, env=variables) as one:
                await _talked(one, talk)
                talk.code = await one.wait()
        return [_check(talk, complaints.read_text(encoding="utf-8", errors="replace"))]


async def _talked(server: Process, talk: _Talk) -> None:
    """Greet a server, ask for its tools, close its stdin and hear it to the end."""
    assert server.stdin  # noqa: S101  for the type checker: it has pipes
    assert server.stdout  # noqa: S101
    await _send(server, id=1, method="initialize", params=_HELLO)
    async for line in _lines(server.stdout):
        message = _message(line)
        if message is None:
            talk.noise = talk.noise or line
        elif message.get("id") == 1 and talk.greeted is None:
            talk.greeted = time.monotonic() - talk.begun
            await _send(server, method="notifications/initialized")
            await _send(server, id=2, method="tools/list", params={})
        elif message.get("id") == 2:
            talk.listed = time.monotonic() - talk.begun
            talk.tools = [
                str(as_object(each).get("name")) for each in as_object(message.get("result")).get("tools", [])
            ]
            await server.stdin.aclose()
    await server.stdin.aclose()


async def _send(server: Process, **message: Any) -> None:
    assert server.stdin  # noqa: S101  for the type checker
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # its stdout tells what became of it
        await server.stdin.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > LINE_BYTES:
            break
    if rest:
        yield rest


def _message(line: bytes) -> dict[str, Any] | None:
    """A line as a message of JSON-RPC; None where it is none."""
    try:
        message = as_object(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return message if message.get("jsonrpc") == "2.0" else None


def _check(talk: _Talk, complaints: str) -> Check:
    if talk.noise is not None:
        said = quoted(talk.noise.decode(errors="replace"), 80)
        return Check("handshake", State.BAD, f"the server's stdout carries what is no JSON-RPC: {said}", MEND_NOISE)
    if talk.greeted is None or talk.listed is None:
        return _unanswered(talk, complaints)
    if sorted(talk.tools) != sorted(_tools()):
        said = f"the server lists other tools than it should: {', '.join(talk.tools) or 'none'}"
        return Check("handshake", State.BAD, said, "Install mcp-vega anew")
    said = f"answered in {talk.greeted:.1f} s, {len(talk.tools)} tools in {talk.listed:.1f} s; stdout is clean"
    if talk.code is None:
        return Check(
            "handshake", State.BAD, f"{said}; but the server did not leave when its stdin ended", "Report this"
        )
    if talk.greeted > HOST_SECONDS:
        return Check("handshake", State.NOTE, said, f"Some hosts wait {HOST_SECONDS:.0f} s: have them wait longer")
    return Check("handshake", State.GOOD, said)


def _unanswered(talk: _Talk, complaints: str) -> Check:
    asked = "initialize" if talk.greeted is None else "tools/list"
    if talk.code is None:
        what = f"no answer to {asked} within {DEADLINE_SECONDS:.0f} s"
    else:
        what = f"the server ended with exit code {talk.code} and no answer to {asked}"
    said = [line for line in complaints.splitlines() if line.strip()]
    # Of our own errors the first line says what, of a traceback the last one.
    line = next((each for each in said if each.startswith("Error: ")), said[-1] if said else "")
    detail = f"{what}: {quoted(line)}" if line else what
    return Check("handshake", State.BAD, detail, f"Run `{' '.join(COMMAND)}` in a terminal and read what it says")


def _tools() -> list[str]:
    from mcp_vega.server.tools import DEFINITIONS

    return [each.name for each in DEFINITIONS]
