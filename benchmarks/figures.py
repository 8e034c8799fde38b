"""How the benchmarks of speed compute ratios, and print their targets."""

import math
import re
import statistics
import time
from collections.abc import Iterable

# A line of `print_target`, as all.py reads it.
TARGET = re.compile(r"target: (?P<name>.+): (?P<verdict>reached|missed) (?P<value>.+)")


def milliseconds_since(began: float) -> float:
    """The time since a reading of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1000


def ratios(times: Iterable[float], others: Iterable[float]) -> list[float]:
    """The ratio of two servers in each round."""
    return [one / other for one, other in zip(times, others, strict=True)]


def spread(values: Iterable[float]) -> str:
    """The median, the lowest and the highest; one value stands alone."""
    numbers = sorted(values)
    middle = number(statistics.median(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({number(numbers[0])} to {number(numbers[-1])})"


def number(value: float) -> str:
    """Three decimals, so that a missed target does not look like a reached one; none for large numbers."""
    return f"{value:.3f}" if value < 100 else f"{value:,.0f}"


def print_target(name: str, limit: float, *values: float, at_least: bool = False) -> None:
    """Print whether the median of the rounds' values keeps to the limit. NaN means that a value is not known here."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        print(f"not measured on this system: {name}")
        return
    middle = statistics.median(known)
    verdict = "reached" if (middle >= limit if at_least else middle <= limit) else "missed"
    print(f"target: {name} {'>=' if at_least else '<='} {limit:,g}: {verdict} {spread(known)}", flush=True)
