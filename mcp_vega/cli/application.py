"""Builds the application from the settings, and closes all its parts at the end."""

import logging
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

from mcp_vega.cli.api_client import key_of, open_client
from mcp_vega.cli.output import install_step
from mcp_vega.errors import InvalidSettings, VegaError
from mcp_vega.job import LOCAL, SANDBOX
from mcp_vega.jobs.config import JobConfig
from mcp_vega.jobs.service import JobService
from mcp_vega.redaction import add_secret, printable
from mcp_vega.segmind.http import DEFAULT_POLICY, RetryPolicy
from mcp_vega.server.context import AppContext
from mcp_vega.settings import Settings
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images.disk import replica_disk_name
from mcp_vega.storage.images.fallback import FallbackImageStore, open_store
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import ImageStore
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

logger = logging.getLogger(__name__)

# The PostgreSQL schema of the sandbox's ledger.
SANDBOX_NAMESPACE = "mcp_vega_sandbox"


INSTALL_TEAM = f"{install_step('team')}. Then start the server again"


@contextmanager
def needs_team(variable: str) -> Generator[None]:
    """Load packages of the extra `team` in the block, because a variable is set.

    Raises:
        InvalidSettings: One of them is missing. The error names the variable.
    """
    try:
        yield
    except ImportError as error:
        said = f"{variable} needs the extra `team` of this package, which cannot be loaded: {printable(str(error))}"
        raise InvalidSettings(said, next_step=INSTALL_TEAM) from error


@asynccontextmanager
async def open_application(
    settings: Settings, problem: VegaError | None = None, policy: RetryPolicy = DEFAULT_POLICY
) -> AsyncGenerator[AppContext]:
    """An open job service, and what else the tools need, while the block runs.

    If there is a `problem`, the tools answer every call with it.
    """
    async with AsyncExitStack() as stack:
        api = api_of(settings)
        if settings.sandbox:
            settings = await stack.enter_async_context(_in_sandbox(settings))
        client = await stack.enter_async_context(open_client(settings, policy))
        store = job_store_of(settings)
        stack.push_async_callback(store.close)
        config = JobConfig(api=api, limits=limits_of(settings))
        images = image_store_of(settings)
        service = await stack.enter_async_context(JobService(client, images, store, config))
        gallery = Gallery(store.search, images, preview_cache_of(settings), service.look_up_image)
        folders = _folders_of(settings)
        yield AppContext(
            service,
            gallery,
            settings.wait_seconds,
            settings.preview,
            sandbox=settings.sandbox,
            local=settings.local,
            problem=problem,
            folders=folders,
        )


def api_of(settings: Settings) -> str:
    """The ledger's name of the API that draws."""
    return SANDBOX if settings.sandbox else LOCAL if settings.local else settings.base_url


def limits_of(settings: Settings) -> Limits:
    """The limits on paid calls. Those on money and on the API's rate do not concern the engine on this machine."""
    if settings.local:
        return Limits(calls_at_once=settings.calls_at_once)
    money, each = settings.spending_limit_usd, settings.spending_limit_usd_each
    return Limits(money, settings.requests_per_minute, settings.calls_at_once, usd_a_day_each=each)


@asynccontextmanager
async def _in_sandbox(settings: Settings) -> AsyncGenerator[Settings]:
    """The settings with the sandbox instead of the API, and without the user's key."""
    from mcp_vega.network.serving import serving
    from mcp_vega.sandbox.account import Account
    from mcp_vega.sandbox.app import build_sandbox

    async with serving(build_sandbox(Account())) as url:
        yield settings.model_copy(update={"base_url": url, "history_url": ""})


def job_store_of(settings: Settings) -> JobStore:
    """The ledger. It is opened at its first use.

    Raises:
        InvalidSettings: It is in PostgreSQL, and a package for that is missing.
    """
    if settings.ledger is None:
        return JobStore.in_file(settings.ledger_file)
    redact_secrets(settings)
    namespace = SANDBOX_NAMESPACE if settings.sandbox else ""
    with needs_team("MCP_VEGA_LEDGER"):
        return JobStore.in_postgres(settings.ledger.get_secret_value(), namespace=namespace)


@asynccontextmanager
async def open_job_store(settings: Settings) -> AsyncGenerator[JobStore | None]:
    """The ledger, for a command that must not create a file; None if there is no file."""
    try:
        is_there = settings.ledger is not None or settings.ledger_file.exists()
    except OSError:
        is_there = True  # the ledger explains why it cannot be read
    store = job_store_of(settings)
    try:
        yield store if is_there else None
    finally:
        await store.close()


def require_stores(settings: Settings) -> None:
    """Check what is known only when the stores are built: default folders, and what a team's stores need.

    Raises:
        InvalidSettings: A folder has no default, a package is missing, or a variable of a cloud cannot be used.
    """
    settings.require_folders()
    if settings.ledger:
        job_store_of(settings)
    if settings.gallery_url:
        image_store_of(settings)


def redact_secrets(settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
    """Redact the secrets of the environment in all texts. Only the stores of a team use them."""
    from mcp_vega.settings.secrets import secrets_of

    for secret in secrets_of(settings, environment):
        add_secret(secret)


def warn_of_key(settings: Settings) -> None:
    """Log in one line why the key cannot be used. The tools say it as well."""
    try:
        key_of(settings).usable()
    except InvalidSettings as error:
        warn(error)


def warn(error: VegaError) -> None:
    """Log in one line what is wrong, and the next step."""
    logger.warning("%s. %s", error.what, error.next_step)


def image_folder_of(settings: Settings) -> ImageFolder:
    """The gallery, if it is a folder."""
    return ImageFolder(settings.gallery_folder)


def rescued_folder_of(settings: Settings) -> Path:
    """The folder for pictures that the gallery cannot take."""
    return settings.home_folder / "rescued"


def image_store_of(settings: Settings, *, fallbacks: bool = True) -> FallbackImageStore:
    """The gallery, and, with `fallbacks`, the folders that take a paid picture when the gallery cannot.

    If several servers on different disks share the ledger, the addresses of these folders say whose they are. The
    gallery is the same for all servers.

    Raises:
        InvalidSettings: The gallery is a bucket, and a package is missing, or a variable of its cloud cannot be used.
    """
    disk = replica_disk_name(settings.home_folder) if settings.ledger else ""
    open_other = partial(open_store, disk=disk)
    first = bucket_of(settings) if settings.gallery_url else image_folder_of(settings)
    if not fallbacks:
        return FallbackImageStore([first], open_other)
    stores: list[ImageStore] = [first, ImageFolder(rescued_folder_of(settings), private=True, disk=disk)]
    with suppress(FileNotFoundError):  # there is no temporary folder
        # All users share the temporary folder, except on Windows, so the name holds the user's id.
        user = "" if sys.platform == "win32" else f"-{os.getuid()}"
        stores.append(ImageFolder(Path(tempfile.gettempdir()) / f"mcp-vega{user}", private=True, disk=disk))
    return FallbackImageStore([*stores, MemoryImageStore()], open_other)


def bucket_of(settings: Settings) -> ImageStore:
    """The gallery, if it is a bucket. Raises as `image_store_of` does."""
    from mcp_vega.storage.images.bucket import Bucket

    redact_secrets(settings)
    return Bucket(settings.gallery_url)


def preview_cache_of(settings: Settings) -> PreviewCache:
    """Where the small previews are kept."""
    return PreviewCache(settings.home_folder / "previews")


def _folders_of(settings: Settings) -> dict[Path | str, str]:
    """The folders and the bucket that errors name, and the variables that say where they are."""
    folders: dict[Path | str, str] = {settings.home_folder: "MCP_VEGA_HOME"}
    folders[settings.gallery_url or settings.gallery_folder] = "MCP_VEGA_GALLERY"
    with suppress(FileNotFoundError):
        folders[Path(tempfile.gettempdir())] = "TMPDIR"
    return folders
