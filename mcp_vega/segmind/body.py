"""The body of a response: read up to a limit, unpacked, and without the key; a large one off the event loop."""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread
import httpx

T = TypeVar("T")

# The largest response: four pictures of 7 MB as base64.
ANSWER_BYTES = 40_000_000
# From this size on a body is looked at in a thread.
LARGE_BYTES = 500_000


async def read_body(response: httpx.Response, limit: int, *, keep_partial: bool = False) -> bytes:
    """The first `limit` bytes of a body as they came.

    With `keep_partial` those before the connection broke as well: the status of a paid call says that it ran.
    """
    data = bytearray()
    with suppress(*([httpx.TransportError] if keep_partial else [])):
        async for piece in response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw():
            data += piece
            if len(data) >= limit:
                break
    return bytes(data[:limit])


async def off_loop(body: bytes, work: Callable[[], T]) -> T:
    """What some work on a body gives; on a large one it is done in a thread, and other calls go on meanwhile."""
    return await anyio.to_thread.run_sync(work) if len(body) > LARGE_BYTES else work()


def decompressed(body: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """The first `limit` bytes of a body without its compression, or those before the place where that is broken.

    Gzip is known by its first bytes: some APIs announce it for what is none, which stays as it came. So does what is
    compressed in an unusual way.
    """
    announced = headers.get("content-encoding", "").strip().lower()
    kinds = {"deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}.get(announced, ())
    if body.startswith(b"\x1f\x8b"):
        kinds = (zlib.MAX_WBITS | 16,)
    for kind in kinds:
        data, ended = _unpacked(body, kind, limit)
        if data and (kind > 0 or ended):  # without a header anything may look compressed at first
            return data
    return body


def _unpacked(body: bytes, kind: int, limit: int) -> tuple[bytes, bool]:
    """What a body unpacks to, as far as it is whole, and whether it comes to an end; it may have several parts."""
    data, decompressor, rest = bytearray(), zlib.decompressobj(kind), body
    with suppress(zlib.error):
        while rest and len(data) < limit:
            if decompressor.eof:
                decompressor = zlib.decompressobj(kind)
            data += decompressor.decompress(rest[:LARGE_BYTES], limit - len(data))
            rest = decompressor.unused_data + rest[LARGE_BYTES:]
    return bytes(data), decompressor.eof


def without_key(body: bytes, key: str) -> bytes:
    """A body without the key that was sent, also where JSON spells it in numbers or comes in UTF-16."""
    letters = (rf"(?:{re.escape(each)}|\\u{ord(each):04x})" for each in key)
    spelled = re.compile("".join(letters), re.IGNORECASE)
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        body = body.replace(key.encode(), b"SG_...")
        return re.sub(spelled.pattern.encode(), b"SG_...", body, flags=re.IGNORECASE) if rb"\u" in body else body
    text = body.decode(encoding, "replace")
    return spelled.sub("SG_...", text).encode(errors="replace") if spelled.search(text) else body
