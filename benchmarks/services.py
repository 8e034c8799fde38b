"""A job service in a folder, for benchmarks that ask the server in their own process."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from pydantic import SecretStr

from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.sandbox.painter import paint
from mcp_vega.segmind import client, retries
from mcp_vega.segmind import http as segmind_http
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.images.folder import ImageFolder

API = "https://api.example"
KEY = "SG_benchmark"

# The MCP SDK has every request logged; the figures are to stand alone.
logging.getLogger("httpx").setLevel(logging.WARNING)

# What is logged while somebody listens: outside of all tasks that set `HEARD`, and in the one that did.
STRAY: list[tuple[int, str]] = []
HEARD = ContextVar("HEARD", default=STRAY)


@asynccontextmanager
async def service_in(
    folder: Path,
    transport: httpx.MockTransport | None = None,
    url: str = API,
    patience: float = 40,
    longest_wait: float = 300,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncGenerator[JobService]:
    """A job service over an API of one's own that expects every answer at once.

    Args:
        folder: Where its gallery and its ledger are, as a `Host` has them.
        transport: Answers for the API, where that is not served at `url`.
        url: The API's base URL; whatever it is, the jobs in the folder are its own.
        patience: Seconds that a refused or unsent call is repeated for.
        longest_wait: Seconds that a call waits until the limits let it be sent.
        clock: The time (UTC).
    """
    store = JobStore(folder / "home" / "ledger.sqlite3")
    async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
        history = f"{url}/inference-request/request-history"
        segmind = SegmindClient(http, SecretStr(KEY), base_url=url, history_url=history, patience=patience)
        config = JobConfig(api=API, pace=0, longest_wait=longest_wait, clock=clock)
        async with JobService(segmind, ImageFolder(folder / "gallery"), store, config) as service:
            yield service
        await store.close()


@contextmanager
def hurried() -> Generator[None]:
    """The product with constants for which nobody has to wait long, and a sandbox that paints two pictures for all."""
    times: dict[str, Any] = {"DRAWING_SECONDS": 9, "ASKING_SECONDS": 2, "MEDIA_SECONDS": 2}
    times |= {"DRAWING": httpx.Timeout(2, read=8), "ASKING": httpx.Timeout(2)}
    pictures = [paint("a fox", 7, index) for index in range(2)]

    def painted(_prompt: str, _seed: int, index: int) -> bytes:
        return pictures[index]

    with (
        patch.multiple(segmind_http, **times),
        patch.object(retries, "FIRST_PAUSE", 0.05),
        patch.object(client, "REPLICATION_SECONDS", 0.6),
        patch("mcp_vega.sandbox.app._painted", painted),
    ):
        yield


@contextmanager
def listening() -> Generator[None]:
    """Hear what is logged."""
    root, ears = logging.getLogger(), Ears(logging.INFO)
    with patch.object(root, "level", logging.INFO):
        root.addHandler(ears)
        yield
        root.removeHandler(ears)


class Ears(logging.Handler):
    """Hears what is logged, for the task that it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record down."""
        HEARD.get().append((record.levelno, self.format(record)))
