"""A backup of the ledger and the bucket while agents draw, and what a restored backup has.

    python benchmarks/replicas/backup.py [--seconds 15] [--speed 0.5] [--as-it-is]

Agents draw at one replica with a limit for calls a minute, so that soon some calls wait. After some seconds, `pg_dump`
writes the ledger to a file, and then the bucket is copied. The replica is replaced by one without the limit. It sends
the calls that wait, and the agents draw on for some seconds. Then everything is lost: the replica is killed, PostgreSQL
crashes, its bucket is gone. Both copies are restored into a new PostgreSQL and a new bucket, as docs/operating.md says,
and a replica starts there. At the end, the agents draw again.

The program exits with 1 if a job or a picture of the dump is not there, or if a prompt was paid for twice. With
`--as-it-is`, the restored ledger is used without the statement that docs/operating.md demands: then calls that were
sent after the dump may be sent again. It needs PostgreSQL, nginx, and the packages moto[server], obstore and psycopg.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import agents
import anyio
import bucket
import team
import verdict
from replica import Replica
from team import Postgres, Team

# From docs/operating.md: whether these calls were sent after the dump is not known.
MARK = "UPDATE jobs SET sent = created WHERE open AND sent IS NULL RETURNING prompt"
# Calls a minute before the dump: fewer than there are agents would like.
LIMIT = 40
SIZE = "SELECT pg_database_size(current_database()) AS bytes"


class Backup:
    """Makes the copies, and loses everything else."""

    def __init__(self, set_up: Team, seconds: float) -> None:
        self._set_up = set_up
        self._seconds = seconds
        self.dump = set_up.folder / "ledger.dump"
        self.pictures: dict[str, bytes] = {}
        self.figures: dict[str, Any] = {}

    def run(self) -> None:
        """Do all steps, while the agents draw."""
        assert self._set_up.postgres
        assert self._set_up.s3
        self._set_up.replicas[0].end()
        (limited := self._replica("limited", MCP_VEGA_REQUESTS_PER_MINUTE=str(LIMIT))).start()
        limited.wait()
        time.sleep(self._seconds)
        began = time.monotonic()
        run("pg_dump", "--format=custom", f"--file={self.dump}", self._set_up.postgres.url)
        dumped = time.monotonic()
        self.pictures = self._set_up.s3.objects()
        self.figures |= {
            "seconds for the dump": round(dumped - began, 2),
            "bytes of the ledger": self._set_up.postgres.rows(SIZE)[0]["bytes"],
            "bytes of the dump": self.dump.stat().st_size,
            "seconds for the bucket": round(time.monotonic() - dumped, 2),
            "pictures copied": len(self.pictures),
        }
        limited.kill()
        (unlimited := self._replica("unlimited")).start()
        time.sleep(self._seconds)
        unlimited.kill()
        self._set_up.postgres.crash()

    def _replica(self, name: str, **more: str) -> Replica:
        """A replica at the address of the first one."""
        host, port = self._set_up.replicas[0].address.split(":")
        return Replica(self._set_up.folder / name, (host, int(port)), {**self._set_up.settings, **more})


def run(name: str, *arguments: str) -> None:
    """Run a program of PostgreSQL."""
    subprocess.run([shutil.which(name) or name, *arguments], check=True)


def restored(set_up: Team, backup: Backup, stack: ExitStack, *, mark: bool) -> tuple[Team, int]:
    """Restore the copies into new services, and start a replica there. Returns also how many calls were marked."""
    postgres = stack.enter_context(Postgres.running())
    run("pg_restore", "--exit-on-error", f"--dbname={postgres.url}", str(backup.dump))
    marked = len(postgres.rows(MARK)) if mark else 0
    pictures = stack.enter_context(bucket.running())
    pictures.fill(backup.pictures)
    settings = {**set_up.settings, "MCP_VEGA_LEDGER": postgres.url, "AWS_ENDPOINT_URL": pictures.server}
    replica = Replica(set_up.folder / "restored", ("127.0.0.1", team.free_port()), settings)
    stack.callback(replica.end)
    replica.start()
    replica.wait()
    parts = {"postgres": postgres, "s3": pictures, "contents": pictures.contents}
    return replace(set_up, replicas=[replica], settings=settings, **parts), marked


def compared(set_up: Team) -> tuple[dict[str, int], list[str]]:
    """What the restored ledger and bucket have, compared with the API's calls; and what is wrong."""
    jobs, kept = set_up.records(), set_up.contents()
    posts = Counter(call["body"]["prompt"] for call in set_up.vendor.calls())
    known = {job["parameters"]["prompt"] for job in jobs}
    images = [image["sha256"] for job in jobs for image in job["images"]]
    counts = {
        "jobs in the ledger": len(jobs),
        "jobs that have not ended": sum(job["state"] != "COMPLETED" for job in jobs),
        "pictures of the ledger": len(images),
        "pictures of the ledger not in the bucket": len(set(images) - kept.keys()),
        "pictures kept twice": sum(number > 1 for number in kept.values()),
        "pictures in the bucket without a job": len(kept.keys() - set(images)),
        "paid calls that the ledger does not know": len(posts.keys() - known),
        "prompts paid for twice": sum(number > 1 for number in posts.values()),
    }
    wrong = ("jobs that have not ended", "pictures of the ledger not in the bucket", "prompts paid for twice")
    return counts, [name for name in (*wrong, "pictures kept twice") if counts[name]]


def main() -> int:
    """Draw, copy, lose, restore, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="how long the agents draw before and after the copy")
    parser.add_argument("--speed", type=float, default=0.5, help="the API's documented times are multiplied by this")
    parser.add_argument("--as-it-is", action="store_true", help="use the restored ledger without the statement")
    options = parser.parse_args()
    rules = agents.Rules(seed=1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        set_up = stack.enter_context(team.running(Path(folder), 1, speed=options.speed))
        backup = Backup(set_up, options.seconds)
        anyio.run(agents.draw_while, set_up.url, {**team.CALLERS, **team.LOAD}, agents.Tally(), rules, backup.run)
        began = time.monotonic()
        after, marked = restored(set_up, backup, stack, mark=not options.as_it_is)
        backup.figures["seconds until the restored replica answers"] = round(time.monotonic() - began, 2)
        backup.figures["calls marked as sent"] = marked
        backup.figures["seconds until settled"] = round(verdict.settle(after), 1)
        counts, broken = compared(after)
        again = agents.Tally()
        callers = {f"again{number}": token for number, token in enumerate(team.LOAD.values())}
        anyio.run(agents.draw, after.replicas[0].url, callers, range(10), again, rules)
        counts["calls answered after that"] = len(again.seconds)
    for what, number in {**backup.figures, **counts}.items():
        print(f"{what:44}{number:12}")
    for line in [*(f"{name}: {counts[name]}" for name in broken), *again.wrong]:
        print(f"BROKEN: {line}")
    return 1 if broken or again.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
