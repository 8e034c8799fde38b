"""What was spent, as it stands in the ledger.

A call counts with the cost that the API told, else with the estimate; one that was surely not charged does not count.
"""

import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal

from mcp_vega.storage.database import queries, rows
from mcp_vega.storage.database.sqlite import Database


@dataclass(frozen=True)
class DailySpending:
    """What was spent on a model on a UTC day: the calls, the US dollars, and how much of these is only estimated."""

    day: date
    model: str
    calls: int
    usd: Decimal
    estimated_usd: Decimal


class Spending:
    """Adds up the jobs in the ledger. Every method raises a `LedgerError` where the file cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def on(self, day: date) -> Decimal:
        """What was spent on a UTC day, in US dollars."""
        return await self._database.read(lambda database: spent_on(database, day))

    async def by_day(self) -> list[DailySpending]:
        """What was spent on each model and UTC day, the last day first."""
        return await self._database.read(_by_day)


def spent_on(database: sqlite3.Connection, day: date) -> Decimal:
    """What was spent on a UTC day, in US dollars, within a transaction that is open already."""
    first, last = (datetime.combine(day, time, UTC) for time in (datetime.min.time(), datetime.max.time()))
    values = {"since": rows.moment(first), "until": rows.moment(last)}
    # Added up here: SQLite has no exact decimals.
    found = database.execute(queries.SPENT, values)
    return sum(((rows.number(row["amount"]) or Decimal(0)) * row["calls"] for row in found), Decimal(0))


def _by_day(database: sqlite3.Connection) -> list[DailySpending]:
    found: dict[tuple[str, str], DailySpending] = {}
    for row in database.execute(queries.SPENT_BY_DAY):
        key = (row["day"], row["model"])
        day = date.fromisoformat(row["day"])
        so_far = found.get(key) or DailySpending(day, row["model"], 0, Decimal(0), Decimal(0))
        usd = (rows.number(row["amount"]) or Decimal(0)) * row["calls"]
        found[key] = replace(
            so_far,
            calls=so_far.calls + row["calls"],
            usd=so_far.usd + usd,
            estimated_usd=so_far.estimated_usd + (usd if row["estimated"] else 0),
        )
    return list(found.values())
