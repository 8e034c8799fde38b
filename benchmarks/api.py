"""A stand-in for Segmind that costs almost nothing: a process of its own, which answers each paid call with a picture.

    python benchmarks/api.py [--picture png] [--delay 0.3] [--port 0]

It prints its URL, and serves until its stdin ends. The sandbox is not used here: it paints, books and remembers, and so
it would take a part of every time that is measured. The pictures have 1024 × 1024 pixels: a PNG of 1.4 MB or a JPEG of
0.35 MB, about the sizes of real ones.
"""

import argparse
import asyncio
import io
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from PIL import Image

Picture = Literal["png", "jpeg"]
SIDE = 1024
# How much of the picture is fine noise: the sizes of the files follow from it.
NOISE = 0.03
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


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


class Connection(asyncio.Protocol):
    """One connection: whole requests in, whole answers out.

    A POST of a JSON body is answered with the picture, after the delay. Of the API's other requests only those are
    known that a server makes at its start.
    """

    numbers = itertools.count(1)

    def __init__(self, kind: Picture, delay: float) -> None:
        self._kind: Picture = kind
        self._delay = delay
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
            if head.startswith(b"POST "):
                asyncio.get_running_loop().call_later(self._delay, self._send_picture)
            else:
                self._transport.write(NOT_FOUND)

    def _send_picture(self) -> None:
        data = picture(self._kind)
        head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: image/{self._kind}\r\ncontent-length: {len(data)}\r\n"
            f"x-request-id: {next(self.numbers):032x}\r\nx-generation-time: 0.1\r\nx-cost: 0.0001\r\n"
            "x-remaining-credits: 100\r\n\r\n"
        )
        self._transport.write(head.encode() + data)


async def serve(kind: Picture, delay: float, port: int) -> None:
    """Serve until stdin ends."""
    picture(kind)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(kind, delay), "127.0.0.1", port, backlog=1000)
    print(json.dumps(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def running(kind: Picture, delay: float = 0) -> Generator[str]:
    """Serve in a process of its own while the block runs; yields the URL."""
    command = [sys.executable, __file__, "--picture", kind, "--delay", str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", choices=["png", "jpeg"], default="png")
    parser.add_argument("--delay", type=float, default=0, help="seconds until the answer to a paid call")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(serve(options.picture, options.delay, options.port))


if __name__ == "__main__":
    main()
