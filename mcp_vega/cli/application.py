"""Builds the application from the settings, and closes all its parts at the end."""

import logging
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx
from pydantic import SecretStr

from mcp_vega import __version__
from mcp_vega.errors import InvalidSettings, Unreachable, VegaError
from mcp_vega.job import SANDBOX
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.redaction import redacted
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.connection import CERTIFICATES_STEP, NO_CONNECTION
from mcp_vega.segmind.http import DEFAULT_POLICY, RetryPolicy
from mcp_vega.server.context import AppContext
from mcp_vega.settings import Settings, is_loopback
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import ImageStore
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

logger = logging.getLogger(__name__)

# Variables that name a file. It is read or written before the first connection.
TLS_FILES = ("SSL_CERT_FILE", "SSLKEYLOGFILE")
SANDBOX_KEY = SecretStr("SG_sandbox")


@asynccontextmanager
async def open_application(
    settings: Settings, problem: VegaError | None = None, policy: RetryPolicy = DEFAULT_POLICY
) -> AsyncGenerator[AppContext]:
    """An open job service, and what else the tools need, while the block runs.

    If there is a `problem`, the tools answer every call with it.
    """
    async with AsyncExitStack() as stack:
        api = SANDBOX if settings.sandbox else settings.base_url
        if settings.sandbox:
            settings = await stack.enter_async_context(_in_sandbox(settings))
        client = await stack.enter_async_context(open_client(settings, policy))
        store = JobStore.in_file(settings.ledger_file)
        stack.push_async_callback(store.close)
        config = JobConfig(api=api, limits=Limits(settings.spending_limit_usd, settings.requests_per_minute))
        images = image_store_of(settings)
        service = await stack.enter_async_context(JobService(client, images, store, config))
        gallery = Gallery(store.search, images, preview_cache_of(settings), service.look_up_image)
        folders = _folders_of(settings)
        yield AppContext(service, gallery, settings.wait_seconds, settings.preview, settings.sandbox, problem, folders)


@asynccontextmanager
async def open_client(settings: Settings, policy: RetryPolicy = DEFAULT_POLICY) -> AsyncGenerator[SegmindClient]:
    """The API's client, while the block runs."""
    headers = {"user-agent": f"mcp-vega/{__version__}", "accept-encoding": "gzip, deflate"}
    transport = _LazyTransport()
    async with httpx.AsyncClient(transport=transport, headers=headers, cookies=no_cookies()) as http:
        endpoints = Endpoints(settings.base_url, settings.request_history_url, settings.media_hosts)
        yield SegmindClient(http, settings.api_key, endpoints, policy, transport.open)


@asynccontextmanager
async def _in_sandbox(settings: Settings) -> AsyncGenerator[Settings]:
    """The settings with the sandbox instead of the API, and without the user's key."""
    from mcp_vega.sandbox.account import Account
    from mcp_vega.sandbox.app import build_sandbox
    from mcp_vega.sandbox.serving import serving

    async with serving(build_sandbox(Account())) as url:
        yield settings.model_copy(update={"base_url": url, "history_url": "", "api_key": SANDBOX_KEY})


@asynccontextmanager
async def open_job_store(settings: Settings) -> AsyncGenerator[JobStore | None]:
    """The ledger, for a command that must not create one; None if there is none."""
    try:
        is_there = settings.ledger_file.exists()
    except OSError:
        is_there = True  # the ledger explains why it cannot be read
    store = JobStore.in_file(settings.ledger_file)
    try:
        yield store if is_there else None
    finally:
        await store.close()


def warn_of_key(settings: Settings) -> None:
    """Log in one line why the key cannot be used. The tools say it as well."""
    try:
        if not settings.sandbox:
            require_usable(settings.api_key)
    except InvalidSettings as error:
        warn(error)


def warn(error: VegaError) -> None:
    """Log in one line what is wrong, and the next step."""
    logger.warning("%s. %s", error.what, error.next_step)


def no_cookies() -> CookieJar:
    """A jar that accepts no cookie: one of the API would be sent to other hosts of its domain."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def image_folder_of(settings: Settings) -> ImageFolder:
    """The gallery."""
    return ImageFolder(settings.gallery_folder)


def rescued_folder_of(settings: Settings) -> Path:
    """The folder for pictures that the gallery cannot take."""
    return settings.home_folder / "rescued"


def image_store_of(settings: Settings) -> FallbackImageStore:
    """The gallery, and the folders that take a paid picture when the gallery cannot."""
    stores: list[ImageStore] = [image_folder_of(settings), ImageFolder(rescued_folder_of(settings), private=True)]
    with suppress(FileNotFoundError):  # there is no temporary folder
        # All users share the temporary folder, except on Windows, so the name holds the user's id.
        user = "" if sys.platform == "win32" else f"-{os.getuid()}"
        stores.append(ImageFolder(Path(tempfile.gettempdir()) / f"mcp-vega{user}", private=True))
    return FallbackImageStore([*stores, MemoryImageStore()])


def preview_cache_of(settings: Settings) -> PreviewCache:
    """Where the small previews are kept."""
    return PreviewCache(settings.home_folder / "previews")


def _folders_of(settings: Settings) -> dict[Path, str]:
    """The folders that errors name, and the variables that say where they are."""
    folders = {settings.gallery_folder: "MCP_VEGA_GALLERY", settings.home_folder: "MCP_VEGA_HOME"}
    with suppress(FileNotFoundError):
        folders[Path(tempfile.gettempdir())] = "TMPDIR"
    return folders


class _LazyTransport(httpx.AsyncBaseTransport):
    """Opens an HTTP client at the first request: loading TLS certificates would delay the MCP handshake.

    The proxies of the environment are used for all hosts but this machine.
    """

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    def open(self, url: str) -> None:
        """Open the client for an address before the first request. If that fails, the request raises the error."""
        with suppress(Unreachable):
            self._client(httpx.URL(url).host)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._client(request.url.host).send(request, stream=True)

    def _client(self, host: str) -> httpx.AsyncClient:
        here = is_loopback(host)
        if here not in self._clients:
            try:
                # The job service limits the calls, not this client.
                client = httpx.AsyncClient(trust_env=not here, limits=httpx.Limits(max_connections=None))
            except OSError as error:
                variable = next(
                    (name for name in TLS_FILES if error.filename == os.environ.get(name, "")), TLS_FILES[0]
                )
                file = f"the file {error.filename or ''}".strip()
                why = f"{file} that {variable} names cannot be used for TLS: {error.strerror or type(error).__name__}"
                step = CERTIFICATES_STEP if variable == TLS_FILES[0] else f"Correct {variable}, or unset it"
                raise _never_opened(why, step) from error
            except ImportError as error:
                why = "HTTPS_PROXY or ALL_PROXY names a SOCKS proxy, which needs the package socksio"
                raise _never_opened(
                    why, "Install socksio in the environment of mcp-vega, or name an HTTP proxy"
                ) from error
            except (ValueError, httpx.InvalidURL) as error:  # the error's text may hold the proxy's password
                why = "HTTPS_PROXY, ALL_PROXY or NO_PROXY holds an address that cannot be used"
                raise _never_opened(why, "Correct the variable") from error
            self._clients[here] = client
        return self._clients[here]

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def _never_opened(why: str, step: str) -> Unreachable:
    """The error of a request that cannot be sent with these settings of the environment."""
    error = Unreachable(f"{NO_CONNECTION}: {why}", next_step=f"{step}. Then start the server again")
    error.repeatable = False
    return error


class _RedactingFormatter(logging.Formatter):
    """Redacts keys in all log lines, including tracebacks and lines of other packages."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def log_to_stderr(settings: Settings) -> None:
    """Log to stderr, before the MCP SDK sets up its own log. httpx would log every URL, httpcore every header."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
