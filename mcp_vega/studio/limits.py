"""What a user lets be spent, and how much of it is left: types without I/O."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Limits:
    """The limits that all servers on a ledger keep together; None is no limit.

    Attributes:
        usd_a_day: US dollars a UTC day.
        calls_a_minute: Paid calls in any sixty seconds.
        calls_at_once: Paid calls whose answer has not come yet.
    """

    usd_a_day: Decimal | None = None
    calls_a_minute: int | None = None
    calls_at_once: int = 16


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
    return "unknown" if amount is None else f"${amount.normalize():f}"
