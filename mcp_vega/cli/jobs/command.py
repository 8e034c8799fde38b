"""`mcp-vega jobs`: the ledger as a table, or as JSON."""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time

import anyio

from mcp_vega.cli.application import open_job_store
from mcp_vega.cli.jobs.details import details_of
from mcp_vega.cli.jobs.lookup import find_named, hint_at_other_ledger, say_hint
from mcp_vega.cli.jobs.spent import print_spent
from mcp_vega.cli.jobs.words import cost_of, state_of
from mcp_vega.cli.output import Column, command_line, shortened, table, terminal_width, write
from mcp_vega.errors import InvalidArguments, UnknownJob
from mcp_vega.job import Job
from mcp_vega.redaction import named, printable
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.results import records
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.search import FEWEST_DIGITS

# How many jobs or days are shown, unless the options say otherwise.
SHOWN, ALL = 20, 10**9
# The width of a prompt if stdout is no terminal.
PROMPT_WIDTH = 80


def run_jobs(options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the latest jobs, or one in full, or what was spent; returns the exit code.

    Raises:
        LedgerError: The ledger cannot be read.
        UnknownJob: No job has the id that was asked for.
        InvalidArguments: The options contradict each other, or several ids begin like the one that was given.
    """
    settings = Settings.from_environment(environment)
    if options.id and (options.spent or options.since):
        option = "--spent" if options.spent else "--since"
        raise InvalidArguments(f"{option} is about many jobs, and ID about one", next_step=f"Leave out {option} or ID")
    if options.by and not options.spent:
        raise InvalidArguments("--by says what --spent adds up", next_step="Add --spent, or leave out --by")
    limit = options.limit or (ALL if options.since else SHOWN)
    if options.id:
        _print_one(options, settings)
    elif options.spent:
        print_spent(options, settings, limit)
    else:
        _print_list(options, settings, limit)
    return 0


def _print_one(options: Namespace, settings: Settings) -> None:
    found = anyio.run(find_named, options.id, settings)
    if found is None:
        listing = command_line("jobs", sandbox=settings.sandbox)
        step = f"Run `{listing}` to list the latest jobs; an id needs at least {FEWEST_DIGITS} digits"
        raise UnknownJob(
            f"The ledger {settings.ledger_name} has no job with the id {named(options.id)}",
            next_step=anyio.run(hint_at_other_ledger, settings, options.id) or step,
        )
    job, _ = found
    if options.json:
        write(json.dumps(records.record_of(job, ClientInfo()), indent=2, ensure_ascii=False))
    else:
        write("\n".join(details_of(job, terminal_width())))


def _print_list(options: Namespace, settings: Settings, limit: int) -> None:
    jobs, ids = anyio.run(_read, settings, limit, options.since)
    if options.json:
        write(json.dumps([records.record_of(job, ClientInfo()) for job in jobs], indent=2, ensure_ascii=False))
    elif jobs:
        write(_table(jobs, ids, terminal_width()))
        if settings.sandbox:
            sys.stderr.write("The money of the sandbox is pretend.\n")
    else:
        since = f" since {options.since} (UTC)" if options.since else " yet"
        sys.stderr.write(f"No jobs{since} in {settings.ledger_name}\n")
        say_hint(settings)


async def _read(settings: Settings, limit: int, since: date | None) -> tuple[list[Job], list[str]]:
    """The latest jobs, and for each as much of its id as names it."""
    async with open_job_store(settings) as store:
        if store is None:
            return [], []
        jobs = await store.latest(limit, since=since and datetime.combine(since, time(), UTC))
        return jobs, await store.search.short_ids(jobs)


def _table(jobs: Sequence[Job], ids: Sequence[str], width: int | None) -> str:
    if width is None:
        ids = [job.request_id for job in jobs]
    now = datetime.now().astimezone()
    begun = [job.created.astimezone() for job in jobs]
    prompts = [shortened(printable(job.parameters.prompt), width or PROMPT_WIDTH) for job in jobs]
    columns = [
        Column(
            "WHEN (LOCAL)",
            [_time(each, now, whole=width is None) for each in begun],
            rank=2,
            short=Column("WHEN", [_short_time(each, now) for each in begun]),
        ),
        Column("PROMPT", prompts, flexible=True),
        Column("MODEL", [job.parameters.alias for job in jobs], rank=4),
        Column("COST", [cost_of(job) for job in jobs], rank=3),
        Column("STATE", [state_of(job) for job in jobs], rank=1),
        Column("ID", ids),
    ]
    return table(columns, width)


def _time(moment: datetime, now: datetime, *, whole: bool) -> str:
    """When something was; of another year the day alone, unless the `whole` is asked for."""
    if moment.year == now.year:
        return f"{moment:%m-%d %H:%M}"
    return f"{moment:%Y-%m-%d %H:%M}" if whole else f"{moment:%Y-%m-%d}"


def _short_time(moment: datetime, now: datetime) -> str:
    """When something was, as exactly as five characters say it."""
    if moment.date() == now.date():
        return f"{moment:%H:%M}"
    return f"{moment:%m-%d}" if moment.year == now.year else f"{moment:%Y}"
