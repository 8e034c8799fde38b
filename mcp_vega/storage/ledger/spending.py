"""The limits on spending and on the number of calls; what was spent, and what is reserved for calls under way.

A call counts with the cost that the API reported, else with the estimate. A call that was certainly not charged does
not count. A call that was not sent does not count once its server has died. Each job's row has its amount, and there is
a sum for each day and owner, in billionths of a US dollar.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from mcp_vega.errors import Charged, SpendingLimitReached
from mcp_vega.job import OPERATOR, SANDBOX, Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.sql import queries

BILLION = 10**9
FIRST_DAY = date(1970, 1, 1)
# No call costs more. The sum of many such amounts still fits into 64 bits.
MOST_USD = Decimal(1_000_000)


@dataclass(frozen=True)
class Limits:
    """The limits on paid calls. They apply to all servers on a ledger together; None means no limit."""

    usd_a_day: Decimal | None = None  # US dollars in a UTC day
    calls_a_minute: int | None = None  # calls in any sixty seconds
    calls_at_once: int = 16  # calls that have no answer yet


@dataclass(frozen=True)
class Budget:
    """The spending limit of a UTC day, and what was spent on that day, in US dollars."""

    limit: Decimal
    spent: Decimal

    @property
    def left(self) -> Decimal:
        """What can still be spent on that day."""
        return max(self.limit - self.spent, Decimal(0))


def dollars(amount: Decimal | None, *, pretend: bool = False) -> str:
    """Return an exact amount for people, such as `$1,234.50` or `$0.00225`; `pretend` marks amounts of the sandbox."""
    if amount is None:
        return "unknown"
    whole, _, cents = f"{abs(amount).normalize():,f}".partition(".")
    return f"{'-' if amount < 0 else ''}${whole}.{cents:0<2}{' (pretend)' if pretend else ''}"


@dataclass(frozen=True)
class DailySpending:
    """What was spent on a UTC day: the calls, the US dollars, and how much of these is only estimated.

    `group` is the model or the owner that it was spent by.
    """

    day: date
    group: str
    calls: int
    usd: Decimal
    estimated_usd: Decimal


class Spending:
    """What was spent, from the ledger. Every method raises a `LedgerError` if the ledger cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def on(self, day: date) -> Decimal:
        """Return what was spent on a UTC day, in US dollars."""
        return await self._database.read(lambda connection: spent_on(connection, day))

    async def since(self, day: date, owner: str = OPERATOR) -> Decimal:
        """Return what was spent on a UTC day and later, in US dollars: by `owner`, or in all for the operator."""
        values = {"day": _number(day), "owner": owner}
        (row,) = await self._database.read(lambda connection: connection.execute(queries.SPENT_SINCE, values))
        return _usd(row["spent"])

    async def by_day(self, column: Literal["model", "owner"], since: date | None = None) -> list[DailySpending]:
        """What was spent on each UTC day by each model or owner, the last day first."""
        statement = queries.SPENT_BY_DAY.format(column=column, day=queries.MICROSECONDS_A_DAY)
        values = {"since": _number(since or date.min)}
        found = await self._database.read(lambda connection: connection.execute(statement, values))
        return [
            DailySpending(
                FIRST_DAY + timedelta(row["day"]), row[column], row["calls"], _usd(row["spent"]), _usd(row["estimated"])
            )
            for row in found
        ]


def billionths(job: Job) -> int:
    """Return the amount with which a job counts, in billionths of a US dollar."""
    if job.charged is Charged.NO:
        return 0
    amount = job.parameters.expected_cost if job.receipt.cost is None else job.receipt.cost
    return int((min(amount, MOST_USD) * BILLION).to_integral_value(ROUND_CEILING))


def _number(day: date) -> int:
    """Return a day as the ledger has it: days since 1970."""
    return (day - FIRST_DAY).days


def _usd(amount: int) -> Decimal:
    return Decimal(amount) / BILLION


# ---- within transactions that are open already ----


def spent_on(connection: Connection, day: date) -> Decimal:
    """Return what was spent on a UTC day, in US dollars."""
    (row,) = connection.execute(queries.SPENT, {"day": _number(day)})
    return _usd(row["spent"])


def reserve(connection: Connection, job: Job, limit: Decimal | None) -> bool:
    """Reserve the likely cost of a job: it counts as spent from now on. False if it would exceed the day's limit."""
    values = {
        "day": _number(job.created.date()),
        "owner": job.owner,
        "amount": billionths(job),
        "limit": None if limit is None else int(min(limit, MOST_USD) * BILLION),
    }
    return bool(connection.execute(queries.RESERVE, values))


def limit_reached(connection: Connection, job: Job, limit: Decimal | None) -> SpendingLimitReached:
    """Why a job that there is no room for is refused."""
    amounts = (job.parameters.expected_cost, spent_on(connection, job.created.date()), limit)
    cost, spent, most = (dollars(amount, pretend=job.base_url == SANDBOX) for amount in amounts)
    return SpendingLimitReached(f"The call is likely to cost {cost}, and {spent} of today's {most} (UTC) are spent")


def counted(connection: Connection, local_id: str) -> int:
    """Return the amount with which a job counts so far, in billionths of a US dollar."""
    found = connection.execute("SELECT spent FROM jobs WHERE local_id = :local_id", {"local_id": local_id})
    return found[0]["spent"] if found else 0


def add(connection: Connection, local_id: str, amount: int) -> None:
    """Add an amount, which may be negative, to a job's day, in billionths of a US dollar."""
    if amount:
        connection.execute(queries.ADD_SPENT, {"local_id": local_id, "amount": amount})


def give_back(connection: Connection, local_id: str) -> None:
    """Release the money that was reserved for a job: it counts with 0 from now on."""
    add(connection, local_id, -counted(connection, local_id))
    connection.execute("UPDATE jobs SET spent = 0 WHERE local_id = :local_id", {"local_id": local_id})
