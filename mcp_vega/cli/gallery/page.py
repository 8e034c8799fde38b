"""Serves the page of the pictures on a port of this machine, and opens it in the browser."""

import secrets
import socket
import sys
import time
from collections.abc import Mapping

import anyio
import anyio.to_thread
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_vega.cli.application import log_to_stderr, open_application
from mcp_vega.cli.desktop import open_on_desktop
from mcp_vega.cli.output import write
from mcp_vega.cli.serve import serve_until_signal
from mcp_vega.job import OPERATOR
from mcp_vega.server.http.access.callers import Caller
from mcp_vega.server.http.app import build_page
from mcp_vega.server.http.listener import bind_socket
from mcp_vega.settings import Settings

HOST = "127.0.0.1"
# For so long nobody has to look at the page until it ends; while it is shown it asks for news (seconds).
IDLE_SECONDS = 3600.0


def show_page(settings: Settings, environment: Mapping[str, str], port: int, *, in_browser: bool) -> int:
    """Serve until a signal comes, or until nobody has looked for an hour; returns the exit code.

    The address is the first line on stdout. It holds a key, which is another each time.

    Raises:
        PortTaken: The port cannot be had.
    """
    settings.require_folders()
    key = secrets.token_urlsafe(32)
    with bind_socket(HOST, port) as listener:
        # Browsers ask for an address without its fragment, so that the key is in no log.
        address = f"http://{HOST}:{listener.getsockname()[1]}/#{key}"
        write(address)
        log_to_stderr(settings)
        return anyio.run(_serve, settings, listener, SecretStr(key), address if in_browser else "", environment)


async def _serve(
    settings: Settings, listener: socket.socket, key: SecretStr, opened: str, environment: Mapping[str, str]
) -> int:
    async with open_application(settings) as app:
        page = _LastRequest(build_page(app, [Caller(OPERATOR, key)]))

        async def open_and_wait() -> None:
            await _open(opened, environment)
            await page.until_idle()

        await serve_until_signal(app.service, page, listener, open_and_wait)
    return 0


async def _open(address: str, environment: Mapping[str, str]) -> None:
    """Open the page where that is wanted, and say what to do next."""
    problem = ""
    if address:
        # In a thread: a browser that was not running yet is waited for, and asks for the page meanwhile.
        problem = await anyio.to_thread.run_sync(open_on_desktop, address, environment, abandon_on_cancel=True)
    if problem:
        sys.stderr.write(f"No browser could be opened ({problem}): open the address above in one yourself.\n")
    sys.stderr.write("To leave: Ctrl-C.\n")
    sys.stderr.flush()


class _LastRequest:
    """An ASGI application that notes when it was last asked for something."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._last = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._last = time.monotonic()
        await self._app(scope, receive, send)

    async def until_idle(self) -> None:
        """Wait until nobody has asked for anything for an hour."""
        while (left := self._last + IDLE_SECONDS - time.monotonic()) > 0:  # noqa: ASYNC110  a time, no event
            await anyio.sleep(left)
        sys.stderr.write("Nobody has looked at the page for an hour, so it ends here.\n")
