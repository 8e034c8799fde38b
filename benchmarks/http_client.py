"""A client that makes many calls at the same time over Streamable HTTP.

It is a plain socket loop, because a complete client would need more processor time than the servers that are measured.
"""

import asyncio
import itertools
import json
import re
import time
from urllib.parse import urlsplit

from mcp_types.version import LATEST_MODERN_VERSION

# Two callers, because one caller may have 192 connections.
TOKENS = ("a" * 20, "b" * 20)
LAST_CHUNK = b"\r\n0\r\n\r\n"
META = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
NUMBERS = itertools.count()


class Caller(asyncio.Protocol):
    """One connection, which makes one call after the other until the time is up."""

    def __init__(self, url: str, token: str, until: float) -> None:
        address = urlsplit(url)
        head = (
            f"POST {address.path} HTTP/1.1",
            f"host: {address.netloc}",
            f"authorization: Bearer {token}",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            f"mcp-protocol-version: {LATEST_MODERN_VERSION}",
            "mcp-method: tools/call",
            "mcp-name: generate_image_vega",
        )
        self._head = "\r\n".join(head)
        self._until = until
        self._answer: list[bytes] = []
        self._missing: int | None = None  # bytes of the answer; None for a stream of chunks
        self.times: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the first call."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._call()

    def _call(self) -> None:
        self._began = time.monotonic()
        arguments = {"prompt": f"a fox {next(NUMBERS)}"}
        params = {"name": "generate_image_vega", "arguments": arguments, "_meta": META}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        self._transport.write(f"{self._head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    def data_received(self, data: bytes) -> None:
        """Make the next call after a whole answer."""
        if not self._answer:
            head, _, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            self._missing = len(head) + 4 + int(length[1]) if length else None
        self._answer.append(data)
        if self._missing is not None:
            self._missing -= len(data)
        if self._missing or (self._missing is None and not b"".join(self._answer[-2:]).endswith(LAST_CHUNK)):
            return
        answer = b"".join(self._answer)
        self._answer.clear()
        if not answer.startswith(b"HTTP/1.1 200") or b'"isError":true' in answer or b'"result"' not in answer:
            self.ended.set_exception(SystemExit(f"no picture: {answer[:2000]!r}"))
            self._transport.abort()
            return
        self.times.append(time.monotonic() - self._began)
        if time.monotonic() < self._until:
            self._call()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        if not self.ended.done():
            if exc or self._answer:
                self.ended.set_exception(SystemExit(f"the connection broke: {exc}"))
            else:
                self.ended.set_result(None)


async def calls(url: str, at_once: int, seconds: float) -> list[float]:
    """Make calls at the same time for some seconds; returns how long each took."""
    address, until = urlsplit(url), time.monotonic() + seconds
    assert address.hostname
    assert address.port
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    for number in range(at_once):
        _, caller = await loop.create_connection(
            lambda number=number: Caller(url, TOKENS[number % len(TOKENS)], until), address.hostname, address.port
        )
        callers.append(caller)
    await asyncio.gather(*(caller.ended for caller in callers))
    return [each for caller in callers for each in caller.times]
