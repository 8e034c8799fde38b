"""The interface that shows which servers are alive: each has an id, and a lock that ends with its process."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Protocol

from mcp_vega.storage.database.connection import Connection


class Liveness(Protocol):
    """This server's lock, and checks of the other servers' locks. It is safe to use from several threads."""

    @property
    def me(self) -> str:
        """This server's id. It may be empty before the lock is taken, and may change while the lock is being taken."""
        ...

    @property
    def taken(self) -> bool:
        """Whether the lock was taken, and not released since."""
        ...

    def take(self) -> None:
        """Take the lock, unless it is taken already. It must be taken before others can learn this server's id.

        Raises:
            OSError, LedgerError: The lock cannot be taken.
        """
        ...

    def require_intact(self) -> None:
        """Check that others still see the lock.

        Raises:
            LedgerError: Others believe that this server has ended.
        """
        ...

    def alive(self, connection: Connection, /, servers: Collection[str], *, certain: bool = False) -> set[str]:
        """Return those of `servers` that are alive. A server whose state is not known counts as alive.

        The state is not known while another process checks the lock, and while servers connect again after a break.
        With `certain`, wait for such a check; and servers that have not connected again do not count as alive.
        """
        ...

    def servers(self) -> list[str]:
        """Return the ids of servers that may have died before they wrote anything. Their locks can be removed."""
        ...

    def locked_if_dead(self, server: str, connection: Connection, /) -> AbstractContextManager[bool]:
        """Yield whether a server is dead. If so, its lock is removed at the end of the block."""
        ...

    def release(self) -> None:
        """Release the lock: this server has ended."""
        ...
