# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
"""A Python client of mcp 1.x, which sends no cancellation when it times out: it gives up and makes the same call again.

The second call goes to the last of the given servers. The program prints the outcomes of both calls.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from mcp import ClientSession, McpError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def connected(stack: AsyncExitStack, server: dict[str, Any]) -> ClientSession:
    transport = (
        streamablehttp_client(server["url"]) if "url" in server else stdio_client(StdioServerParameters(**server))
    )
    read, write, *_ = await stack.enter_async_context(transport)
    session = await stack.enter_async_context(ClientSession(read, write))
    await session.initialize()
    return session


async def main(servers: list[dict[str, Any]], arguments: dict[str, Any], seconds: float) -> None:
    call = ("generate_image_vega", arguments)
    async with AsyncExitStack() as stack:
        sessions = [await connected(stack, server) for server in servers]
        first = ""
        try:
            await sessions[0].call_tool(*call, read_timeout_seconds=timedelta(seconds=seconds))
        except McpError as error:
            first = str(error)
        again = await sessions[-1].call_tool(*call)
        json.dump({"first": first, "again": again.model_dump(mode="json")}, sys.stdout)


asyncio.run(main(**json.loads(sys.argv[1])))
