"""The hosts themselves read what `mcp-vega install` wrote: Claude Code, Codex and Gemini CLI; uvx starts it.

Needs Node.js, and the registries that npm and pip install from; run with `-m external`.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import KEY
from mcp import ClientSession, StdioServerParameters, stdio_client
from test_install import FILES, ROOT, SCRIPT, servers_in, with_comments

pytestmark = pytest.mark.external

PACKAGES = {
    "claude-code": "@anthropic-ai/claude-code@2.1.197",
    "codex": "@openai/codex@0.169.0",
    "gemini": "@google/gemini-cli@0.61.0",
}
UV = "uv==0.13.9"
PIP = [sys.executable, "-m", "pip", "--quiet"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the hosts' own commands."""
    folder = tmp_path_factory.mktemp("hosts")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", folder, *PACKAGES.values()]
    subprocess.run(install, cwd=folder, check=True, timeout=280)
    return folder / "node_modules" / ".bin"


def variables(home: Path, programs: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "GEMINI_CLI_TRUST_WORKSPACE": "true"}


def said(*command: str, env: Mapping[str, str], cwd: Path) -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def asked(host: str, env: Mapping[str, str], cwd: Path) -> str:
    """What a host says about its server vega; two of them start it to see."""
    match host:
        case "claude-code":
            return said("claude", "mcp", "get", "vega", env=env, cwd=cwd)
        case "codex":
            return said("codex", "mcp", "get", "vega", env=env, cwd=cwd)
        case _:
            return said("gemini", "mcp", "list", env=env, cwd=cwd)


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_that_got_the_entry_by_its_own_command_starts_the_server(
    host: str, programs: Path, tmp_path: Path
) -> None:
    env = variables(tmp_path, programs)
    text = said(SCRIPT, "install", host, "--yes", env={**env, "SEGMIND_API_KEY": KEY}, cwd=tmp_path)
    assert f"  with {programs}" in text
    assert "failed" not in text
    seen = asked(host, env, tmp_path)
    assert SCRIPT in seen
    assert ("enabled: true" if host == "codex" else "Connected") in seen
    entry = servers_in(host, tmp_path)["vega"]
    assert entry["env"] == {"SEGMIND_API_KEY": KEY}
    text = said(SCRIPT, "uninstall", host, "--yes", env=env, cwd=tmp_path)
    assert f"  with {programs}" in text
    assert servers_in(host, tmp_path) == {}


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_with_other_servers_and_comments_reads_what_was_merged(
    host: str, programs: Path, tmp_path: Path
) -> None:
    env = variables(tmp_path, programs)
    file = tmp_path / FILES[host]
    file.parent.mkdir(parents=True, exist_ok=True)
    # These two hosts' files are JSON: Claude Code's without comments, Gemini's with them, but no comma too many.
    plain = '{"mcpServers": {"files": {"command": "files", "args": []}}}'
    commented = '{\n  // mine\n  "mcpServers": {\n    "files": {"command": "files", "args": []} // keep\n  }\n}\n'
    file.write_text({"claude-code": plain, "gemini": commented}.get(host) or with_comments(host), encoding="utf-8")
    said(SCRIPT, "install", host, "--yes", "--sandbox", env=env, cwd=tmp_path)
    assert list(servers_in(host, tmp_path)) == ["files", "vega"]
    assert ("keep" in file.read_text(encoding="utf-8")) == (host != "claude-code")
    seen = asked(host, env, tmp_path)
    assert "--sandbox" in seen
    assert ("enabled: true" if host == "codex" else "Connected") in seen


@pytest.fixture
def uvx(tmp_path: Path) -> Path:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    subprocess.run([*PIP, "--python", venv, "install", UV], check=True, timeout=110)
    return venv / Path(sysconfig.get_path("scripts")).relative_to(sys.prefix) / "uvx"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    subprocess.run([*PIP, "wheel", "--no-deps", "-w", tmp_path / "wheels", ROOT], check=True, timeout=110)
    (wheel,) = (tmp_path / "wheels").iterdir()
    return wheel


@pytest.mark.anyio
async def test_under_uvx_the_command_written_is_uvx_itself_and_starts_the_server(
    uvx: Path, wheel: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_PYTHON": sys.executable}
    command = [str(uvx), "--from", str(wheel), "mcp-vega"]
    said(*command, "install", "codex", "--yes", "--sandbox", env=env, cwd=tmp_path)
    entry = servers_in("codex", tmp_path)["vega"]
    args = ["--from", wheel.as_uri(), "mcp-vega", "--sandbox"]
    assert entry == {"command": str(uvx), "args": args, "startup_timeout_sec": 60}
    server = StdioServerParameters(command=entry["command"], args=args, env=env, cwd="/")
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        assert len((await session.list_tools()).tools) == 4
