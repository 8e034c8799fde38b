"""Serves MCP over stdio, SSE or Streamable HTTP, until the host leaves or a signal comes.

The modules for HTTP are imported where they are used, so that a start over stdio does not wait for them.
"""

import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from mcp_vega.cli.application import log_to_stderr, open_application, require_stores, warn, warn_of_key
from mcp_vega.cli.output import command_line
from mcp_vega.cli.shutdown import finish, handled_signals, until_signal
from mcp_vega.errors import InvalidSettings
from mcp_vega.jobs.service import JobService
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Callers
from mcp_vega.server.http.access.tokens import TokenCallers, callers_of
from mcp_vega.server.stdio.early_answers import EARLY_ANSWERS
from mcp_vega.settings import Settings, is_loopback

if TYPE_CHECKING:  # a host does not wait for this import
    from argparse import Namespace

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  only compared with


def run_serve(options: "Namespace", environment: Mapping[str, str]) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        InvalidSettings: Over HTTP, a setting cannot be used, or the address needs access tokens.
        PortTaken: The address cannot be used.
    """
    if options.transport == "stdio":
        return _run_stdio(environment)
    return _run_http(options, Settings.from_environment(environment))


# ---- stdio ----


def _run_stdio(environment: Mapping[str, str]) -> int:
    """Serve even if a setting cannot be used. Hosts hide stderr, so the tools say what is wrong with the setting."""
    problem = None
    try:
        settings = Settings.from_environment(environment)
        require_stores(settings)
    except InvalidSettings as error:
        settings, problem = Settings.placeholder(), error
    log_to_stderr(settings)
    if early := EARLY_ANSWERS.get():
        early.may_store = Path(early.folder).parent == settings.home_folder
    return anyio.run(_serve_stdio, settings, problem)


async def _serve_stdio(settings: Settings, problem: InvalidSettings | None) -> int:
    if sys.stdin.isatty():
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
        return await until_signal(app.service, lambda: _until_host_leaves(server))


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


# ---- SSE and Streamable HTTP ----


def _run_http(options: "Namespace", settings: Settings) -> int:
    from mcp_vega.server.http.app import PATHS
    from mcp_vega.server.http.listener import bind_socket

    host = options.serve_host or HOST
    _require_tokens(host, settings, insecure=options.insecure)
    _require_http(options.transport, settings)
    require_stores(settings)
    # The callers of OAuth need the ledger, which is not open yet.
    callers = None if settings.oauth_issuer else TokenCallers(callers_of(settings.auth_tokens))
    with bind_socket(host, PORT if options.serve_port is None else options.serve_port) as listener:
        # The address is the first line on stderr, so that programs find it. Nothing is logged before it.
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"http://{shown}:{listener.getsockname()[1]}{PATHS[options.transport]}\n")
        if settings.oauth_issuer:
            sys.stderr.write(f"People sign in at {settings.oauth_issuer}\n")
        elif not is_loopback(host) and not settings.auth_tokens:
            sys.stderr.write("Anyone who reaches this address can draw at your cost, because no token is asked for.\n")
        if host in WILDCARDS and not settings.allowed_hosts:
            sys.stderr.write(
                "Only requests for 127.0.0.1 and localhost are answered. Name other hosts in MCP_VEGA_ALLOWED_HOSTS.\n"
            )
        if options.transport == "sse" and settings.ledger:
            sys.stderr.write(
                "Several servers behind one address need --transport http: with sse, all requests of a client must "
                "reach the same server.\n"
            )
        sys.stderr.flush()
        log_to_stderr(settings)
        warn_of_key(settings)
        # A request may also name the address that is served, unless that is a wildcard.
        hosts = settings.allowed_hosts if host in WILDCARDS else (*settings.allowed_hosts, shown)
        return anyio.run(_serve_http, settings, options.transport, listener, hosts, callers)


def _require_tokens(host: str, settings: Settings, *, insecure: bool) -> None:
    """Refuse an address that lets other machines draw at the user's cost without a token."""
    has_callers = settings.auth_tokens or settings.oauth_issuer
    if not is_loopback(host) and not has_callers and not insecure:
        raise InvalidSettings(
            f"Other machines can reach --host {host}, and everybody who reaches it can draw at your cost",
            next_step="Set MCP_VEGA_AUTH_TOKENS to one or more long random texts, which clients send in the header "
            "`Authorization: Bearer TOKEN`. If something else keeps strangers out, add --insecure",
        )


def _require_http(transport: str, settings: Settings) -> None:
    """Refuse OAuth over SSE: that transport is older than the protocol's rules for OAuth."""
    if settings.oauth_issuer and transport != "http":
        raise InvalidSettings(
            f"MCP_VEGA_OAUTH_ISSUER is set, and --transport {transport} does not work with OAuth",
            next_step="Use --transport http, or set MCP_VEGA_AUTH_TOKENS instead of the variables of OAuth",
        )


def _oauth_callers(settings: Settings, app: AppContext) -> Callers:
    """Return the callers whom the issuer has signed in."""
    from mcp_vega.server.http.access.oauth.callers import OAuthCallers, auth_settings
    from mcp_vega.server.http.access.oauth.keys import IssuerKeys

    auth = auth_settings(settings.oauth_issuer, settings.oauth_resource, settings.oauth_scopes)
    return OAuthCallers(auth, IssuerKeys(settings.oauth_issuer), app.gallery)


async def _serve_http(
    settings: Settings, transport: str, listener: socket.socket, hosts: Sequence[str], callers: Callers | None
) -> int:
    from mcp_vega.server.http.app import build_application
    from mcp_vega.server.http.listener import allow_files

    allow_files()
    async with open_application(settings) as app:
        app.service.resume_orphans()  # without waiting for a first request, which may go to another server
        asgi = build_application(app, transport, hosts, callers or _oauth_callers(settings, app))
        await serve_until_signal(app.service, asgi, listener)
    return 0


async def serve_until_signal(
    service: JobService,
    asgi: ASGIApp,
    listener: socket.socket,
    until: Callable[[], Awaitable[None]] = anyio.sleep_forever,
) -> None:
    """Serve an application until a signal comes or `until` returns. Before the end, paid pictures are kept."""
    import uvicorn

    from mcp_vega.server.http.listener import server_config

    server = uvicorn.Server(server_config(asgi))

    async def stop_on_signal(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*handled_signals()) as signals:
            task_status.started()
            async for _ in signals:
                await finish(service)
                server.should_exit = True

    async def stop_in_time() -> None:
        await until()
        server.should_exit = True

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(stop_on_signal)  # first: uvicorn raises the signals again that it receives itself
        tasks.start_soon(stop_in_time)
        await server.serve([listener])
        if not service.closing:  # no signal came: the server ended by itself
            await finish(service)
        tasks.cancel_scope.cancel()
