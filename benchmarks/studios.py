"""A studio in a folder, for benchmarks that ask the server in their own process."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from pydantic import SecretStr

from mcp_vega.segmind.client import SegmindClient
from mcp_vega.studio.gallery import Gallery
from mcp_vega.studio.ledger import Ledger
from mcp_vega.studio.studio import Studio

API = "https://api.example"

# The MCP SDK has every request logged; the figures are to stand alone.
logging.getLogger("httpx").setLevel(logging.WARNING)


@asynccontextmanager
async def studio_in(folder: Path, transport: httpx.MockTransport) -> AsyncGenerator[Studio]:
    """A studio over an API of one's own that expects every answer at once.

    Args:
        folder: Where its gallery and its ledger are, as a `Host` has them.
        transport: Answers for the API.
    """
    ledger = Ledger(folder / "home" / "ledger.sqlite3")
    async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
        client = SegmindClient(http, SecretStr("SG_benchmark"), base_url=API, history_url=f"{API}/history")
        async with Studio(client, Gallery(folder / "gallery"), ledger, pace=0) as studio:
            yield studio
        await ledger.close()
