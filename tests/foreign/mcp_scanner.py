# pyright: basic, reportMissingImports=false
"""Prints what Cisco's scanner, without its services, finds in the tools, texts and resources of a server."""

import asyncio
import json
import os
import re
import sys
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise a dependency of the scanner downloads a list of prices

from mcp.client import Client
from mcpscanner import AnalyzerEnum as Analyzer
from mcpscanner import Config, Scanner, YaraAnalyzer

PASSAGE = "The guard lit the lamp, and the gulls rose from the rocks."


async def texts(url: str) -> dict[str, str]:
    """The other texts that an agent reads: a result, and each prompt with arguments."""
    async with Client(url) as client:
        result = await client.call_tool("generate_image_vegart", {"prompt": "a fox"})
        said = "\n".join(each.text for each in result.content if each.type == "text")
        filled: dict[str, dict[str, str]] = {
            "illustrate": {"passage": PASSAGE, "pictures": "3", "style": "ink drawing"},
            "explore": {"idea": "a lighthouse"},
            "vary": {"image": re.findall(r"vega://images/\S+", said)[0], "change": "at night"},
        }
        read = {"result": said}
        for prompt in (await client.list_prompts()).prompts:
            got = await client.get_prompt(prompt.name, filled[prompt.name])
            messages = [each.content.text for each in got.messages if each.content.type == "text"]
            read[prompt.name] = "\n".join([prompt.model_dump_json(), *messages])
    return read


async def main(url: str) -> None:
    scanner = Scanner(Config())
    # A separate scan: after YARA, the analyzer of readiness gets the tools without descriptions, and reports that.
    tools = await scanner.scan_remote_server_tools(url, analyzers=[Analyzer.YARA, Analyzer.SCHEMA])
    ready = await scanner.scan_remote_server_tools(url, analyzers=[Analyzer.READINESS])
    instructions = await scanner.scan_remote_server_instructions(url, analyzers=[Analyzer.YARA])
    scans = [(each.tool_name, each) for each in (*tools, *ready)] + [("instructions", instructions)]
    # The scanner itself requests prompts with empty arguments, which this server refuses.
    read = await texts(url)
    kinds = ["application/json"]  # now, after `texts`, the gallery has a picture
    resources = await scanner.scan_remote_server_resources(url, analyzers=[Analyzer.YARA], allowed_mime_types=kinds)
    scans += [(each.resource_uri, each) for each in resources if each.resource_mime_type in kinds]
    found: list[tuple[str, Any]] = [(name, finding) for name, scan in scans for finding in scan.findings]
    yara = YaraAnalyzer()
    for name, text in read.items():
        found += [(name, finding) for finding in await yara.analyze(text, {"tool_name": name})]
    scanned = [
        [name, scan.status, sorted({each.value for each in scan.analyzers}), scan.analyzer_errors]
        for name, scan in scans
    ]
    findings = [
        [name, each.analyzer, each.details.get("rule_id", ""), each.severity, each.summary] for name, each in found
    ]
    json.dump({"scanned": scanned, "read": list(read), "findings": findings}, sys.stdout)


asyncio.run(main(json.loads(sys.argv[1])["url"]))
