"""What a power cut left: whether it has everything that it must have, and what a server does with it."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from host import Host
from records import Record, follow, jobs_in, jobs_shown, opened

from mcp_vega.sandbox.account import Account

PICTURES = (".jpg", ".png", ".webp")
CORRUPT, UNSENT, MISSING, TORN = (
    "ledgers that are damaged",
    "calls that were sent, but not marked as sent",
    "pictures that were named or flushed, but are missing",
    "pictures that are not complete",
)

KEPT, UNKNOWN, LOST, TWICE, STRAY = "kept", "reported as unknown", "LOST", "sent twice", "pictures without a job"


@dataclass
class Found:
    """What a cut left: the jobs by prompt, why the ledger cannot be read, and the numbers of problems."""

    jobs: Mapping[str, Record] = field(default_factory=dict[str, Record])
    damage: str = ""
    problems: Counter[str] = field(default_factory=Counter[str])

    @property
    def completed(self) -> set[str]:
        """The prompts of the completed jobs."""
        return {prompt for prompt, job in self.jobs.items() if job["state"] == "COMPLETED"}


class Outcome(NamedTuple):
    """What a server did after a cut: the ends of the calls that had arrived, and the prompts of the completed jobs."""

    ends: Counter[str]
    completed: set[str]


class CutFolder:
    """A folder in which the ledger and the pictures can be built as a cut left them. At first everything is there.

    Args:
        folder: A folder with `home` and `gallery`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole = {sha256(path.read_bytes()).hexdigest() for path in self.pictures()}

    def build(self, files: Mapping[Path, bytes]) -> None:
        """Write these files and no others. SQLite's index of the log is only in memory, so a cut leaves none."""
        for name in ("home", "gallery"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        for path, data in files.items():
            if not path.name.endswith("-shm"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def examine(self, left: Iterable[str], flushed: Iterable[Path]) -> Found:
        """Check the files; `left` are the prompts of the calls that were sent, `flushed` the flushed names."""
        found = Found()
        pictures = {path: sha256(path.read_bytes()).hexdigest() for path in self.pictures()}
        found.problems[TORN] = sum(each not in self._whole for each in pictures.values())
        found.problems[MISSING] = sum(is_picture(path) and path not in pictures for path in flushed)
        try:
            with opened(self.folder) as database:
                found.problems[CORRUPT] = database.execute("PRAGMA integrity_check").fetchone()[0] != "ok"
                found.jobs = jobs_in(database)
                named = database.execute("SELECT sha256 FROM images").fetchall() if found.jobs else []
        except sqlite3.DatabaseError as error:
            found.damage = str(error)
            found.problems[CORRUPT] = 1
            named = []
        hashes = {each.hex() if isinstance(each, bytes) else each for (each,) in named}
        found.problems[MISSING] += len(hashes - set(pictures.values()))
        found.problems[UNSENT] = sum(not found.jobs.get(prompt, {}).get("sent") for prompt in left)
        return found

    def pictures(self) -> list[Path]:
        """The files with names of pictures."""
        return [path for path in (self.folder / "gallery").rglob("*") if is_picture(path)]

    def restart(self, url: str, account: Account, arrived: set[str], jobs: Mapping[str, Record]) -> Outcome:
        """Start a server with a sandbox that knows the calls that had arrived; returns what happened to each of them.

        `jobs` are the jobs that the cut left.
        """
        everything = account.calls
        known = {each: call for each, call in everything.items() if call.body["prompt"] in arrived}
        account.calls = dict(known)
        unfinished = [job["local_id"] for prompt, job in jobs.items() if prompt in arrived and job["open"]]
        host = Host(self.folder, url, MCP_VEGA_PREVIEW="off")
        host.shake_hands()
        follow(host, unfinished)
        host.leave()
        sent = [call.body["prompt"] for each, call in account.calls.items() if each not in known]
        account.calls = everything
        shown = jobs_shown(self.folder)
        ends = Counter(self._end(shown.get(call.body["prompt"]), call.pictures) for call in known.values())
        named = {image["path"] for job in shown.values() for image in job["images"]}
        ends[STRAY] = sum(str(path) not in named for path in self.pictures())
        ends[TWICE] = len(arrived.intersection(sent))
        return Outcome(ends, {prompt for prompt, job in shown.items() if job["state"] == "COMPLETED"})

    def _end(self, job: Record | None, pictures: int) -> str:
        """What happened to a call that had arrived."""
        if job and job["state"] == "COMPLETED" and len(job["images"]) == pictures:
            hashes = [sha256(Path(image["path"]).read_bytes()).hexdigest() for image in job["images"]]
            if self._whole.issuperset(hashes):
                return KEPT
        return UNKNOWN if job and job["state"] == "UNKNOWN" and job["error"] else LOST


def is_picture(path: Path) -> bool:
    """Whether a file has the name of a picture, and not of one that is still being written."""
    return path.suffix in PICTURES and not path.name.startswith(".")
