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

from mcp_vega.cli.application import open_application, require_stores
from mcp_vega.cli.desktop import open_on_desktop
from mcp_vega.cli.jobs.lookup import hint_at_other_ledger
from mcp_vega.cli.output import write
from mcp_vega.cli.serve.draining import serve_until_signal
from mcp_vega.job import OPERATOR
from mcp_vega.server.http.access.tokens import TokenCallers, caller_with
from mcp_vega.server.http.app import build_page
from mcp_vega.server.http.connections.listener import bind_socket
from mcp_vega.settings import Settings
from mcp_vega.telemetry.logs import log_to_stderr

HOST = "127.0.0.1"
# The page ends when nobody has looked at it for so long; a page that is shown asks for changes all the time (seconds).
IDLE_SECONDS = 3600.0
# A browser that was started asks for the page within this time (seconds).
FIRST_REQUEST_SECONDS = 10.0


def show_page(settings: Settings, environment: Mapping[str, str], port: int, *, in_browser: bool) -> int:
    """Serve until a signal comes, or until nobody has looked for an hour; returns the exit code.

    The address is the first line on stdout. It holds a key, which is a new one each time.

    Raises:
        InvalidSettings: A folder or a store of a team cannot be used.
        PortTaken: The port cannot be used.
    """
    require_stores(settings)
    key = secrets.token_urlsafe(32)
    with bind_socket(HOST, port) as listener:
        # A browser does not send the fragment of an address, so the key is in no log.
        address = f"http://{HOST}:{listener.getsockname()[1]}/#{key}"
        write(address)
        log_to_stderr(settings.log_level, settings.log_format)
        return anyio.run(_serve, settings, listener, SecretStr(key), address if in_browser else "", environment)


async def _serve(
    settings: Settings, listener: socket.socket, key: SecretStr, opened: str, environment: Mapping[str, str]
) -> int:
    async with open_application(settings) as app:
        page = _Requests(build_page(app, TokenCallers([caller_with(key.get_secret_value(), OPERATOR)])))

        async def open_and_wait() -> None:
            is_opened = await _open(opened, environment)
            if hint := await hint_at_other_ledger(settings):
                _say(f"The page shows no picture yet. {hint}.")
            _say("To leave: Ctrl-C.")
            if is_opened and not await page.is_asked_for():
                _say("No browser has asked for the page so far. If none opens, open the address above yourself.")
            await page.until_idle()
            _say("Nobody has looked at the page for an hour, so it ends here.")

        await serve_until_signal(app.service, page, listener, until=open_and_wait)
    return 0


async def _open(address: str, environment: Mapping[str, str]) -> bool:
    """Open the page, unless the address is empty; returns whether a browser was started."""
    if not address:
        return False
    # In a thread, because a browser that starts asks for the page in the meantime.
    problem = await anyio.to_thread.run_sync(open_on_desktop, address, environment, abandon_on_cancel=True)
    if problem:
        _say(f"No browser could be opened ({problem}). Open the address above yourself.")
    return not problem


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class _Requests:
    """An ASGI application that notes its requests: whether there was one, and when the last one came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._last = time.monotonic()
        self._first = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # not the start of the server
            self._last = time.monotonic()
            self._first.set()
        await self._app(scope, receive, send)

    async def is_asked_for(self) -> bool:
        """Wait a little for the first request; returns whether it came. A program may fail and still report success."""
        with anyio.move_on_after(FIRST_REQUEST_SECONDS):
            await self._first.wait()
        return self._first.is_set()

    async def until_idle(self) -> None:
        """Wait until there was no request for an hour."""
        while (left := self._last + IDLE_SECONDS - time.monotonic()) > 0:  # noqa: ASYNC110  a time, no event
            await anyio.sleep(left)
