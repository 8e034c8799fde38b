"""Calls by many agents while replicas, PostgreSQL and the bucket fail; compared with the same calls in peace.

    python benchmarks/replicas/chaos.py [--calls 1000] [--clients 20] [--kills 12] [--seed 1] [--speed 1]
    python benchmarks/replicas/chaos.py --history-503

Three replicas serve behind nginx, on loopback, with PostgreSQL (fsync on) and moto's S3 server. The agents use the
SDK's client, half of them with MCP 2026-07-28, half with an older version. They generate, submit and check, cancel some
calls, and repeat by the documented rules. First there is a run in which nothing fails. In the second run, replicas are
killed (SIGKILL) and started again at random moments, PostgreSQL crashes once and is away for four seconds, and the
bucket answers with 503 for 30 seconds once.

At the end, when everything is settled, the program compares the API's calls, the ledger and the bucket. It exits with 1
if a prompt was paid for twice, if a paid picture is not in the bucket exactly once, if a picture is only on a replica's
disk, or if an agent saw a job or a picture of another one.

With `--history-503`, the API's request history always answers with 503. Then a call whose answer was lost may stay
unknown, but it is never paid for twice. With `--embedded`, the replicas share an SQLite file and a folder instead.

It needs PostgreSQL, nginx, and the packages moto[server], obstore and psycopg.
"""

import argparse
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import agents
import anyio
import team
import verdict
from team import Team

sys.path.append(str(Path(__file__).parents[1]))
from figures import print_target

from mcp_vega.parameters import VegaRTParameters

# The 95th percentile of a call's time, compared with the quiet run.
LIMIT = 2
REPLICAS = 3
# Seconds that PostgreSQL and the bucket are away.
POSTGRES_AWAY, BUCKET_AWAY = 4, 30
# Seconds until a killed replica is started again.
RESTART = (0.2, 3)
SHOW_SECONDS = 10
# The documented time of the quickest drawing, in seconds.
QUICKEST = VegaRTParameters.average_seconds
# After so many seconds without the history, an agent takes an unknown outcome for an answer.
WITHOUT_HISTORY = 20


class Chaos(threading.Thread):
    """Kills and restarts, at random moments within some seconds. In a thread, because a start takes a while."""

    def __init__(self, team: Team, seconds: float, kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._team = team
        self._rng = random.Random(seed)  # noqa: S311  no secret
        events = [(self._rng.uniform(0.05, 0.9) * seconds, self._kill) for _ in range(kills)]
        if team.postgres:
            events += [(0.3 * seconds, self._crash_postgres), (0.55 * seconds, self._take_bucket_away)]
        self._events = sorted(events, key=lambda event: event[0])
        self._others: list[threading.Thread] = []
        self.error: BaseException | None = None
        self.log: list[str] = []

    def run(self) -> None:
        """Let all events happen."""
        began = time.monotonic()
        try:
            for moment, event in self._events:
                time.sleep(max(began + moment - time.monotonic(), 0))
                event(time.monotonic() - began)
            for other in self._others:
                other.join()
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self.error = error

    def _kill(self, now: float) -> None:
        replica = self._rng.choice(self._team.replicas)
        self.log.append(f"{now:6.1f} s  killed {replica.folder.name}")
        replica.kill()
        time.sleep(self._rng.uniform(*RESTART))
        replica.start()
        replica.wait()

    def _crash_postgres(self, now: float) -> None:
        assert self._team.postgres
        self.log.append(f"{now:6.1f} s  crashed PostgreSQL")
        self._team.postgres.crash()
        time.sleep(POSTGRES_AWAY)
        self._team.postgres.start()

    def _take_bucket_away(self, now: float) -> None:
        """Replicas are killed meanwhile, too."""
        self.log.append(f"{now:6.1f} s  took the bucket away for {BUCKET_AWAY} s")
        self._others.append(threading.Thread(target=self._without_bucket))
        self._others[-1].start()

    def _without_bucket(self) -> None:
        with self._team.nginx.without_bucket():
            time.sleep(BUCKET_AWAY)


@contextmanager
def nothing_fails() -> Generator[list[str]]:
    """A run in peace."""
    yield []


@contextmanager
def much_fails(team: Team, seconds: float, kills: int, seed: int) -> Generator[list[str]]:
    """Let things fail while the block runs, and wait until all is up again."""
    chaos = Chaos(team, seconds, kills, seed)
    chaos.start()
    yield chaos.log
    chaos.join()
    if chaos.error:
        raise chaos.error


def measure(options: argparse.Namespace, quiet_seconds: float | None) -> dict[str, Any]:
    """Make the calls once; returns what to print. `quiet_seconds` is how long the quiet run took, None in that run."""
    is_quiet = quiet_seconds is None
    callers = team.callers(options.clients)
    gives_up_after = WITHOUT_HISTORY if options.history_503 else agents.LONGEST
    rules = agents.Rules(options.seed, options.cancelled, QUICKEST * options.speed, gives_up_after)
    with (
        tempfile.TemporaryDirectory() as name,
        team.running(Path(name), REPLICAS, speed=options.speed, embedded=options.embedded) as set_up,
    ):
        if options.history_503 and not is_quiet:
            set_up.vendor.change(history_status=503)
        seconds = options.minutes * 60 if options.minutes else (quiet_seconds or 0)
        began = time.monotonic()
        with nothing_fails() if is_quiet else much_fails(set_up, seconds, options.kills, options.seed) as log:
            tally = anyio.run(draw, set_up.url, callers, options.calls, rules)
            took = time.monotonic() - began
        settled = verdict.settle(set_up, history=is_quiet or not options.history_503)
        counts, broken = verdict.counts_of(set_up, tally.events)
        if options.keep and not is_quiet:
            keep_logs(set_up, Path(options.keep))
    cuts = statistics.quantiles(tally.seconds, n=20)
    return {
        "seconds": round(took, 1),
        "seconds until settled": round(settled, 1),
        "p50": cuts[9],
        "p95": cuts[18],
        "calls answered": len(tally.seconds),
        "unknown at the end": len(tally.unknown),
        **counts,
        "counts": tally.counts,
        "log": log,
        "broken": [*broken, *tally.wrong],
    }


async def draw(url: str, callers: dict[str, str], calls: int, rules: agents.Rules) -> agents.Tally:
    """Make the calls, and show on stderr how far they are."""
    tally = agents.Tally()

    async def show() -> None:
        while True:
            await anyio.sleep(SHOW_SECONDS)
            print(f"{len(tally.seconds)} of {calls} calls answered", file=sys.stderr, flush=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(show)
        await agents.draw(url, callers, range(calls), tally, rules)
        tasks.cancel_scope.cancel()
    return tally


def keep_logs(team: Team, folder: Path) -> None:
    """Copy what the replicas wrote to stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    for replica in team.replicas:
        (folder / f"{replica.folder.name}.txt").write_text(replica.log, encoding="utf-8")


def report(runs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Print the table; returns whether all promises were kept."""
    print(f"{'':44}" + "".join(f"{name:>12}" for name in runs))
    for row in next(iter(runs.values())):
        if row not in ("counts", "log", "broken"):
            values = [run[row] for run in runs.values()]
            print(
                f"{row:44}"
                + "".join(f"{each:12.2f}" if row[0] == "p" and row[1:].isdigit() else f"{each:12}" for each in values)
            )
    for name, run in runs.items():
        print(f"\nWhat the agents saw ({name}):")
        for each, number in sorted(run["counts"].items()):
            print(f"  {number:5} {each}")
        for line in run["log"]:
            print(f"  {line}")
        for line in run["broken"]:
            print(f"  BROKEN: {line}")
    print()
    if len(runs) > 1:
        quiet, chaos = runs.values()
        print_target("p95 of a call: chaos / quiet", LIMIT, chaos["p95"] / quiet["p95"])
    return not any(run["broken"] for run in runs.values())


def terminate(*_: object) -> NoReturn:
    """End the replicas as well."""
    raise SystemExit("terminated")


def main() -> int:
    """Draw, kill, count."""
    signal.signal(signal.SIGTERM, terminate)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=len(team.CALLERS), help=f"at most {len(team.CALLERS)}")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1, help="the API's documented times are multiplied by this")
    parser.add_argument("--history-503", action="store_true", help="the API's request history answers with 503")
    parser.add_argument("--cancelled", type=int, default=12, help="one call of so many is cancelled and made again")
    parser.add_argument("--quiet-only", action="store_true", help="only the run in which nothing fails")
    parser.add_argument("--chaos-only", action="store_true", help="only the other run; needs --minutes")
    parser.add_argument("--minutes", type=float, help="how long things fail; by default as long as the quiet run takes")
    parser.add_argument("--embedded", action="store_true", help="share an SQLite file and a folder instead")
    parser.add_argument("--keep", metavar="FOLDER", help="copy the replicas' logs into this folder")
    options = parser.parse_args()
    if options.chaos_only and not options.minutes:
        parser.error("--chaos-only needs --minutes")
    runs: dict[str, dict[str, Any]] = {}
    if not options.chaos_only:
        runs["quiet"] = measure(options, None)
    if not options.quiet_only:
        runs["chaos"] = measure(options, runs["quiet"]["seconds"] if runs else 0)
    return 0 if report(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
