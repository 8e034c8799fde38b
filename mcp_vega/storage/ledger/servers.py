"""The servers on a ledger: which of them are alive, so that each job and each slot belongs to one that is.

A server stands in the table from the first job that it begins or takes up until it leaves, or until another one finds
its lock free.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_vega.errors import LedgerError
from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.server_lock import ServerLock
from mcp_vega.storage.ledger import queries, spending
from mcp_vega.storage.ledger.spending import Limits


@dataclass(frozen=True)
class Activity:
    """What is done on a ledger: the processes of the servers that have work on it, and how many jobs are still open."""

    processes: tuple[int, ...]
    under_way: int
    unknown: int  # which have lost their answer, so that it is not known how they ended
    unattended: int  # of all these, which no server works on


class Servers:
    """This server among the others, within transactions that are open already."""

    def __init__(self, lock: ServerLock) -> None:
        self._lock = lock

    @property
    def entered(self) -> bool:
        """Whether it stands in the ledger, or has stood there."""
        return self._lock.taken

    @property
    def me(self) -> str:
        """This server's id. It stands in the ledger once something was begun or taken up."""
        return self._lock.me

    def enter(self, connection: Connection, calls_a_minute: int | None = None) -> str:
        """Be in the table from now on; returns this server's id.

        Raises:
            OSError: The lock cannot be taken.
            LedgerError: Its file was deleted.
        """
        self._lock.take()
        if not self._lock.is_intact():
            raise LedgerError(
                f"The file {self._lock.path}, by which other servers see that this one is alive, was deleted",
                next_step="Restart this server: others may have taken up its jobs",
            )
        values = {"me": self.me, "process": os.getpid(), "calls_a_minute": calls_a_minute}
        connection.execute(queries.ENTER, values)
        return self.me

    def alive(self, connection: Connection, servers: Iterable[str | None], wait: float = 0) -> set[str]:
        """Those of some servers that are alive; one at whose lock another looks at this moment counts as alive.

        To be sure, wait until the other has looked.
        """
        entered = {row["id"] for row in connection.execute("SELECT id FROM servers")}
        return {each for each in entered.intersection(servers) if self._lock.is_alive(each, wait=wait)}

    def remove_dead(self, connection: Connection) -> bool:
        """Remove the servers that have died, with their slots and the money of what they never sent.

        Their jobs are then nobody's. Returns whether there were any.
        """
        entered = {row["id"] for row in connection.execute("SELECT id FROM servers")}
        dead = False
        for server in entered.union(self._lock.servers()) - {self.me}:
            if self._lock.is_alive(server):
                continue
            with self._lock.locked_if_dead(server) as is_dead:
                if is_dead and server in entered:
                    _remove(connection, server)
                    dead = True
        return dead

    def reserve(self, connection: Connection, job: Job, limits: Limits) -> None:
        """Count what a job is likely to cost as spent from now on. Nothing is kept for servers that have died.

        Raises:
            SpendingLimitReached: It would pass the day's limit.
        """
        limit = limits.usd_a_day
        if spending.reserve(connection, job, limit):
            return
        if not (self.remove_dead(connection) and spending.reserve(connection, job, limit)):
            raise spending.limit_reached(connection, job, limit)

    def leave(self, connection: Connection) -> None:
        """Leave what is under way to other servers."""
        _remove(connection, self.me)

    def release_lock(self) -> None:
        """Give the lock up, so that others see that this server is gone; after `leave`."""
        self._lock.release()

    def activity(self, connection: Connection) -> Activity:
        """Which of the others have work, and what is still to be done."""
        self.remove_dead(connection)
        others = connection.execute("SELECT id, process FROM servers WHERE id != :me ORDER BY process", {"me": self.me})
        entered = {row["id"] for row in others} | {self.me}
        counts = connection.execute(queries.OPEN_JOBS)
        return Activity(
            processes=tuple(row["process"] for row in others),
            under_way=sum(row["jobs"] for row in counts if not row["lost"]),
            unknown=sum(row["jobs"] for row in counts if row["lost"]),
            unattended=sum(row["jobs"] for row in counts if row["holder"] not in entered),
        )


def _remove(connection: Connection, server: str) -> None:
    for row in connection.execute(queries.UNSENT_OF, {"server": server}):
        spending.give_back(connection, row["local_id"])
    connection.execute("DELETE FROM slots WHERE server = :server", {"server": server})
    connection.execute("DELETE FROM servers WHERE id = :server", {"server": server})
