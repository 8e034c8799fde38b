"""Serves MCP over SSE or Streamable HTTP, until a signal comes."""

import logging
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio

from mcp_vega.cli.application import open_application, require_stores, warn_of_key
from mcp_vega.cli.serve.callers import oauth_callers, token_callers
from mcp_vega.cli.serve.draining import Ending, serve_until_signal
from mcp_vega.cli.serve.metrics import bind_metrics, metrics_url, serving_metrics
from mcp_vega.cli.serve.reload import SecretReader, hold_hangup, reading_on_hangup, reads_again
from mcp_vega.cli.shutdown import log_left
from mcp_vega.errors import InvalidSettings
from mcp_vega.network.addresses import host_in_url, is_loopback
from mcp_vega.server.http.access.tokens import SAFE_LENGTH, TokenCallers, has_short_token
from mcp_vega.server.http.app import PATHS, build_application
from mcp_vega.server.http.connections.listener import allow_files, bind_socket
from mcp_vega.settings import Settings
from mcp_vega.telemetry.logs import log_to_stderr

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8000
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  only compared with


def run_http(options: Namespace, environment: Mapping[str, str]) -> int:
    """Serve until a signal comes; returns the exit code. Raises as `run_serve` does."""
    settings = Settings.from_environment(environment)
    if reads_again(settings):
        hold_hangup()
    host = options.serve_host or HOST
    _require_callers(host, settings, insecure=options.insecure)
    _require_http(options.transport, settings)
    require_stores(settings)
    # The callers of OAuth need the ledger, which is not open yet.
    tokens = None if settings.oauth_issuer else TokenCallers(token_callers(settings))
    port = PORT if options.serve_port is None else options.serve_port
    with bind_socket(host, port) as listener, bind_metrics(settings) as metrics:

        async def serve() -> int:
            allow_files()
            async with open_application(settings) as app, serving_metrics(metrics, app, settings.allowed_hosts):
                app.service.resume_orphans()  # without waiting for a first request, which may go to another server
                callers = tokens or oauth_callers(settings, app)
                asgi = build_application(app, options.transport, hosts, callers)
                reader = SecretReader(settings, environment, app.service.client, callers)
                ending = Ending(settings.drain_seconds, log_left, hangup=not reads_again(settings))
                async with reading_on_hangup(reader):
                    await serve_until_signal(app.service, asgi, listener, ending)
            return 0

        # The address is the first line on stderr, so that programs find it. Nothing is logged before it.
        shown = host_in_url(host)
        with suppress(OSError):  # a server serves even if the disk for its log is full
            sys.stderr.write(f"http://{shown}:{listener.getsockname()[1]}{PATHS[options.transport]}\n")
            sys.stderr.flush()
        log_to_stderr(settings.log_level, settings.log_format)
        for warning in _warnings(host, options.transport, settings):
            logger.warning(warning)
        if settings.oauth_issuer:
            logger.info("People sign in at %s", settings.oauth_issuer)
        if metrics:
            logger.info("Figures for Prometheus: %s", metrics_url(metrics))
        warn_of_key(settings)
        # A request may also name the address that is served, unless that is a wildcard.
        hosts = settings.allowed_hosts if host in WILDCARDS else (*settings.allowed_hosts, shown)
        return anyio.run(serve)


def _warnings(host: str, transport: str, settings: Settings) -> Sequence[str]:
    """What a person who starts the server may not expect."""
    found: list[str] = []
    if not is_loopback(host) and not _asks_for_callers(settings):
        found.append("Anyone who reaches this address can draw at your cost, because no token is asked for.")
    if has_short_token(settings.auth_tokens):
        found.append(f"An access token has fewer than {SAFE_LENGTH} characters. Replace it, because it can be guessed.")
    if host in WILDCARDS and not settings.allowed_hosts:
        found.append(
            "Only requests for 127.0.0.1 and localhost are answered. Name other hosts in MCP_VEGA_ALLOWED_HOSTS."
        )
    if transport == "sse" and settings.ledger:
        found.append(
            "Several servers behind one address need --transport http: with sse, all requests of a client must reach "
            "the same server."
        )
    return found


def _asks_for_callers(settings: Settings) -> bool:
    return bool(settings.auth_tokens or settings.oauth_issuer)


def _require_callers(host: str, settings: Settings, *, insecure: bool) -> None:
    """Refuse an address that lets other machines draw at the user's cost without a token."""
    if not is_loopback(host) and not _asks_for_callers(settings) and not insecure:
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
