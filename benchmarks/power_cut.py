"""Cut the power at many points of a server's work, and count what a disk could have lost.

    python benchmarks/power_cut.py [--points 250] [--restarts 30] [--seed 1]
    python benchmarks/power_cut.py --control

Two servers, one after the other, draw about 30 jobs by v1 and v2, several at the same time. strace (Linux) shows when
each call to the API was sent, and what was written and flushed by then. For each point, the program builds the
folders of the ledger and the pictures four times, as a disk could have them: with all unflushed data, with none of
it, with some of the writes, and with some of their sectors (disk.py).

Each time, the ledger must open and have no damage, each call that was sent must be marked as sent, and all pictures
that the ledger names, or that have the name of a picture, must be there and complete. After some of the cuts, a
server starts with what is left, and with a sandbox that knows the calls that had arrived. It continues unfinished
jobs. No call may be sent twice, and each call that had arrived must end as kept or be reported as unknown.

The program exits with 1 if one of these does not hold. `--control` proves that losses are noticed: the flushes of the
ledger do nothing, no server is restarted, and the program must exit with 1. Not tested: several servers at the same
time, and disks that report a flush without doing it.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from anyio.from_thread import start_blocking_portal
from cuts import CORRUPT, KEPT, LOST, MISSING, STRAY, TORN, TWICE, UNKNOWN, UNSENT, CutFolder, Found
from disk import Unflushed
from recording import Recording, Replay
from strace import program

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox

FINISHES, FOUND_AGAIN = "completions that these cuts lost", "of these, found again"


class Cut(NamedTuple):
    """A cut, and the prompts of the jobs whose completion it lost."""

    place: int
    unflushed: Unflushed
    lost: frozenset[str] = frozenset()


class PowerCuts:
    """Cuts of a recording."""

    def __init__(self, recording: Recording, folder: CutFolder, seed: int, *, control: bool) -> None:
        self._recording = recording
        self._folder = folder
        self._seed = seed
        self._unsafe = recording.folder / "home" if control else None
        self.problems: Counter[str] = Counter()
        self.damages: Counter[str] = Counter()
        self.cuts: list[Cut] = []

    def points(self, number: int) -> list[int]:
        """Some of the places where the disk changed, and all places where a call was just sent."""
        left = {post.left for post in self._recording.posts}
        chance = random.Random(self._seed)  # noqa: S311  no secret
        others = [place for place in self._recording.places if place not in left]
        return sorted(left | {*chance.sample(others, min(max(number - len(left), 0), len(others)))})

    def examine(self, points: list[int]) -> None:
        """Cut at each point in every way, and check what is left."""
        replay = self._replay()
        for place in points:
            replay.until(place)
            completed = set[str]()
            for unflushed in Unflushed:  # ALL comes first
                found = self._left_by(replay, Cut(place, unflushed))
                if unflushed is Unflushed.ALL:
                    completed = found.completed
                self.cuts.append(Cut(place, unflushed, frozenset(completed - found.completed)))
                self.problems += found.problems
                self.damages[found.damage] += 1

    def _replay(self) -> Replay:
        return Replay(self._recording, self._recording.disk(self._unsafe))

    def _left_by(self, replay: Replay, cut: Cut) -> Found:
        """What a cut leaves; the replay is at its place."""
        self._build(replay, cut)
        left = [post.prompt for post in self._recording.posts if post.left <= cut.place]
        return self._folder.examine(left, replay.disk.flushed_names)

    def _build(self, replay: Replay, cut: Cut) -> None:
        chance = random.Random(f"{self._seed} {cut.place} {cut.unflushed}")  # noqa: S311  no secret
        self._folder.build(replay.disk.after_cut(cut.unflushed, chance))

    def sample(self, number: int) -> list[Cut]:
        """Some of the cuts. Half of them lost a completion, if there are enough of these."""
        chance = random.Random(self._seed)  # noqa: S311  no secret
        losing = [cut for cut in self.cuts if cut.lost]
        chosen = chance.sample(losing, min(number // 2, len(losing)))
        others = [cut for cut in self.cuts if cut not in chosen]
        return sorted(chosen + chance.sample(others, min(number - len(chosen), len(others))))

    def restart(self, cuts: list[Cut], url: str, account: Account) -> Counter[str]:
        """Start a server after each of the cuts; returns what happened to the calls that had arrived."""
        ends: Counter[str] = Counter()
        replay = self._replay()
        for cut in cuts:
            replay.until(cut.place)
            jobs = self._left_by(replay, cut).jobs
            self._build(replay, cut)  # again, because opening a ledger changes its files
            arrived = {post.prompt for post in self._recording.posts if post.arrived <= cut.place}
            outcome = self._folder.restart(url, account, arrived, jobs)
            ends += outcome.ends
            ends[FINISHES] += len(cut.lost)
            ends[FOUND_AGAIN] += len(cut.lost & outcome.completed)
        return ends


def report(cuts: PowerCuts, points: int, posts: int) -> bool:
    """Print what the cuts left; returns whether there was no problem."""
    losses = [len(cut.lost) for cut in cuts.cuts if cut.lost]
    print(f"{'calls to the API':37} {posts:5}")
    print(f"{'points, and cuts there':37} {points:5} {len(cuts.cuts):5}")
    for problem in (CORRUPT, UNSENT, MISSING, TORN):
        print(f"{problem:37} {cuts.problems[problem]:5}")
    for damage, count in cuts.damages.items():
        if damage:
            print(f"  {damage:35} {count:5}")
    print(f"{'cuts that lost completions; the most':37} {len(losses):5} {max(losses, default=0):5}")
    return not cuts.problems.total()


def report_restarts(ends: Counter[str], restarts: int) -> bool:
    """Print what servers did after some of the cuts; returns whether there was no problem."""
    print(f"{'servers started with what was left':37} {restarts:5}")
    for end in (KEPT, UNKNOWN, LOST, TWICE, STRAY, FINISHES, FOUND_AGAIN):
        print(f"{end:37} {ends[end]:5}")
    return not (ends[LOST] or ends[TWICE] or ends[STRAY])


def main() -> int:
    """Record, cut, restart, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=250, help="the number of points where the power is cut")
    parser.add_argument("--restarts", type=int, default=30, help="the number of cuts after which a server is started")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--control", action="store_true", help="flushes of the ledger do nothing: exits with 1")
    options = parser.parse_args()
    program()  # ends the program if there is none
    account = Account(speed=0.1, credits=Decimal(1000))
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(build_sandbox(account))) as url,
    ):
        recording = Recording(Path(name).resolve(), url)
        assert len(recording.posts) == len(account.calls), "not every call was recorded when it was sent"
        cuts = PowerCuts(recording, CutFolder(recording.folder), options.seed, control=options.control)
        points = cuts.points(options.points)
        cuts.examine(points)
        holds = report(cuts, len(points), len(recording.posts))
        if not options.control:
            sample = cuts.sample(options.restarts)
            holds &= report_restarts(cuts.restart(sample, url, account), len(sample))
        return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
