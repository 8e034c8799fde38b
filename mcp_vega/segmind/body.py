"""Reads the bodies of responses up to a limit, decompresses them, and removes the key."""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import httpx

from mcp_vega.imaging.formats import recognise

# The largest response: four pictures of 7 MB as base64.
ANSWER_BYTES = 40_000_000
# A body larger than this is processed in a thread. A picture is only searched for the key, so it may be larger.
LARGE_BYTES, LARGE_PICTURE_BYTES = 500_000, 1_000_000
# How many parts of a compressed body are read. Some programs write several, and each one takes time.
MOST_PARTS = 1000


async def read_body(response: httpx.Response, limit: int, *, keep_partial: bool = False) -> list[bytes]:
    """The first `limit` bytes of a body in pieces, unchanged.

    With `keep_partial`, it also returns what came before the connection broke: the status already shows that a paid
    call ran.
    """
    pieces, size = list[bytes](), 0
    with suppress(*([httpx.TransportError] if keep_partial else [])):
        async for piece in response.aiter_bytes() if response.is_stream_consumed else response.aiter_raw():
            pieces.append(piece[: limit - size])
            size += len(pieces[-1])
            if size >= limit:
                break
    return pieces


def is_large(pieces: Sequence[bytes]) -> bool:
    """Whether the pieces of a body should be processed in a thread."""
    is_picture = bool(pieces) and recognise(pieces[0])
    return sum(map(len, pieces)) > (LARGE_PICTURE_BYTES if is_picture else LARGE_BYTES)


def decompressed(body: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """The first `limit` bytes of a body after decompression. If its data is broken, the bytes before that place.

    Gzip is recognised by its first bytes, because some APIs announce it for bodies that are not compressed. Those stay
    unchanged, and so do bodies with an unusual compression.
    """
    announced = headers.get("content-encoding", "").strip().lower()
    kinds = {"deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}.get(announced, ())
    if body.startswith(b"\x1f\x8b"):
        kinds = (zlib.MAX_WBITS | 16,)
    for kind in kinds:
        data, ended = _unpacked(body, kind, limit)
        if data and (kind > 0 or ended):  # data without a header may look compressed by chance
            return data
    return body


def _unpacked(body: bytes, kind: int, limit: int) -> tuple[bytes, bool]:
    """The decompressed data up to the first fault, and whether it is complete. A body may have several parts."""
    data, decompressor, at, parts = bytearray(), zlib.decompressobj(kind), 0, 0
    with suppress(zlib.error):
        while at < len(body) and len(data) < limit and parts < MOST_PARTS:
            if decompressor.eof:
                decompressor = zlib.decompressobj(kind)
            piece = body[at : at + LARGE_BYTES]
            data += decompressor.decompress(piece, limit - len(data))
            at += len(piece) - len(decompressor.unused_data)
            parts += decompressor.eof
    return bytes(data), decompressor.eof


def without_key(body: bytes, key: str) -> bytes:
    """A body without the key that was sent. It also finds the key in JSON escapes and in UTF-16.

    In a picture, a text has no escapes. Its length stays, because the picture's file states it.
    """
    if recognise(body):
        return body.replace(key.encode(), b"SG_".ljust(len(key.encode()), b"."))
    letters = (rf"(?:{re.escape(each)}|\\u{ord(each):04x})" for each in key)
    spelled = re.compile("".join(letters), re.IGNORECASE)
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        body = body.replace(key.encode(), b"SG_...")
        return re.sub(spelled.pattern.encode(), b"SG_...", body, flags=re.IGNORECASE) if rb"\u" in body else body
    text = body.decode(encoding, "replace")
    return spelled.sub("SG_...", text).encode(errors="replace") if spelled.search(text) else body
