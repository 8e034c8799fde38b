"""What the tests share: a sandbox on a free port, a server that uses it, an agent that calls the server's tools."""

import hashlib
import io
import json
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from inspect import isawaitable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from mcp.client import Client
from mcp_types import CallToolResult, ImageContent, TextContent
from PIL import Image
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from stores import Ledger, PostgresLedger, ledger_at

from mcp_vega.imaging.preview import Mode
from mcp_vega.job import OPERATOR, Job
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.network.serving import serving
from mcp_vega.parameters import Parameters
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import Paint, build_sandbox
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.storage.database.sqlite.database import BUSY_SECONDS
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import ImageStore
from mcp_vega.storage.ledger.job_store import JobStore

pytest_plugins = ["services"]

KEY = "SG_0123456789abcdef"
HISTORY = "/inference-request/request-history"
POLICY = RetryPolicy(retry_seconds=5)
NO_PAUSE = RetryPolicy(retry_seconds=5, first_pause=0)

# For clients that use no TLS: each client would take 20 ms to read the machine's certificates.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# The width and height of the pictures that the sandbox of the tests paints.
SMALL = 96

# ---- waiting ----

# Seconds after which a test fails. On a busy machine, too, only a test that hangs takes this long.
HANG_SECONDS = 60
# Seconds between two checks of a condition.
LOOK_SECONDS = 0.01


async def until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition is true; returns its value."""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            found = condition()
            if isawaitable(found):
                found = await found
            if found:
                return found
            await anyio.sleep(LOOK_SECONDS)


def wait_until(condition: Callable[[], Any]) -> Any:
    """The same in a test without an event loop."""
    deadline = time.monotonic() + HANG_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(LOOK_SECONDS)
    return found


def with_grace(seconds: float) -> list[str]:
    """The command `mcp-vega` with another grace: how many seconds it gives the jobs under way when it ends."""
    program = "from mcp_vega.cli import main, shutdown; shutdown.GRACE_SECONDS = {}; raise SystemExit(main.main())"
    return [sys.executable, "-c", program.format(seconds)]


# A test that waits for the end of this grace hangs.
PATIENT = with_grace(3600)


# ---- the kinds of ledger ----


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def each_ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test on each kind of ledger: `app_over` and `ledger_at` then use that kind."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")

        def open_namespace(home: Path) -> Ledger:
            return PostgresLedger(url, f"ledger_{hashlib.sha256(str(home).encode()).hexdigest()[:16]}")

        monkeypatch.setattr("stores.open_ledger", open_namespace)


@pytest.fixture
def ledger(each_ledger: None, tmp_path: Path) -> Ledger:  # noqa: ARG001
    """The ledger of the servers whose home is the folder `home`. The test runs on each kind."""
    return ledger_at(tmp_path / "home")


# ---- the sandbox ----


@dataclass
class Sandbox:
    """A sandbox that is running."""

    url: str
    account: Account
    answers: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        """Hold back the answers to calls of v1 from now on. The calls are drawn and charged, but stay under way."""
        self.answers.clear()

    def let_go(self) -> None:
        """Send the answers that were held back."""
        self.answers.set()

    @property
    def paid_requests(self) -> int:
        return sum(count for name, count in self.account.requests.items() if name.startswith("POST"))


def paint_small(prompt: str, seed: int, index: int) -> bytes:
    """A picture that only these arguments give. It takes no time, unlike the sandbox's own pictures."""
    digest = hashlib.sha256(f"{index}:{seed}:{prompt}".encode("utf-8", "replace")).digest()
    data = random.Random(digest).randbytes(SMALL * SMALL * 3)  # noqa: S311  a picture
    buffer = io.BytesIO()
    Image.frombytes("RGB", (SMALL, SMALL), data).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints name the command as the user started it; they must not depend on how pytest was started."""
    monkeypatch.setattr(sys, "argv", ["mcp-vega"])


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret of a test is redacted in another one."""
    monkeypatch.setattr("mcp_vega.redaction._secrets", [])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def paint() -> Paint:
    """How the sandbox paints. Tests of its own pictures replace this fixture by one that gives `cached_paint`."""
    return paint_small


@pytest.fixture
async def sandbox(paint: Paint) -> AsyncGenerator[Sandbox]:
    async with serving_sandbox(paint=paint) as sandbox:
        yield sandbox


@asynccontextmanager
async def serving_sandbox(
    *, paint: Paint = paint_small, clock: Callable[[], float] = time.time, **options: Any
) -> AsyncGenerator[Sandbox]:
    """A sandbox that needs no time for a call, with options of `build_sandbox`."""
    account, answers = Account(speed=0, clock=clock), threading.Event()
    async with serving(holding(build_sandbox(account, paint=paint, **options), answers)) as url:
        yield Sandbox(url, account, answers)


@pytest.fixture
def sandbox_in_thread(paint: Paint) -> Iterator[Sandbox]:
    """A sandbox in a thread of its own, for clients and servers that are not in the test's event loop."""
    account, answers = Account(speed=0), threading.Event()
    with serving_in_thread(holding(build_sandbox(account, paint=paint), answers)) as url:
        yield Sandbox(url, account, answers)


@pytest.fixture
def api(sandbox_in_thread: Sandbox) -> dict[str, str]:
    """The settings of a command that calls this sandbox."""
    return {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}


class HeldAnswers:
    """An application that holds back its answers to calls of v1 until they may go."""

    def __init__(self, app: ASGIApp, answers: threading.Event) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def later(message: Message) -> None:
            while not self._answers.is_set():  # noqa: ASYNC110  it is set in another thread
                await anyio.sleep(LOOK_SECONDS)
            await send(message)

        drawing = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith("/v1/")
        await self._app(scope, receive, later if drawing else send)


def holding(sandbox: Starlette, answers: threading.Event) -> Starlette:
    answers.set()
    sandbox.add_middleware(HeldAnswers, answers=answers)
    return sandbox


@contextmanager
def unserved_port() -> Generator[int]:
    """A port of 127.0.0.1 that refuses connections, and that no other process gets. On Linux, one may serve there."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@contextmanager
def serving_in_thread(app: Starlette) -> Generator[str]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving(app)) as url:
        yield url


@asynccontextmanager
async def app_over(  # noqa: PLR0913  what differs between the tests
    base_url: str,
    folder: Path,
    *,
    key: str | None = KEY,
    transport: httpx.AsyncBaseTransport | None = None,
    wait_seconds: float = 45,
    preview: Mode = "auto",
    sandbox: bool = False,
    policy: RetryPolicy = POLICY,
    open_http: Callable[[str], None] | None = None,
    home: Path | None = None,
    images: ImageStore | None = None,
    gallery: Callable[..., Gallery] = Gallery,
    fallbacks: Sequence[ImageStore] = (),
    store: JobStore | None = None,
    uptime: Callable[[], float] = time.monotonic,
    busy_seconds: float = BUSY_SECONDS,
    **config: Any,
) -> AsyncGenerator[AppContext]:
    """The server's context for an API, without the machine's settings; `config` is for the jobs.

    Pictures are kept in `images` (by default `folder`), or else in one of the `fallbacks`, or else in memory.
    """
    async with httpx.AsyncClient(transport=transport, trust_env=False, verify=TLS) as http:
        endpoints = Endpoints(base_url, base_url + HISTORY)
        client = SegmindClient(http, ApiKey(SecretStr(key) if key else None), endpoints, policy, open_http)
        home = home or folder.with_name(f"{folder.name}-home")
        store = store or ledger_at(home).store(JobStore, uptime, busy_seconds)
        config = {"api": base_url, "pace": 0, **config}
        stores = FallbackImageStore([images or ImageFolder(folder), *fallbacks, MemoryImageStore()])
        async with JobService(client, stores, store, JobConfig(**config)) as service:
            kept = gallery(store.search, stores, PreviewCache(home / "previews"), service.look_up_image)
            yield AppContext(service, kept, wait_seconds, preview, sandbox)
        await store.close()


async def begun(service: JobService, parameters: Parameters, owner: str = OPERATOR) -> Job:
    """The job that a call has just begun."""
    return (await service.generate(parameters, owner)).job


@pytest.fixture
async def app(sandbox: Sandbox, tmp_path: Path) -> AsyncGenerator[AppContext]:
    async with app_over(sandbox.url, tmp_path) as app:
        yield app


@pytest.fixture(params=["auto", "legacy"])
async def agent(app: AppContext, request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    """An MCP client in memory: one of the newest protocol version, and one of the older versions."""
    async with Client(build_server(app), mode=request.param) as client:
        yield client


class Time:
    """The time of the sandbox and of the servers. A test lets it pass, and can set the servers' clock ahead."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._passed = timedelta()
        self.ahead = timedelta()

    def let_pass(self, **units: float) -> None:
        """Let this many days, hours, minutes or seconds pass."""
        self._passed += timedelta(**units)
        self._sandbox.account.skip(timedelta(**units).total_seconds())

    @property
    def clocks(self) -> dict[str, Any]:
        """For `app_over`: the server's clock, and a clock that cannot be set."""
        return {"clock": self.now, "uptime": lambda: time.monotonic() + self._passed.total_seconds()}

    def now(self) -> datetime:
        """The time by the servers' clock."""
        return datetime.now(UTC) + self._passed + self.ahead


# ---- a mock of the API ----

API = "https://api.example"


@cache
def noise(form: str, side: int = 1024) -> bytes:
    """A picture of noise: no picture is harder to compress."""
    picture = Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3))  # noqa: S311  a picture
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def handle(data: bytes) -> Callable[[httpx.Request], httpx.Response]:
    """The answers of an API whose every picture is `data`, by v1 and by v2, with the media type of a JPEG."""

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


async def drawn(data: bytes, folder: Path, preview: Mode = "auto", **arguments: Any) -> CallToolResult:
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
