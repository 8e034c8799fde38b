"""`mcp-vega export` and `mcp-vega import`."""

from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio

from mcp_vega import __version__
from mcp_vega.cli.api_client import key_of
from mcp_vega.cli.application import image_store_of, job_store_of, open_job_store, require_stores
from mcp_vega.cli.gallery.folder import readable
from mcp_vega.cli.jobs.lookup import hint_at_other_ledger
from mcp_vega.cli.output import command_line, write
from mcp_vega.cli.transfer.archive import ArchiveReader, reading, writing
from mcp_vega.cli.transfer.exporting import Exporter
from mcp_vega.cli.transfer.importing import Changes, Counts, Importer
from mcp_vega.cli.transfer.report import Report, number_of
from mcp_vega.errors import InvalidArguments, InvalidSettings, UnknownJob
from mcp_vega.redaction import named
from mcp_vega.server.http.access.callers import HASH, is_owner
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger import accounts
from mcp_vega.storage.ledger.job_store import JobStore


def run_export(options: Namespace, environment: Mapping[str, str]) -> int:
    """Write the jobs and pictures to a file, and print its path; returns the exit code.

    Raises:
        InvalidArguments: The file's path cannot be used.
        UnknownJob: There is no job to export.
        ExportFileError: The file cannot be written.
        LedgerError: The ledger cannot be read.
    """
    settings = Settings.from_environment(environment)
    require_stores(settings)
    file, report = Path(options.file).absolute(), Report(environment, "Exporting")
    if options.owner is not None and not HASH.fullmatch(options.owner):
        _require_name(options.owner)
    try:
        anyio.run(_export, settings, file, options, report)
    finally:
        report.clear()
    write(str(file))
    return int(bool(report.problems))


async def _export(settings: Settings, file: Path, options: Namespace, report: Report) -> None:
    async with open_job_store(settings) as store:
        if not store or not await store.transfer.count(options.owner or ""):
            raise await _nothing_to_export(settings, options.owner)
        with writing(file, datetime.now(UTC), replace=options.force) as archive:
            exporter = Exporter(archive, image_store_of(settings), report)
            await exporter.export(store, options.owner)
            key = (await store.secrets.get(accounts.KEY)).decode()
            archive.finish(key, __version__, sandbox=settings.sandbox, owner=options.owner)
    size = readable(archive.bytes)
    report.say(f"Exported: {number_of(archive.jobs, 'job')} and {number_of(archive.pictures, 'picture')}, {size}.")
    if exporter.unsent:
        which = f"{number_of(exporter.unsent, 'job')} that {'was' if exporter.unsent == 1 else 'were'} not sent yet"
        rule = "Only the servers of this ledger may send such jobs. Export again when they have ended"
        report.say(f"Not exported: {which}. {rule}.")
    if report.problems:
        report.say(f"Not complete: {number_of(report.problems, 'problem')}, see above.")


async def _nothing_to_export(settings: Settings, owner: str | None) -> UnknownJob:
    if owner is None:
        hint = await hint_at_other_ledger(settings)
        step = f"Check MCP_VEGA_HOME and MCP_VEGA_LEDGER: `{command_line('doctor')}` shows which ledger they name"
        return UnknownJob(f"The ledger {settings.ledger_name} has no jobs to export", next_step=hint or step)
    listing = command_line("jobs", "--spent", "--by", "caller", sandbox=settings.sandbox)
    said = f"The ledger {settings.ledger_name} has no jobs of the caller {named(owner)}"
    return UnknownJob(said, next_step=f"Run `{listing}` to list the callers")


def run_import(options: Namespace, environment: Mapping[str, str]) -> int:
    """Add the jobs and pictures of a file to the ledger and the gallery; returns the exit code.

    Raises:
        InvalidArguments: There is no such file, or it does not fit this ledger.
        ExportFileError: The file cannot be read, is damaged, or is not an export.
        GalleryError: The pictures cannot be kept.
        LedgerError: The ledger cannot be written.
    """
    settings = Settings.from_environment(environment)
    require_stores(settings)
    report = Report(environment, "Importing")
    if options.owner is not None:
        _require_name(options.owner)
    with reading(Path(options.file).absolute()) as archive:
        if archive.manifest.sandbox != settings.sandbox:
            raise _other_money(options.file, of_sandbox=archive.manifest.sandbox)
        try:
            anyio.run(_import, settings, archive, options.owner, report)
        finally:
            report.clear()
    return int(bool(report.problems))


async def _import(settings: Settings, archive: ArchiveReader, owner: str | None, report: Report) -> None:
    store = job_store_of(settings)
    # If the bucket cannot be reached, the pictures stay in the file: perhaps no server on this machine would move them.
    images = image_store_of(settings, fallbacks=not settings.gallery_url)
    importer = Importer(archive, store, images, report)
    try:
        if settings.gallery_url and archive.manifest.pictures:
            await images.prepare(datetime.now(UTC).date())
        await importer.import_(await _changes(settings, archive, store, owner))
    finally:
        _say_counts(importer.counts, report)
        await store.close()


async def _changes(settings: Settings, archive: ArchiveReader, store: JobStore, owner: str | None) -> Changes:
    """What changes in the jobs. If the ledger has no key for its accounts yet, it takes the file's."""
    theirs = archive.key
    ours = await store.transfer.use_key(accounts.KEY, theirs)
    changed: dict[str, str] = {}
    try:
        api_key = key_of(settings).usable()
        changed = {accounts.account_of(theirs.encode(), api_key): accounts.account_of(ours.encode(), api_key)}
    except InvalidSettings:
        pass  # without a key, no account is known
    return Changes(owner, changed if ours != theirs else {}, ours == theirs)


def _say_counts(counts: Counts, report: Report) -> None:
    report.say(f"Imported: {number_of(counts.new, 'job')} and {number_of(counts.pictures, 'picture')}.")
    if counts.known:
        report.say(f"There already: {number_of(counts.known, 'job')}.")
    if counts.elsewhere:
        which = f"{number_of(counts.elsewhere, 'picture')} ({counts.why_elsewhere})"
        report.say(f"Kept outside the gallery: {which}. A server on this machine moves such pictures later.")
    if counts.of_other_keys:
        still_open = f", {counts.open_of_other_keys:,} still open" if counts.open_of_other_keys else ""
        report.say(
            f"Of another API key: {number_of(counts.of_other_keys, 'job')}{still_open}. No server on this ledger can "
            "find out how such jobs end, until you set SEGMIND_API_KEY to that key and repeat the import."
        )
    if report.problems:
        report.say(f"Not complete: {number_of(report.problems, 'problem')}, see above.")


def _require_name(name: str) -> None:
    """Check the name of a caller, as MCP_VEGA_AUTH_TOKENS allows it, or the issuer and subject of OAuth.

    Raises:
        InvalidArguments: It is not a name.
    """
    if not is_owner(name) or HASH.fullmatch(name):
        said = f"--owner is {named(name)}, but must have 1 to 64 letters, digits and _.@+-, and not be 32 hex digits"
        step = "Write the name as it is in MCP_VEGA_AUTH_TOKENS. For a caller of OAuth, write 'ISSUER#SUBJECT'"
        raise InvalidArguments(said, next_step=step)


def _other_money(file: str, *, of_sandbox: bool) -> InvalidArguments:
    if of_sandbox:
        step = "Add --sandbox, or export again without --sandbox"
        return InvalidArguments(f"{file} has the jobs of the sandbox, whose money is pretend", next_step=step)
    return InvalidArguments(
        f"{file} has real jobs, which do not belong in the sandbox's ledger", next_step="Leave out --sandbox"
    )
