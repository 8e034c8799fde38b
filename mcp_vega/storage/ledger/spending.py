"""The limits on spending and on the number of calls; what was spent, and what is reserved for calls under way.

A call counts with the cost that the API reported, else with the estimate. A call that was certainly not charged does
not count, and no limit holds back a call that costs nothing. A call that was not sent does not count once its server
has died. Each job's row has its amount, and there is a sum for each day and owner, in billionths of a US dollar.
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
# No sum reaches this limit.
NO_LIMIT = 2**63 - 1


@dataclass(frozen=True)
class Limits:
    """The limits on paid calls. They apply to all servers on a ledger together; None means no limit."""

    usd_a_day: Decimal | None = None  # US dollars in a UTC day
    calls_a_minute: int | None = None  # calls in any sixty seconds
    calls_at_once: int = 16  # calls that have no answer yet
    usd_a_day_each: Decimal | None = None  # US dollars of each caller in a UTC day


@dataclass(frozen=True)
class Spent:
    """What was spent on a UTC day, in US dollars: by all callers together, and by one of them."""

    by_all: Decimal
    by_owner: Decimal


@dataclass(frozen=True)
class Budget:
    """A spending limit of a UTC day for a caller, in US dollars.

    Attributes:
        limit: The limit of each caller. If there is none, the limit of all callers together.
        spent: What counts towards that limit.
        left: What the caller can still spend on that day. Less than the difference if all callers together reach their
            limit earlier.
    """

    limit: Decimal
    spent: Decimal
    left: Decimal

    @classmethod
    def of(cls, limits: Limits, spent: Spent) -> "Budget | None":
        """Return the budget of a caller; None if there is no limit. It does not show what the others spent.

        Without a limit of each caller, the limit of all is shown as it is, and so is what they spent together.
        """
        found = [(limits.usd_a_day_each, spent.by_owner), (limits.usd_a_day, spent.by_all)]
        limited = [(limit, used) for limit, used in found if limit is not None]
        if not limited:
            return None
        left = min(limit - used for limit, used in limited)
        return cls(*limited[0], max(left, Decimal(0)))


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
        return (await self.by_all_and(OPERATOR, day)).by_all

    async def by_all_and(self, owner: str, day: date) -> Spent:
        """Return what all callers together spent on a UTC day, and how much of it one of them did."""
        return await self._database.read(lambda connection: spent_on(connection, day, owner))

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
    amount = job.expected_cost if job.cost is None else job.cost
    return int((min(amount, MOST_USD) * BILLION).to_integral_value(ROUND_CEILING))


def _usd(amount: int) -> Decimal:
    return Decimal(amount) / BILLION


# ---- within transactions that are open already ----


def spent_on(connection: Connection, day: date, owner: str) -> Spent:
    """Return what was spent on a UTC day, in US dollars."""
    (row,) = connection.execute(limit_queries.SPENT, {"day": day, "owner": owner})
    return Spent(_usd(row["spent"]), _usd(row["by_owner"]))


def reserve(connection: Connection, job: Job, limits: Limits) -> None:
    """Reserve the likely cost of a job: it counts as spent from now on.

    Raises:
        SpendingLimitReached: The job would exceed the day's limit of all callers, or of its caller.
    """
    day, amount = job.created.date(), billionths(job)
    if job.is_free or (limits.usd_a_day is None and limits.usd_a_day_each is None):
        add(connection, day, job.owner, amount)
        return
    if limits.usd_a_day is not None:
        # Held until the transaction ends, so that no two jobs get the same last money of a day.
        connection.lock(f"spending {day}")
    values = {"day": day, "owner": job.owner, "amount": amount}
    values |= {"limit": _most(limits.usd_a_day), "limit_each": _most(limits.usd_a_day_each)}
    if not connection.execute(limit_queries.RESERVE, values):
        raise _limit_reached(job, limits, spent_on(connection, day, job.owner))


def _most(limit: Decimal | None) -> int:
    return NO_LIMIT if limit is None else int(min(limit, MOST_USD) * BILLION)


def _limit_reached(job: Job, limits: Limits, spent: Spent) -> SpendingLimitReached:
    """Return the error of a job that would exceed a limit. Callers with a token do not see what others spent."""

    def shown(usd: Decimal | None) -> str:
        return dollars(usd, pretend=job.base_url == SANDBOX)

    cost = f"The call is likely to cost {shown(job.expected_cost)}"
    each, together = limits.usd_a_day_each, limits.usd_a_day
    if each is not None and (together is None or job.expected_cost + spent.by_owner > each):
        whose = f"{shown(spent.by_owner)} of this caller's {shown(each)} for today (UTC) are spent"
        # The default step ends with the name of the other limit.
        return SpendingLimitReached(f"{cost}, and {whose}", next_step=f"{SpendingLimitReached.next_step}_EACH")
    error = SpendingLimitReached(f"{cost}, and {shown(spent.by_all)} of today's {shown(together)} (UTC) are spent")
    error.public = f"{cost}, and less is left of what all callers together may spend today (UTC)"
    return error


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
