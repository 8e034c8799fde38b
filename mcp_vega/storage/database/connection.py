"""The interface of a database that the job store uses. `sqlite` implements it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]


class Connection(Protocol):
    """A connection to a database, used by one thread at a time."""

    @property
    def time(self) -> float:
        """Seconds of a monotonic clock that all servers on the database share."""
        ...

    def execute(self, statement: str, values: Mapping[str, Any] = ...) -> list[Row]:
        """Run a statement with named values, and return its rows."""
        ...

    def transaction(self, *, write: bool, durable: bool, wait: float) -> AbstractContextManager[None]:
        """Run the block in a transaction, which is rolled back if the block raises.

        Args:
            write: Whether the transaction changes anything.
            durable: Whether this transaction and all earlier ones must survive a power cut once the block has ended.
            wait: How many seconds to wait for a lock that others hold.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Connector(Protocol):
    """Opens connections to one database."""

    def connect(self, *, write: bool, wait: float) -> Connection:
        """Open a connection; `wait` is how many seconds to wait for a lock that others hold."""
        ...

    def explained(self, error: Exception) -> Exception:
        """Return the `LedgerError` that explains an error of the database to users; any other error unchanged."""
        ...

    def is_busy(self, error: Exception) -> bool:
        """Whether an error only says that another program has locked the database."""
        ...


Work = Callable[[Connection], T]
