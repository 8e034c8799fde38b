"""Kill the server at random moments of its calls, and count what becomes of every call that reached the API.

    python benchmarks/kill.py [--kills 200] [--history-status 200] [--seed 1]

Each round starts a server over stdio, has it generate (v1), submit and check (v2) against a sandbox on a port, and
ends it with SIGKILL at a random moment of the next two seconds; a last server then takes up what is left. Exits with
1 when a call was sent twice, a picture is lost or kept twice, or the ledger does not open.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from host import Host

from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.serving import serving

# Seconds: a kill falls into one of these spans, so that the first moments get as many as the later ones.
MOMENTS = (0.1, 0.5, 2.0)
PATIENCE = 180.0


def one_round(folder: Path, url: str, number: int) -> None:
    """Start a server, have it work, and kill it."""
    host = Host(folder, url)
    host.shake_hands()
    reader = threading.Thread(target=follow, args=(host, number), daemon=True)
    reader.start()
    time.sleep(random.uniform(0, random.choice(MOMENTS)))  # noqa: S311  no secret
    host.kill()
    reader.join()


def follow(host: Host, number: int) -> None:
    """Generate, submit, and check what was submitted, until the server is gone."""
    try:
        host.call("generate_image_vega", prompt=f"kill {number} generate")
        submitted = host.call("submit_job", prompt=f"kill {number} submit", model="segmind-vega-rt-v1")
        while answer := host.receive():
            if answer.get("id") == submitted:
                job = answer["result"]["_meta"]["mcp-vega/job"]
                host.call("check_job", request_id=job["request_id"], wait_seconds=10)
    except (OSError, ValueError):
        pass  # it was killed in the middle of a line


def rows(folder: Path, query: str) -> list[dict[str, Any]]:
    """Ask the ledger's file."""
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


def settle(folder: Path, url: str) -> None:
    """Let one more server take up what is left, until there is nothing more for it to learn."""
    host = Host(folder, url)
    host.shake_hands()
    give_up = time.monotonic() + PATIENCE
    waiting = "SELECT 1 FROM jobs WHERE open AND (state IN ('QUEUED', 'PROCESSING') OR holder IS NOT NULL)"
    while rows(folder, waiting) and time.monotonic() < give_up:
        time.sleep(0.5)
    host.leave()


def report(folder: Path, account: Account) -> bool:
    """Compare the sandbox, the ledger and the gallery; returns whether the promises hold."""
    jobs = {
        job["prompt"]: job for job in rows(folder, "SELECT *, json_extract(parameters, '$.prompt') AS prompt FROM jobs")
    }
    images = rows(folder, "SELECT * FROM images")
    ends: Counter[str] = Counter()
    for call in account.calls.values():
        job = jobs.get(str(call.body["prompt"]))
        kept = [image for image in images if job and image["job"] == job["local_id"]]
        if job and job["state"] == "COMPLETED" and all(is_whole(image) for image in kept) and len(kept) == 1:
            ends["kept"] += 1
        elif job and job["state"] == "UNKNOWN" and job["error"] and job["notes"] != "[]":
            ends["named unknown, with the reason"] += 1
        else:
            ends["LOST"] += 1
    arrived = {str(call.body["prompt"]) for call in account.calls.values()}
    ends["never arrived, named not charged"] = sum(
        job["charged"] == "no" for prompt, job in jobs.items() if prompt not in arrived
    )
    ends["never arrived, named unknown"] = sum(
        job["charged"] == "unknown" for prompt, job in jobs.items() if prompt not in arrived
    )
    # A file whose writing was cut short has a name of its own, and is cleared away ten minutes later.
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file() and path.suffix != ".part"]
    strays = {str(path) for path in files} - {str(path_of(image)) for image in images}
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


def is_whole(image: dict[str, Any]) -> bool:
    """Whether a picture's file is what the ledger says."""
    return sha256(path_of(image).read_bytes()).hexdigest() == image["sha256"]


def path_of(image: dict[str, Any]) -> Path:
    """Where a picture's file is."""
    return Path(image["store"], image["key"])


def main() -> int:
    """Kill, restart, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--history-status", type=int, default=200, help="what the request history answers with")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    account = Account(speed=0.4, credits=Decimal(1000))
    account.history_status = options.history_status
    sandbox = serving(build_sandbox(account))
    with (
        tempfile.TemporaryDirectory() as name,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(sandbox) as url,
    ):
        folder = Path(name)
        for number in range(options.kills):
            one_round(folder, url, number)
            rows(folder, "SELECT count(*) FROM jobs")  # it opens
        settle(folder, url)
        return 0 if report(folder, account) else 1


if __name__ == "__main__":
    sys.exit(main())
