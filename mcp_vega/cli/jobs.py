"""`mcp-vega jobs`: the ledger for people, as a table, and for programs, as JSON."""

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio

from mcp_vega.cli.application import open_job_store
from mcp_vega.cli.output import write
from mcp_vega.errors import Charged, InvalidArguments, UnknownJob
from mcp_vega.job import Job
from mcp_vega.parameters import MODELS
from mcp_vega.redaction import named, quoted
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.results import records
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import Budget, DailySpending, dollars

HEADINGS = ("REQUEST ID", "STATE", "MODEL", "SEED", "COST", "PROMPT", "FILE")
SPENT_HEADINGS = ("DAY (UTC)", "MODEL", "CALLS", "SPENT", "OF THAT ESTIMATED")
PROMPT_WIDTH = 40


def run_jobs(options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the latest jobs, or one in full; returns the exit code.

    Raises:
        LedgerError: The ledger cannot be read.
        UnknownJob: No job has the id that was asked for.
        InvalidArguments: Several have one that begins like it.
    """
    settings = Settings.from_environment(environment)
    if options.spent:
        return _run_spent(options, settings)
    jobs = anyio.run(_read, settings, options.id, options.limit)
    if options.id and not jobs:
        raise UnknownJob(
            f"The ledger {settings.ledger_file} has no job with the id {named(options.id)}",
            next_step="Call mcp-vega jobs without an id to list the latest jobs",
        )
    if options.json:
        data = [records.record_of(job, ClientInfo()) for job in jobs]
        write(json.dumps(data[0] if options.id else data, indent=2, ensure_ascii=False))
    elif options.id:
        write("\n".join(_in_full(jobs[0])))
    elif jobs:
        write("\n".join(_aligned([HEADINGS, *(_row(job) for job in jobs)])))
    else:
        sys.stderr.write(f"No jobs yet in {settings.ledger_file}\n")
    return 0


def _run_spent(options: Namespace, settings: Settings) -> int:
    """Print what was spent, by day and model; returns the exit code."""
    if options.id:
        raise InvalidArguments(
            "--spent adds up all jobs, so it takes no ID", next_step="Leave the one or the other out"
        )
    spent = anyio.run(_read_spent, settings)
    days = sorted({each.day for each in spent}, reverse=True)[: options.limit]
    shown = [each for each in spent if each.day in days]
    if options.json:
        write(json.dumps([_spent_data(each) for each in shown], indent=2))
    elif shown:
        write("\n".join(_aligned([SPENT_HEADINGS, *(_spent_row(each) for each in shown)])))
    else:
        sys.stderr.write(f"Nothing spent yet in {settings.ledger_file}\n")
    limit, today = settings.spending_limit_usd, datetime.now(UTC).date()
    if limit is not None and not options.json:
        left = Budget(limit, sum((each.usd for each in spent if each.day == today), Decimal(0))).left
        sys.stderr.write(f"Spending limit: {dollars(left)} of {dollars(limit)} left today (UTC)\n")
    return 0


async def _read_spent(settings: Settings) -> list[DailySpending]:
    async with open_job_store(settings) as store:
        return await store.spending.by_day() if store else []


def _spent_row(spent: DailySpending) -> tuple[str, ...]:
    model = MODELS[spent.model].alias if spent.model in MODELS else spent.model
    estimated = dollars(spent.estimated_usd) if spent.estimated_usd else "–"
    return (str(spent.day), model, str(spent.calls), dollars(spent.usd), estimated)


def _spent_data(spent: DailySpending) -> dict[str, Any]:
    return {
        "day": str(spent.day),
        "model": spent.model,
        "calls": spent.calls,
        "usd": float(spent.usd),
        "estimated_usd": float(spent.estimated_usd),
    }


async def _read(settings: Settings, named: str | None, limit: int) -> list[Job]:
    """The latest jobs, or the one that is named."""
    async with open_job_store(settings) as store:
        if store is None:
            return []
        if named is None:
            return await store.latest(limit)
        name = await store.search.id_named(named)
        image = await store.search.image(name)
        job = image.job if image else await store.get(name)
        return [job] if job else []


# ---- for people ----


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns under one another, as wide as the terminal is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    if not sys.stdout.isatty():
        return list(lines)
    columns = shutil.get_terminal_size().columns
    return [line if len(line) <= columns else f"{line[: columns - 1]}…" for line in lines]


def _row(job: Job) -> tuple[str, ...]:
    prompt = quoted(job.parameters.prompt, PROMPT_WIDTH)
    paths = ["deleted" if image.deleted else str(image.path or image.uri) for image in job.images]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    file = f"{paths[0]}{more}" if paths else "–"
    state = str(job.state)
    return (job.request_id, state, job.parameters.alias, str(job.seed), _cost(job), prompt, file)


def _in_full(job: Job) -> list[str]:
    problem = job.problem
    facts: list[tuple[str, object]] = [
        ("Request id", job.request_id),
        ("Local id", job.local_id),
        ("State", job.state),
        ("Model", job.model),
        ("Prompt", quoted(job.parameters.prompt, len(job.parameters.prompt))),
        ("Seed", job.seed),
        ("Parameters", job.parameters.model_dump_json(exclude={"prompt", "seed"})),
        ("Route", job.route),
        ("API", job.base_url),
        ("Begun", _time(job.created)),
        ("Sent", _time(job.sent)),
        ("Ended", _time(job.ended)),
        ("Charged", job.charged),
        ("Cost", _cost(job)),
        ("Credits left", dollars(job.receipt.credits_left)),
        ("Seconds", "unknown" if job.receipt.seconds is None else job.receipt.seconds),
        *(("Note", note) for note in job.notes if not problem),
        *([("Error", f"{problem.what} ({problem.code})"), ("Next", problem.next_step)] if problem else []),
    ]
    for image in job.images:
        place = f"deleted on {image.deleted:%Y-%m-%d} (UTC)" if image.deleted else image.path or image.uri
        facts += [("Image", f"{place} ({image.width}×{image.height}, {image.bytes:,} bytes, sha256 {image.sha256})")]
    return [f"{f'{name}:':14}{value}" for name, value in facts]


def _cost(job: Job) -> str:
    return "no charge" if job.charged is Charged.NO else dollars(job.receipt.cost)


def _time(moment: datetime | None) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %z}" if moment else "–"
