"""What an administrator wants to know about a PostgreSQL server."""

import time
from typing import NamedTuple

from mcp_vega.storage.database.postgres.address import CONNECTIONS_OF_A_SERVER, Address
from mcp_vega.storage.database.postgres.connection import PostgresConnection
from mcp_vega.storage.database.postgres.errors import explained

# How often a round trip is measured. The shortest one is the most exact.
ROUND_TRIPS = 3
_STATE = """
    SELECT current_setting('server_version') AS version, current_setting('max_connections')::integer AS most,
        current_setting('superuser_reserved_connections')::integer AS reserved,
        (SELECT sum(numbackends) - 1 FROM pg_stat_database)::integer AS used -- without this connection
"""
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"


class ServerState(NamedTuple):
    """The state of a PostgreSQL server.

    `seconds` is the time of a round trip. `ahead` is how many seconds its clock is ahead of this machine's. `most` is
    the number of connections for ordinary users, and `used` is the number of those in use.
    """

    version: str
    seconds: float
    ahead: float
    most: int
    used: int

    @property
    def room(self) -> int:
        """How many more servers of this package can connect, if each opens all its connections."""
        return max(self.most - self.used, 0) // CONNECTIONS_OF_A_SERVER


def inspect(url: str) -> ServerState:
    """Look at a server; raises a `LedgerError` if it cannot be reached or used."""
    address = Address(url)
    try:
        connection = PostgresConnection(address)
        try:
            (state,) = connection.execute(_STATE)
            seconds, ahead = min(_round_trip(connection) for _ in range(ROUND_TRIPS))
        finally:
            connection.close()
    except Exception as error:
        raise explained(address, error) from error
    most = state["most"] - state["reserved"]
    return ServerState(state["version"].split()[0], seconds, ahead, most, state["used"])


def _round_trip(connection: PostgresConnection) -> tuple[float, float]:
    """How long a statement takes, and by how much the server's clock is ahead, both in seconds."""
    asked, began = time.time(), time.perf_counter()
    (row,) = connection.execute(_CLOCK)
    seconds = time.perf_counter() - began
    return seconds, row["now"] - (asked + seconds / 2)
