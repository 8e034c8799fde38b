"""The servers on a ledger, and which of them are alive: each job and each slot must belong to a living server.

A server is in the table from the first job that it begins or claims until it leaves, or until another server finds that
its lock is free.
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
    """The activity on a ledger: the process ids of the servers that have work on it, and the number of open jobs."""

    processes: tuple[int, ...]
    under_way: int
    unknown: int  # open jobs whose answer was lost, so that their outcome is not known
    unattended: int  # the part of `under_way` and `unknown` that no server works on


class Servers:
    """This server and the others. The methods work within transactions that are open already."""

    def __init__(self, lock: ServerLock) -> None:
        self._lock = lock

    @property
    def entered(self) -> bool:
        """Whether this server has entered the table. Another server may have removed it since."""
        return self._lock.taken

    @property
    def me(self) -> str:
        """This server's id. It is in the ledger once this server has begun or claimed a job."""
        return self._lock.me

    def enter(self, connection: Connection, calls_a_minute: int | None = None) -> str:
        """Add this server to the table, unless it is there already; returns its id.

        Raises:
            OSError: The lock cannot be taken.
            LedgerError: The lock file was deleted.
        """
        self._lock.take()
        if not self._lock.is_intact():
            raise LedgerError(
                f"The lock file {self._lock.path} was deleted. Other servers now believe that this server has ended",
                next_step="Restart this server, because other servers may have continued its jobs",
            )
        values = {"me": self.me, "process": os.getpid(), "calls_a_minute": calls_a_minute}
        connection.execute(queries.ENTER, values)
        return self.me

    def alive(self, connection: Connection, servers: Iterable[str | None], wait: float = 0) -> set[str]:
        """Return those of `servers` that are alive.

        A dead server also counts as alive while another process checks its lock. To be certain, `wait` so many seconds
        for that check to end.
        """
        entered = {row["id"] for row in connection.execute("SELECT id FROM servers")}
        return {each for each in entered.intersection(servers) if self._lock.is_alive(each, wait=wait)}

    def remove_dead(self, connection: Connection) -> bool:
        """Remove dead servers and their slots, and give back the money reserved for jobs that they never sent.

        Their jobs then belong to no server. Returns whether there were dead servers.
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
        """Reserve the likely cost of a job: it counts as spent from now on.

        If the limit is reached, money that dead servers had reserved is given back first.

        Raises:
            SpendingLimitReached: The job would exceed the day's limit.
        """
        limit = limits.usd_a_day
        if spending.reserve(connection, job, limit):
            return
        if not (self.remove_dead(connection) and spending.reserve(connection, job, limit)):
            raise spending.limit_reached(connection, job, limit)

    def leave(self, connection: Connection) -> None:
        """Remove this server from the table, so that other servers can continue its jobs."""
        _remove(connection, self.me)

    def release_lock(self) -> None:
        """Release the lock, so that others see that this server has ended. Call `leave` first."""
        self._lock.release()

    def activity(self, connection: Connection) -> Activity:
        """Return which other servers have work, and how many jobs are open."""
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
