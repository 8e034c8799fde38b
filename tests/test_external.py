"""Other projects' programs: MCP Inspector, conformance suite, a scanner, clients, a proxy, two frameworks, exiftool.

They need Node.js, exiftool, and the registries that npm and pip install from. Run them with `-m external`.
"""

import io
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import KEY, noise, wait_until
from PIL import Image, ImageChops, ImageStat
from test_early_answers import change
from test_transports import address, environment, started

from mcp_vega.imaging import metadata
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.parameters import VegaParameters

pytestmark = pytest.mark.external

INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"
CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
TYPESCRIPT = "@modelcontextprotocol/sdk@1.32.2"
LANGCHAIN = "langchain-mcp-adapters==0.3.2"
OPENAI_AGENTS = "openai-agents==0.24.0"
SCANNER = "cisco-ai-mcp-scanner==4.8.7"
SILENT_MCP = "mcp==1.30.*"
PROXY = "mcp-proxy==0.13.0"
NODE = "node@22"  # the first two need it; the package contains the program
FOREIGN = Path(__file__).with_name("foreign")
TOOLS = ["generate_image_vega", "generate_image_vegart", "submit_job", "check_job"]
# These scenarios test any server. The others need tools of the suite itself.
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
# Both call a tool of the suite itself, `test_missing_capability`.
NOT_GENERIC = {"sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"}
# What the scanner's rules of readiness find, and why it stays.
READINESS = {
    # These rules require fields that a tool of MCP cannot have. What the fields would say is true all the same:
    "HEUR-001": TOOLS,  # a timeout: a call answers after MCP_VEGA_WAIT_SECONDS, check_job after its wait_seconds
    "HEUR-003": TOOLS,  # a limit of retries: six attempts, and a paid call only if it certainly did not run
    "HEUR-006": TOOLS,  # a schema of errors: isError, and a text with what happened, the cost, and what to do
    "HEUR-013": TOOLS,  # a rate limit: the API has one, and a call waits for its turn
    "HEUR-014": TOOLS,  # a version: the server tells its version to every client
    "HEUR-015": TOOLS,  # observability: MCP_VEGA_LOG_LEVEL, and the ledger that `mcp-vega jobs` shows
    # These rules look for words in the description, even inside other words:
    "HEUR-010": TOOLS[:3],  # "all" counts as too wide a scope; it is in "call" and "parallel"
    "HEUR-019": TOOLS[:3],  # "request" counts as needing a key; it is in "request id", and the server has the key
    # No parameter is required, because check_job without an id lists the latest jobs.
    "HEUR-011": ["check_job"],
}


def output_of(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, encoding="utf-8", timeout=110, check=False
    )
    assert done.stdout, done.stderr
    return done.stdout


def npx(*arguments: str, folder: Path) -> str:
    return output_of("npx", "--yes", "-p", NODE, *arguments, folder=folder)


def configured(folder: Path) -> dict[str, Any]:
    """The server as in a host's configuration."""
    command = str(Path(sys.executable).with_name("mcp-vega"))
    return {"command": command, "args": ["--sandbox"], "env": environment(folder)}


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def assert_drawn(text: str, mime_type: str, data: str, folder: Path) -> bytes:
    """Check that a result's text and image show one picture of the gallery; returns its file."""
    said = dict(re.findall(r"^([A-Z]\w*): (.+)$", text, re.MULTILINE))
    assert said["URI"].startswith("vega://images/")
    assert said["Seed"].isdecimal()
    assert re.fullmatch(r"\$0\.00\d+ \(pretend\)", said["Cost"])
    kept = file_at(said["Image"], folder)
    full = opened(kept)
    assert full.size == (1024, 1024)
    assert mime_type == "image/jpeg"
    shown = opened(b64decode(data, validate=True))
    assert shown.format == "JPEG"
    assert 200 < max(shown.size) <= 768
    assert max(ImageStat.Stat(ImageChops.difference(shown, full.resize(shown.size))).mean) < 3
    return kept


def file_at(place: str, folder: Path) -> bytes:
    """The file that a result names, by its path or by its URL."""
    if place.startswith("http://127.0.0.1:"):
        return httpx.get(place, trust_env=False).raise_for_status().content
    assert Path(place).is_relative_to(folder)
    return Path(place).read_bytes()


def inspected(folder: Path, *arguments: str) -> dict[str, Any]:
    command = str(Path(sys.executable).with_name("mcp-vega"))
    variables = ["-e", "MCP_VEGA_SANDBOX=1", "-e", f"MCP_VEGA_GALLERY={folder}", "-e", f"MCP_VEGA_HOME={folder}"]
    output = npx("-p", INSPECTOR, "mcp-inspector", "--cli", command, *variables, *arguments, folder=folder)
    return json.loads(output)


def test_the_inspector_lists_the_tools(tmp_path: Path) -> None:
    tools = inspected(tmp_path, "--method", "tools/list")["tools"]
    assert [tool["name"] for tool in tools] == TOOLS


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_finds_no_schema_that_a_host_could_refuse(tmp_path: Path, era: str) -> None:
    """With `--strict`, findings and even warnings are in the output next to the result."""
    strict = ["--strict", "--format", "json", "--protocol-era", era]
    said = inspected(tmp_path, "--method", "tools/list", *strict)
    assert [tool["name"] for tool in said.pop("result")["tools"]] == TOOLS
    assert said == {}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_inspector_calls_each_tool(tmp_path: Path, tool: str) -> None:
    arguments = [] if tool == "check_job" else ["--tool-arg", "prompt=a fox"]
    result = inspected(tmp_path, "--method", "tools/call", "--tool-name", tool, *arguments)
    kinds = [each["type"] for each in result["content"]]
    assert kinds == (["text", "image"] if tool.startswith("generate") else ["text"])
    assert "isError" not in result or result["isError"] is False
    if tool.startswith("generate"):
        text, image = result["content"]
        assert_drawn(text["text"], image["mimeType"], image["data"], tmp_path)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_server_passes_the_conformance_suite(tmp_path: Path, scenario: str) -> None:
    with started(tmp_path, "--transport", "http", "--port", "0", "--sandbox"):
        url = address(tmp_path)
        suite = ["-p", CONFORMANCE, "conformance"]
        output = npx(*suite, "server", "--url", url, "--scenario", scenario, folder=tmp_path)
    assert re.search(r"Passed: [1-9]\d*/\d+", output), output
    failed = set(re.findall(r"\[(\S+) *\] \S*FAILURE", output))
    assert failed - NOT_GENERIC == set(), output


@pytest.fixture(scope="module")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the TypeScript SDK and our programs that use it."""
    folder = tmp_path_factory.mktemp("typescript")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, TYPESCRIPT]
    subprocess.run(install, cwd=folder, check=True, timeout=110)
    for program in FOREIGN.glob("*.mjs"):
        shutil.copy(program, folder)
    return folder


@contextmanager
def served(transport: str, folder: Path) -> Generator[dict[str, Any]]:
    """What a client needs to connect to the server: a command or a URL."""
    if transport == "stdio":
        yield configured(folder)
        return
    with started(folder, "--transport", transport, "--port", "0", "--sandbox"):
        yield {"url": address(folder)}


@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_the_typescript_client_gets_the_picture_and_its_resource(
    typescript: Path, tmp_path: Path, transport: str
) -> None:
    with served(transport, tmp_path) as server:
        got = json.loads(npx("node", "client.mjs", json.dumps(server), folder=typescript))
        assert [tool["name"] for tool in got["tools"]] == TOOLS
        assert not got.get("isError")
        text, image = got["content"]
        assert (text["type"], image["type"]) == ("text", "image")
        kept = assert_drawn(text["text"], image["mimeType"], image["data"], tmp_path)
    (resource,) = got["contents"]
    assert resource["mimeType"] == "image/jpeg"
    assert b64decode(resource["blob"], validate=True) == kept
    assert len(got["resourceTemplates"]) == 4
    _, gallery, picture = got["resources"]
    assert (gallery["uri"], picture["uri"]) == ("vega://gallery", resource["uri"])
    assert picture["size"] == len(kept)
    assert [prompt["name"] for prompt in got["prompts"]] == ["illustrate", "explore", "vary"]


def test_the_typescript_client_accepts_answers_that_were_sent_before_the_server_had_loaded(
    typescript: Path, tmp_path: Path
) -> None:
    def use() -> dict[str, Any]:
        return json.loads(npx("node", "client.mjs", json.dumps(configured(tmp_path)), folder=typescript))

    first = use()
    (file,) = tmp_path.rglob("early-answers/*.json")
    change(file, tools=[{**first["tools"][0], "title": "early"}])
    later = use()
    assert [tool["title"] for tool in later["tools"]] == ["early"]
    assert not later.get("isError")
    assert later["prompts"] == first["prompts"]
    assert use()["tools"] == first["tools"]


def environment_with(folder: Path, *requirements: str) -> Path:
    """A virtual environment with other projects' programs."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    install = [sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", *requirements]
    subprocess.run(install, check=True, timeout=110)
    return venv


def program_in(venv: Path, name: str) -> str:
    return str((venv / Path(sys.executable).relative_to(sys.prefix)).with_name(name))


def run_with(requirement: str, program: str, folder: Path, server: dict[str, Any]) -> dict[str, Any]:
    """The output of a program that runs in a virtual environment of its own."""
    python = program_in(environment_with(folder, requirement), "python")
    return json.loads(output_of(python, str(FOREIGN / program), json.dumps(server), folder=folder))


def test_the_framework_langchain_passes_text_and_picture_to_its_model(tmp_path: Path) -> None:
    got = run_with(LANGCHAIN, "langchain_client.py", tmp_path, configured(tmp_path))
    assert got["tools"] == TOOLS
    assert got["status"] == "success"
    text, image = got["content"]
    assert (text["type"], image["type"]) == ("text", "image")
    assert_drawn(text["text"], image["mime_type"], image["base64"], tmp_path)


def test_the_framework_openai_agents_passes_text_and_picture_to_its_model(tmp_path: Path) -> None:
    got = run_with(OPENAI_AGENTS, "openai_agents_client.py", tmp_path, configured(tmp_path))
    assert got["tools"] == TOOLS
    text, image = got["content"]
    assert (text["type"], image["type"]) == ("input_text", "input_image")
    mime_type, _, data = image["image_url"].removeprefix("data:").partition(";base64,")
    assert_drawn(text["text"], mime_type, data, tmp_path)


def test_the_scanner_finds_only_what_is_known_to_be_no_fault(tmp_path: Path) -> None:
    """With the analyzers that need no service: YARA rules against injected words, references in schemas, readiness."""
    with served("http", tmp_path) as server:
        got = run_with(SCANNER, "mcp_scanner.py", tmp_path, server)
    tools = [[tool, analyzers] for analyzers in (["schema", "yara"], ["readiness"]) for tool in TOOLS]
    others = [[name, ["yara"]] for name in ("instructions", "vega://gallery")]
    assert got["scanned"] == [[name, "completed", analyzers, []] for name, analyzers in (*tools, *others)]
    assert got["read"] == ["result", "illustrate", "explore", "vary"]
    known = sorted([tool, "READINESS", rule] for rule, tools in READINESS.items() for tool in tools)
    assert sorted(found[:3] for found in got["findings"]) == known, got["findings"]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_exiftool_reads_the_recipe(tmp_path: Path, form: str) -> None:
    """exiftool is a package of the system (Debian: libimage-exiftool-perl)."""
    recipe = Recipe(VegaParameters(prompt="a fox in Föhr, 狐 🦊", negative_prompt="blur", seed=7, samples=4), 2)
    file = tmp_path / f"picture.{form.lower()}"
    file.write_bytes(metadata.embed(noise(form, 64), recipe))
    (said,) = json.loads(output_of("exiftool", "-json", "-warning", file.name, "-All", folder=tmp_path))
    assert "Warning" not in said
    assert said["UserComment" if form == "JPEG" else "Parameters"] == recipe.text
    assert json.loads(said["Comment" if form == "JPEG" else "Mcp-vega"]) == recipe.data
    assert (said["ImageWidth"], said["ImageHeight"]) == (64, 64)


# ---- clients that give up and call again ----

WISH = {"prompt": "a fox"}
# At this speed a drawing takes about 9 s, which is longer than a client's time-out of 5 s.
SLOW_SPEED = "3.7"


@contextmanager
def separate_sandbox(folder: Path, speed: str = SLOW_SPEED) -> Generator[str]:
    """A sandbox that runs as a program of its own."""
    folder.mkdir()
    with started(folder, "sandbox", "--port", "0", "--speed", speed):
        yield address(folder)


def over(sandbox: str, folder: Path) -> dict[str, Any]:
    """The server as in a host's configuration, with a sandbox that is already running."""
    variables = environment(folder, SEGMIND_BASE_URL=sandbox, SEGMIND_API_KEY=KEY)
    return {"command": str(Path(sys.executable).with_name("mcp-vega")), "args": [], "env": variables}


def assert_paid_once(sandbox: str, got: dict[str, Any], complaint: str, *, joined: bool = True) -> None:
    """Check that the first call was given up, the second got its picture, and only one was paid for.

    `joined` says that the first call was certainly begun, so the second must have joined it.
    """
    assert re.search(complaint, got["first"], re.IGNORECASE), got
    text, image = got["again"]["content"]
    assert (text["type"], image["type"]) == ("text", "image")
    assert not joined or "Note: the same call was made shortly before, and nobody received its result" in text["text"]
    requests = httpx.get(f"{sandbox}/_sandbox", trust_env=False).json()["requests"]
    assert {name: count for name, count in requests.items() if name.startswith("POST")} == {"POST generate": 1}


@pytest.mark.parametrize(
    ("way", "complaint"), [("timeout", "timed out"), ("abort", "abort|timeout"), ("abort at once", "changed its mind")]
)
def test_the_typescript_client_that_gives_up_over_http_and_calls_again_pays_once(
    typescript: Path, tmp_path: Path, way: str, complaint: str
) -> None:
    """It sends its cancellation as a separate request, and repeats the call right after."""
    with separate_sandbox(tmp_path / "sandbox") as sandbox:
        variables = {"SEGMIND_BASE_URL": sandbox, "SEGMIND_API_KEY": KEY}
        with started(tmp_path, "--transport", "http", "--port", "0", **variables):
            asked = {"url": address(tmp_path), "way": way, "milliseconds": 1500, "arguments": WISH}
            got = json.loads(npx("node", "impatient_client.mjs", json.dumps(asked), folder=typescript))
        # If it gives up immediately, its cancellation may arrive before the call, which then is not begun.
        assert_paid_once(sandbox, got, complaint, joined=way != "abort at once")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_python_client_that_gives_up_without_a_cancellation_and_calls_again_pays_once(
    silent: Path, tmp_path: Path, *, elsewhere: bool
) -> None:
    """The second call goes to the same server, or to another one that shares the ledger."""
    with separate_sandbox(tmp_path / "sandbox") as sandbox:
        asked = {"servers": [over(sandbox, tmp_path)] * (1 + elsewhere), "arguments": WISH, "seconds": 5}
        got = json.loads(output_of(*silent_client(silent), json.dumps(asked), folder=tmp_path))
        assert_paid_once(sandbox, got, "timed out|waited")


@pytest.mark.parametrize("program", ["python", "typescript"])
def test_a_client_that_gives_up_behind_mcp_proxy_and_calls_again_pays_once(
    typescript: Path, silent: Path, tmp_path: Path, program: str
) -> None:
    """The proxy does not pass cancellations on."""
    with separate_sandbox(tmp_path / "sandbox") as sandbox, proxied(silent, over(sandbox, tmp_path), tmp_path) as url:
        if program == "python":
            asked = {"servers": [{"url": url}], "arguments": WISH, "seconds": 5}
            output = output_of(*silent_client(silent), json.dumps(asked), folder=tmp_path)
        else:
            asked = {"url": url, "way": "timeout", "milliseconds": 5000, "arguments": WISH}
            output = npx("node", "impatient_client.mjs", json.dumps(asked), folder=typescript)
        assert_paid_once(sandbox, json.loads(output), "timed out|waited")


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with mcp 1.x and the proxy that uses it."""
    return environment_with(tmp_path_factory.mktemp("silent"), SILENT_MCP, PROXY)


def silent_client(venv: Path) -> list[str]:
    return [program_in(venv, "python"), str(FOREIGN / "silent_client.py")]


@contextmanager
def proxied(venv: Path, server: dict[str, Any], folder: Path) -> Generator[str]:
    """Run mcp-proxy in front of the server over stdio; yields its URL."""
    log = folder / "proxy.txt"
    command = [program_in(venv, "mcp-proxy"), "--port", "0", "--pass-environment", "--", server["command"]]
    with (
        log.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(command, env=server["env"], stderr=stderr) as process,
    ):
        try:
            running = wait_until(lambda: re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text("utf-8")))
            yield f"{running[1]}/mcp"
        finally:
            process.terminate()
