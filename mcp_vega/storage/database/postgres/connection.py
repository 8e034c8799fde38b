"""One connection to PostgreSQL: how it is opened, and what works within its transactions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import JsonbDumper

from mcp_vega.storage.database.connection import Row
from mcp_vega.storage.database.postgres.address import SERVER, SERVER_MS, Address
from mcp_vega.storage.database.postgres.statements import for_psycopg
from mcp_vega.storage.database.schema import OtherSchemaError

OLDEST_VERSION = 13  # of PostgreSQL: the first with pg_current_xact_id
LOCK_SECONDS, WRITE_SECONDS, READ_SECONDS = 9.0, 10.0, 30.0

# When the server process last started, or last recovered from a crash of one of its processes: only the second also
# resets the statistics. All sessions end at that moment.
STARTED = "greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_bgwriter))"
# A server with `synchronous_commit = off` would lose what must survive its crash.
_SET_UP = f"""
    SELECT pg_is_in_recovery() AS read_only, pg_backend_pid() AS process, {STARTED} AS started,
        CASE :namespace WHEN '' THEN '' ELSE set_config('search_path', quote_ident(:namespace), false) END,
        set_config('TimeZone', 'UTC', false),
        set_config('DateStyle', 'ISO, YMD', false),
        set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), false),
        set_config('statement_timeout', '{WRITE_SECONDS * 1000:.0f}', false),
        set_config('lock_timeout', '{LOCK_SECONDS * 1000:.0f}', false),
        set_config('idle_in_transaction_session_timeout', '{WRITE_SECONDS * 1000:.0f}', false),
        {", ".join(f"set_config('tcp_{name}', '{value}', false)" for name, value in SERVER.items())},
        set_config('tcp_user_timeout', '{SERVER_MS}', false)
"""

_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8 AS time"


class UnfitServerError(Exception):
    """The server can be reached, but this package cannot use it. The text follows the database's name."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step = next_step


class CommitUnknownError(Exception):
    """The connection broke while a transaction was committed.

    `transaction` is the id of the transaction, if it had one, and `started` the time at which its server had started.
    """

    def __init__(self, transaction: str | None, started: datetime) -> None:
        super().__init__("The connection broke while a change was written")
        self.transaction = transaction
        self.started = started


class _UtcLoader(Loader):
    """Reads a moment in UTC. psycopg's own reader needs a list of time zones, which many containers lack."""

    def load(self, data: Buffer) -> datetime:
        return datetime.fromisoformat(bytes(data).decode())


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_loader("timestamptz", _UtcLoader)
    for kind in (dict, list):
        adapters.register_dumper(kind, JsonbDumper)
    return adapters


@dataclass(frozen=True)
class _Context:
    """The form in which psycopg expects the conversion of values."""

    adapters: AdaptersMap
    connection: None = None


class PostgresConnection:
    """A connection to PostgreSQL. It is opened here, and used by one thread at a time.

    Raises:
        UnfitServerError: The server can be reached, but cannot be used.
        InvalidUrlError: The URL is not valid.
        psycopg.Error: The server cannot be reached, or does not let this user in.
    """

    def __init__(self, address: Address) -> None:
        self.raw = psycopg.Connection[DictRow].connect(
            **address.parameters(), autocommit=True, row_factory=dict_row, context=_Context(_adapters())
        )
        try:
            self.namespace = address.namespace
            (found,) = self.execute(_SET_UP, {"namespace": address.namespace})
            _require_fit(self.raw, found)
        except BaseException:
            self.raw.close()
            raise
        # When the server started. If it is another time later, all sessions have ended in between.
        self.started: datetime = found["started"]
        # The id of the current transaction, if `begin` asked for one.
        self.transaction: str | None = None
        self._time = self._time_read = 0.0

    @property
    def broken(self) -> bool:
        """Whether the connection cannot be used any more."""
        return self.raw.closed

    @property
    def time(self) -> float:
        """Seconds since 1970, by the clock of PostgreSQL's machine."""
        return self._time + (monotonic() - self._time_read)

    def execute(self, statement: str, values: Mapping[str, Any] | None = None) -> list[Row]:
        """Run a statement with named values, and return its rows."""
        cursor = self.raw.execute(cast("Any", for_psycopg(statement)), values or {})
        return list(cursor.fetchall()) if cursor.description else []

    def lock(self, name: str) -> None:
        """Wait until no other transaction holds the lock of this name, and hold it until this transaction ends."""
        key = blake2b(f"{self.namespace}\0{name}".encode(), digest_size=8).digest()
        # A key of one number never equals one of two numbers, as the servers' own locks have.
        self.execute("SELECT pg_advisory_xact_lock(:key)", {"key": int.from_bytes(key, signed=True)})

    def begin(self, how: str, *, identified: bool, fingerprint: int | None = None) -> None:
        """Begin a transaction, and read the clock in the same round trip.

        With a fingerprint, the tables stay usable for its version until the transaction ends: a migration that would
        change that waits for a lock on `ledger_schema`.

        Args:
            how: BEGIN, and other statements without values and results.
            identified: Whether to give the transaction its id now. PostgreSQL writes to the disk for such a transaction
                even if it changes nothing.
            fingerprint: The schema of the version that uses the tables.

        Raises:
            OtherSchemaError: That version may not use the tables.
        """
        number = "pg_current_xact_id()::text" if identified else "NULL"
        fits = "TRUE" if fingerprint is None else f"{fingerprint} IN (SELECT fingerprint FROM ledger_schema)"  # noqa: S608
        cursor = self.raw.execute(cast("Any", f"{how}; {_CLOCK}, {number} AS id, {fits} AS fits"))
        while cursor.nextset():
            pass
        found = cast("DictRow", cursor.fetchone())
        self._time, self._time_read, self.transaction = found["time"], monotonic(), found["id"]
        if not found["fits"]:
            raise OtherSchemaError

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            CommitUnknownError: The connection broke, so it is not known whether the transaction was committed.
            psycopg.Error: It was not committed.
        """
        if self.broken:
            raise psycopg.OperationalError("the connection broke before the change was written")
        try:
            done = self.raw.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            if self.broken:
                raise CommitUnknownError(self.transaction, self.started) from error
            raise
        if done != "COMMIT":  # PostgreSQL rolls a transaction with a failed statement back, and reports no error
            raise psycopg.errors.InFailedSqlTransaction("a statement failed, so that nothing was written")

    def rollback(self) -> None:
        """Roll the transaction back, if there is one. If that fails, the connection is closed."""
        try:
            if self.raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self.raw.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()


def _require_fit(raw: psycopg.Connection[Any], found: Row) -> None:
    version, encoding = raw.info.server_version // 10_000, raw.info.parameter_status("server_encoding")
    if found["read_only"]:
        raise UnfitServerError("is a standby, which cannot be written", "Set MCP_VEGA_LEDGER to the primary server")
    # A pooler invents a process number. Most poolers do not keep sessions: locks and settings end with a session.
    if found["process"] != raw.info.backend_pid:
        raise UnfitServerError(
            "is reached through a connection pooler, which may not keep sessions",
            "Set MCP_VEGA_LEDGER to the address of PostgreSQL itself",
        )
    if version < OLDEST_VERSION:
        raise UnfitServerError(f"is PostgreSQL {version}, which is too old", f"Update to {OLDEST_VERSION} or newer")
    if encoding != "UTF8":
        raise UnfitServerError(
            f"has the encoding {encoding}, which cannot store all texts",
            "Create another database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set "
            "MCP_VEGA_LEDGER to it",
        )
