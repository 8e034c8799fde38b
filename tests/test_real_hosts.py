"""Real hosts read what `mcp-vega install` wrote: Claude Code, Codex and Gemini CLI.

They need Node.js, and the registry that npm installs from. Run them with `-m external`.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import KEY
from test_install import FILES, SCRIPT, servers_in, with_comments
from test_transports import address, started

from mcp_vega.cli.install.hosts import HOSTS, Refused

pytestmark = pytest.mark.external

PACKAGES = {
    "claude-code": "@anthropic-ai/claude-code@2.1.197",
    "codex": "@openai/codex@0.169.0",
    "gemini": "@google/gemini-cli@0.61.0",
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the commands of the hosts."""
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
    """What a host says about its server vega. Two of the hosts start the server for that."""
    match host:
        case "claude-code":
            return said("claude", "mcp", "get", "vega", env=env, cwd=cwd)
        case "codex":
            return said("codex", "mcp", "get", "vega", env=env, cwd=cwd)
        case _:
            return said("gemini", "mcp", "list", env=env, cwd=cwd)


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_starts_the_server_from_its_entry(host: str, programs: Path, tmp_path: Path) -> None:
    env = variables(tmp_path, programs)
    said(SCRIPT, "install", host, "--yes", env={**env, "SEGMIND_API_KEY": KEY}, cwd=tmp_path)
    seen = asked(host, env, tmp_path)
    assert SCRIPT in seen
    assert ("enabled: true" if host == "codex" else "Connected") in seen
    entry = servers_in(host, tmp_path)["vega"]
    assert entry["env"] == {"SEGMIND_API_KEY": KEY}
    said(SCRIPT, "uninstall", host, "--yes", env=env, cwd=tmp_path)
    assert servers_in(host, tmp_path) == {}


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_reaches_a_server_by_url_with_its_token(host: str, programs: Path, tmp_path: Path) -> None:
    env = variables(tmp_path, programs)
    serve = ("--sandbox", "--transport", "http", "--port", "0")
    with started(tmp_path, *serve, MCP_VEGA_AUTH_TOKENS="caller:s3cret-token"):
        url = address(tmp_path)
        said(
            SCRIPT, "install", host, "--url", url, "--yes", env={**env, "MCP_VEGA_TOKEN": "s3cret-token"}, cwd=tmp_path
        )
        seen = asked(host, env, tmp_path)
        assert url in seen
        assert ("http_headers: Authorization=*****" if host == "codex" else "Connected") in seen
        if host != "codex":  # Codex does not say whether it got an answer
            said(SCRIPT, "install", host, "--url", url, "--yes", env={**env, "MCP_VEGA_TOKEN": "wrong"}, cwd=tmp_path)
            assert "Connected" not in asked(host, env, tmp_path)


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_with_other_servers_and_comments_can_read_the_merged_file(
    host: str, programs: Path, tmp_path: Path
) -> None:
    env = variables(tmp_path, programs)
    file = tmp_path / FILES[host]
    file.parent.mkdir(parents=True, exist_ok=True)
    # Claude Code's file is JSON without comments. Gemini's may have comments, but no trailing comma.
    plain = '{"mcpServers": {"files": {"command": "files", "args": []}}}'
    commented = '{\n  // mine\n  "mcpServers": {\n    "files": {"command": "files", "args": []} // keep\n  }\n}\n'
    file.write_text({"claude-code": plain, "gemini": commented}.get(host) or with_comments(host), encoding="utf-8")
    said(SCRIPT, "install", host, "--yes", "--sandbox", env=env, cwd=tmp_path)
    assert list(servers_in(host, tmp_path)) == ["files", "vega"]
    assert ("keep" in file.read_text(encoding="utf-8")) == (host != "claude-code")
    seen = asked(host, env, tmp_path)
    assert "--sandbox" in seen
    assert ("enabled: true" if host == "codex" else "Connected") in seen


@pytest.mark.parametrize("host", PACKAGES)
def test_a_host_refuses_exactly_the_forms_that_its_table_says(host: str, programs: Path, tmp_path: Path) -> None:
    env = variables(tmp_path, programs)
    said(SCRIPT, "install", host, "--yes", "--sandbox", env=env, cwd=tmp_path)
    file = tmp_path / FILES[host]
    plain = file.read_text(encoding="utf-8")
    forms = {Refused.BYTE_ORDER_MARK: f"\ufeff{plain}", Refused.NUMBERS: f"{plain}\n[mcp_servers.vega.env]\nX = 1\n"}
    if host != "codex":
        data = json.loads(plain)
        data["mcpServers"]["vega"]["env"] = {"X": 1}
        last = plain.rindex("}")
        forms |= {
            Refused.NUMBERS: json.dumps(data),
            Refused.COMMENTS: f"// mine\n{plain}",
            Refused.TRAILING_COMMAS: f"{plain[:last].rstrip()},\n}}\n",
        }
    for form, text in forms.items():
        file.write_text(text, encoding="utf-8")
        try:
            starts = "--sandbox" in asked(host, env, tmp_path)
        except AssertionError:
            starts = False
        assert starts == (form not in HOSTS[host].refuses), form
