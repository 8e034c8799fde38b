"""What the API reports about a call."""

from dataclasses import dataclass, fields, replace
from decimal import Decimal


@dataclass(frozen=True)
class Receipt:
    """What the API reports about a call. None means unknown, never zero.

    `cost` and `credits_left` are US dollars. `seconds` is the drawing time on the API's machine. `engine`
    says what drew the pictures, if that is the user's own engine; the ledger does not keep it.
    """

    request_id: str | None = None
    cost: Decimal | None = None
    credits_left: Decimal | None = None
    seconds: Decimal | None = None
    seed: int | None = None
    engine: str | None = None

    def or_else(self, other: "Receipt") -> "Receipt":
        """The values of this receipt and, where it has none, those of the other."""
        known = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        return replace(other, **known)
