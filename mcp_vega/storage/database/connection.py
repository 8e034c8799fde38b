"""A connection to the database, as the code within a transaction sees it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]


class Connection(Protocol):
    """A connection to a database within a transaction, used by one thread at a time.

    Statements are in PostgreSQL's SQL, with values named as `:name`. Values are those of Python: a `datetime` (UTC), a
    `date`, a `Decimal`, and a `dict` or a `list` for JSON. A row has the same types.
    """

    @property
    def time(self) -> float:
        """Seconds of a clock that all servers on the database share."""
        ...

    def execute(self, statement: str, values: Mapping[str, Any] = ...) -> list[Row]:
        """Run a statement with named values, and return its rows."""
        ...

    def lock(self, name: str) -> None:
        """Wait until no other transaction holds the lock of this name, and hold it until this transaction ends."""
        ...


Work = Callable[[Connection], T]
