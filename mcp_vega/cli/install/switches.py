"""Whether a server is switched off, as the hosts document it or were seen to write it into their files."""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from mcp_vega.cli.install import jsonc
from mcp_vega.cli.install.change import data_in, servers_in
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.hosts import HOSTS
from mcp_vega.segmind.values import as_object

# In an entry: Codex and Zed have `enabled`, most others `disabled`. Some hosts ignore it, but its user wanted it off.
OFF = {"enabled": False, "disabled": True}


class Off(NamedTuple):
    """What switches a server off, and what the user does to switch it on."""

    by: str
    fix: str


def switched_off(host: str, file: ConfigFile, name: str) -> Off | None:
    """What switches a server off in a host; None if nothing does.

    Raises:
        HostConfigError: The file cannot be understood, or its section is not an object.
    """
    about = HOSTS[host]
    entry = as_object(servers_in(about, file).get(name))
    for member, value in OFF.items():
        if entry.get(member) is value:
            said = f"{member} = {str(value).lower()}"
            return Off(
                f"its entry says {said}", f"Take {said} out of {file.path}, or switch {name} on in {about.title}"
            )
    data = data_in(about, file)
    if host == "gemini":
        return next(_off_in_gemini(data, file, name), None)
    return _off_in_claude_code(data, name) if host == "claude-code" else None


def _off_in_gemini(data: dict[str, Any], file: ConfigFile, name: str) -> Iterator[Off]:
    """By Gemini CLI's lists, in which upper and lower case are the same, or by `gemini mcp disable`."""
    rules = as_object(data.get("mcp"))
    allowed, excluded = _names(rules.get("allowed")), _names(rules.get("excluded"))
    if name.lower() in excluded:
        yield Off("mcp.excluded names it", f"Take {name} out of mcp.excluded in {file.path}")
    if allowed and name.lower() not in allowed:
        yield Off("mcp.allowed does not name it", f"Add {name} to mcp.allowed in {file.path}")
    try:
        states = as_object(jsonc.parse(ConfigFile.read(file.path.with_name("mcp-server-enablement.json")).text))
    except (HostConfigError, ValueError):
        return
    if as_object(states.get(name.lower())).get("enabled") is False:
        yield Off("`gemini mcp disable` was run", f"Run `gemini mcp enable {name}`")


def _off_in_claude_code(data: dict[str, Any], name: str) -> Off | None:
    """By Claude Code's /mcp, which switches a server off for one folder."""
    projects = as_object(data.get("projects"))
    folders = [
        folder
        for folder, project in projects.items()
        if name.lower() in _names(as_object(project).get("disabledMcpServers"))
    ]
    if not folders:
        return None
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    return Off(f"in {folders[0]}{more}", f"Switch {name} on with /mcp of Claude Code in that folder")


def _names(found: Any) -> list[str]:
    return [str(each).strip().lower() for each in cast("list[Any]", found)] if isinstance(found, list) else []
