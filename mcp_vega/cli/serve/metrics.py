"""Serves the figures for Prometheus, at an address of their own."""

import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import import_module

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_vega import __version__
from mcp_vega.cli.application import needs_team
from mcp_vega.errors import PortTaken
from mcp_vega.network.addresses import host_in_url, is_loopback
from mcp_vega.network.serving import EmbeddedServer
from mcp_vega.parameters import MODELS
from mcp_vega.redaction import quoted
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.auth import AllowedHosts
from mcp_vega.server.http.access.rejections import HostNotAllowed, answer_to
from mcp_vega.server.http.connections.listener import bind_socket, server_config
from mcp_vega.server.tools import DEFINITIONS
from mcp_vega.settings import Settings
from mcp_vega.telemetry.recorder import set_recorder

PATH = "/metrics"


def bind_metrics(settings: Settings) -> AbstractContextManager[socket.socket | None]:
    """The socket at which the figures are read; None if nobody wants them.

    Raises:
        InvalidSettings: A package is missing.
        PortTaken: The port is not available.
    """
    if settings.metrics_address is None:
        return nullcontext()
    with needs_team("MCP_VEGA_METRICS_PORT"):
        import_module("prometheus_client")
    try:
        return bind_socket(*settings.metrics_address)
    except PortTaken as error:
        step = "Set MCP_VEGA_METRICS_PORT to another port, then start the server again"
        raise error.reworded(error.what, step) from error


def metrics_url(listener: socket.socket) -> str:
    """The address at which the figures are read."""
    host, port = listener.getsockname()[:2]
    return f"http://{host_in_url(host)}:{port}{PATH}"


@asynccontextmanager
async def serving_metrics(
    listener: socket.socket | None, app: AppContext, hosts: Sequence[str] = ()
) -> AsyncGenerator[None]:
    """Collect the figures and serve them while the block runs, if there is a socket for them.

    They are served by the event loop, with the time limits of the other port, so that a slow client blocks nobody. On
    loopback, a request must be for loopback or one of the `hosts`: a web page can let its own host name mean this
    machine, and would then be allowed to read the figures.
    """
    if listener is None:
        yield
        return
    from mcp_vega.telemetry.prometheus import Labels, PrometheusRecorder

    labels = Labels([each.name for each in DEFINITIONS], MODELS)
    recorder = PrometheusRecorder(__version__, labels, lambda: app.service.load)
    allowed, is_here = AllowedHosts(hosts), is_loopback(listener.getsockname()[0])

    async def answer(request: Request) -> Response:
        host = request.headers.get("host", "")
        if is_here and host not in allowed:
            return answer_to(HostNotAllowed(f"The Host header {quoted(host, 100)} is not allowed"))
        recorder.set_ready(ready=not await app.readiness.problem())
        text, media_type = recorder.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type})

    config = server_config(Starlette(routes=[Route(PATH, answer, methods=["GET"])]))
    config.date_header = False  # an embedded server does not keep it up to date
    server = EmbeddedServer(config)
    set_recorder(recorder)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield
            server.end()
    finally:
        set_recorder(None)
