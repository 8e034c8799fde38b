"""When a call is retried, and how long the pauses are."""

from datetime import timedelta
from itertools import islice

import httpx
import pytest

from mcp_vega import errors
from mcp_vega.segmind.http import RetryPolicy, poll_pauses

POLICY = RetryPolicy()


def test_pauses_grow_up_to_a_limit() -> None:
    for attempt in range(12):
        longest = min(0.5 * 2**attempt, 10)
        assert longest / 2 <= POLICY.backoff(attempt) <= longest


@pytest.mark.parametrize("kind", [errors.RateLimited, errors.ServiceUnavailable])
def test_the_api_is_left_alone_for_as_long_as_it_asks(kind: type[errors.SegmindError]) -> None:
    failure = kind("busy")
    failure.wait = timedelta(seconds=30)
    pause = POLICY.pause_before_retry(failure, 0, paid=False)
    assert pause is not None
    assert 30 < pause <= 30.5


def test_a_paid_call_that_was_refused_is_retried_by_the_rate_limiter() -> None:
    assert POLICY.pause_before_retry(errors.RateLimited("429"), 0, paid=True) is None


@pytest.mark.parametrize("paid", [True, False])
def test_the_number_of_attempts_is_limited(paid: bool) -> None:  # noqa: FBT001  a test has no other callers
    failure = errors.Unreachable("no route")
    assert POLICY.pause_before_retry(failure, POLICY.attempts - 2, paid=paid) is not None
    assert POLICY.pause_before_retry(failure, POLICY.attempts - 1, paid=paid) is None


@pytest.mark.parametrize("paid", [True, False])
def test_a_failure_that_would_happen_again_is_not_retried(paid: bool) -> None:  # noqa: FBT001
    failure = errors.Unreachable("a proxy said no")
    failure.repeatable = False
    assert POLICY.pause_before_retry(failure, 0, paid=paid) is None


def test_a_paid_call_that_may_have_been_sent_is_not_retried() -> None:
    assert POLICY.pause_before_retry(httpx.ReadError(""), 0, paid=True) is None
    assert POLICY.pause_before_retry(httpx.ReadError(""), 0, paid=False) is not None


def test_status_requests_begin_when_the_picture_is_probably_ready_and_become_less_frequent() -> None:
    first, *pauses = islice(poll_pauses(2.36), 40)
    assert first == 2.36
    assert pauses[0] <= 0.12
    assert 8 <= pauses[-1] <= 12
