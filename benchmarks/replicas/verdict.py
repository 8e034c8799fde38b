"""Compares what the API was asked to draw with the ledger and with the pictures that are kept."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from team import Record, Team

# Seconds until the replicas must have settled everything that can be settled.
LONGEST = 300
# The state of a job whose outcome is not known.
UNKNOWN = "UNKNOWN"


def settle(team: Team, *, history: bool = True) -> float:
    """Wait until no job is under way, and no picture is only on a replica's disk.

    Without a `history`, calls whose answer was lost stay unknown. Returns the seconds that it took.
    """
    began = time.monotonic()
    while time.monotonic() - began < LONGEST:
        moving = {"QUEUED", "PROCESSING", *([UNKNOWN] if history else [])}
        states = Counter(job["state"] for job in team.records())
        left = only_spare(team)
        if not moving & states.keys() and not left:
            break
        print(f"not settled: {dict(states)}, pictures only on a replica's disk: {left}", file=sys.stderr, flush=True)
        time.sleep(2)
    return time.monotonic() - began


def spare(team: Team) -> set[str]:
    """The SHA-256 hashes of the pictures on the replicas' own disks. They stay there for a day after they are moved."""
    return {sha256(path.read_bytes()).hexdigest() for replica in team.replicas for path in replica.spare_files()}


def only_spare(team: Team) -> int:
    """How many pictures are on a replica's own disk and not in the gallery."""
    found = spare(team)
    return len(found - set(team.contents())) if found else 0


def counts_of(team: Team, events: Mapping[str, Sequence[str]]) -> tuple[dict[str, int], list[str]]:
    """The counts to print, and what broke a promise.

    Args:
        team: The set-up, after everything is settled.
        events: What the agents saw, by prompt.
    """
    jobs: dict[str, list[Record]] = {}
    for job in team.records():
        jobs.setdefault(job["parameters"]["prompt"], []).append(job)
    calls, kept = team.vendor.calls(), team.contents()
    posts = Counter(call["body"]["prompt"] for call in calls)
    images = [image["sha256"] for each in jobs.values() for job in each for image in job["images"]]
    drawn = {prompt: list(_pictures(each)) for prompt, each in jobs.items()}
    wanted = {call["body"]["prompt"]: call["body"].get("samples", 1) for call in calls}
    unknown = {prompt for prompt, each in jobs.items() if any(job["state"] == UNKNOWN for job in each)}
    lost = {prompt for prompt, number in wanted.items() if len(drawn.get(prompt, [])) < number} - unknown
    counts = {
        "paid calls at the API": len(calls),
        "prompts paid for twice": sum(number > 1 for number in posts.values()),
        "jobs in the ledger": sum(map(len, jobs.values())),
        "outcome still unknown": len(unknown & posts.keys()),
        "pictures in the ledger": len(images),
        "pictures in the gallery": kept.total(),
        "pictures kept twice": sum(number > 1 for number in kept.values()),
        "paid calls without their pictures": len(lost),
        "pictures of the ledger not in the gallery": len(set(images) - kept.keys()),
        "pictures without a job": len(kept.keys() - set(images)),
        "pictures only on a replica's disk": only_spare(team),
    }
    counts["tracebacks in the logs"] = sum(replica.log.count("Traceback") for replica in team.replicas)
    if team.s3:
        counts["pictures that were on a replica's disk"] = len(spare(team))
        counts["answers of the bucket with 503"] = team.nginx.refused()
        counts["objects stored twice"] = sum(number > 1 for number in team.nginx.uploads().values())
    broken = [f"{name}: {counts[name]}" for name in PROMISES if counts.get(name)]
    for prompt in [*(prompt for prompt, number in posts.items() if number > 1), *lost][:10]:
        broken += [f"{prompt}: {posts[prompt]} paid calls", *(f"  {event}" for event in events.get(prompt, []))]
        for job in jobs.get(prompt, []):
            broken.append("  " + ", ".join(f"{name}: {job[name]}" for name in SHOWN))
    return counts, broken


# What a report about a broken promise shows of a job.
SHOWN = ("request_id", "local_id", "state", "created", "sent", "ended", "charged", "notes", "error")
# These must be 0.
PROMISES = (
    "prompts paid for twice",
    "pictures kept twice",
    "paid calls without their pictures",
    "pictures of the ledger not in the gallery",
    "pictures without a job",
    "pictures only on a replica's disk",
    "objects stored twice",
)


def _pictures(jobs: list[Record]) -> Iterator[str]:
    for job in jobs:
        if job["state"] == "COMPLETED":
            yield from (image["sha256"] for image in job["images"])
