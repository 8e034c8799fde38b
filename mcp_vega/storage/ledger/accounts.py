"""Whose account at the API a job belongs to: a keyed hash of the API key, from which the key cannot be had.

The key of the hash is drawn for each ledger and stays in it, so that all servers on a ledger make the same of an API
key, and nobody can tell from two ledgers whether they share one.
"""

import hmac
import secrets

from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import queries


class Accounts:
    """The accounts in a ledger. Every method raises a `LedgerError` where it cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hash_key = ""

    async def of_key(self, api_key: str) -> str:
        """What stands in the ledger for the account of an API key: 32 hex digits."""
        if not self._hash_key:
            self._hash_key = await self._database.read(_hash_key) or await self._database.write(_draw_hash_key)
        return hmac.digest(self._hash_key.encode(), api_key.encode(), "sha256").hex()[:32]


def _hash_key(connection: Connection) -> str:
    return next((row["value"] for row in connection.execute(queries.HASH_KEY)), "")


def _draw_hash_key(connection: Connection) -> str:
    """The ledger's key of the hash, drawn unless another server was quicker."""
    connection.execute(queries.DRAW_HASH_KEY, {"value": secrets.token_hex(32)})
    return _hash_key(connection)
