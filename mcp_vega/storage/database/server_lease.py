"""Which servers on a ledger are alive, so that each job and each slot belongs to one that is."""

import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.job import new_id
from mcp_vega.storage.database import queries

# How long a server counts as alive after it last said so, unless its process is seen to be gone.
LEASE_SECONDS = 15.0
# How often it says so.
RENEWAL_SECONDS = LEASE_SECONDS / 3


@dataclass(frozen=True)
class Activity:
    """What is done on a ledger: the processes of the servers that have work on it, and how many jobs are still open."""

    processes: tuple[int, ...]
    under_way: int
    unknown: int  # which have lost their answer, so that it is not known how they ended
    unattended: int  # of all these, which no server works on


class ServerLease:
    """This server's lease among those of the others, within transactions that are open already."""

    def __init__(self, uptime: Callable[[], float]) -> None:
        self._uptime = uptime
        self.me = new_id()
        self._machine = _machine()
        self.taken = False

    @property
    def time(self) -> dict[str, float]:
        """The values by which statements tell who is alive."""
        return {"now": self._uptime(), "lease": LEASE_SECONDS}

    def renew(self, database: sqlite3.Connection) -> None:
        """Say that this server is alive, and that those are not which are seen to be gone."""
        values = {"me": self.me, "machine": self._machine, "process": os.getpid(), **self.time}
        database.execute(queries.RENEW_LEASE, values)
        self.remove_expired(database)
        self.taken = True

    def remove_expired(self, database: sqlite3.Connection) -> None:
        """Forget the servers that are gone."""
        database.execute(f"DELETE FROM servers WHERE id NOT IN {queries.ALIVE}", self.time)  # noqa: S608
        database.executemany("DELETE FROM servers WHERE id = ?", [(each,) for each in self.gone(database)])

    def gone(self, database: sqlite3.Connection) -> list[str]:
        """The servers of this machine whose process is gone although their lease runs."""
        found = database.execute("SELECT id, process FROM servers WHERE machine = ?", (self._machine,)).fetchall()
        return [row["id"] for row in found if not _runs(row["process"])]

    def activity(self, database: sqlite3.Connection) -> Activity:
        """Which of the others have work, and what is still to be done."""
        self.remove_expired(database)
        others = database.execute("SELECT process FROM servers WHERE id != ? ORDER BY process", (self.me,))
        counts = database.execute(queries.OPEN_JOBS, self.time).fetchall()
        return Activity(
            processes=tuple(row["process"] for row in others),
            under_way=sum(row["jobs"] for row in counts if not row["lost"]),
            unknown=sum(row["jobs"] for row in counts if row["lost"]),
            unattended=sum(row["jobs"] for row in counts if not row["held"]),
        )


def _machine() -> str:
    """Where a process number means the same process: this machine, or this container of it."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; on Windows, where asking might end it, it is taken to run."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
