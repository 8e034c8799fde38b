"""Clients not written in Python: the MCP Inspector and the conformance suite. Needs Node.js; run with `-m external`."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_transports import address, started

pytestmark = pytest.mark.external

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
NODE = "node@22"  # both need it; the package brings the program
# These scenarios ask of any server what they test; the others ask for tools of the suite's own.
SCENARIOS = [
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "dns-rebinding-protection",
    "caching",
    "http-header-validation",
    "server-stateless",
]
# Both call a tool of the suite's own, `test_missing_capability`.
NOT_GENERIC = {"sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"}


def npx(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        ["npx", "--yes", "-p", NODE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout


def inspected(folder: Path, *arguments: str) -> dict[str, Any]:
    command = str(Path(sys.executable).with_name("mcp-vega"))
    variables = ["-e", "MCP_VEGA_SANDBOX=1", "-e", f"MCP_VEGA_GALLERY={folder}", "-e", f"MCP_VEGA_HOME={folder}"]
    output = npx("-p", INSPECTOR, "mcp-inspector", "--cli", command, *variables, *arguments, folder=folder)
    return json.loads(output)


def test_the_inspector_lists_the_tools(tmp_path: Path) -> None:
    tools = inspected(tmp_path, "--method", "tools/list")["tools"]
    assert [tool["name"] for tool in tools] == [
        "generate_image_vega",
        "generate_image_vegart",
        "submit_job",
        "check_job",
    ]


@pytest.mark.parametrize("tool", ["generate_image_vega", "generate_image_vegart", "submit_job", "check_job"])
def test_the_inspector_calls_each_tool(tmp_path: Path, tool: str) -> None:
    arguments = [] if tool == "check_job" else ["--tool-arg", "prompt=a fox"]
    result = inspected(tmp_path, "--method", "tools/call", "--tool-name", tool, *arguments)
    kinds = [each["type"] for each in result["content"]]
    assert kinds == (["text", "image"] if tool.startswith("generate") else ["text"])
    assert "isError" not in result or result["isError"] is False


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_conforms(tmp_path: Path, scenario: str) -> None:
    with started(tmp_path, "--transport", "http", "--port", "0", "--sandbox"):
        url = address(tmp_path)
        suite = ["-p", CONFORMANCE, "conformance"]
        output = npx(*suite, "server", "--url", url, "--scenario", scenario, folder=tmp_path)
    assert re.search(r"Passed: [1-9]\d*/\d+", output), output
    failed = set(re.findall(r"\[(\S+) *\] \S*FAILURE", output))
    assert failed - NOT_GENERIC == set(), output
