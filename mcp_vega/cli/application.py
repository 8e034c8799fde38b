"""Builds the application from the settings, and closes all its parts at the end."""

import logging
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from pydantic import SecretStr

from mcp_vega.cli.api_client import open_client
from mcp_vega.errors import InvalidSettings, VegaError
from mcp_vega.job import SANDBOX
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.redaction import redacted
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.http import DEFAULT_POLICY, RetryPolicy
from mcp_vega.server.context import AppContext
from mcp_vega.settings import Settings
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images.fallback import FallbackImageStore
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import ImageStore
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

logger = logging.getLogger(__name__)

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
