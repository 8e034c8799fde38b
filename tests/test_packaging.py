"""What is distributed: the wheel, the one-click bundle, the registry's entry, the install links, the container."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
from base64 import b64decode
from collections.abc import Generator
from contextlib import contextmanager
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from zipfile import ZIP_STORED, ZipFile

import anyio
import pytest
from conftest import images_of, job_of, text_of
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from test_external import NODE, TOOLS, output_of
from test_install import servers_in
from test_transports import address, environment, exit_code

from mcp_vega import __version__
from mcp_vega.settings import Settings

ROOT = Path(__file__).parent.parent
PACKAGING = ROOT / "packaging"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXAMPLE = json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8"))["mcpServers"]
MANIFEST: dict[str, Any] = json.loads((PACKAGING / "manifest.json").read_text(encoding="utf-8"))
ENTRY: dict[str, Any] = json.loads((PACKAGING / "server.json").read_text(encoding="utf-8"))
VARIABLES = {field.alias for field in Settings.model_fields.values()}
UV = "uv==0.13.9"
MCPB = "@anthropic-ai/mcpb@2.1.2"
TOKEN = "the-token-of-a-test"

posix = pytest.mark.skipif(sys.platform == "win32", reason="the container runs Linux")


# ---- the wheel and the source archive ----


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, timeout=60)
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


def package() -> dict[str, bytes]:
    """The files of the package in its folder, without what Python writes there."""
    files = [file for file in (ROOT / "mcp_vega").rglob("*.*") if "__pycache__" not in file.parts]
    return {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in files}


def unzipped(file: Path) -> dict[str, bytes]:
    with ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    files = unzipped(wheel)
    described = {name for name in files if name.startswith(f"mcp_vega-{__version__}.dist-info/")}
    assert {name: files[name] for name in files.keys() - described} == package()
    names = {name.partition("/")[2] for name in described}
    assert names == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(unzipped(wheel)[f"mcp_vega-{__version__}.dist-info/METADATA"].decode())


def test_the_wheel_has_the_right_metadata(wheel: Path) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["Version"]) == ("mcp-vega", __version__)
    assert (said["License-Expression"], said["Requires-Python"]) == ("MIT", ">=3.11")
    assert said.get_payload() == README
    files = unzipped(wheel)
    assert files[f"mcp_vega-{__version__}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    commands = files[f"mcp_vega-{__version__}.dist-info/entry_points.txt"].decode()
    assert commands == "[console_scripts]\nmcp-vega = mcp_vega.cli.main:main\n"


def test_the_source_archive_has_every_committed_file_except_those_whose_names_begin_with_a_dot(built: Path) -> None:
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("this is no clone, so nobody knows what is committed")
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    committed = {name for name in git.stdout.splitlines() if not name.startswith(".")}
    assert committed - names == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist"))]


@pytest.mark.external
def test_a_wheel_that_pip_installed_draws_in_a_fresh_environment(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path / "dist", ROOT], check=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("mcp_vega-*.whl")
    assert {name for name in unzipped(wheel) if ".dist-info/" not in name} == package().keys()
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    subprocess.run([*pip, "--python", venv, "install", "--quiet", wheel], check=True, timeout=300)
    (command,) = [file for file in venv.rglob("mcp-vega*") if file.parent.name in {"bin", "Scripts"}]
    draw, env = [command, "draw", "a fox", "--sandbox"], environment(tmp_path / "gallery", HOME=str(tmp_path))
    drawn = subprocess.run(draw, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert Path(drawn.stdout.strip()).stat().st_size > 10_000


@pytest.mark.external
@pytest.mark.anyio
async def test_under_uvx_the_command_that_is_written_for_a_host_is_uvx_itself(
    wheel: Path, uv: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_PYTHON": sys.executable}
    command = [str(uv / "uvx"), "--from", str(wheel), "mcp-vega", "install", "codex", "--yes", "--sandbox"]
    await anyio.run_process(command, env=env, cwd=tmp_path)
    entry = servers_in("codex", tmp_path)["vega"]
    args = ["--from", wheel.as_uri(), "mcp-vega", "--sandbox"]
    assert entry == {"command": str(uv / "uvx"), "args": args, "startup_timeout_sec": 60, "required": True}
    host = StdioServerParameters(command=entry["command"], args=entry["args"], env=env, cwd="/")
    async with Client(stdio_client(host)) as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == TOOLS


# ---- the one-click bundle ----


def bundled(folder: Path, root: Path = ROOT) -> Path:
    """The bundle; its program builds it, and prints its path."""
    command = [sys.executable, root / "packaging" / "bundle.py", folder]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip())


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    """The unpacked bundle, as a host has it."""
    folder = tmp_path / "extensions" / "mcp-vega"
    for name, content in unzipped(bundle).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_the_bundle_has_the_package_and_what_its_installation_needs(bundle: Path) -> None:
    assert bundle.name == f"mcp-vega-{__version__}.mcpb"
    files = unzipped(bundle)
    assert json.loads(files.pop("manifest.json")) == {**MANIFEST, "version": __version__}
    project = tomllib.loads(files.pop("pyproject.toml").decode())
    assert project == {name: table for name, table in PROJECT.items() if name != "dependency-groups"}
    assert files == {**package(), **{name: (ROOT / name).read_bytes() for name in ("README.md", "LICENSE")}}


def test_the_same_sources_give_the_same_bundle_in_any_folder(bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for folder in ("mcp_vega", "packaging"):
        shutil.copytree(ROOT / folder, elsewhere / folder, copy_function=shutil.copyfile)  # with new dates
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, elsewhere / name)
    (elsewhere / "mcp_vega" / "__pycache__").mkdir(exist_ok=True)
    (elsewhere / "mcp_vega" / "__pycache__" / "left.pyc").write_bytes(b"by Python")
    again = bundled(elsewhere / "dist", elsewhere)
    assert again.read_bytes() == bundle.read_bytes()
    with ZipFile(bundle) as archive:
        described = {(entry.compress_type, entry.date_time) for entry in archive.infolist()}
    assert described == {(ZIP_STORED, (1980, 1, 1, 0, 0, 0))}


def test_the_manifest_asks_only_for_settings_that_exist(bundle: Path) -> None:
    server, asked = MANIFEST["server"], MANIFEST["user_config"]
    given = server["mcp_config"]["env"]
    assert given.keys() <= VARIABLES
    assert sorted(given.values()) == sorted(f"${{user_config.{name}}}" for name in asked)
    assert given["SEGMIND_API_KEY"] == "${user_config.api_key}"
    assert [name for name, setting in asked.items() if setting.get("sensitive")] == ["api_key"]
    assert not any(setting["required"] for setting in asked.values())  # the server starts without
    # The reference implementation leaves variables in a default unchanged.
    assert "$" not in json.dumps([setting.get("default") for setting in asked.values()])
    assert {MANIFEST["icon"], server["entry_point"]} <= unzipped(bundle).keys()
    assert MANIFEST["compatibility"]["runtimes"]["python"] == PROJECT["project"]["requires-python"]


@pytest.mark.anyio
async def test_the_manifest_lists_the_tools_and_prompts_of_the_server(agent: Client) -> None:
    tools, prompts = (await agent.list_tools()).tools, (await agent.list_prompts()).prompts
    assert [tool["name"] for tool in MANIFEST["tools"]] == [tool.name for tool in tools]
    assert [(prompt["name"], prompt["description"], prompt["arguments"]) for prompt in MANIFEST["prompts"]] == [
        (prompt.name, prompt.description, [argument.name for argument in prompt.arguments or []]) for prompt in prompts
    ]
    for listed, prompt in zip(MANIFEST["prompts"], prompts, strict=True):
        required = {argument.name for argument in prompt.arguments or [] if argument.required}
        assert set(re.findall(r"\$\{arguments\.(\w+)\}", listed["text"])) == required


def as_a_host(folder: Path, home: Path, **answers: str) -> StdioServerParameters:
    """How a host starts an unpacked bundle: the command of the manifest with the user's answers."""

    def filled(text: str) -> str:
        values = {"__dirname": str(folder), **{f"user_config.{name}": answer for name, answer in answers.items()}}
        return re.sub(r"\$\{(.+?)\}", lambda found: values.get(found[1], found[0]), text)

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    config = manifest["server"]["mcp_config"]
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env = {**kept, "HOME": str(home), "MCP_VEGA_HOME": str(home / "ledger"), "PYTHONWARNINGS": "error"}
    env |= {name: filled(value) for name, value in config["env"].items()}
    return StdioServerParameters(command=config["command"], args=[filled(each) for each in config["args"]], env=env)


def without_uv(host: StdioServerParameters, folder: Path) -> StdioServerParameters:
    """The same without a network: this Python and its libraries run the unpacked sources, instead of uv."""
    assert [host.command, *host.args] == ["uv", "run", "--directory", str(folder), "mcp-vega"]
    # Python looks in its working folder first.
    return host.model_copy(update={"command": sys.executable, "args": ["-m", "mcp_vega"], "cwd": folder})


@pytest.mark.anyio
async def test_the_unpacked_bundle_draws_where_the_user_wants_the_pictures(unpacked: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "Pictures of mine"
    host = as_a_host(
        unpacked, tmp_path / "home", api_key="", gallery=str(pictures), spending_limit="0.1", sandbox="true"
    )
    # This version shows that the unpacked package runs, and not the one that is installed for the tests:
    first = unpacked / "mcp_vega" / "__init__.py"
    first.write_text(first.read_text(encoding="utf-8").replace(__version__, "0.0.7"), encoding="utf-8")
    async with Client(stdio_client(without_uv(host, unpacked)), mode="legacy") as agent:
        assert agent.server_info
        assert agent.server_info.version == "0.0.7"
        result = await agent.call_tool("generate_image_vegart", {"prompt": "a fox"})
    assert len(images_of(result)) == 1
    assert Path(job_of(result)["images"][0]["path"]).is_relative_to(pictures / "sandbox")
    assert "of $0.10 (pretend) left today" in text_of(result)


@pytest.mark.anyio
async def test_without_any_answer_of_the_user_the_bundle_starts_and_reports_that_there_is_no_key(
    unpacked: Path, tmp_path: Path
) -> None:
    """Claude Desktop leaves `${user_config.…}` unchanged if there is neither an answer nor a default."""
    host = as_a_host(unpacked, tmp_path / "home", sandbox="false")
    async with Client(stdio_client(without_uv(host, unpacked))) as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == TOOLS
        result = await agent.call_tool("generate_image_vegart", {"prompt": "a fox"})
    assert text_of(result).startswith(
        "Error: No Segmind API key is set: SEGMIND_API_KEY still contains the placeholder ${user_config.api_key} "
    )
    assert not list(tmp_path.rglob("*user_config*"))


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `uv` and `uvx`: the one on the PATH, or a new one."""
    if found := shutil.which("uv"):
        return Path(found).parent
    venv = tmp_path_factory.mktemp("uv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    subprocess.run([sys.executable, "-m", "pip", "--python", venv, "install", "--quiet", UV], check=True, timeout=300)
    return (venv / Path(sys.executable).relative_to(sys.prefix)).parent


def on_path(host: StdioServerParameters, folder: Path) -> StdioServerParameters:
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command = str(shutil.which(host.command, path=path))
    return host.model_copy(update={"command": command, "env": {**os.environ, **(host.env or {}), "PATH": path}})


@pytest.mark.external
@pytest.mark.anyio
async def test_uv_runs_the_unpacked_bundle_as_its_manifest_says(unpacked: Path, tmp_path: Path, uv: Path) -> None:
    answers = {"api_key": "", "gallery": str(tmp_path / "pictures"), "spending_limit": "1", "sandbox": "true"}
    host = on_path(as_a_host(unpacked, tmp_path / "home", **answers), uv)
    async with Client(stdio_client(host)) as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == TOOLS
        result = await agent.call_tool("generate_image_vega", {"prompt": "a fox"})
    assert len(images_of(result)) == 1
    assert Path(job_of(result)["images"][0]["path"]).is_relative_to(tmp_path / "pictures")
    installed = {file.name.partition("-")[0] for file in unpacked.glob(".venv/**/*.dist-info")}
    assert "mcp_vega" in installed
    assert not installed & {"pytest", "ruff", "pyright"}


@pytest.mark.external
def test_uv_runs_the_entry_point_if_the_host_chooses_the_command_itself(unpacked: Path, uv: Path) -> None:
    run = [str(uv / "uv"), "run", "--directory", str(unpacked), MANIFEST["server"]["entry_point"], "--version"]
    assert output_of(*run, folder=unpacked) == f"mcp-vega {__version__}\n"


@pytest.mark.external
def test_the_tool_of_the_bundle_formats_makers_accepts_the_bundle(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    mcpb = ("npx", "--yes", "-p", NODE, "-p", MCPB, "mcpb")
    assert "Manifest schema validation passes!" in output_of(*mcpb, "validate", str(unpacked), folder=tmp_path)
    packed = output_of(*mcpb, "pack", str(unpacked), str(tmp_path / "packed.mcpb"), folder=tmp_path)
    assert f"version: {__version__}" in packed
    assert unzipped(tmp_path / "packed.mcpb") == unzipped(bundle)
    # stderr says that it is not signed
    assert bundle.name in output_of(*mcpb, "info", str(bundle), folder=tmp_path)


# ---- the registry's entry ----


def test_the_registry_entry_follows_the_rules_of_its_schema() -> None:
    """The rules of 2025-12-11 for what the entry has: names, lengths, patterns, required fields, choices."""
    assert ENTRY["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    assert ENTRY.keys() == {"$schema", "name", "title", "description", "version", "packages"}
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", ENTRY["name"])
    assert 3 <= len(ENTRY["name"]) <= 200
    assert 1 <= len(ENTRY["title"]) <= 100
    assert 1 <= len(ENTRY["description"]) <= 100
    (listed,) = ENTRY["packages"]
    required = {"registryType", "identifier", "transport"}
    assert required <= listed.keys() <= required | {"version", "runtimeHint", "environmentVariables"}
    assert listed["transport"] == {"type": "stdio"}
    for variable in listed["environmentVariables"]:
        assert {"name"} <= variable.keys() <= {"name", "description", "format", "isRequired", "isSecret"}
        assert variable.get("format", "string") in {"string", "number", "boolean", "filepath"}


def test_the_registry_entry_names_this_package_and_its_settings() -> None:
    (listed,) = ENTRY["packages"]
    assert (listed["registryType"], listed["identifier"]) == ("pypi", PROJECT["project"]["name"])
    assert ENTRY["version"] == listed["version"] == __version__
    variables = {variable["name"]: variable for variable in listed["environmentVariables"]}
    assert variables.keys() <= VARIABLES
    assert [name for name, variable in variables.items() if variable.get("isSecret")] == ["SEGMIND_API_KEY"]
    described = {field.alias: (field.description or "").replace("`", "") for field in Settings.model_fields.values()}
    # One user's gallery is a folder, so the packages leave out what is for a team.
    described["MCP_VEGA_GALLERY"] = described["MCP_VEGA_GALLERY"].partition(" For a team")[0]
    for name in ("MCP_VEGA_GALLERY", "MCP_VEGA_SPENDING_LIMIT_USD"):
        assert variables[name]["description"] == described[name]
    assert MANIFEST["user_config"]["gallery"]["description"] == described["MCP_VEGA_GALLERY"]


def test_the_readme_names_the_owner_of_the_registry_entry(wheel: Path) -> None:
    """The registry looks for this line in the description on the package index."""
    line = f"<!-- mcp-name: {ENTRY['name']} -->"
    assert README.count("mcp-name:") == 1
    assert line in README.splitlines()
    assert line in str(metadata(wheel).get_payload()).splitlines()


# ---- the install links ----


def links() -> dict[str, str]:
    """The install links of the README, by scheme and host."""
    found = re.findall(r"^\[\S+\]: (\S+mcp\S+)$", README, re.MULTILINE)
    return {f"{urlsplit(link).scheme}:{urlsplit(link).netloc}": link for link in found}


def carried(link: str) -> tuple[str, dict[str, Any]]:
    """The name and the configuration in a link, decoded as the hosts do it."""
    parts = urlsplit(link)
    if "url" in (query := parse_qs(parts.query)):
        return carried(query["url"][0])
    if parts.scheme == "vscode":
        assert parts.path == "mcp/install"
        server = json.loads(unquote(parts.query))
        return server.pop("name"), server
    assert parts.path == ("/en/install-mcp" if parts.scheme == "https" else "/mcp/install")
    return query["name"][0], json.loads(b64decode(query["config"][0], validate=True))


def test_there_are_install_links_for_cursor_and_vs_code() -> None:
    assert links().keys() == {
        "https:cursor.com",
        "cursor:anysphere.cursor-deeplink",
        "https:insiders.vscode.dev",
        "vscode:",
    }


@pytest.mark.parametrize("host", links())
def test_an_install_link_has_the_example_configuration(host: str) -> None:
    name, server = carried(links()[host])
    ((example_name, example),) = EXAMPLE.items()
    assert name == example_name
    # uvx finds a command by the name of its package, so the command, the package and the script have the same name.
    command = Path(example["command"]).name
    assert [server.pop("command"), *server.pop("args")] == ["uvx", command, *example.get("args", [])]
    assert command == PROJECT["project"]["name"]
    assert command in PROJECT["project"]["scripts"]
    for asked in server.pop("inputs", []):
        assert (asked["type"], asked["password"]) == ("promptString", True)
        in_place = [key for key, value in server["env"].items() if value == f"${{input:{asked['id']}}}"]
        assert in_place == ["SEGMIND_API_KEY"]
        server["env"]["SEGMIND_API_KEY"] = example["env"]["SEGMIND_API_KEY"]
    assert server == {"env": example["env"]}
    assert server["env"].keys() <= VARIABLES


def test_the_links_in_the_readme_are_those_that_the_program_prints() -> None:
    command = [sys.executable, PACKAGING / "links.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert [line.rpartition(" ")[2] for line in printed.splitlines()] == list(links().values())


@pytest.mark.external
@pytest.mark.anyio
async def test_uvx_runs_the_command_of_the_links_from_a_wheel(wheel: Path, tmp_path: Path, uv: Path) -> None:
    """The wheel replaces the package index. The rest of the command is that of the link."""
    _, server = carried(links()["cursor:anysphere.cursor-deeplink"])
    env = {**server["env"], "HOME": str(tmp_path), "MCP_VEGA_HOME": str(tmp_path), "MCP_VEGA_GALLERY": str(tmp_path)}
    args = ["--from", str(wheel), *server["args"]]
    host = on_path(StdioServerParameters(command=server["command"], args=args, env=env), uv)
    async with Client(stdio_client(host)) as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == TOOLS


# ---- the container ----


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order."""
    whole = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, argument) for name, _, argument in (line.partition(" ") for line in whole.splitlines() if line)]


DOCKERFILE = (PACKAGING / "Dockerfile").read_text(encoding="utf-8")
STEPS = instructions(DOCKERFILE)
LAST = dict(STEPS[[name for name, _ in STEPS].index("FROM", 1) :])
COPIED = [
    each
    for name, argument in STEPS
    if name == "COPY" and not argument.startswith("--from")
    for each in shlex.split(argument)[:-1]
]
SETTINGS = dict(pair.split("=", 1) for pair in shlex.split(LAST["ENV"]))


def test_the_image_runs_as_an_ordinary_user_and_contains_no_secret() -> None:
    assert int(LAST["USER"]) >= 1000
    assert f"--uid {LAST['USER']} " in LAST["RUN"]
    assert "ARG" not in dict(STEPS)
    assert SETTINGS.keys() == {"PATH", "MCP_VEGA_GALLERY", "MCP_VEGA_HOME"}
    assert sorted(json.loads(LAST["VOLUME"])) == sorted({SETTINGS["MCP_VEGA_GALLERY"], SETTINGS["MCP_VEGA_HOME"]})
    arguments = json.loads(LAST["CMD"])
    assert dict(zip(arguments[::2], arguments[1::2], strict=True))["--port"] == LAST["EXPOSE"]
    assert f"'127.0.0.1', {LAST['EXPOSE']}," in LAST["HEALTHCHECK"]


def test_the_image_has_only_committed_files_that_it_needs() -> None:
    assert COPIED == ["pyproject.toml", "README.md", "LICENSE", "mcp_vega"]


def in_image(folder: Path, binaries: Path) -> dict[str, str]:
    """The container's environment, with its folders in `folder`, and the variables that its user sets."""
    places = {"/pictures": str(folder / "pictures"), "/ledger": str(folder / "ledger"), "/app/bin": str(binaries)}
    env = {name: re.sub("|".join(places), lambda found: places[found[0]], value) for name, value in SETTINGS.items()}
    env["PATH"] = env["PATH"].replace("$PATH", os.environ["PATH"])
    return {**env, "HOME": str(folder / "home"), "MCP_VEGA_AUTH_TOKENS": TOKEN, "MCP_VEGA_SANDBOX": "1"}


def healthy(port: str, env: dict[str, str]) -> bool:
    command = json.loads(LAST["HEALTHCHECK"].partition(" CMD ")[2])
    command = [each.replace(LAST["EXPOSE"], port) for each in command]
    return subprocess.run(command, env=env, capture_output=True, timeout=60, check=False).returncode == 0


def as_first_process() -> list[str]:
    """The words that start a command as process 1, which gets no signal that it does not handle."""
    alone = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    try:
        able = subprocess.run([*alone, "true"], capture_output=True, timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this system lets nobody make a process 1 of their own (unshare --user --pid)")
    return alone


@contextmanager
def container(folder: Path, binaries: Path, before: list[str]) -> Generator[tuple[subprocess.Popen[str], str, int]]:
    """Run the command of the image; yields its outermost process, its port, and the process id of the server."""
    command = [*json.loads(LAST["ENTRYPOINT"]), *json.loads(LAST["CMD"])]
    command = ["0" if each == LAST["EXPOSE"] else each for each in command]
    with (
        (folder / "stderr.txt").open("w", encoding="utf-8") as stderr,
        subprocess.Popen([*before, *command], env=in_image(folder, binaries), stderr=stderr, text=True) as process,
    ):
        try:
            port = urlsplit(address(folder)).port
            inner = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            yield process, str(port), int(inner.read_text(encoding="utf-8")) if before else process.pid
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("alone", [False, True], ids=["among others", "as process 1"])
def test_the_container_is_healthy_until_it_is_stopped_and_stops_immediately(tmp_path: Path, *, alone: bool) -> None:
    binaries = Path(sys.executable).parent
    env = {**in_image(tmp_path, binaries), "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    with container(tmp_path, binaries, as_first_process() if alone else []) as (process, port, pid):
        assert healthy(port, env)
        os.kill(pid, signal.Signals[LAST["STOPSIGNAL"]])
        assert exit_code(process) == 0
        assert not healthy(port, env)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands, made by the steps of the Dockerfile with paths of this machine."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / dict(STEPS)["WORKDIR"].lstrip("/")
    source.mkdir()
    for each in COPIED:
        (shutil.copytree if (ROOT / each).is_dir() else shutil.copyfile)(ROOT / each, source / each)
    (run,) = [argument for name, argument in STEPS if name == "RUN" and "pip" in argument]
    script = run.replace("/app", str(folder / "app"))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(script, shell=True, cwd=source, env=env, check=True, timeout=300)  # noqa: S602  as RUN does
    return folder / "app" / "bin"


@pytest.mark.external
@posix
def test_the_commands_that_the_image_installs_draw_into_its_volume(installed: Path, tmp_path: Path) -> None:
    env = in_image(tmp_path, installed)
    done = output_of(str(installed / "mcp-vega"), "--version", folder=tmp_path)
    assert done == f"mcp-vega {__version__}\n"
    command = [*json.loads(LAST["ENTRYPOINT"]), "draw", "a fox"]
    drawn = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert Path(drawn.stdout.strip()).is_relative_to(tmp_path / "pictures")
    assert list((tmp_path / "ledger").rglob("ledger.sqlite3"))
    with container(tmp_path, installed, []) as (process, port, _):
        assert healthy(port, env)
        process.terminate()
        assert exit_code(process) == 0
