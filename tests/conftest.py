"""What the tests share: a sandbox on a free port, the server over it, an agent that calls its tools."""

import io
import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from mcp.client import Client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image
from pydantic import SecretStr
from starlette.applications import Starlette

from mcp_vega.job import Limits
from mcp_vega.jobs.service import JobService
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.serving import serving
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.storage.database.job_store import JobStore
from mcp_vega.storage.images.folder import ImageFolder

KEY = "SG_0123456789abcdef"
HISTORY = "/inference-request/request-history"
POLICY = RetryPolicy(retry_seconds=5)
NO_PAUSE = RetryPolicy(retry_seconds=5, first_pause=0)


@dataclass
class Sandbox:
    """A sandbox that is being served."""

    url: str
    account: Account

    @property
    def paid_requests(self) -> int:
        return sum(count for name, count in self.account.requests.items() if name.startswith("POST"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox() -> AsyncGenerator[Sandbox]:
    async with serving_sandbox() as sandbox:
        yield sandbox


@asynccontextmanager
async def serving_sandbox(**options: Any) -> AsyncGenerator[Sandbox]:
    """A sandbox that takes no time, with options of `build_sandbox`."""
    account = Account(speed=0)
    async with serving(build_sandbox(account, **options)) as url:
        yield Sandbox(url, account)


@pytest.fixture
def sandbox_in_thread() -> Iterator[Sandbox]:
    """The sandbox beside the test, for clients and servers that are not in the test's own loop."""
    account = Account(speed=0)
    with serving_in_thread(build_sandbox(account)) as url:
        yield Sandbox(url, account)


@contextmanager
def serving_in_thread(app: Starlette) -> Generator[str]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(app)) as url:
        yield url


@asynccontextmanager
async def app_over(  # noqa: PLR0913  what the tests vary
    base_url: str,
    folder: Path,
    *,
    key: str | None = KEY,
    transport: httpx.AsyncBaseTransport | None = None,
    wait_seconds: float = 45,
    policy: RetryPolicy = POLICY,
    home: Path | None = None,
    api: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    uptime: Callable[[], float] = time.monotonic,
    limits: Limits | None = None,
    pace: float = 0,
    **app: Any,
) -> AsyncGenerator[AppContext]:
    """What the tools need, over an API, with nothing of the machine's settings."""
    async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
        client = SegmindClient(http, SecretStr(key) if key else None, Endpoints(base_url, base_url + HISTORY), policy)
        home = home or folder.with_name(f"{folder.name}-home")
        store = JobStore(home / "ledger.sqlite3", uptime=uptime)
        async with JobService(
            client, ImageFolder(folder), store, api=api, pace=pace, clock=clock, limits=limits
        ) as service:
            yield AppContext(service, wait_seconds, **app)
        await store.close()


@pytest.fixture
async def app(sandbox: Sandbox, tmp_path: Path) -> AsyncGenerator[AppContext]:
    async with app_over(sandbox.url, tmp_path) as app:
        yield app


@pytest.fixture(params=["auto", "legacy"])
async def agent(app: AppContext, request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    """An MCP client in memory, once for each era of the protocol."""
    async with Client(build_server(app), mode=request.param) as client:
        yield client


# ---- a mock of the API ----

API = "https://api.example"


@cache
def noise(form: str, side: int = 1024) -> bytes:
    """The worst case for any codec."""
    picture = Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3))  # noqa: S311  a picture
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def handle(data: bytes) -> Callable[[httpx.Request], httpx.Response]:
    """An API whose every picture is `data`, over v1 and v2, said to be a JPEG."""

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST" and path.startswith("/v2/"):
            return httpx.Response(200, json={"request_id": f"r{json.loads(request.content)['samples']}"})
        if path.endswith("/status"):
            return httpx.Response(200, json={"status": "COMPLETED"})
        if path.startswith("/v2/requests/r"):
            urls = [{"url": f"{API}/{number}.jpeg"} for number in range(int(path[-1]))]
            return httpx.Response(200, json={"status": "COMPLETED", "images": urls})
        if path == HISTORY:
            return httpx.Response(503)
        return httpx.Response(200, content=data, headers={"content-type": "image/jpeg"})

    return answer


def api_that_draws(data: bytes) -> httpx.MockTransport:
    return httpx.MockTransport(handle(data))


async def drawn(data: bytes, folder: Path, preview: str = "auto", **arguments: Any) -> CallToolResult:
    """The result of a call to an API whose every picture is `data`."""
    async with (
        app_over(API, folder, transport=api_that_draws(data), preview=preview) as app,
        Client(build_server(app)) as agent,
    ):
        return await agent.call_tool("generate_image_vega", {"prompt": "a fox", **arguments})


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.tobytes()


# ---- reading results ----


def text_of(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


def images_of(result: CallToolResult) -> list[ImageContent]:
    return [each for each in result.content if isinstance(each, ImageContent)]


def job_of(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, text_of(result)
    return (result.meta or {})["mcp-vega/job"]
