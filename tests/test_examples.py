"""The examples in the documents: calls that give exactly these texts, and entries that hosts can read."""

import json
import re
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from conftest import Sandbox, app_over, text_of
from mcp.client import Client
from pages import ROOT, blocks, of_language, read

from mcp_vega.cli.install.entry import NAME, Entry
from mcp_vega.cli.install.hosts import HOSTS, UserEnvironment
from mcp_vega.server.app import build_server
from mcp_vega.server.tools import DEFINITIONS

TOOLS = [definition.name for definition in DEFINITIONS]
HOSTS_PAGE = read("docs/hosts.md")

# ---- calls ----

Example = tuple[str, str, str]  # the tool, the arguments as JSON, the text


def examples() -> Iterator[Example]:
    """The examples of docs/tools.md. Below a tool's name they call this tool, and elsewhere generate_image_vega."""
    shown = [block for block in blocks(read("docs/tools.md")) if block.language in ("json", "text")]
    for call, answer in zip(shown[::2], shown[1::2], strict=True):
        assert (call.language, answer.language, call.heading) == ("json", "text", answer.heading)
        yield call.heading if call.heading in TOOLS else TOOLS[0], call.text, answer.text


def scenes() -> list[list[Example]]:
    """The examples in groups that share a ledger: check_job continues with the job of the tool before it."""
    scenes: list[list[Example]] = []
    for tool, calls in groupby(examples(), key=lambda example: example[0]):
        if tool == "check_job":
            scenes[-1] += calls
        else:
            scenes.append([*calls])
    return scenes


def masked(text: str) -> str:
    """The text of a result without parts that always differ: folder, day, ids, seconds."""
    text = re.sub(r"(?<=^Image: ).*/\d{4}-\d\d-\d\d/(.+)-[0-9a-f]{8}(?=\.jpg$)", r"…/\1-ID", text, flags=re.MULTILINE)
    text = re.sub(r"[0-9a-f]{32}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", text)
    text = re.sub(r"(; this takes longer than usual \(about \d+ s\))?(\. Call .* in about )\d+(?= s\.)", r"\2N", text)
    return re.sub(r"(?<=^Seconds: )[\d.]+$", "N", text, flags=re.MULTILINE)


def request_id(text: str) -> str | None:
    found = re.search("^Request id: (.+)$", text, re.MULTILINE)
    return found and found[1]


@pytest.mark.anyio
@pytest.mark.parametrize("scene", scenes(), ids=lambda scene: scene[0][0])
async def test_a_call_gives_the_text_in_the_documents(sandbox: Sandbox, tmp_path: Path, scene: list[Example]) -> None:
    # A queued job stays queued until its check_job. The other jobs need no time.
    submitted = scene[0][0] == "submit_job"
    sandbox.account.speed, pace = (1000, 0.2) if submitted else (0, 0)
    ids: dict[str, str] = {}
    async with app_over(sandbox.url, tmp_path, sandbox=True, pace=pace) as app, Client(build_server(app)) as agent:
        for tool, arguments, shown in scene:
            given = json.loads(arguments)
            if "request_id" in given:
                given["request_id"] = ids[given["request_id"]]
                sandbox.account.skip(6000)  # the drawing has ended, and its result is kept for an hour
            said = text_of(await agent.call_tool(tool, given))
            assert masked(said) == masked(shown)
            if (documented := request_id(shown)) and (real := request_id(said)):
                ids[documented] = real


def test_every_tool_has_an_example() -> None:
    assert {tool for tool, _, _ in examples()} == set(TOOLS)


# ---- hosts ----


def entry_in(language: str, text: str) -> tuple[str, dict[str, Any]]:
    """The section of a host's file in an example, and the entry of this server in it."""
    data: dict[str, dict[str, Any]] = json.loads(text) if language == "json" else tomllib.loads(text)
    ((section, servers),) = data.items()
    ((name, entry),) = servers.items()
    assert name == NAME
    return section, entry


def host_sections() -> dict[str, tuple[str, str, str]]:
    """The language and text of each host's example, and the rest of its section, by the host's title."""
    said = {title: text for title, _, text in (part.partition("\n") for part in HOSTS_PAGE.split("\n## ")[1:])}
    return {
        block.heading: (block.language, block.text, said[block.heading])
        for block in blocks(HOSTS_PAGE)
        if block.language in ("json", "toml")
    }


def an_entry() -> dict[str, Any]:
    return json.loads(read("claude_desktop_config.example.json"))["mcpServers"][NAME]


@pytest.mark.parametrize("name", HOSTS)
def test_the_entry_for_a_host_is_the_one_that_install_writes(name: str) -> None:
    host, example = HOSTS[name], an_entry()
    language, text, _ = host_sections()[host.title]
    section, shown = entry_in(language, text)
    written = {**host.members, **Entry(example["command"], key=example["env"]["SEGMIND_API_KEY"]).data, **host.defaults}
    assert (language, section, {"args": [], **shown}) == (host.form, host.section, written)


def test_the_entries_for_other_hosts_start_the_same_command() -> None:
    known = {host.title for host in HOSTS.values()}
    others = {title: entry_in(*part[:2])[1] for title, part in host_sections().items() if title not in known}
    assert set(others) == {"opencode", "Cline", "Copilot CLI", "Qwen Code", "LM Studio"}
    for entry in others.values():
        # One of these hosts takes the command and its arguments as one list.
        assert entry["command"] in (an_entry()["command"], [an_entry()["command"]])
        assert not entry.get("args")
        assert entry.get("env", entry.get("environment")) == an_entry()["env"]


@pytest.mark.parametrize("platform", ["darwin", "win32", "linux"])
@pytest.mark.parametrize("name", HOSTS)
def test_the_documents_name_the_file_where_install_looks_for_it(name: str, platform: str) -> None:
    windows = platform == "win32"
    home = Path("%USERPROFILE%" if windows else "~")
    file = HOSTS[name].file(UserEnvironment({"APPDATA": "%APPDATA%"} if windows else {}, home, platform))
    said = host_sections()[HOSTS[name].title][2]
    # If the file has the same name on every system, the page may name only its folder.
    places = [file.as_posix(), f"{file.parent.as_posix()}/"]
    assert any(f"`{place.replace('/', chr(92)) if windows else place}`" in said for place in places), places


def test_the_documents_have_the_host_names_that_install_takes() -> None:
    for page in (HOSTS_PAGE, read("README.md")):
        assert all(f"`{name}`" in page for name in HOSTS)


def test_the_entry_for_a_server_over_http_has_its_url_and_a_token() -> None:
    (text,) = of_language(read("docs/http.md"), "json")
    _, entry = entry_in("json", text)
    assert entry["url"].endswith("/mcp")
    assert entry["headers"] == {"Authorization": "Bearer TOKEN"}


def test_every_block_of_json_or_toml_can_be_parsed() -> None:
    for path in sorted((ROOT / "docs").glob("*.md")):
        for block in blocks(path.read_text(encoding="utf-8")):
            if block.language == "json":
                json.loads(block.text)
            elif block.language == "toml":
                tomllib.loads(block.text)
