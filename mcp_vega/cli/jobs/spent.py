"""What was spent, by day and model or caller."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import anyio

from mcp_vega.cli.application import limits_of, open_job_store
from mcp_vega.cli.jobs.lookup import say_hint
from mcp_vega.cli.output import Column, table, terminal_width, write
from mcp_vega.job import OPERATOR
from mcp_vega.parameters import MODELS
from mcp_vega.server.http.access.callers import name_of
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import DailySpending, dollars

# Who works at the machine itself; no caller has a name with brackets.
THIS_MACHINE = "(this machine)"


def print_spent(options: Namespace, settings: Settings, most_days: int) -> None:
    """Print what was spent on each day, the last one first; raises a `LedgerError` if the ledger cannot be read."""
    by = options.by or "model"
    spent, today_usd = anyio.run(_read, settings, by == "caller", options.since)
    days = sorted({each.day for each in spent}, reverse=True)
    shown = [each for each in spent if each.day in days[:most_days]]
    if options.json:
        write(json.dumps([_data_of(each, by) for each in shown], indent=2))
        return
    if shown:
        write(_table(shown, by, settings))
    else:
        since = f" since {options.since} (UTC)" if options.since else " yet"
        sys.stderr.write(f"Nothing spent{since} in {settings.ledger_name}\n")
        say_hint(settings)
    if more := len(days) - len(days[:most_days]):
        sys.stderr.write(f"Not shown: {more} earlier {'day' if more == 1 else 'days'}. --limit N shows more.\n")
    if settings.sandbox and shown:
        sys.stderr.write("The money of the sandbox is pretend.\n")
    _print_limits(settings, today_usd)


def _print_limits(settings: Settings, today_usd: Decimal) -> None:
    limits = limits_of(settings)
    if (limit := limits.usd_a_day) is not None:
        left, most = (dollars(usd, pretend=settings.sandbox) for usd in (max(limit - today_usd, Decimal(0)), limit))
        sys.stderr.write(f"Spending limit: {left} of {most} left today (UTC)\n")
    if limits.usd_a_day_each is not None:
        sys.stderr.write(
            f"Spending limit of each caller: {dollars(limits.usd_a_day_each, pretend=settings.sandbox)} a day (UTC)\n"
        )


async def _read(settings: Settings, by_caller: bool, since: date | None) -> tuple[list[DailySpending], Decimal]:  # noqa: FBT001  by anyio.run
    """What was spent, and how much of it today."""
    async with open_job_store(settings) as store:
        if store is None:
            return [], Decimal(0)
        today = datetime.now(UTC).date()
        return await store.spending.by_day("owner" if by_caller else "model", since), await store.spending.on(today)


def _table(spent: Sequence[DailySpending], by: str, settings: Settings) -> str:
    calls = sum(each.calls for each in spent)
    usd = sum((each.usd for each in spent), Decimal(0))
    estimated = sum((each.estimated_usd for each in spent), Decimal(0))
    columns = [
        Column("DAY (UTC)", [*(str(each.day) for each in spent), "TOTAL"]),
        # A caller's name begins alike for all who sign in at one place, and ends alike for all of one domain.
        Column(by.upper(), [*(_name(each, by) for each in spent), ""], flexible=True, both_ends=by == "caller"),
        Column("CALLS", [*(f"{each.calls:,}" for each in spent), f"{calls:,}"], rank=1, right=True),
        Column("SPENT", [*(dollars(each.usd) for each in spent), dollars(usd)]),
        Column("ESTIMATED", [*(_or_none(each.estimated_usd) for each in spent), _or_none(estimated)], rank=2),
    ]
    limits = limits_of(settings)
    limit = limits.usd_a_day if limits.usd_a_day_each is None else limits.usd_a_day_each
    if by == "caller" and limit:
        shares = [f"{each.usd / limit:.0%}" for each in spent]
        columns.append(Column(f"OF {dollars(limit)}", [*shares, ""], rank=3, right=True))
    return table(columns, terminal_width())


def _or_none(usd: Decimal) -> str:
    return dollars(usd) if usd else "–"


def _name(spent: DailySpending, by: str) -> str:
    if by == "model":
        return MODELS[spent.group].alias if spent.group in MODELS else spent.group
    return THIS_MACHINE if spent.group == OPERATOR else _caller(spent.group)


def _caller(owner: str) -> str:
    """The name of a caller. A caller without a name gets the first digits of their token's hash."""
    return name_of(owner) or f"token {owner[:8]}"


def _data_of(spent: DailySpending, by: str) -> dict[str, Any]:
    """As JSON; the caller is null if it is this machine."""
    group = spent.group if by == "model" else _caller(spent.group) if spent.group != OPERATOR else None
    return {
        "day": str(spent.day),
        by: group,
        "calls": spent.calls,
        "usd": float(spent.usd),
        "estimated_usd": float(spent.estimated_usd),
    }
