"""Makes the tables in the file, or changes those of an earlier version. Other servers wait meanwhile.

The file's `user_version` is the fingerprint of the version that did so last. The table `ledger_schema` has those of all
versions that may use the tables.
"""

import logging
import sqlite3

from mcp_vega.storage.database.schema import MigrationError, OtherSchemaError, Schema
from mcp_vega.storage.database.sqlite import dialect

logger = logging.getLogger(__name__)

CREATION_SECONDS = 30.0

# Marks an SQLite file as a ledger ("vega" in ASCII).
APPLICATION_ID = 0x76656761


def make_tables(connection: sqlite3.Connection, schema: Schema) -> None:
    """Make the tables in an empty file, and change those of an earlier version.

    Raises:
        OtherSchemaError: The file has other tables, or those of a version that this one does not know.
        MigrationError: The tables could not be changed.
    """
    if schema.fingerprint in _users(connection):
        return
    connection.execute(f"PRAGMA busy_timeout = {CREATION_SECONDS * 1000:.0f}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        users = _users(connection)
        if schema.fingerprint not in users:  # no other server was quicker
            if users:
                _migrate(connection, schema, users)
            else:
                _require_empty(connection)
                _run(connection, schema.tables)
            _note_users(connection, schema)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def version_of(connection: sqlite3.Connection) -> int:
    """Return the fingerprint of the version that made or changed the tables last."""
    return connection.execute("PRAGMA user_version").fetchone()[0]


def require_usable(connection: sqlite3.Connection, schema: Schema) -> None:
    """Check that this version may use the tables; raises an `OtherSchemaError` if not."""
    if schema.fingerprint not in _users(connection):
        raise OtherSchemaError


def _users(connection: sqlite3.Connection) -> set[int]:
    """Return the fingerprints of all versions that may use the tables; none if the file is not a ledger."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        return set()
    users = {version_of(connection)}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'ledger_schema'").fetchone():
        users.update(row[0] for row in connection.execute("SELECT fingerprint FROM ledger_schema"))
    return users


def _note_users(connection: sqlite3.Connection, schema: Schema) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS ledger_schema (fingerprint INTEGER NOT NULL)")
    connection.execute("DELETE FROM ledger_schema")
    for user in schema.users:
        connection.execute("INSERT INTO ledger_schema VALUES (?)", (user,))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {schema.fingerprint}")


def _migrate(connection: sqlite3.Connection, schema: Schema, users: set[int]) -> None:
    try:
        for each in schema.pending(users):
            _run(connection, each.statements)
    except sqlite3.Error as error:
        raise MigrationError(str(error)) from error
    logger.warning("The ledger's tables were changed for this version of mcp-vega")


def _run(connection: sqlite3.Connection, statements: str) -> None:
    for statement in dialect.schema_of(statements).split(";"):
        connection.execute(statement)


def _require_empty(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise OtherSchemaError
