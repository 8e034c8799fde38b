"""What may be spent on calls, and how fast."""

from dataclasses import dataclass
from decimal import Decimal


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


def dollars(amount: Decimal | None) -> str:
    """An amount for people, exact."""
    if amount is None:
        return "unknown"
    return f"{'-' if amount < 0 else ''}${abs(amount).normalize():f}"
