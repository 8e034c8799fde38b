"""A server's context in a folder, for benchmarks that run the server in their own process."""

import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from unittest.mock import patch

import httpx
from pydantic import SecretStr

from mcp_vega.imaging.preview import Mode
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.sandbox.app import cached_paint
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.http import DEFAULT_POLICY, RetryPolicy, TimeLimits
from mcp_vega.server.context import AppContext
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.ledger.job_store import JobStore

API = "https://api.example"
KEY = "SG_benchmark"
# Short times, for benchmarks of failures.
SHORT = RetryPolicy(
    retry_seconds=2,
    first_pause=0.05,
    replication_seconds=0.6,
    limits=TimeLimits(connect=2, drawing_read=8, read=2, drawing=9, asking=2, media=2),
)

# The API is used without TLS, because reading the machine's certificates takes each client 20 ms.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# An API that answers immediately.
CONFIG = JobConfig(api=API, pace=0)

# The MCP SDK logs every request. Only the figures should be printed.
logging.getLogger("httpx").setLevel(logging.WARNING)

# Log records: those of a task that set `HEARD` go into its list, and all others go into STRAY.
STRAY: list[tuple[int, str]] = []
HEARD = ContextVar("HEARD", default=STRAY)


@asynccontextmanager
async def app_in(  # noqa: PLR0913  what differs between benchmarks
    folder: Path,
    transport: httpx.AsyncBaseTransport | None = None,
    url: str = API,
    *,
    policy: RetryPolicy = DEFAULT_POLICY,
    config: JobConfig = CONFIG,
    uptime: Callable[[], float] = time.monotonic,
    wait_seconds: float = 45,
    preview: Mode = "auto",
) -> AsyncGenerator[AppContext]:
    """A server's context for a mock of the API.

    Args:
        folder: The folder of the gallery and the ledger, as for a `Host`.
        transport: Answers instead of the API, if nothing is served at `url`.
        url: The API's base URL. All jobs in the folder belong to this API.
        policy: How long and how often calls are retried.
        config: The configuration of the jobs. By default, answers are expected immediately.
        uptime: A clock that cannot be set, in seconds.
        wait_seconds: How long a call waits for its pictures.
        preview: How pictures appear in a result.
    """
    store = JobStore.in_file(folder / "home" / "ledger.sqlite3", uptime=uptime)
    async with httpx.AsyncClient(transport=transport, trust_env=False, verify=TLS) as http:
        endpoints = Endpoints(url, f"{url}/inference-request/request-history")
        segmind = SegmindClient(http, ApiKey(SecretStr(KEY)), endpoints, policy)
        images = FallbackImageStore([ImageFolder(folder / "gallery"), MemoryImageStore()])
        async with JobService(segmind, images, store, config) as service:
            gallery = Gallery(store.search, images, PreviewCache(folder / "home" / "previews"), service.look_up_image)
            yield AppContext(service, gallery, wait_seconds, preview)
        await store.close()


def one_picture(_prompt: str, _seed: int, index: int) -> bytes:
    """For the sandbox: the same picture for every prompt and seed. It takes no time."""
    return cached_paint("a fox", 7, index)


@contextmanager
def listening() -> Generator[None]:
    """Record what is logged."""
    root, ears = logging.getLogger(), Ears(logging.INFO)
    with patch.object(root, "level", logging.INFO):
        root.addHandler(ears)
        yield
        root.removeHandler(ears)


class Ears(logging.Handler):
    """Records what is logged, in the list of the task."""

    def emit(self, record: logging.LogRecord) -> None:
        """Record one message."""
        HEARD.get().append((record.levelno, self.format(record)))
