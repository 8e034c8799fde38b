"""Serving MCP over SSE or Streamable HTTP, until a signal comes."""

import socket
import sys
from argparse import Namespace

import anyio
import anyio.abc
import uvicorn

from mcp_vega.cli.application import log_to_stderr, open_application, warn_of_key
from mcp_vega.cli.shutdown import finish, heeded
from mcp_vega.errors import InvalidSettings
from mcp_vega.jobs.service import JobService
from mcp_vega.server.http.app import PATHS, build_application
from mcp_vega.server.http.listener import configured, listening
from mcp_vega.settings import Settings, is_loopback

HOST, PORT = "127.0.0.1", 8000
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound


def run_http(options: Namespace, settings: Settings) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        InvalidSettings: The address may not be served like this.
        PortTaken: It cannot be had.
    """
    host = options.serve_host or HOST
    _require_tokens(host, settings, insecure=options.insecure)
    with listening(host, PORT if options.serve_port is None else options.serve_port) as listener:
        # The address is the first line of all, so that programs find it: nothing is logged before.
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"http://{shown}:{listener.getsockname()[1]}{PATHS[options.transport]}\n")
        if not is_loopback(host):
            sys.stderr.write(_warning(host, settings))
        sys.stderr.flush()
        log_to_stderr(settings)
        warn_of_key(settings)
        # Who asks for the very address that is served may have it, where it is one.
        hosts = settings.allowed_hosts if host in WILDCARDS else (*settings.allowed_hosts, shown)
        return anyio.run(_serve, settings, options.transport, listener, hosts)


def _require_tokens(host: str, settings: Settings, *, insecure: bool) -> None:
    """Refuse to let every machine of a network draw at the user's cost.

    Raises:
        InvalidSettings: No tokens are set, and nobody said that none are wanted.
    """
    if not is_loopback(host) and not settings.auth_tokens and not insecure:
        raise InvalidSettings(
            f"--host {host} is reached from other machines, and whoever reaches it can draw at your cost",
            next_step="Set MCP_VEGA_AUTH_TOKENS to one or more long random texts, which clients send in the header "
            "`Authorization: Bearer TOKEN`; or add --insecure if something else keeps strangers out",
        )


def _warning(host: str, settings: Settings) -> str:
    lines: list[str] = []
    if not settings.auth_tokens:
        lines += ["Anyone who reaches this address can draw at your cost: it asks for no token."]
    if host in WILDCARDS and not settings.allowed_hosts:
        lines += ["Only requests for 127.0.0.1 and localhost are answered until MCP_VEGA_ALLOWED_HOSTS names others."]
    return "".join(f"{line}\n" for line in lines)


async def _serve(settings: Settings, transport: str, listener: socket.socket, hosts: tuple[str, ...]) -> int:
    async with open_application(settings) as app, anyio.create_task_group() as tasks:
        asgi = build_application(app, transport, hosts, settings.auth_tokens)
        server = uvicorn.Server(configured(asgi))
        if sys.platform != "win32":
            await tasks.start(_stopping_on_signal, server, app.service)
        await server.serve([listener])
        if not app.service.closing:  # no signal came: the server ended by itself
            await finish(app.service)
        tasks.cancel_scope.cancel()
    return 0


async def _stopping_on_signal(
    server: uvicorn.Server, service: JobService, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Keeps what is paid for, then stops the server. Must run before the server: that would re-raise the signal."""
    with anyio.open_signal_receiver(*heeded()) as signals:
        task_status.started()
        async for _ in signals:
            await finish(service)
            server.should_exit = True
