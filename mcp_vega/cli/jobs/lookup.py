"""Finds in the ledger what the user of a command names: a job, or a picture and its job."""

import re
import sys

import anyio

from mcp_vega.cli.application import open_job_store
from mcp_vega.errors import InvalidArguments, LedgerError
from mcp_vega.job import REQUEST_ID, Image, Job
from mcp_vega.settings import Settings


async def find_named(text: str, settings: Settings) -> tuple[Job, Image | None] | None:
    """The job that is named, and the picture if one of its pictures is named; None if the ledger has neither.

    Both are named by an id, the first eight digits of one or more, a URI, a URL, or the name of a picture's file.

    Raises:
        LedgerError: The ledger cannot be read.
        InvalidArguments: Several ids begin like this.
    """
    async with open_job_store(settings) as store:
        if store is None:
            return None
        name = await store.search.id_named(text)
        if not re.fullmatch(REQUEST_ID, name):  # a file's name may have bytes that are not UTF-8
            return None
        if found := await store.search.image(name):
            return found.job, found.image
        job = await store.get(name)
        return (job, None) if job else None


async def hint_at_other_ledger(settings: Settings, text: str = "") -> str:
    """What to do if the other ledger has what this one lacks; empty if it does not. The sandbox has its own ledger.

    With a `text`, this ledger lacks the job or picture that the text names. Without one, the hint is for a ledger
    without jobs. The other ledger is only read if it exists. If it cannot be read, there is no hint. In PostgreSQL, to
    read a ledger creates it, so there is no hint either.
    """
    if settings.ledger:
        return ""
    other = settings.model_copy(update={"sandbox": not settings.sandbox})
    try:
        found = bool(await find_named(text, other)) if text else await _has_jobs(other)
        if not found or (not text and await _has_jobs(settings)):
            return ""
    except InvalidArguments:  # several of its ids begin like this
        pass
    except LedgerError:
        return ""
    what = "it" if text else "jobs"
    if other.sandbox:
        return f"The sandbox's ledger has {what}: add --sandbox"
    return f"The ledger outside the sandbox has {what}: leave out --sandbox, or unset MCP_VEGA_SANDBOX"


def say_hint(settings: Settings) -> None:
    """Write the hint for a ledger without jobs to stderr, if there is one."""
    if hint := anyio.run(hint_at_other_ledger, settings):
        sys.stderr.write(f"{hint}.\n")


async def _has_jobs(settings: Settings) -> bool:
    async with open_job_store(settings) as store:
        return bool(store and await store.latest(1))
