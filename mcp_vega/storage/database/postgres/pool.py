"""The connections that wait for their next use."""

import threading
from time import monotonic, sleep

import psycopg

from mcp_vega.storage.database.postgres.address import Address
from mcp_vega.storage.database.postgres.connection import PostgresConnection
from mcp_vega.storage.database.postgres.errors import is_away

# How long an operation waits for a server that cannot be reached, and the pause between two tries.
AWAY_SECONDS, TRY_PAUSE = 1.5, 0.1


class Pool:
    """Opens connections, and keeps those that are not in use. There are as many as threads need at the same time."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.away_seconds = AWAY_SECONDS
        self._idle: list[PostgresConnection] = []
        self._changing = threading.Lock()
        self._failed, self._failure = float("-inf"), psycopg.OperationalError()
        self._closed = False

    def take(self, asked: float) -> PostgresConnection:
        """Return a connection. If the server cannot be reached, try until `away_seconds` after `asked`.

        Args:
            asked: When the operation began, by `monotonic`. If it has waited long already, it fails with the error of
                another operation, so that many of them do not wait one after the other.
        """
        while True:
            with self._changing:
                if self._idle:
                    return self._idle.pop()
            if asked + self.away_seconds < monotonic() and asked < self._failed:
                raise self._failure
            try:
                return PostgresConnection(self.address)
            except psycopg.OperationalError as error:
                self._failed, self._failure = monotonic(), error
                if not is_away(error) or asked + self.away_seconds < monotonic():
                    raise
            sleep(TRY_PAUSE)

    def give_back(self, connection: PostgresConnection) -> None:
        """Keep a connection for its next use. If it broke, the others that wait have probably broken as well."""
        unused = [connection]
        with self._changing:
            if connection.broken:
                unused += self._idle
                self._idle = []
            elif not self._closed:
                self._idle.append(connection)
                return
        for each in unused:
            each.close()

    def close(self) -> None:
        """Close the connections that are not in use; the others are closed when they are returned."""
        with self._changing:
            self._closed = True
            unused, self._idle = self._idle, []
        for each in unused:
            each.close()
