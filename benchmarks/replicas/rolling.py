"""Calls by many agents while three replicas are restarted one after the other (SIGTERM), as for a new version.

    python benchmarks/replicas/rolling.py [--clients 16] [--rounds 1] [--seed 1] [--speed 1] [--drain-seconds 8]

The replicas serve behind nginx with the configuration of docs/team.md, on loopback, with PostgreSQL (fsync on) and
moto's S3 server. The agents use the SDK's client, half of them with MCP 2026-07-28, half with an older version. They
draw as long as the restarts take. If a connection breaks, or an error says `Charged: no`, they make the same call again
or look for its job.

A replica is restarted when the one before is ready again. At the end the program compares the API's calls, the ledger
and the bucket. It exits with 1 if a call had no result, if a prompt was paid for twice, if a paid picture is not in the
bucket exactly once, or if an agent saw a job or a picture of another one.

It needs PostgreSQL, nginx, and the packages moto[server], obstore and psycopg.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NoReturn

import agents
import anyio
import team
import verdict
from team import Team

REPLICAS = 3
# Seconds between two restarts, and before the first one.
PAUSE = 2.0


def restart(team: Team, rounds: int, log: list[str]) -> None:
    """Restart all replicas, one after the other, and note in the log how long each restart took."""
    began = time.monotonic()
    for replica in team.replicas * rounds:
        time.sleep(PAUSE)
        asked = time.monotonic()
        replica.end()
        ended = time.monotonic()
        replica.start()
        replica.wait("/readyz")
        log.append(
            f"{asked - began:6.1f} s  {replica.folder.name}: ended after {ended - asked:.1f} s, "
            f"ready after {time.monotonic() - ended:.1f} s more"
        )
    time.sleep(PAUSE)


def repeats(tally: agents.Tally) -> Counter[str]:
    """How many calls the agents repeated, by what they saw before. A call may count for several reasons."""
    counts = Counter[str]()
    for events in tally.events.values():
        seen = [event.partition(" s ")[2] for event in events]
        counts["broken or refused connection"] += any(each.startswith("no answer") for each in seen)
        counts.update({each for each in seen if each.endswith("charged: no")})
    return +counts


def measure(options: argparse.Namespace) -> bool:
    """Draw while the replicas are restarted, and print what happened; returns whether all promises were kept."""
    callers, rules = team.callers(options.clients), agents.Rules(options.seed)
    tally, log = agents.Tally(), list[str]()
    with (
        tempfile.TemporaryDirectory() as name,
        team.running(Path(name), REPLICAS, speed=options.speed, drain_seconds=options.drain_seconds) as set_up,
    ):
        steps = partial(restart, set_up, options.rounds, log)
        began = time.monotonic()
        anyio.run(partial(agents.draw_while, abandon_calls=False), set_up.url, callers, tally, rules, steps)
        took = time.monotonic() - began
        settled = verdict.settle(set_up)
        counts, broken = verdict.counts_of(set_up, tally.events)
        failures = set_up.nginx.failures()
    without_result = len(tally.events) - len(tally.seconds)
    broken += [*tally.wrong, *([f"calls without a result: {without_result}"] if without_result else [])]
    cuts = statistics.quantiles(tally.seconds, n=20)
    rows = {
        "seconds": round(took, 1),
        "seconds until settled": round(settled, 1),
        "p50": round(cuts[9], 2),
        "p95": round(cuts[18], 2),
        "calls": len(tally.events),
        "calls without a result": without_result,
        **{f"calls repeated: {what}": count for what, count in sorted(repeats(tally).items())},
        **{f"answers of nginx with {status}": count for status, count in sorted(failures.items())},
        **counts,
    }
    for what, value in rows.items():
        print(f"{what:60}{value:>10}")
    print("\nWhat the agents saw:")
    for what, count in sorted(tally.counts.items()):
        print(f"  {count:5} {what}")
    for line in [*log, *(f"BROKEN: {each}" for each in broken)]:
        print(f"  {line}")
    return not broken


def terminate(*_: object) -> NoReturn:
    """End the replicas as well."""
    raise SystemExit("terminated")


def main() -> int:
    """Draw, restart, count."""
    signal.signal(signal.SIGTERM, terminate)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16, help=f"at most {len(team.CALLERS)}")
    parser.add_argument("--rounds", type=int, default=1, help="how often each replica is restarted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=float, default=1, help="the API's documented times are multiplied by this")
    parser.add_argument("--drain-seconds", type=float, default=8, help="MCP_VEGA_DRAIN_SECONDS of the replicas")
    return 0 if measure(parser.parse_args()) else 1


if __name__ == "__main__":
    sys.exit(main())
