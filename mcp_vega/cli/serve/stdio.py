"""Serves MCP over stdio, until the host leaves or a signal comes."""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer

from mcp_vega.cli.application import open_application, require_stores, warn, warn_of_key
from mcp_vega.cli.output import command_line
from mcp_vega.cli.shutdown import log_end, until_signal
from mcp_vega.errors import InvalidSettings
from mcp_vega.server.app import build_server
from mcp_vega.server.stdio.early_answers import EARLY_ANSWERS
from mcp_vega.settings import Settings
from mcp_vega.telemetry.logs import log_to_stderr

logger = logging.getLogger(__name__)


def run_stdio(environment: Mapping[str, str]) -> int:
    """Serve even if a setting cannot be used. Hosts hide stderr, so the tools say what is wrong with the setting."""
    problem = None
    try:
        settings = Settings.from_environment(environment)
        require_stores(settings)
    except InvalidSettings as error:
        settings, problem = Settings.placeholder().model_copy(update=_log_settings(environment)), error
    log_to_stderr(settings.log_level, settings.log_format)
    if early := EARLY_ANSWERS.get():
        early.may_store = Path(early.folder).parent == settings.home_folder
    return anyio.run(_serve_stdio, settings, problem)


def _log_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The level and the format of the log, by their names in the settings; empty if one cannot be used."""
    names = {"MCP_VEGA_LOG_LEVEL", "MCP_VEGA_LOG_FORMAT"}
    with suppress(InvalidSettings):
        read = Settings.from_environment({name: text for name, text in environment.items() if name in names})
        return {"log_level": read.log_level, "log_format": read.log_format}
    return {}


async def _serve_stdio(settings: Settings, problem: InvalidSettings | None) -> int:
    if sys.stdin.isatty() and settings.log_format == "text":
        program = command_line()
        sys.stderr.write(
            "mcp-vega speaks MCP on stdin and stdout, so an MCP host starts it, not a person.\n"
            f"To add it to a host: {program} install. All commands: {program} --help. To leave: Ctrl-C.\n"
            f'To see a picture now: {program} draw "a lighthouse at dusk" --sandbox\n'
        )
    if problem:
        warn(problem)
    else:
        warn_of_key(settings)
    async with open_application(settings, problem) as app:
        server = build_server(app)
        return await until_signal(app.service, lambda: _until_host_leaves(server), log_end)


async def _until_host_leaves(server: MCPServer[Any]) -> int:
    """Serve until stdin ends, or until stdout is closed because the host has died.

    Returns:
        The exit code: 1 if stdin cannot be read or stdout cannot be written, for example to a file on a full disk.
    """
    code = 0
    try:
        await server.run_stdio_async()
    except* BrokenPipeError:
        logger.info("The host has died")
    except* OSError as group:
        code = 1
        logger.error("stdin or stdout cannot be used: %s", _first(group))  # noqa: TRY400  a traceback would not help
    return code


def _first(group: BaseExceptionGroup[OSError]) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group.exceptions[0], BaseExceptionGroup) else group.exceptions[0]
