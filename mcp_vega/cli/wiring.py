"""Puts the rooms together: from the settings to an open studio, and everything closed again afterwards."""

import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from pydantic import SecretStr

from mcp_vega import __version__
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.server.tools import Desk
from mcp_vega.settings import Settings
from mcp_vega.studio.gallery import Gallery
from mcp_vega.studio.ledger import Ledger
from mcp_vega.studio.studio import Studio

SANDBOX_KEY = SecretStr("SG_sandbox")


@asynccontextmanager
async def opened_desk(settings: Settings) -> AsyncGenerator[Desk]:
    """An open studio and what the tools need beside it, for as long as the block runs."""
    async with AsyncExitStack() as stack:
        if settings.sandbox:
            settings = await stack.enter_async_context(_in_sandbox(settings))
        http = await stack.enter_async_context(_http())
        client = SegmindClient(
            http,
            settings.api_key,
            base_url=settings.base_url,
            history_url=settings.request_history_url,
            media_hosts=settings.media_hosts,
        )
        studio = Studio(client, Gallery(settings.gallery_folder), Ledger(), sandbox=settings.sandbox)
        await stack.enter_async_context(studio)
        yield Desk(studio, settings.wait_seconds, settings.preview)


@asynccontextmanager
async def _in_sandbox(settings: Settings) -> AsyncGenerator[Settings]:
    """The settings with the sandbox in the place of the API; the user's key is left out of it."""
    from mcp_vega.sandbox.app import build_sandbox
    from mcp_vega.sandbox.queue import Queue
    from mcp_vega.sandbox.serving import serving

    async with serving(build_sandbox(Queue())) as url:
        yield settings.model_copy(update={"base_url": url, "history_url": "", "api_key": SANDBOX_KEY})


def _http() -> httpx.AsyncClient:
    transport = _TransportOnFirstUse()
    return httpx.AsyncClient(transport=transport, headers={"user-agent": f"mcp-vega/{__version__}"})


class _TransportOnFirstUse(httpx.AsyncBaseTransport):
    """Opens the real transport at the first request: its TLS certificates take 40 ms that a handshake need not wait."""

    def __init__(self) -> None:
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()


def log_to_stderr(settings: Settings) -> None:
    """Log to stderr, before the MCP SDK sets up a log of its own. httpx would log every URL."""
    logging.basicConfig(level=settings.log_level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
