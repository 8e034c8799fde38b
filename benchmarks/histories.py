"""Lose the answers of paid calls while the request history misleads, and count what happens to the calls.

    python benchmarks/histories.py [--count 200] [--seed 1]

Each case chooses at random how the sandbox's request history behaves (docs/sandbox.md), which other calls were made
with the key, and how wrong this machine's clock is. Then a call is made whose answer is lost: once after it ran, and
once without having run. The server looks for it during the next ten days, by a clock of the benchmark. The program
counts the ends of the calls, and those of them with a history that behaves as documented. It exits with 1 if a call
that ran is reported as never run, or if a call is sent twice.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import httpx
from in_process import CONFIG, KEY, SHORT, app_in, one_picture

from mcp_vega.job import Job
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour

HOUR, DAY = 3600.0, 24 * 3600.0
# The times, in seconds after the call, at which the server looks for it.
LOOKS = (600, HOUR, 6 * HOUR, 20 * HOUR, 24.5 * HOUR, 25.6 * HOUR, 27 * HOUR, 50 * HOUR, 8 * DAY, 10 * DAY)
# A lost answer has taken a minute. So the server looks for the call once, and not again and again for a minute.
LOST_AFTER = 61.0
BEGINNING = datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()
CHOICES: dict[str, Sequence[Any]] = {
    "late": (0, 0, 62, 90, HOUR, 12 * HOUR, 23 * HOUR),
    "per_page": (100, 100, 20, 5, 1),
    "first_page": (1, 1, 0),
    "time_zone": (None, None, -11, -5, 5.5, 13),
    "inputs": ("full", "full", "missing", "nested", "no-seed", "null-seed", "cut"),
    "models": ("slugs", "titles"),
    "total": (True, False),
    "date": (True, True, True, False),
    "date_off": (0, 0, 0, 60, -3600, 3600, 8 * DAY, -8 * DAY),
    "error": (False, False, False, True),
    "account": ("own", "own", "own", "another"),
    "order": ("as-asked", "as-asked", "ascending"),
}
CLOCKS = (0, 0, 0, 0, 3 * HOUR, -3 * HOUR, 8 * DAY, -8 * DAY)


@dataclass(frozen=True)
class Case:
    """The conditions of a lost call: the history, other calls, and the error of this machine's clock (seconds)."""

    history: HistoryBehaviour
    queued: bool = False  # whether the call goes by v2
    seed_chosen: bool = False
    calls_before: int = 0  # calls made here in the hours before it
    calls_after: int = 0  # calls made here in the hours after it
    calls_elsewhere: int = 0  # calls of another program with the same key, before it and again after it
    clock_at_call: float = 0
    clock_at_first_look: float = 0  # after that, the clock is right


@dataclass(frozen=True)
class End:
    """What happened to a call."""

    job: Job
    hours: float | None  # how long it took until the job was closed
    posts: int


class Clock:
    """The time of the benchmark, and how far this machine's clock is ahead of it (seconds)."""

    def __init__(self) -> None:
        self.time = BEGINNING
        self.ahead = 0.0

    def now(self) -> datetime:
        """The time by this machine's clock."""
        return datetime.fromtimestamp(self.time + self.ahead, UTC)


class LosingAnswers(httpx.AsyncBaseTransport):
    """A connection to the sandbox over which some answers are lost after a minute."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._sandbox = httpx.ASGITransport(build_sandbox(account, paint=one_picture))
        self._clock = clock

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pass on a request."""
        response = await self._sandbox.handle_async_request(request)
        if request.method == "POST" and response.status_code == 504:
            self._clock.time += LOST_AFTER
        return response


async def end_of(case: Case, folder: Path, *, ran: bool) -> End:
    """Lose the answer of a call, look for the call for ten days, and return what is said about it."""
    clock = Clock()
    account = Account(speed=0, credits=Decimal(1000), clock=lambda: clock.time)
    config = replace(CONFIG, clock=clock.now)
    transport = LosingAnswers(account, clock)
    async with app_in(folder, transport, policy=SHORT, config=config, uptime=lambda: clock.time) as app:
        service = app.service
        await _call_here(service, "before", case.calls_before, clock)
        await _call_elsewhere(transport, case.calls_elsewhere, clock)
        clock.ahead = case.clock_at_call
        posts = account.requests["POST generate"] + account.requests["POST submit"]
        call = await (service.submit if case.queued else service.generate)(_lost(case, ran=ran))
        account.history, clock.ahead = case.history, case.clock_at_first_look
        job, sent = await _until_left(service, call.job), clock.time
        await _call_elsewhere(transport, case.calls_elsewhere, clock)
        await _call_here(service, "after", case.calls_after, clock)
        posts += case.calls_elsewhere + case.calls_after
        hours = None
        for age in LOOKS:
            clock.time, clock.ahead = max(clock.time, sent + age), 0
            job = await _until_left(service, await service.check(job.local_id))
            if not job.open:
                hours = (clock.time - sent) / HOUR
                break
    made = account.requests["POST generate"] + account.requests["POST submit"]
    return End(job, hours, made - posts)


async def _call_here(service: JobService, when: str, count: int, clock: Clock) -> None:
    """Draw some pictures."""
    for number in range(count):
        await _until_left(service, (await service.generate(VegaRTParameters(prompt=f"{when} {number}"))).job)
        clock.time += 300


def _lost(case: Case, *, ran: bool) -> Parameters:
    """The call whose answer is lost. If it must not run, the sandbox refuses it."""
    model = VegaParameters if case.queued else VegaRTParameters
    prompt = f"1920, Berlin street [fault:504{'-after' if ran else ''}]"
    return model(prompt=prompt, seed=7) if case.seed_chosen else model(prompt=prompt)


async def _call_elsewhere(transport: httpx.AsyncBaseTransport, count: int, clock: Clock) -> None:
    """Make calls as another program with the same key would; some are similar to the lost one."""
    async with httpx.AsyncClient(transport=transport) as http:
        for number in range(count):
            clock.time += 60
            prompt = ("a boat", "1920, Paris street", "1920, Berlin street at night")[number % 3]
            body = {"prompt": prompt, "seed": (number, 7, 7)[number % 3]}
            await http.post(f"{CONFIG.api}/v1/segmind-vega-rt-v1", json=body, headers={"x-api-key": KEY})


async def _until_left(service: JobService, job: Job) -> Job:
    """The job when nobody works on it any more."""
    async for seen in service.follow(job, 60):
        job = seen
    return job


# ---- random cases ----


def drawn(rng: random.Random) -> Case:
    """A random case. In one of four, the history behaves as documented; in the others, it misleads in several ways."""
    honest = rng.random() < 0.25
    history = {} if honest else {name: rng.choice(values) for name, values in CHOICES.items() if rng.random() < 0.5}
    return Case(
        HistoryBehaviour(**history),
        queued=rng.random() < 0.3,
        seed_chosen=rng.random() < 0.3,
        calls_before=rng.choice((0, 1, 3)),
        calls_after=rng.choice((0, 1, 3)),
        calls_elsewhere=rng.choice((0, 3, 24)),
        clock_at_call=0 if honest else rng.choice(CLOCKS),
        clock_at_first_look=0 if honest else rng.choice(CLOCKS),
    )


async def ends_of(cases: Sequence[Case], *, ran: bool) -> list[End]:
    """What happened to the call in each case."""
    ends: dict[int, End] = {}
    limiter = anyio.CapacityLimiter(8)

    async def one(number: int, case: Case) -> None:
        async with limiter:
            with tempfile.TemporaryDirectory() as folder:
                ends[number] = await end_of(case, Path(folder), ran=ran)

    async with anyio.create_task_group() as tasks:
        for number, case in enumerate(cases):
            tasks.start_soon(one, number, case)
    return [ends[number] for number in range(len(cases))]


def word_for(end: End) -> str:
    """What is finally said about a call."""
    if end.job.images:
        return "has its picture"
    return end.job.error.code if end.job.error else str(end.job.state)


def main() -> int:
    """Draw, look, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311  no secret
    cases = [drawn(rng) for _ in range(options.count)]
    failed = False
    for ran in (True, False):
        ends = anyio.run(lambda ran=ran: ends_of(cases, ran=ran))
        plain = [case.history == HistoryBehaviour() and not case.clock_at_call for case in cases]
        print(f"{len(cases)} calls that {'ran' if ran else 'did not run'}")
        for word, count in Counter(map(word_for, ends)).most_common():
            of_plain = sum(word_for(end) == word for end, is_plain in zip(ends, plain, strict=True) if is_plain)
            print(f"  {word:20} {count:5}, {of_plain} of them with a history that behaves as documented")
        if hours := [end.hours for end in ends if end.hours is not None and word_for(end) == "never_ran"]:
            print(f"  never_ran after {min(hours):.1f} to {max(hours):.1f} h, half of them by {median(hours):.1f} h")
        wrong = [case for case, end in zip(cases, ends, strict=True) if ran and word_for(end) == "never_ran"]
        twice = [case for case, end in zip(cases, ends, strict=True) if end.posts != 1]
        print(*(f"  WRONG: {case}" for case in wrong), *(f"  TWICE: {case}" for case in twice), sep="\n", end="")
        failed = failed or bool(wrong or twice)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
