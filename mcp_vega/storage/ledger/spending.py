"""The limits on spending and on the number of calls; what was spent, and what is reserved for calls under way.

A call counts with the cost that the API reported, else with the estimate. A call that was certainly not charged does
not count. A call that was not sent does not count once its server has died. Each job's row has its amount, and there is
a sum for each day and owner, in billionths of a US dollar.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from mcp_vega.errors import Charged, SpendingLimitReached
from mcp_vega.job import OPERATOR, SANDBOX, Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.sql import limit_queries

BILLION = 10**9
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
        values = {"day": day, "owner": owner}
        (row,) = await self._database.read(lambda connection: connection.execute(limit_queries.SPENT_SINCE, values))
        return _usd(row["spent"])

    async def by_day(self, column: Literal["model", "owner"], since: date | None = None) -> list[DailySpending]:
        """What was spent on each UTC day by each model or owner, the last day first."""
        statement = limit_queries.SPENT_BY_DAY.format(column=column)
        values = {"since": datetime.combine(since or date.min, time(), UTC)}
        found = await self._database.read(lambda connection: connection.execute(statement, values))
        return [
            DailySpending(row["day"], row[column], row["calls"], _usd(row["spent"]), _usd(row["estimated"]))
            for row in found
        ]


def billionths(job: Job) -> int:
    """Return the amount with which a job counts, in billionths of a US dollar."""
    if job.charged is Charged.NO:
        return 0
    amount = job.parameters.expected_cost if job.receipt.cost is None else job.receipt.cost
    return int((min(amount, MOST_USD) * BILLION).to_integral_value(ROUND_CEILING))


def _usd(amount: int) -> Decimal:
    return Decimal(amount) / BILLION


# ---- within transactions that are open already ----


def spent_on(connection: Connection, day: date) -> Decimal:
    """Return what was spent on a UTC day, in US dollars."""
    (row,) = connection.execute(limit_queries.SPENT, {"day": day})
    return _usd(row["spent"])


def reserve(connection: Connection, job: Job, limit: Decimal | None) -> None:
    """Reserve the likely cost of a job: it counts as spent from now on.

    Raises:
        SpendingLimitReached: The job would exceed the day's limit.
    """
    day, amount = job.created.date(), billionths(job)
    if limit is None:
        add(connection, day, job.owner, amount)
        return
    # Held until the transaction ends, so that no two jobs get the same last money of a day.
    connection.lock(f"spending {day}")
    most = int(min(limit, MOST_USD) * BILLION)
    values = {"day": day, "owner": job.owner, "amount": amount, "limit": most}
    if not connection.execute(limit_queries.RESERVE, values):
        amounts = (job.parameters.expected_cost, spent_on(connection, day), limit)
        cost, spent, allowed = (dollars(amount, pretend=job.base_url == SANDBOX) for amount in amounts)
        said = f"The call is likely to cost {cost}, and {spent} of today's {allowed} (UTC) are spent"
        raise SpendingLimitReached(said)


def add(connection: Connection, day: date, owner: str, amount: int) -> None:
    """Add an amount, which may be negative, to what an owner spent on a day, in billionths of a US dollar."""
    if amount:
        connection.execute(limit_queries.ADD_SPENT, {"day": day, "owner": owner, "amount": amount})


def counted(connection: Connection, job: Job) -> int:
    """Return the amount with which a job counts so far, in billionths of a US dollar. It cannot change meanwhile."""
    found = connection.execute(limit_queries.COUNTED, {"local_id": job.local_id})
    return found[0]["spent"] if found else 0


def count(connection: Connection, job: Job, amount: int) -> None:
    """Let a job count with an amount, in billionths of a US dollar. The day's sum must have that amount already."""
    connection.execute(limit_queries.COUNT_AS, {"local_id": job.local_id, "spent": amount})


def give_back_of(connection: Connection, server: str) -> None:
    """Release the money that was reserved for the jobs that a server began and never sent: they count with 0."""
    for row in connection.execute(limit_queries.UNSENT_OF, {"server": server}):
        add(connection, row["day"], row["owner"], -row["spent"])
        connection.execute(limit_queries.COUNT_AS, {"local_id": row["local_id"], "spent": 0})
