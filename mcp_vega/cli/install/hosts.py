"""The hosts that an entry can be written for: where their files are, what an entry looks like there.

The places are those that the hosts document; where one of their variables moves them, it is followed.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal


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


class Refused(StrEnum):
    """What the files of some hosts may hold, and others refuse the whole file for."""

    BYTE_ORDER_MARK = "a byte order mark"
    COMMENTS = "comments"
    TRAILING_COMMAS = "a comma behind a last value"
    NUMBERS = "a value of env without quotes"


@dataclass(frozen=True, kw_only=True)
class Host:
    """An MCP host.

    Attributes:
        title: As its users know it.
        file: Where it keeps the servers of a user.
        then: What the user does for the host to see a change.
        section: The name of the object that holds them in the file.
        form: Of the file.
        members: What an entry has there beside command, arguments and environment.
        refuses: What makes it refuse the file, or the entry, as was measured or is reported by its users.
    """

    title: str
    file: Callable[[UserEnvironment], Path]
    then: str
    section: str = "mcpServers"
    form: Literal["json", "toml"] = "json"
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refuses: tuple[Refused, ...] = ()


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


# By the name that the command line has for each.
HOSTS = {
    "claude-desktop": Host(
        title="Claude Desktop",
        file=_claude_desktop,
        then="Quit Claude Desktop and open it again",
        refuses=(Refused.BYTE_ORDER_MARK, Refused.COMMENTS, Refused.TRAILING_COMMAS),
    ),
    "claude-code": Host(
        title="Claude Code",
        file=_claude_code,
        then="Start a new session of Claude Code; /mcp lists its servers",
        members={"type": "stdio"},
        refuses=(Refused.COMMENTS, Refused.TRAILING_COMMAS, Refused.NUMBERS),
    ),
    "cursor": Host(
        title="Cursor",
        file=lambda here: here.home / ".cursor" / "mcp.json",
        then="Look in Cursor's settings under MCP, and switch vega on if it is off",
    ),
    "vscode": Host(
        title="VS Code",
        file=lambda here: here.app_data / "Code" / "User" / "mcp.json",
        then="Run MCP: List Servers from the command palette of VS Code, and start vega",
        section="servers",
        members={"type": "stdio"},
    ),
    "windsurf": Host(
        title="Windsurf",
        file=lambda here: here.home / ".codeium" / "windsurf" / "mcp_config.json",
        then="Refresh the MCP servers in Windsurf's Cascade panel",
    ),
    "codex": Host(
        title="Codex",
        file=lambda here: here.folder("CODEX_HOME", ".codex") / "config.toml",
        then="Start a new session of Codex; /mcp lists its servers",
        section="mcp_servers",
        form="toml",
        refuses=(Refused.NUMBERS,),
    ),
    "gemini": Host(
        title="Gemini CLI",
        file=lambda here: here.folder("GEMINI_CLI_HOME", ".") / ".gemini" / "settings.json",
        then="Start Gemini CLI in a folder that it trusts (elsewhere it switches servers off); /mcp lists its servers",
        refuses=(Refused.BYTE_ORDER_MARK, Refused.TRAILING_COMMAS),
    ),
    "zed": Host(
        title="Zed",
        file=_zed,
        then="Look for vega in the settings of Zed's agent panel",
        section="context_servers",
    ),
}
