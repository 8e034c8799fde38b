"""Serving MCP over stdio, until the host leaves or a signal comes; `serve_http` does it over the network."""

import logging
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer

from mcp_vega.cli.application import log_to_stderr, open_application, warn, warn_of_key
from mcp_vega.cli.shutdown import until_signal
from mcp_vega.errors import InvalidSettings
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings

logger = logging.getLogger(__name__)


def run_serve(options: Namespace, environment: Mapping[str, str]) -> int:
    """Serve until the end; returns the exit code."""
    if options.transport == "stdio":
        return _run_stdio(environment)
    from mcp_vega.cli.serve_http import run_http

    return run_http(options, Settings.from_environment(environment))


def _run_stdio(environment: Mapping[str, str]) -> int:
    """Serve whatever the settings are: hosts hide what is said on stderr, so the tools tell what is wrong with them."""
    problem = None
    try:
        settings = Settings.from_environment(environment)
        settings.require_folders()
    except InvalidSettings as error:
        settings, problem = Settings.of_nothing(), error
    log_to_stderr(settings)
    return anyio.run(_serve_stdio, settings, problem)


async def _serve_stdio(settings: Settings, problem: InvalidSettings | None) -> int:
    if sys.stdin.isatty():
        sys.stderr.write(
            "mcp-vega speaks MCP on stdin and stdout, so it is started by an MCP host, not by hand.\n"
            'To see a picture now: mcp-vega draw "a lighthouse at dusk" --sandbox. All commands: mcp-vega --help. '
            "To leave: Ctrl-C.\n"
        )
    if problem:
        warn(problem)
    else:
        warn_of_key(settings)
    async with open_application(settings, problem) as app:
        server = build_server(app)
        return await until_signal(app.service, lambda: _until_host_leaves(server))


async def _until_host_leaves(server: MCPServer[Any]) -> int:
    """Serve until stdin ends, or until nobody reads stdout any more because the host has died.

    Returns:
        The exit code: 1 if stdin cannot be read or stdout not be written, such as a file on a full disk.
    """
    code = 0
    try:
        await server.run_stdio_async()
    except* BrokenPipeError:
        logger.info("The host has died")
    except* OSError as group:
        code = 1
        logger.error("stdin or stdout cannot be used: %s", _first(group))  # noqa: TRY400  no traceback on a start
    return code


def _first(group: BaseExceptionGroup[OSError]) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group.exceptions[0], BaseExceptionGroup) else group.exceptions[0]
