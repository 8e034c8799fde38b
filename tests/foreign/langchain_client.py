# pyright: basic, reportMissingImports=false
"""Prints the message that a model gets from LangChain's adapters after it asked for a picture."""

import asyncio
import json
import sys
from typing import Any

from langchain_mcp_adapters.client import MultiServerMCPClient


async def main(server: dict[str, Any]) -> None:
    client = MultiServerMCPClient({"vega": {"transport": "stdio", **server}})
    tools = {tool.name: tool for tool in await client.get_tools()}
    call = {"type": "tool_call", "id": "1", "name": "generate_image_vega", "args": {"prompt": "a fox"}}
    message = await tools["generate_image_vega"].ainvoke(call)
    json.dump({"tools": list(tools), "status": message.status, "content": message.content_blocks}, sys.stdout)


asyncio.run(main(json.loads(sys.argv[1])))
