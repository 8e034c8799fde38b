"""What is left after a cut of the power: whether it holds what it must, and what a server makes of it."""

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
    "calls that left, not noted as sent",
    "pictures named or flushed, and gone",
    "pictures that are not whole",
)

KEPT, UNKNOWN, LOST, TWICE, STRAY = "kept", "named unknown", "LOST", "sent twice", "pictures without a job"


@dataclass
class Found:
    """What a cut left: the jobs by prompt, why the ledger cannot be read, and what must not be."""

    jobs: Mapping[str, Record] = field(default_factory=dict[str, Record])
    damage: str = ""
    problems: Counter[str] = field(default_factory=Counter[str])

    @property
    def completed(self) -> set[str]:
        """The prompts of the jobs that are."""
        return {prompt for prompt, job in self.jobs.items() if job["state"] == "COMPLETED"}


class Outcome(NamedTuple):
    """What a server made of what a cut left: the ends of the calls that had arrived, and the prompts of those done."""

    ends: Counter[str]
    completed: set[str]


class CutFolder:
    """A folder whose ledger and pictures are built anew as a cut left them; at first all is there.

    Args:
        folder: With `home` and `gallery`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole = {sha256(path.read_bytes()).hexdigest() for path in self.pictures()}

    def build(self, files: Mapping[Path, bytes]) -> None:
        """Have these files there and no others; SQLite's index of the log is in memory, so a cut leaves none."""
        for name in ("home", "gallery"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)
        for path, data in files.items():
            if not path.name.endswith("-shm"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def examine(self, left: Iterable[str], flushed: Iterable[Path]) -> Found:
        """Look at the files: `left` are the prompts of the calls that had left, `flushed` the names that were."""
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
        """The files with the names of pictures."""
        return [path for path in (self.folder / "gallery").rglob("*") if is_picture(path)]

    def restart(self, url: str, account: Account, arrived: set[str], jobs: Mapping[str, Record]) -> Outcome:
        """Start a server at a sandbox that knows the calls which had arrived; what becomes of each of them.

        `jobs` are those that the cut left.
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
        """What became of a call that arrived."""
        if job and job["state"] == "COMPLETED" and len(job["images"]) == pictures:
            hashes = [sha256(Path(image["path"]).read_bytes()).hexdigest() for image in job["images"]]
            if self._whole.issuperset(hashes):
                return KEPT
        return UNKNOWN if job and job["state"] == "UNKNOWN" and job["error"] else LOST


def is_picture(path: Path) -> bool:
    """Whether a file has the name of a picture, and not of one that is being written."""
    return path.suffix in PICTURES and not path.name.startswith(".")
