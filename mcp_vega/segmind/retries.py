"""When a call is repeated, and how long to wait before: arithmetic without a clock or a network of its own.

A paid call is repeated only when it never left this machine. Refused with 429 it was not executed either, but when it
is sent again is for whoever keeps the limits of all servers. A question (GET) costs nothing and is repeated freely.
"""

import random
from collections.abc import Iterator
from datetime import datetime

import httpx

from mcp_vega import errors

ATTEMPTS = 6
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def pause_before_retry(failure: Exception, attempt: int, now: datetime, *, paid: bool) -> float | None:
    """Seconds until a failed call may be repeated; None when it must not be.

    Args:
        failure: What the attempt ended with.
        attempt: Its number, from 0.
        now: The time (UTC).
        paid: Whether the call is charged when it runs.
    """
    if attempt + 1 >= ATTEMPTS or (paid and isinstance(failure, errors.RateLimited)):
        return None
    match failure:
        case errors.RateLimited(until=datetime() as until):
            # The API's clock may be behind: a moment that is over is no leave to ask at once.
            return max((until - now).total_seconds(), 0) + backoff(attempt)
        case errors.RateLimited():
            return backoff(attempt)
        case httpx.RequestError():
            return backoff(attempt) if not paid or isinstance(failure, NEVER_SENT) else None
        case errors.ServiceUnavailable() if not paid:
            return backoff(attempt)
        case _:
            return None


def backoff(attempt: int) -> float:
    """A pause that doubles with each attempt, shortened at random by up to a half so that callers spread."""
    return min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311


def polls(expected: float) -> Iterator[float]:
    """Seconds to wait before each look at a queued job, without end.

    The first look comes when the picture is likely ready, the next ones soon after, then ever less often, so that
    the looks do not use up the plan's requests per minute.

    Args:
        expected: How long the drawing still takes on average, in seconds.
    """
    yield expected
    pause = 0.1
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311
        pause = min(pause * 1.5, 10.0)
