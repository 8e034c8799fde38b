"""Passes TCP connections on to the same ports of another address, so that a network namespace has them on loopback.

    python benchmarks/replicas/relay.py LISTEN TARGET PORT...

The server accepts plain HTTP only on loopback, and a network namespace has a loopback of its own.
"""

import asyncio
import sys
from contextlib import suppress


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until the end."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


async def serve(listen: str, target: str, port: int) -> None:
    """Pass on the connections to one port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(target, port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    async with await asyncio.start_server(connected, listen, port) as server:
        await server.serve_forever()


async def main() -> None:
    """Pass on until killed."""
    listen, target, *ports = sys.argv[1:]
    await asyncio.gather(*(serve(listen, target, int(port)) for port in ports))


if __name__ == "__main__":
    asyncio.run(main())
