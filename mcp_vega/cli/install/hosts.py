"""The hosts that an entry can be written for: where each keeps its file, and how an entry looks in it.

The files are where the hosts document them. If a variable of the host moves its file, that place is used.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from mcp_vega.cli.install.config_file import HostConfigError


@dataclass(frozen=True)
class UserEnvironment:
    """What decides where a host's file is."""

    environment: Mapping[str, str]
    home: Path
    platform: str = sys.platform

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The user of this process.

        Raises:
            HostConfigError: This user's home folder is not known, or depends on the folder that the command runs in.
        """
        try:
            home = Path.home()
        except RuntimeError:
            home = Path()
        if not home.is_absolute():
            step = "Set HOME to the absolute path of your home folder"
            raise HostConfigError("The hosts' files cannot be found: this user has no home folder", next_step=step)
        return cls(environment, home)

    def folder(self, variable: str, default: str) -> Path:
        """The folder that a variable names; if it is not set, a folder in the user's home."""
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
    """What some hosts accept in their file, and others refuse the whole file for."""

    BYTE_ORDER_MARK = "a byte order mark"
    COMMENTS = "comments"
    TRAILING_COMMAS = "a comma after a last value"
    NUMBERS = "a value of env without quotes"


@dataclass(frozen=True, kw_only=True)
class RemoteForm:
    """How a host writes the entry of a server that it reaches over Streamable HTTP.

    Attributes:
        members: What the entry has in addition to the address and the headers.
        url: The name of the address.
        headers: The name of the headers that each request carries.
    """

    members: Mapping[str, Any] = field(default_factory=dict[str, Any])
    url: str = "url"
    headers: str = "headers"


@dataclass(frozen=True, kw_only=True)
class Host:
    """An MCP host.

    Attributes:
        title: The name that its users know.
        file: Where it keeps the servers of a user.
        then: What the user does so that the host sees a change.
        section: The name of the object in the file that holds the servers.
        form: The format of the file.
        members: What the entry of a program has in addition to command, arguments and environment.
        defaults: The same, but an older entry's own value is kept.
        remote: The form of an entry with a URL; None if the host takes no URL in its file.
        connect: How the user adds a server with a URL instead, if the file takes none.
        refuses: What makes it refuse the file or the entry, as measured, or as reported by its users.
        folder: The folder of its settings; by default the one that the file is in.
        programs: Its commands on the PATH.
        application: Its name in the folder of applications (macOS).
    """

    title: str
    file: Callable[[UserEnvironment], Path]
    then: str
    section: str = "mcpServers"
    form: Literal["json", "toml"] = "json"
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    remote: RemoteForm | None = None
    connect: str = ""
    refuses: tuple[Refused, ...] = ()
    folder: Callable[[UserEnvironment], Path] | None = None
    programs: tuple[str, ...]
    application: str = ""


def _claude_desktop(here: UserEnvironment) -> Path:
    """On Windows, a packaged program reads the settings in its package."""
    packages = here.folder("LOCALAPPDATA", "AppData/Local") / "Packages"
    if here.platform == "win32":
        for package in sorted(packages.glob("Claude_*/LocalCache/Roaming/Claude")):
            return package / "claude_desktop_config.json"
    return here.app_data / "Claude" / "claude_desktop_config.json"


def _claude_code(here: UserEnvironment) -> Path:
    """If the file of its first versions is still there, Claude Code reads that one."""
    first = here.folder("CLAUDE_CONFIG_DIR", ".claude") / ".config.json"
    is_there = os.path.isfile(first)  # noqa: PTH113  unlike Path's, it raises no error if this cannot be looked up
    return first if is_there else here.folder("CLAUDE_CONFIG_DIR", ".") / ".claude.json"


def _zed(here: UserEnvironment) -> Path:
    if here.platform == "win32":
        return here.app_data / "Zed" / "settings.json"
    folder = here.home / ".config" if here.platform == "darwin" else here.app_data
    return folder / "zed" / "settings.json"


_HTTP = RemoteForm(members={"type": "http"})

# By the name that the command line has for each.
HOSTS = {
    "claude-desktop": Host(
        title="Claude Desktop",
        file=_claude_desktop,
        then="Quit Claude Desktop and open it again",
        connect="Add the URL in Claude Desktop under Settings > Connectors > Add custom connector. Anthropic's servers "
        "then call it, so it must be reachable from the internet; a connector sends no access token",
        refuses=(Refused.BYTE_ORDER_MARK, Refused.COMMENTS, Refused.TRAILING_COMMAS),
        programs=("claude-desktop",),
        application="Claude.app",
    ),
    "claude-code": Host(
        title="Claude Code",
        file=_claude_code,
        then="Start a new session of Claude Code; /mcp lists its servers",
        members={"type": "stdio"},
        remote=_HTTP,
        refuses=(Refused.COMMENTS, Refused.TRAILING_COMMAS, Refused.NUMBERS),
        folder=lambda here: here.folder("CLAUDE_CONFIG_DIR", ".claude"),
        programs=("claude",),
    ),
    "cursor": Host(
        title="Cursor",
        file=lambda here: here.home / ".cursor" / "mcp.json",
        then="Look in Cursor's settings under MCP, and switch vega on if it is off",
        remote=RemoteForm(),
        programs=("cursor",),
        application="Cursor.app",
    ),
    "vscode": Host(
        title="VS Code",
        file=lambda here: here.app_data / "Code" / "User" / "mcp.json",
        then="Run MCP: List Servers from the command palette of VS Code, and start vega",
        section="servers",
        members={"type": "stdio"},
        remote=_HTTP,
        programs=("code",),
        application="Visual Studio Code.app",
    ),
    "windsurf": Host(
        title="Windsurf",
        file=lambda here: here.home / ".codeium" / "windsurf" / "mcp_config.json",
        then="Refresh the MCP servers in Windsurf's Cascade panel",
        remote=RemoteForm(url="serverUrl"),
        programs=("windsurf",),
        application="Windsurf.app",
    ),
    "codex": Host(
        title="Codex",
        file=lambda here: here.folder("CODEX_HOME", ".codex") / "config.toml",
        then="Start a new session of Codex; /mcp lists its servers",
        section="mcp_servers",
        form="toml",
        # Its first turn waits about one second for a server, but for a required one until that has started. An entry
        # with a URL is not required: Codex starts no session while a required server cannot be reached.
        defaults={"required": True},
        remote=RemoteForm(headers="http_headers"),
        refuses=(Refused.NUMBERS,),
        programs=("codex",),
    ),
    "gemini": Host(
        title="Gemini CLI",
        file=lambda here: here.folder("GEMINI_CLI_HOME", ".") / ".gemini" / "settings.json",
        then="Start Gemini CLI in a folder that it trusts (elsewhere it switches servers off); /mcp lists its servers",
        # As `gemini mcp add` of 0.61 writes it; it calls httpUrl, the older form, deprecated.
        remote=_HTTP,
        refuses=(Refused.BYTE_ORDER_MARK, Refused.TRAILING_COMMAS),
        programs=("gemini",),
    ),
    "zed": Host(
        title="Zed",
        file=_zed,
        then="Look for vega in the settings of Zed's agent panel",
        section="context_servers",
        remote=RemoteForm(),
        programs=("zed", "zeditor"),
        application="Zed.app",
    ),
}
