"""Serves MCP over stdio, SSE or Streamable HTTP, until the host leaves or a signal comes.

The modules for HTTP are imported where they are used, so that a start over stdio does not wait for them.
"""

import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp

from mcp_vega.cli.application import open_application, require_stores, warn, warn_of_key
from mcp_vega.cli.output import command_line
from mcp_vega.cli.shutdown import GRACE_SECONDS, handled_signals, log_end, print_end, until_signal
from mcp_vega.errors import InvalidSettings
from mcp_vega.job import Job
from mcp_vega.jobs.service import JobService
from mcp_vega.server.app import build_server
from mcp_vega.server.http.access.callers import Callers
from mcp_vega.server.http.access.tokens import TokenCallers
from mcp_vega.server.stdio.early_answers import EARLY_ANSWERS
from mcp_vega.settings import Settings, is_loopback
from mcp_vega.telemetry.logs import log_to_stderr

if TYPE_CHECKING:  # a host does not wait for this import
    from argparse import Namespace

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  only compared with
# A signal that comes within so many seconds after the first one repeats it: some programs pass on what the server gets
# from the terminal as well.
SAME_SIGNAL_SECONDS = 1.0


def run_serve(options: "Namespace", environment: Mapping[str, str]) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        InvalidSettings: Over HTTP, a setting cannot be used, or the address needs access tokens.
        PortTaken: The address cannot be used.
    """
    if options.transport == "stdio":
        return _run_stdio(environment)
    return _run_http(options, environment)


# ---- stdio ----


def _run_stdio(environment: Mapping[str, str]) -> int:
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


# ---- SSE and Streamable HTTP ----


def _run_http(options: "Namespace", environment: Mapping[str, str]) -> int:
    from mcp_vega.cli.metrics import bind_metrics, metrics_url
    from mcp_vega.cli.reload import hold_hangup, reads_again, token_callers
    from mcp_vega.server.http.app import PATHS
    from mcp_vega.server.http.connections.listener import bind_socket

    settings = Settings.from_environment(environment)
    if reads_again(settings):
        hold_hangup()
    host = options.serve_host or HOST
    _require_tokens(host, settings, insecure=options.insecure)
    require_stores(settings)
    callers = TokenCallers(token_callers(settings))
    port = PORT if options.serve_port is None else options.serve_port
    with bind_socket(host, port) as listener, bind_metrics(settings) as metrics:
        # The address is the first line on stderr, so that programs find it. Nothing is logged before it.
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"http://{shown}:{listener.getsockname()[1]}{PATHS[options.transport]}\n")
        sys.stderr.flush()
        log_to_stderr(settings.log_level, settings.log_format)
        if not is_loopback(host) and not settings.auth_tokens:
            logger.warning("Anyone who reaches this address can draw at your cost, because no token is asked for.")
        if host in WILDCARDS and not settings.allowed_hosts:
            logger.warning(
                "Only requests for 127.0.0.1 and localhost are answered. Name other hosts in MCP_VEGA_ALLOWED_HOSTS."
            )
        if options.transport == "sse" and settings.ledger:
            logger.warning(
                "Several servers behind one address need --transport http: with sse, all requests of a client must "
                "reach the same server."
            )
        if metrics:
            logger.info("Figures for Prometheus: %s", metrics_url(metrics))
        warn_of_key(settings)
        # A request may also name the address that is served, unless that is a wildcard.
        hosts = settings.allowed_hosts if host in WILDCARDS else (*settings.allowed_hosts, shown)
        serve = partial(_serve_http, settings, environment, callers)
        return anyio.run(serve, options.transport, listener, hosts, metrics)


def _require_tokens(host: str, settings: Settings, *, insecure: bool) -> None:
    """Refuse an address that lets other machines draw at the user's cost without a token."""
    if not is_loopback(host) and not settings.auth_tokens and not insecure:
        raise InvalidSettings(
            f"Other machines can reach --host {host}, and everybody who reaches it can draw at your cost",
            next_step="Set MCP_VEGA_AUTH_TOKENS to one or more long random texts, which clients send in the header "
            "`Authorization: Bearer TOKEN`. If something else keeps strangers out, add --insecure",
        )


async def _serve_http(  # noqa: PLR0913, PLR0917  what `_run_http` has found out
    settings: Settings,
    environment: Mapping[str, str],
    callers: Callers,
    transport: str,
    listener: socket.socket,
    hosts: Sequence[str],
    metrics: socket.socket | None,
) -> int:
    from mcp_vega.cli.metrics import serving_metrics
    from mcp_vega.cli.reload import SecretReader, reading_on_hangup, reads_again
    from mcp_vega.server.http.app import build_application
    from mcp_vega.server.http.connections.listener import allow_files

    allow_files()
    async with open_application(settings) as app, serving_metrics(metrics, app.service):
        app.service.resume_orphans()  # without waiting for a first request, which may go to another server
        asgi = build_application(app, transport, hosts, callers)
        how = {"grace": settings.drain_seconds, "tell": log_end}
        if reads_again(settings):
            async with reading_on_hangup(SecretReader(settings, environment, app.service.client, callers)):
                await serve_until_signal(app.service, asgi, listener, hangup_ends=False, **how)
        else:
            await serve_until_signal(app.service, asgi, listener, **how)
    return 0


async def serve_until_signal(
    service: JobService,
    asgi: ASGIApp,
    listener: socket.socket,
    until: Callable[[], Awaitable[None]] = anyio.sleep_forever,
    *,
    hangup_ends: bool = True,
    grace: float = GRACE_SECONDS,
    tell: Callable[[Job], None] = print_end,
) -> None:
    """Serve an application until a signal comes or `until` returns, then drain the server.

    `hangup_ends` says whether SIGHUP is one of these signals.

    It refuses new connections and new jobs, and gives the running jobs `grace` seconds to end; a second signal shortens
    this time. Calls that still wait then are answered with the states of their jobs. The caller closes the service,
    which leaves these jobs to other servers.
    """
    from mcp_vega.server.http.connections.listener import HttpServer

    server = HttpServer(asgi)

    def report(jobs: Sequence[Job]) -> None:
        with suppress(OSError):  # nothing can be written to a closed terminal
            for job in jobs:
                tell(job)

    async def drain() -> None:
        service.close()
        await server.stop_accepting()
        jobs = await service.finish(grace)
        service.end_waits()
        await server.until_answered()
        server.should_exit = True
        report(jobs)

    async def drain_on_signal(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        began: float | None = None
        with anyio.open_signal_receiver(*handled_signals(hangup=hangup_ends)) as signals:
            task_status.started()
            async for _ in signals:
                if began is None:
                    began = anyio.current_time()
                    tasks.start_soon(drain)
                elif anyio.current_time() > began + SAME_SIGNAL_SECONDS:
                    service.hurry()

    async def drain_in_time() -> None:
        await until()
        if not service.closing:
            await drain()

    async with anyio.create_task_group() as tasks:
        if sys.platform != "win32":
            await tasks.start(drain_on_signal)
        tasks.start_soon(drain_in_time)
        await server.serve([listener])
        if not service.closing:  # on Windows, uvicorn handles the signals
            report(await service.finish(grace))
        tasks.cancel_scope.cancel()
