"""Finds in the ledger what the user of a command names: a job, or a picture and its job."""

import re

from mcp_vega.cli.application import open_job_store
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
