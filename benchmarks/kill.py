"""Kill the server at random moments of its calls, and count what happens to every call that reached the API.

    python benchmarks/kill.py [--kills 200] [--at-calls] [--history-status 200] [--history NAME] [--seed 1]

Each round starts a server over stdio, which generates (v1), submits and checks (v2) with a sandbox on a port, and
kills it with SIGKILL at a random moment of the next two seconds. A last server then continues what is left.

With `--at-calls` (Linux, a C compiler) the server is killed at a random system call that writes, flushes, names or
removes files, or talks to the API or the host: before the call, or after half of a write. So every interval between
two calls gets as many kills, however short it is. A first round counts the calls.

With `--history` the request history shows a call only after 30 seconds (`late`), has at most five rows on a page
(`capped`), or belongs to another account (`another-account`). With the last one, each call whose answer was lost must
be reported as unknown.

The program exits with 1 if a call was sent twice, if a picture is lost or kept twice, or if the ledger does not open.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from host import Host
from records import Record, jobs_shown, rows, settle
from shim import KillRecord, compiled, compiler

from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour

# Seconds. Each kill falls into one of these spans, so the first moments get as many kills as the later ones.
MOMENTS = (0.1, 0.5, 2.0)
# One kill of this many falls into the start, when the server continues jobs of earlier rounds.
STARTS = 20
# Ways in which the request history can mislead.
HISTORIES = {
    "late": HistoryBehaviour(late=30),
    "capped": HistoryBehaviour(per_page=5),
    "another-account": HistoryBehaviour(account="another"),
}
# Seconds that an idle server is left alone before it is killed.
REST = 0.3


def round_by_time(folder: Path, url: str, number: int) -> None:
    """Start a server, make calls, and kill it at a random moment."""
    host = Host(folder, url)
    host.shake_hands()
    reader = threading.Thread(target=follow, args=(host, number), daemon=True)
    reader.start()
    time.sleep(random.uniform(0, random.choice(MOMENTS)))  # noqa: S311  no secret
    host.kill()
    reader.join()


def follow(host: Host, number: int) -> None:
    """Generate, submit, and check the submitted job, until this is done or the server has ended."""
    try:
        unanswered = {host.call("generate_image_vega", prompt=f"kill {number} generate")}
        submitted = host.call("submit_job", prompt=f"kill {number} submit", model="segmind-vega-rt-v1")
        unanswered.add(submitted)
        while unanswered and (answer := host.receive()):
            unanswered.discard(answer["id"])
            if answer["id"] == submitted:
                job = answer["result"]["_meta"]["mcp-vega/job"]
                unanswered.add(host.call("check_job", request_id=job["request_id"], wait_seconds=10))
    except (OSError, ValueError):
        pass  # it was killed while it wrote a line


class SystemCallKills:
    """Rounds in which the server is killed at one of its system calls."""

    def __init__(self, scratch: Path, url: str, account: Account) -> None:
        self._url = url
        self._library = compiled(scratch)
        self._calls = KillRecord(scratch / "calls")
        self.killed_at: Counter[str] = Counter()
        (practice := scratch / "practice").mkdir()
        self.start, self.end = 0, 0
        self._round(practice, -1, {})
        self.start, self.end = self._reached
        account.calls.clear()

    def round(self, folder: Path, number: int) -> None:
        """Start a server that will be killed, and make calls."""
        span = (1, self.start) if number % STARTS == 0 else (self.start + 1, self.end)
        last, half = random.randint(*span), random.randint(0, 1)  # noqa: S311  no secret
        self._round(folder, number, {"SHIM_KILL_AT": str(last), "SHIM_HALF": str(half)})
        call, target = self._calls.killed_at
        self.killed_at[f"{call}, {what_is(target, folder)}" if call else "(at the end: there were fewer)"] += 1

    def _round(self, folder: Path, number: int, variables: dict[str, str]) -> None:
        self._calls.clear()
        preload = {"LD_PRELOAD": str(self._library), "SHIM_STATE": str(self._calls.file)}
        host = Host(folder, self._url, **preload, **variables)
        started = 0
        try:
            host.shake_hands()
            started = self._calls.count
            follow(host, number)
            time.sleep(REST)
        except OSError:
            pass  # it was killed at its start
        host.kill()
        self._reached = (started, self._calls.count)


def what_is(target: str, folder: Path) -> str:
    """What a system call was about."""
    if target.startswith("socket:"):
        return "a connection"
    if Path(target).is_relative_to(folder / "home"):
        return "the ledger"
    return "pictures" if Path(target).is_relative_to(folder / "gallery") else "stdio and others"


def report(folder: Path, account: Account) -> bool:
    """Compare the sandbox, the ledger and the gallery; returns whether the promises hold."""
    jobs = jobs_shown(folder)
    ends: Counter[str] = Counter()
    for call in account.calls.values():
        job = jobs.get(str(call.body["prompt"]))
        if job and job["state"] == "COMPLETED" and len(job["images"]) == 1 and is_whole(job["images"][0]):
            ends["kept"] += 1
        elif job and job["state"] == "UNKNOWN" and job["error"] and job["notes"]:
            ends["reported as unknown, with a reason"] += 1
        else:
            ends["LOST"] += 1
    arrived = {str(call.body["prompt"]) for call in account.calls.values()}
    absent = Counter(job["charged"] for prompt, job in jobs.items() if prompt not in arrived)
    ends["never arrived, not charged"] = absent["no"]
    ends["never arrived, unknown"] = absent["unknown"]
    # An unfinished file has a name of its own, and is removed ten minutes later.
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file() and path.suffix != ".part"]
    strays = {str(path) for path in files} - {image["path"] for job in jobs.values() for image in job["images"]}
    ends["files without a job"] = len(strays)
    ends["sent twice"] = len(account.calls) - len(arrived)
    (integrity,) = rows(folder, "PRAGMA integrity_check")
    print(f"jobs in the ledger                {len(jobs):5}")
    print(f"calls that reached the sandbox    {len(account.calls):5}")
    for name, count in ends.items():
        print(f"{name:33} {count:5}")
    print(f"the ledger's integrity            {integrity['integrity_check']:>5}")
    for stray in sorted(strays):
        print(f"without a job: {stray}")
    return not (ends["LOST"] or ends["sent twice"] or ends["files without a job"]) and "ok" in integrity.values()


def is_whole(image: Record) -> bool:
    """Whether a picture's file is the one in the ledger."""
    return sha256(Path(image["path"]).read_bytes()).hexdigest() == image["sha256"]


def kill_at_calls(folder: Path, url: str, account: Account, kills: int) -> None:
    """Kill at system calls, and print which ones."""
    (scratch := folder.with_name("scratch")).mkdir()
    killer = SystemCallKills(scratch, url, account)
    for number in range(kills):
        killer.round(folder, number)
        if (folder / "home" / "ledger.sqlite3").exists():
            rows(folder, "SELECT count(*) FROM sqlite_master")  # fails if the ledger does not open
    print(f"system calls of a start, and of a start and its work: {killer.start}, {killer.end}")
    for call, count in sorted(killer.killed_at.items()):
        print(f"killed at {call:40} {count:5}")


def main() -> int:
    """Kill, restart, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-calls", action="store_true", help="kill at system calls instead of random moments")
    parser.add_argument("--history-status", type=int, default=200, help="the HTTP status of the request history")
    parser.add_argument("--history", choices=HISTORIES, help="how the request history misleads")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    if options.at_calls:
        compiler()  # ends the program if there is none
    account = Account(speed=0.4, credits=Decimal(1000))
    account.history_status = options.history_status
    if options.history:
        account.history = HISTORIES[options.history]
    sandbox = serving(build_sandbox(account))
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(sandbox) as url,
    ):
        (folder := Path(name).resolve() / "killed").mkdir()
        if options.at_calls:
            kill_at_calls(folder, url, account, options.kills)
        else:
            for number in range(options.kills):
                round_by_time(folder, url, number)
                rows(folder, "SELECT count(*) FROM jobs")  # fails if the ledger does not open
        settle(folder, url)
        return 0 if report(folder, account) else 1


if __name__ == "__main__":
    sys.exit(main())
