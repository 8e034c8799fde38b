"""Random keys that all servers on a ledger share. The first server that needs a key makes it; it never changes."""

import secrets
from collections.abc import Callable

from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.sql import limit_queries


class Secrets:
    """The keys in a ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, bytes] = {}

    async def get(self, name: str) -> bytes:
        """Return the key of this name: 32 random bytes, as 64 hex digits in ASCII.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        if name not in self._known:
            found = await self._database.read(_reading(name)) or await self._database.write(_drawing(name))
            self._known[name] = found.encode()
        return self._known[name]


def _reading(name: str) -> Callable[[Connection], str]:
    def read(connection: Connection) -> str:
        return next((row["value"] for row in connection.execute(limit_queries.KEY_NAMED, {"name": name})), "")

    return read


def _drawing(name: str) -> Callable[[Connection], str]:
    def draw(connection: Connection) -> str:
        """Store a new key, unless another server was quicker; returns the stored key."""
        connection.execute(limit_queries.DRAW_KEY, {"name": name, "value": secrets.token_hex(32)})
        return _reading(name)(connection)

    return draw
