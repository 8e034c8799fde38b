"""What may be spent on calls and how fast; what was spent, and what of it is reserved for calls under way.

A call counts with the cost that the API told, else with the estimate; one that was surely not charged does not count,
and one that was not sent does not once its server has died. Each job has what it counts for in its row, and each day
and owner the sum, in billionths of a US dollar.
"""

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal

from mcp_vega.errors import Charged, SpendingLimitReached
from mcp_vega.job import OPERATOR, SANDBOX, Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import queries

BILLION = 10**9
# More than any call costs; the sum of many still fits into 64 bits.
MOST_USD = Decimal(1_000_000)


@dataclass(frozen=True)
class Limits:
    """The limits on paid calls that all servers on a ledger keep together; None is no limit."""

    usd_a_day: Decimal | None = None  # US dollars in a UTC day
    calls_a_minute: int | None = None  # in any sixty seconds
    calls_at_once: int = 16  # whose answer has not come yet


@dataclass(frozen=True)
class Budget:
    """A UTC day's spending limit and what was spent of it, in US dollars."""

    limit: Decimal
    spent: Decimal

    @property
    def left(self) -> Decimal:
        """What can still be spent."""
        return max(self.limit - self.spent, Decimal(0))


def dollars(amount: Decimal | None, *, pretend: bool = False) -> str:
    """An amount for people, exact: `$1,234.50`, `$0.00225`; `pretend` marks that of a sandbox."""
    if amount is None:
        return "unknown"
    whole, _, cents = f"{abs(amount).normalize():,f}".partition(".")
    return f"{'-' if amount < 0 else ''}${whole}.{cents:0<2}{' (pretend)' if pretend else ''}"


@dataclass(frozen=True)
class DailySpending:
    """What was spent on a model on a UTC day: the calls, the US dollars, and how much of these is only estimated."""

    day: date
    model: str
    calls: int
    usd: Decimal
    estimated_usd: Decimal


class Spending:
    """What was spent, in the ledger. Every method raises a `LedgerError` where it cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def on(self, day: date) -> Decimal:
        """What was spent on a UTC day, in US dollars."""
        return await self._database.read(lambda connection: spent_on(connection, day))

    async def since(self, day: date, owner: str = OPERATOR) -> Decimal:
        """What `owner` may know was spent on a UTC day and later, in US dollars."""
        values = {"day": day.isoformat(), "owner": owner}
        (row,) = await self._database.read(lambda connection: connection.execute(queries.SPENT_SINCE, values))
        return _usd(row["spent"])

    async def by_day(self) -> list[DailySpending]:
        """What was spent on each model and UTC day, the last day first."""
        found = await self._database.read(lambda connection: connection.execute(queries.SPENT_BY_DAY))
        return [
            DailySpending(
                date.fromisoformat(row["day"]), row["model"], row["calls"], _usd(row["spent"]), _usd(row["estimated"])
            )
            for row in found
        ]


def billionths(job: Job) -> int:
    """What a job counts for."""
    if job.charged is Charged.NO:
        return 0
    amount = job.parameters.expected_cost if job.receipt.cost is None else job.receipt.cost
    return int((min(amount, MOST_USD) * BILLION).to_integral_value(ROUND_CEILING))


def _usd(amount: int) -> Decimal:
    return Decimal(amount) / BILLION


# ---- within transactions that are open already ----


def spent_on(connection: Connection, day: date) -> Decimal:
    """What was spent on a UTC day, in US dollars."""
    (row,) = connection.execute(queries.SPENT, {"day": day.isoformat()})
    return _usd(row["spent"])


def reserve(connection: Connection, job: Job, limit: Decimal | None) -> bool:
    """Count what a job is likely to cost as spent from now on, where the day's limit has room for it."""
    values = {
        "day": job.created.date().isoformat(),
        "owner": job.owner,
        "amount": billionths(job),
        "limit": None if limit is None else int(min(limit, MOST_USD) * BILLION),
    }
    return bool(connection.execute(queries.RESERVE, values))


def limit_reached(connection: Connection, job: Job, limit: Decimal | None) -> SpendingLimitReached:
    """Why a job that there is no room for is refused."""
    amounts = (job.parameters.expected_cost, spent_on(connection, job.created.date()), limit)
    cost, spent, most = (dollars(amount, pretend=job.base_url == SANDBOX) for amount in amounts)
    return SpendingLimitReached(f"The call is likely to cost {cost}, and {spent} of today's {most} are spent")


def counted(connection: Connection, local_id: str) -> int:
    """What a job counts for so far, in billionths of a US dollar."""
    found = connection.execute("SELECT spent FROM jobs WHERE local_id = :local_id", {"local_id": local_id})
    return found[0]["spent"] if found else 0


def add(connection: Connection, local_id: str, amount: int) -> None:
    """Have a job count for more, or for less, on its day; in billionths of a US dollar."""
    if amount:
        connection.execute(queries.ADD_SPENT, {"local_id": local_id, "amount": amount})


def give_back(connection: Connection, local_id: str) -> None:
    """Have a job count for nothing any more."""
    add(connection, local_id, -counted(connection, local_id))
    connection.execute("UPDATE jobs SET spent = 0 WHERE local_id = :local_id", {"local_id": local_id})
