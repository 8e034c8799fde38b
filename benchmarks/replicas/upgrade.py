"""A newer version of the server changes the tables while servers of this version draw.

    python benchmarks/replicas/upgrade.py [--seconds 10] [--clients 8] [--speed 0.2] [--incompatible]

Two replicas of this version serve behind nginx, and agents draw all the time. After some seconds, a replica of a newer
version starts (`newer.py`): it changes the tables, and then all three serve. After some more seconds, the other two are
replaced by the newer version, one after the other. At the end, one is replaced by this version again.

The program exits with 1 if an agent saw an error while no replica was being replaced, or if a promise was broken: a
prompt was paid for twice, or a paid picture is not in the bucket exactly once. With `--incompatible`, replicas of this
version may not go on after the change. Then agents see errors that say `Charged: no`, and the last step is left out.

It needs PostgreSQL, nginx, and the packages moto[server], obstore and psycopg.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import agents
import anyio
import team
import verdict
from chaos import keep_logs
from replica import COMMAND, Replica
from team import Team

NEWER = Path(__file__).with_name("newer.py")
REFUSED = "was not written by this version"


class Upgrade:
    """Replaces the replicas."""

    def __init__(self, set_up: Team, tally: agents.Tally, options: argparse.Namespace) -> None:
        self._set_up = set_up
        self._tally = tally
        self._seconds: float = options.seconds
        self._additive: bool = not options.incompatible
        self._newer = (sys.executable, str(NEWER), "additive" if self._additive else "incompatible")
        self.answered: list[tuple[str, int, dict[str, int]]] = []

    def run(self) -> None:
        """Do all steps, while the agents draw."""
        *older, newer = self._set_up.replicas
        self._draw("two replicas of this version")
        self._replace(newer, self._newer)
        self._draw("two of this version, one of the newer one")
        for replica in older:
            self._replace(replica, self._newer)
        self._draw("three of the newer one")
        self._set_up.program = self._newer
        if self._additive:
            self._replace(newer, COMMAND)
            self._draw("one of this version again")

    def _draw(self, what: str) -> None:
        """Let the agents draw, and note what they saw."""
        answered, counts = len(self._tally.seconds), Counter(self._tally.counts)
        time.sleep(self._seconds)
        saw = {what: number for what, number in (self._tally.counts - counts).items() if is_error(what)}
        self.answered.append((what, len(self._tally.seconds) - answered, saw))

    def _replace(self, replica: Replica, program: tuple[str, ...]) -> None:
        replica.end()
        replica.program = program
        replica.start()
        replica.wait()


def is_error(what: str) -> bool:
    """Whether what an agent saw is an error."""
    return what.startswith(("no answer", "error"))


def main() -> int:
    """Draw, replace, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="how long the agents draw between two steps")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--speed", type=float, default=0.2, help="the API's documented times are multiplied by this")
    parser.add_argument("--incompatible", action="store_true", help="this version may not go on after the change")
    parser.add_argument("--keep", metavar="FOLDER", help="copy the replicas' logs into this folder")
    options = parser.parse_args()
    tally = agents.Tally()
    with tempfile.TemporaryDirectory() as folder, team.running(Path(folder), 3, speed=options.speed) as set_up:
        set_up.replicas[-1].end()
        upgrade, callers = Upgrade(set_up, tally, options), team.callers(options.clients)
        anyio.run(agents.draw_while, set_up.url, callers, tally, agents.Rules(seed=1), upgrade.run)
        settled = verdict.settle(set_up)
        counts, broken = verdict.counts_of(set_up, tally.events)
        if options.keep:
            keep_logs(set_up, Path(options.keep))
        counts["replicas that refused the tables"] = sum(REFUSED in each.log for each in set_up.replicas)
    for what, answered, saw in upgrade.answered:
        print(f"{what:44}{answered:6} calls answered  {saw or 'no errors'}")
    print(f"\n{'seconds until settled':44}{settled:6.1f}")
    for what, number in sorted(tally.counts.items()):
        if is_error(what):
            print(f"agents saw in all: {number} × {what}")
    for what, number in counts.items():
        print(f"{what:44}{number:6}")
    for line in [*broken, *tally.wrong]:
        print(f"BROKEN: {line}")
    steady = options.incompatible or not any(saw for _, _, saw in upgrade.answered)
    return 0 if steady and not broken and not tally.wrong else 1


if __name__ == "__main__":
    sys.exit(main())
