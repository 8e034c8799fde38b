"""Serving MCP, until the host leaves or a signal comes: over stdio, or over SSE or Streamable HTTP.

What serves over HTTP is imported where it is used: a start over stdio does not wait for it.
"""

import logging
import socket
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.abc
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from mcp_vega.cli.application import log_to_stderr, open_application, warn, warn_of_key
from mcp_vega.cli.shutdown import finish, heeded, until_signal
from mcp_vega.errors import InvalidSettings
from mcp_vega.jobs.service import JobService
from mcp_vega.server.app import build_server
from mcp_vega.server.http.access.callers import Caller, callers_of
from mcp_vega.settings import Settings, is_loopback

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound


def run_serve(options: Namespace, environment: Mapping[str, str]) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        InvalidSettings: Over HTTP, a setting cannot be used, or the address may not be served like this.
        PortTaken: The address cannot be had.
    """
    if options.transport == "stdio":
        return _run_stdio(environment)
    return _run_http(options, Settings.from_environment(environment))


# ---- stdio ----


def _run_stdio(environment: Mapping[str, str]) -> int:
    """Serve whatever the settings are: hosts hide what is said on stderr, so the tools tell what is wrong with them."""
    problem = None
    try:
        settings = Settings.from_environment(environment)
        settings.require_folders()
    except InvalidSettings as error:
        settings, problem = Settings.placeholder(), error
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


# ---- SSE and Streamable HTTP ----


def _run_http(options: Namespace, settings: Settings) -> int:
    from mcp_vega.server.http.app import PATHS
    from mcp_vega.server.http.listener import bind_socket

    host = options.serve_host or HOST
    _require_tokens(host, settings, insecure=options.insecure)
    callers = callers_of(settings.auth_tokens)
    with bind_socket(host, PORT if options.serve_port is None else options.serve_port) as listener:
        # The address is the first line of all, so that programs find it: nothing is logged before.
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"http://{shown}:{listener.getsockname()[1]}{PATHS[options.transport]}\n")
        if not is_loopback(host) and not settings.auth_tokens:
            sys.stderr.write("Anyone who reaches this address can draw at your cost: it asks for no token.\n")
        if host in WILDCARDS and not settings.allowed_hosts:
            sys.stderr.write(
                "Only requests for 127.0.0.1 and localhost are answered until MCP_VEGA_ALLOWED_HOSTS names others.\n"
            )
        sys.stderr.flush()
        log_to_stderr(settings)
        warn_of_key(settings)
        # Who asks for the very address that is served may have it, where it is one.
        hosts = settings.allowed_hosts if host in WILDCARDS else (*settings.allowed_hosts, shown)
        return anyio.run(_serve_http, settings, options.transport, listener, hosts, callers)


def _require_tokens(host: str, settings: Settings, *, insecure: bool) -> None:
    """Refuse to let every machine of a network draw at the user's cost."""
    if not is_loopback(host) and not settings.auth_tokens and not insecure:
        raise InvalidSettings(
            f"--host {host} is reached from other machines, and whoever reaches it can draw at your cost",
            next_step="Set MCP_VEGA_AUTH_TOKENS to one or more long random texts, which clients send in the header "
            "`Authorization: Bearer TOKEN`; or add --insecure if something else keeps strangers out",
        )


async def _serve_http(
    settings: Settings, transport: str, listener: socket.socket, hosts: Sequence[str], callers: Sequence[Caller]
) -> int:
    from mcp_vega.server.http.app import build_application
    from mcp_vega.server.http.listener import allow_files

    allow_files()
    async with open_application(settings) as app:
        asgi = build_application(app, transport, hosts, callers)
        await serve_until_signal(app.service, asgi, listener)
    return 0


async def serve_until_signal(
    service: JobService,
    asgi: ASGIApp,
    listener: socket.socket,
    until: Callable[[], Awaitable[None]] = anyio.sleep_forever,
) -> None:
    """Serve an application until a signal comes, or `until` has ended; what is paid for is kept first."""
    import uvicorn

    from mcp_vega.server.http.listener import server_config

    server = uvicorn.Server(server_config(asgi))

    async def stop_on_signal(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*heeded()) as signals:
            task_status.started()
            async for _ in signals:
                await finish(service)
                server.should_exit = True

    async def stop_in_time() -> None:
        await until()
        server.should_exit = True

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(stop_on_signal)  # before the server, which would raise the signal once more at its end
        tasks.start_soon(stop_in_time)
        await server.serve([listener])
        if not service.closing:  # no signal came: the server ended by itself
            await finish(service)
        tasks.cancel_scope.cancel()
