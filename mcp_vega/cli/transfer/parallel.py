"""Does the same work for several things at the same time."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from mcp_vega.errors import VegaError

T = TypeVar("T")
R = TypeVar("R")

# How many pictures are read or written at the same time, so that the waiting times for a bucket do not add up.
AT_ONCE = 8


async def for_each(things: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R | VegaError]:
    """Return the results for a few things in their order, or the errors that were raised instead."""
    results: dict[int, R | VegaError] = {}

    async def do(index: int) -> None:
        try:
            results[index] = await work(things[index])
        except VegaError as error:
            results[index] = error

    async with anyio.create_task_group() as tasks:
        for index in range(len(things)):
            tasks.start_soon(do, index)
    return [results[index] for index in range(len(things))]
