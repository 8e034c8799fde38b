"""The hosts that an entry can be written for: where their files are, what an entry looks like there.

The places are those that the hosts document; where one of their variables moves them, it is followed.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcp_vega.cli.install.host_commands import CLAUDE, CODE, CODEX, GEMINI, HostCommand


@dataclass(frozen=True)
class UserEnvironment:
    """What decides where a host's file is."""

    environment: Mapping[str, str]
    home: Path
    platform: str = sys.platform

    def folder(self, variable: str, default: str) -> Path:
        """A folder that a variable names, or else one in the user's home."""
        return Path(self.environment.get(variable) or self.home / default)

    @property
    def app_data(self) -> Path:
        """Where programs with windows keep a user's settings."""
        if self.platform == "win32":
            return self.folder("APPDATA", "AppData/Roaming")
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support"
        return self.folder("XDG_CONFIG_HOME", ".config")


@dataclass(frozen=True)
class Host:
    """An MCP host.

    Attributes:
        name: As the command line spells it.
        title: As its users know it.
        file: Where it keeps the servers of a user.
        section: The name of the object that holds them in the file.
        form: Of the file.
        program: Its own command that adds and removes servers.
        members: What an entry has there beside command, arguments and environment.
        then: What the user does for the host to see a change.
    """

    name: str
    title: str
    file: Callable[[UserEnvironment], Path]
    then: str
    section: str = "mcpServers"
    form: Literal["json", "toml"] = "json"
    program: HostCommand | None = None
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _claude_desktop(here: UserEnvironment) -> Path:
    """Windows keeps a packaged program's settings apart: those in its package are the ones that it reads."""
    packages = here.folder("LOCALAPPDATA", "AppData/Local") / "Packages"
    if here.platform == "win32":
        for package in sorted(packages.glob("Claude_*/LocalCache/Roaming/Claude")):
            return package / "claude_desktop_config.json"
    return here.app_data / "Claude" / "claude_desktop_config.json"


def _claude_code(here: UserEnvironment) -> Path:
    """Where the file of its first versions is still there, that is the one that it reads."""
    first = here.folder("CLAUDE_CONFIG_DIR", ".claude") / ".config.json"
    return first if first.is_file() else here.folder("CLAUDE_CONFIG_DIR", ".") / ".claude.json"


def _zed(here: UserEnvironment) -> Path:
    if here.platform == "win32":
        return here.app_data / "Zed" / "settings.json"
    folder = here.home / ".config" if here.platform == "darwin" else here.app_data
    return folder / "zed" / "settings.json"


HOSTS = {
    host.name: host
    for host in (
        Host("claude-desktop", "Claude Desktop", _claude_desktop, "Quit Claude Desktop and open it again"),
        Host(
            "claude-code",
            "Claude Code",
            _claude_code,
            "Start a new session of Claude Code; /mcp lists its servers",
            program=CLAUDE,
            members={"type": "stdio"},
        ),
        Host(
            "cursor",
            "Cursor",
            lambda here: here.home / ".cursor" / "mcp.json",
            "Look in Cursor's settings under MCP, and switch vega on if it is off",
        ),
        Host(
            "vscode",
            "VS Code",
            lambda here: here.app_data / "Code" / "User" / "mcp.json",
            "Run MCP: List Servers from the command palette of VS Code, and start vega",
            section="servers",
            program=CODE,
            members={"type": "stdio"},
        ),
        Host(
            "windsurf",
            "Windsurf",
            lambda here: here.home / ".codeium" / "windsurf" / "mcp_config.json",
            "Refresh the MCP servers in Windsurf's Cascade panel",
        ),
        Host(
            "codex",
            "Codex",
            lambda here: here.folder("CODEX_HOME", ".codex") / "config.toml",
            "Start a new session of Codex; /mcp lists its servers",
            section="mcp_servers",
            form="toml",
            program=CODEX,
        ),
        Host(
            "gemini",
            "Gemini CLI",
            lambda here: here.folder("GEMINI_CLI_HOME", ".") / ".gemini" / "settings.json",
            "Start Gemini CLI in a folder that it trusts (elsewhere it switches servers off); /mcp lists its servers",
            program=GEMINI,
        ),
        Host(
            "zed",
            "Zed",
            _zed,
            "Look for vega in the settings of Zed's agent panel",
            section="context_servers",
        ),
    )
}
