"""The interface of a database that several servers share. `sqlite` and `postgres` implement it."""

from enum import IntEnum, auto
from typing import Any, Protocol, TypeVar

from mcp_vega.storage.database.connection import Work

T = TypeVar("T")


class Durability(IntEnum):
    """What a change survives once it is written. A change makes all earlier changes as durable as itself."""

    RELAXED = auto()  # the end of this process
    CRASH = auto()  # and a crash of the database, while this process goes on
    POWER = auto()  # and a power cut


class Database(Protocol):
    """Does work in transactions. Every method raises a `LedgerError` if the database cannot be used."""

    def shorten_waits(self) -> None:
        """Wait only shortly for other transactions from now on, because the process is about to end."""
        ...

    async def read(self, work: Work[T], *, slow: bool = False) -> T:
        """Read from a snapshot of the database. Reads wait for no writes, and only `slow` reads wait for slow reads."""
        ...

    async def write(
        self,
        work: Work[T],
        *,
        durability: Durability = Durability.CRASH,
        despite_cancel: bool = False,
        undo: Work[Any] | None = None,
    ) -> T:
        """Change something, completely or not at all. The work that was deferred before is done first.

        If the caller is cancelled before the work has started, the caller leaves, and the work is never done.

        Args:
            work: Gets the connection, within the transaction. It may be done several times, if a transaction fails.
            durability: What the change must survive from now on.
            despite_cancel: Do the work even if the caller is cancelled. The caller then waits until it is done.
            undo: Done later if it is not known whether the work was done, because the connection broke.
        """
        ...

    def defer(self, work: Work[Any], *, immediately: bool = False) -> None:
        """Change something while nobody waits for it: a little later, or immediately.

        It is tried until it succeeds. It may be done several times, if a transaction fails.
        """
        ...

    async def close(self) -> None:
        """Do the deferred work, and close the connections for good."""
        ...
