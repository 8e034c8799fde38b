"""The gallery and the ledger."""

import shutil

import anyio

from mcp_vega.cli.api_client import key_of
from mcp_vega.cli.application import api_of, image_folder_of, open_job_store
from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.doctor.team import check_bucket, check_database
from mcp_vega.cli.output import command_line
from mcp_vega.errors import GalleryError, InvalidSettings, LedgerError
from mcp_vega.settings import Settings
from mcp_vega.storage.images import confinement
from mcp_vega.storage.images.folder import WANTED_BYTES
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.servers import Activity

NO_SERVER = "none is working on a job"


def check_gallery(settings: Settings) -> list[Check]:
    """Whether a picture can be kept: the check gallery."""
    if settings.gallery_url:
        return check_bucket(settings)
    image_folder = image_folder_of(settings)
    is_there = image_folder.probe()
    free = shutil.disk_usage(confinement.nearest(image_folder.folder)).free
    if free < WANTED_BYTES:
        raise GalleryError(f"The disk of {image_folder.folder} is full", next_step="Free some space on the disk")
    said = f"{image_folder.folder} can be {'written' if is_there else 'created'}; {free / 1e9:,.1f} GB are free"
    if settings.ledger:
        said += "; all servers on the ledger must find the same pictures there"
    return [Check("gallery", State.GOOD, said)]


def check_ledger(settings: Settings) -> list[Check]:
    """Whether jobs can be kept, and which servers work on them: the checks ledger, servers and jobs."""
    found = anyio.run(_activity, settings)
    if found is None:
        return [
            Check("ledger", State.GOOD, f"{settings.ledger_name} does not exist yet and can be created"),
            Check("servers", State.GOOD, NO_SERVER),
            Check("jobs", State.GOOD, "none yet"),
        ]
    activity, of_other_keys = found
    # A server enters the ledger with its first job, so servers without a job are not counted.
    count, numbers = len(activity.processes), ", ".join(map(str, activity.processes))
    process = "process" if count == 1 else "processes"
    servers = f"{count} working on jobs ({process} {numbers})" if count else NO_SERVER
    ledger = Check("ledger", State.GOOD, f"{settings.ledger_name} can be read and written")
    if settings.ledger:
        ledger = check_database(settings, settings.ledger.get_secret_value())
    return [
        ledger,
        Check("servers", State.GOOD, servers),
        _jobs_check(activity, of_other_keys, settings),
    ]


async def _activity(settings: Settings) -> tuple[Activity, int] | None:
    """What servers do with the ledger, and how many unfinished jobs need another key; None if there is no ledger."""
    async with open_job_store(settings) as store:
        if store:
            return await store.activity(), await _jobs_of_other_keys(store, settings)
    try:
        confinement.probe(settings.home_folder)
    except OSError as error:
        raise LedgerError(f"The folder {settings.home_folder} cannot be written: {error.strerror}") from error
    return None


async def _jobs_of_other_keys(store: JobStore, settings: Settings) -> int:
    try:
        account = await store.accounts.of_key(key_of(settings).usable())
    except InvalidSettings:  # the check of the key says so
        return 0
    return await store.accounts.count_of_others(api_of(settings), account)


def _jobs_check(activity: Activity, of_other_keys: int, settings: Settings) -> Check:
    if not activity.under_way + activity.unknown:
        return Check("jobs", State.GOOD, "all have ended")
    said = f"{activity.under_way} under way, {activity.unknown} with an unknown outcome"
    fix = f"Wait. `{command_line('jobs', sandbox=settings.sandbox)}` shows how they end. Do not repeat these calls"
    if activity.unattended:
        said += f"; no server works on {activity.unattended} of them"
        fix = (
            "Start a host. Its server continues the jobs that were begun with the same SEGMIND_BASE_URL and API key. "
            "Do not repeat these calls"
        )
    if of_other_keys:
        said += f"; {of_other_keys} of them were begun with another API key"
        fix = (
            "Start a server once with that SEGMIND_API_KEY: only that account can see how they ended. Do not repeat "
            "these calls"
        )
    return Check("jobs", State.NOTE, said, fix)
