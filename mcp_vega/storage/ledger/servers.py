"""The servers on a ledger, and which of them are alive: each job and each slot must belong to a living server.

A server is in the table from the first job that it begins or claims until it leaves, or until another server finds that
its lock is free.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.liveness import Liveness
from mcp_vega.storage.ledger import spending
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql import queries


@dataclass(frozen=True)
class Activity:
    """The activity on a ledger: the process ids of the servers that have work on it, and the number of open jobs."""

    processes: tuple[int, ...]
    under_way: int
    unknown: int  # open jobs whose answer was lost, so that their outcome is not known
    unattended: int  # the part of `under_way` and `unknown` that no server works on


class Servers:
    """This server and the others. The methods work within transactions that are open already."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness

    @property
    def entered(self) -> bool:
        """Whether this server has entered the table. Another server may have removed it since."""
        return self._liveness.taken

    @property
    def me(self) -> str:
        """This server's id. It is in the ledger once this server has begun or claimed a job."""
        return self._liveness.me

    def enter(self, connection: Connection, calls_a_minute: int | None = None) -> str:
        """Add this server to the table, unless it is there already; returns its id.

        Raises:
            OSError: The lock cannot be taken.
            LedgerError: Other servers believe that this server has ended.
        """
        self._liveness.take()
        self._liveness.require_intact()
        values = {"me": self.me, "process": os.getpid(), "calls_a_minute": calls_a_minute}
        connection.execute(queries.ENTER, values)
        return self.me

    def alive(self, connection: Connection, servers: Iterable[str | None], *, certain: bool = False) -> set[str]:
        """Return those of `servers` that are alive; for `certain` see `Liveness`."""
        entered = {row["id"] for row in connection.execute("SELECT id FROM servers")}
        return self._liveness.alive(connection, entered.intersection(servers), certain=certain)

    def remove_dead(self, connection: Connection) -> bool:
        """Remove dead servers and their slots, and give back the money reserved for jobs that they never sent.

        Their jobs then belong to no server. Returns whether there were dead servers.
        """
        entered = {row["id"] for row in connection.execute("SELECT id FROM servers")}
        dead = False
        others = entered.union(self._liveness.servers()) - {self.me}
        for server in others - self._liveness.alive(connection, others):
            with self._liveness.locked_if_dead(server, connection) as is_dead:
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
        self._liveness.release()

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
