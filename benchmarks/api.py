"""A stand-in for Segmind and for the APIs of other image servers. It answers each paid call with the same picture.

    python benchmarks/api.py [--picture png] [--delay 0.3] [--pictures 4] [--port 0]

It prints its URL, and serves until its stdin ends. It is a process of its own and needs almost no processor time. The
sandbox needs more, because it paints pictures and keeps accounts, and this would be a part of every time that is
measured. The pictures have 1024 × 1024 pixels: a PNG of 1.4 MB or a JPEG of 0.36 MB, about the sizes of real ones.

    POST /v1/segmind-vega                        Segmind: the picture itself; with --pictures, JSON with them as base64
    POST /VERSION/models/MODEL:generateContent   Gemini: JSON with the picture as base64
    POST /v1/images/generations                  OpenAI: JSON with the picture as base64
    POST /v1/image_generation                    MiniMax: JSON with the picture's URL
    GET /picture                                 the picture itself, without a delay
    GET /v1/models                               OpenAI: the list of models
"""

import argparse
import asyncio
import io
import itertools
import json
import random
import sys
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, get_args

from PIL import Image
from processes import Served, stand_in

Picture = Literal["png", "jpeg"]
PICTURES: tuple[Picture, ...] = get_args(Picture)
# Several benchmarks make this many calls at the same time to an API that takes this long.
SEVERAL, SLOW_SECONDS = 8, 0.3
SIDE = 1024
# How much of the picture is fine noise: the sizes of the files follow from it.
NOISE = 0.03
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
JSON = "application/json"


# ---- the answers: each is made once, because making it again would take processor time from the servers ----


@cache
def picture(kind: Picture) -> bytes:
    """The bytes of the picture: soft colours and fine noise, the same in each run."""
    rng = random.Random(7)  # noqa: S311  no secret
    bands: list[Image.Image] = []
    for _ in range(3):
        soft, fine = (
            Image.frombytes("L", (side, side), rng.randbytes(side * side)).resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC
            )
            for side in (48, SIDE // 2)
        )
        bands.append(Image.blend(soft, fine, NOISE))
    buffer = io.BytesIO()
    Image.merge("RGB", bands).save(buffer, kind, quality=97)
    return buffer.getvalue()


@cache
def segmind(kind: Picture, pictures: int) -> bytes:
    """Segmind's answer with several pictures. Each gets a byte after its end, because equal pictures count once."""
    texts = [b64encode(picture(kind) + bytes([index])).decode() for index in range(pictures)]
    return json.dumps({"image": texts}).encode()


@cache
def gemini(kind: Picture) -> bytes:
    """Gemini's answer."""
    part = {"inlineData": {"mimeType": f"image/{kind}", "data": b64encode(picture(kind)).decode()}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 1290, "totalTokenCount": 1294}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"}).encode()


@cache
def openai(kind: Picture) -> bytes:
    """OpenAI's answer."""
    return json.dumps({"created": 1, "data": [{"b64_json": b64encode(picture(kind)).decode()}]}).encode()


def minimax(url: str) -> bytes:
    """MiniMax's answer."""
    answer: dict[str, Any] = {
        "data": {"image_urls": [url]},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    }
    return json.dumps(answer).encode()


def models() -> bytes:
    """OpenAI's list of models."""
    model = {"id": "gpt-image-2", "object": "model", "created": 1, "owned_by": "stand-in"}
    return json.dumps({"object": "list", "data": [model]}).encode()


# ---- the server ----


class Connection(asyncio.Protocol):
    """One connection: whole requests in, whole answers out.

    Each POST of a JSON body is a paid call and is answered after the delay. All other requests are answered
    immediately. Segmind's other requests, which a server sends at its start, are not known here.
    """

    numbers = itertools.count(1)

    def __init__(self, kind: Picture, delay: float, pictures: int) -> None:
        self._kind: Picture = kind
        self._delay = delay
        self._pictures = pictures
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(fields.get(b"content-length", b"0"))
            if len(rest) < length:
                return
            self._received = rest[length:]
            method, path, _ = head.decode("ascii").split(" ", 2)
            if method == "POST":
                asyncio.get_running_loop().call_later(self._delay, lambda path=path: self._send(*self._drawn(path)))
            elif path == "/picture":
                self._send(f"image/{self._kind}", picture(self._kind))
            elif path == "/v1/models":
                self._send(JSON, models())
            else:
                self._transport.write(NOT_FOUND)

    def _drawn(self, path: str) -> tuple[str, bytes]:
        """The type and the bytes of the answer to a paid call."""
        if path.endswith(":generateContent"):
            return JSON, gemini(self._kind)
        if path == "/v1/images/generations":
            return JSON, openai(self._kind)
        if path == "/v1/image_generation":
            host, port = self._transport.get_extra_info("sockname")
            return JSON, minimax(f"http://{host}:{port}/picture")
        if self._pictures > 1:
            return JSON, segmind(self._kind, self._pictures)
        return f"image/{self._kind}", picture(self._kind)

    def _send(self, content_type: str, data: bytes) -> None:
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n"
            f"x-request-id: {next(self.numbers):032x}\r\nx-generation-time: 0.1\r\nx-cost: 0.0001\r\n"
            "x-remaining-credits: 100\r\n\r\n"
        )
        self._transport.write(head.encode() + data)


async def serve(kind: Picture, delay: float, pictures: int, port: int) -> None:
    """Serve until stdin ends."""
    picture(kind)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(kind, delay, pictures), "127.0.0.1", port, backlog=1000)
    print(json.dumps(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def running(kind: Picture, delay: float = 0, pictures: int = 1) -> Generator[Served]:
    """Serve in a process of its own while the block runs."""
    with stand_in(__file__, "--picture", kind, "--delay", str(delay), "--pictures", str(pictures)) as served:
        yield served


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", choices=PICTURES, default="png")
    parser.add_argument("--delay", type=float, default=0, help="seconds until the answer to a paid call")
    parser.add_argument("--pictures", type=int, default=1, help="how many pictures Segmind's answer has")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(options.picture, options.delay, options.pictures, options.port))


if __name__ == "__main__":
    main()
