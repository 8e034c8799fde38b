"""What the job store needs of a database: `sqlite` has it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]


class Connection(Protocol):
    """A connection to a database, used by one thread at a time."""

    @property
    def time(self) -> float:
        """Seconds of a clock that all servers on the database share and nobody sets back."""
        ...

    def execute(self, statement: str, values: Mapping[str, Any] = ...) -> list[Row]:
        """Run a statement with named values, and return the rows that it gives."""
        ...

    def transaction(self, *, write: bool, durable: bool, wait: float) -> AbstractContextManager[None]:
        """Run the block in a transaction, which is undone where the block raises.

        Args:
            write: Whether it changes anything.
            durable: Whether it and all before it must survive a power cut once the block has ended.
            wait: For how many seconds to wait for others.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Connector(Protocol):
    """Opens connections to one database."""

    def connect(self, *, write: bool, wait: float) -> Connection:
        """Open a connection; wait so many seconds for others."""
        ...

    def explained(self, error: Exception) -> Exception:
        """The `LedgerError` that an error of the database is for users; any other error as it is."""
        ...

    def is_busy(self, error: Exception) -> bool:
        """Whether an error only says that another program has locked the database."""
        ...


Work = Callable[[Connection], T]
