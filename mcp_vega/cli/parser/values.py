"""Reads the values of options; each function raises an `ArgumentTypeError` that says what is allowed."""

import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation


def amount(text: str) -> Decimal:
    """A number, 0 or more."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise ArgumentTypeError(f"is {text!r}, but must be a number, 0 or more")
    return amount


def day(text: str) -> date:
    """A day (UTC): a date, or how many days ago the first of the last days was."""
    today = datetime.now(UTC).date()
    if re.fullmatch("[1-9][0-9]{0,4}d", text):
        return today - timedelta(days=int(text[:-1]) - 1)
    try:
        if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # such as a 30th of February
    raise ArgumentTypeError(f"is {text!r}, but must be a day, such as {today}, or a number of days, such as 7d")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Reads a whole number from `least` to `most`."""
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise ArgumentTypeError(f"is {text!r}, but must be a whole number, {allowed}")
        return int(text)

    return read
