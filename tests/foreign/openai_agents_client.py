# pyright: basic, reportMissingImports=false
"""Prints what a model gets from the OpenAI Agents SDK after it asked for a picture."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage
from agents.mcp import MCPServerStdio
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText


class Artist(Model):
    """Acts as a language model: it calls the tool in its first turn, and ends in its second."""

    def __init__(self) -> None:
        self.tools: list[str] = []
        self.seen: list[Any] = []

    async def get_response(self, *_: Any, **given: Any) -> ModelResponse:
        if not self.tools:
            self.tools = [tool.name for tool in given["tools"]]
            turn = ResponseFunctionToolCall(
                type="function_call", call_id="1", name="generate_image_vega", arguments='{"prompt": "a fox"}'
            )
        else:
            self.seen = given["input"]
            words = ResponseOutputText(type="output_text", text="Done.", annotations=[])
            turn = ResponseOutputMessage(type="message", id="2", role="assistant", status="completed", content=[words])
        return ModelResponse(output=[turn], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


async def main(parameters: dict[str, Any]) -> None:
    artist = Artist()
    # A drawing may take longer than this SDK's usual 5 s.
    async with MCPServerStdio(parameters, client_session_timeout_seconds=60) as server:
        agent = Agent(name="artist", model=artist, mcp_servers=[server])
        await Runner.run(agent, "Draw a fox.", run_config=RunConfig(tracing_disabled=True))
    (output,) = [item["output"] for item in artist.seen if item.get("type") == "function_call_output"]
    json.dump({"tools": artist.tools, "content": output}, sys.stdout)


asyncio.run(main(json.loads(sys.argv[1])))
