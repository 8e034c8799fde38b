"""The servers on a ledger, and which of them are alive: each job and each slot must belong to a living server.

A server is in the table from the first job that it begins or claims until it leaves, or until another server finds that
its lock is free.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.liveness import Liveness
from mcp_vega.storage.ledger import spending
from mcp_vega.storage.ledger.sql import job_queries, limit_queries


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
        known = connection.execute(limit_queries.ENTERED, {"me": self.me})
        # Usually the row is as it must be. Then it is not locked: many transactions run at the same time.
        if not known or (known[0]["calls_a_minute"] is None and calls_a_minute is not None):
            values = {"me": self.me, "process": os.getpid(), "calls_a_minute": calls_a_minute}
            connection.execute(limit_queries.ENTER, values)
        return self.me

    def alive(self, connection: Connection, servers: Iterable[str | None], *, certain: bool = False) -> set[str]:
        """Return those of `servers` that are alive; for `certain` see `Liveness`."""
        asked = set(servers) - {None}
        if not asked:
            return set()
        return self._liveness.alive(connection, _entered(connection) & asked, certain=certain)

    def all_alive(self, connection: Connection) -> bool:
        """Whether no server must be removed from the table."""
        entered = _entered(connection)
        return entered == self._liveness.alive(connection, entered)

    def remove_dead(self, connection: Connection) -> None:
        """Remove dead servers and their slots, and give back the money reserved for jobs that they never sent.

        Their jobs then belong to no server.
        """
        entered = _entered(connection)
        others = entered.union(self._liveness.servers()) - {self.me}
        for server in others - self._liveness.alive(connection, others):
            with self._liveness.locked_if_dead(server, connection) as is_dead:
                if is_dead and server in entered:
                    _remove(connection, server)

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
        counts = connection.execute(job_queries.OPEN_JOBS)
        return Activity(
            processes=tuple(row["process"] for row in others),
            under_way=sum(row["jobs"] for row in counts if not row["lost"]),
            unknown=sum(row["jobs"] for row in counts if row["lost"]),
            unattended=sum(row["jobs"] for row in counts if row["holder"] not in entered),
        )


def _entered(connection: Connection) -> set[str]:
    """Return the ids of all servers in the table."""
    return {row["id"] for row in connection.execute("SELECT id FROM servers")}


def _remove(connection: Connection, server: str) -> None:
    """Remove a server, unless another server is removing it at the same time."""
    if connection.execute(limit_queries.REMOVE_SERVER, {"server": server}):
        spending.give_back_of(connection, server)
        connection.execute(limit_queries.RELEASE_SLOTS, {"server": server})
