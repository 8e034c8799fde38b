"""Bad connections: a connection to a server of this machine over which answers come late, in pieces or not completely.

It uses only two facts about HTTP: an answer begins after a request, and its body comes after an empty line.
"""

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream


@dataclass(frozen=True)
class Manner:
    """How answers arrive over a connection: a description, and which answers are disturbed, counted from 1.

    `pause` is before the first byte. The first `drips` bytes come singly, each after `drop` seconds. With `cut`, the
    connection ends before the first byte (0) or in the body (1).
    """

    words: str
    which: Callable[[int], bool] = lambda number: number == 1
    pause: float = 0
    drips: int = 0
    drop: float = 0
    cut: int | None = None


MANNERS = {
    "plain": Manner("the connection works", lambda _: False),
    "slow": Manner("every answer comes 0.55 seconds later", lambda _: True, pause=0.55),
    "dripping": Manner("the first 50 bytes of every answer come one at a time", lambda _: True, drips=50, drop=0.001),
    "dripping on": Manner("the answer to the paid call comes one byte at a time, for longer than a call may take",
                          drips=10**9, drop=0.1),
    "cut": Manner("the connection ends in the middle of the body of the answer to the paid call", cut=1),
    "cut early": Manner("the connection ends before the first byte of the answer to the paid call", cut=0),
    "cut later": Manner("the connection ends in the middle of every second answer, but not the one to the paid call",
                        lambda number: number % 2 == 0, cut=1),
    "cut always": Manner("the connection ends in the middle of every answer", lambda _: True, cut=1),
}  # fmt: skip


@asynccontextmanager
async def wire(url: str, manner: Manner) -> AsyncGenerator[str]:
    """A connection to a server of this machine over which answers arrive in this manner; yields its URL."""
    port = int(url.rpartition(":")[2])
    numbers = itertools.count(1)

    async def joined(near: SocketStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", port) as far, anyio.create_task_group() as tasks:
            asked = [False]

            async def there() -> None:
                async for data in near:
                    asked[0] = True
                    await far.send(data)

            async def back() -> None:
                number = 0
                async for data in far:
                    begins, asked[0] = asked[0], False
                    number = next(numbers) if begins else number
                    if not manner.which(number):
                        await near.send(data)
                    elif not await disturbed(manner, near, far, data, begins=begins):
                        return

            async def until_either_ends(pump: Callable[[], Awaitable[None]]) -> None:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                    await pump()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_either_ends, there)
            tasks.start_soon(until_either_ends, back)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, joined)
        own = listener.extra(SocketAttribute.local_port)  # noqa: S610  anyio's method, not a database's
        yield f"http://127.0.0.1:{own}"
        tasks.cancel_scope.cancel()


async def disturbed(manner: Manner, near: ByteStream, far: ByteStream, data: bytes, *, begins: bool) -> bool:
    """Pass on a piece of an answer in this manner; returns whether the connection continues."""
    if manner.cut is not None:
        while manner.cut and not data.partition(b"\r\n\r\n")[2]:
            data += await far.receive()
        head, gap, body = data.partition(b"\r\n\r\n")
        await near.send((head + gap + body[: len(body) // 2]) * manner.cut)
        return False
    if begins:
        await anyio.sleep(manner.pause)
        for index in range(min(manner.drips, len(data))):
            await near.send(data[index : index + 1])
            await anyio.sleep(manner.drop)
        data = data[manner.drips :]
    await near.send(data)
    return True
