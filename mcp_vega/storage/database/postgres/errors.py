"""What is wrong with the database, in plain words, and what to do about it."""

import re
from typing import NamedTuple

import psycopg
from psycopg import errors as sql

from mcp_vega.errors import LedgerError
from mcp_vega.storage.database.postgres.address import CONNECTIONS_OF_A_SERVER, Address, InvalidUrlError
from mcp_vega.storage.database.postgres.connection import CommitUnknownError, UnfitServerError
from mcp_vega.storage.database.schema import MigrationError, OtherSchemaError

VARIABLE = "MCP_VEGA_LEDGER"


class ForeignTableError(ValueError):
    """A table of another program has a name that the ledger needs. The text is PostgreSQL's."""


class _Problem(NamedTuple):
    """What is wrong, after the database's name, and the next step.

    `{said}` is what PostgreSQL or libpq said. It comes last: callers who are not the operator must not see it.
    """

    what: str
    next_step: str


# When a connection cannot be made, libpq passes on no code, but only a text. A server that speaks another language is
# not understood: its own text is shown then.
_REFUSALS = {
    "password authentication failed|no password supplied|role .* does not exist|no pg_hba.conf entry|"
    "not permitted to log in|permission denied for database": _Problem(
        "does not let this user in: {said}",
        f"Check the user, the password and sslmode in {VARIABLE}, and the server's pg_hba.conf",
    ),
    "database .* does not exist": _Problem(
        "does not exist", f"Create it with createdb, or correct the name in {VARIABLE}"
    ),
    "certificate|does not support SSL|wrong version number|unsupported protocol": _Problem(
        "cannot be reached with TLS: {said}",
        f"Correct sslmode and sslrootcert in {VARIABLE}, or the server's certificate",
    ),
    "invalid .*(value|number)|bad value for|definition of service|service file": _Problem(
        "has an option that cannot be used: {said}", f"Correct the options after the ? in {VARIABLE}"
    ),
}
_FULL = _Problem(
    "has no free connection: {said}",
    f"Raise max_connections of PostgreSQL, or run fewer servers. Each uses at most {CONNECTIONS_OF_A_SERVER} "
    "connections",
)
_AWAY = _Problem(
    "cannot be reached: {said}",
    f"Check that PostgreSQL is running, and the host and the port in {VARIABLE}. The server then connects by itself",
)
_UNUSABLE = _Problem("cannot be used: {said}", "Wait a minute, then call again")
# The first class that fits decides.
_ERRORS: dict[type[Exception] | tuple[type[Exception], ...], _Problem] = {
    OtherSchemaError: _Problem(
        "was not written by this version of mcp-vega",
        f"Install the same version of mcp-vega on all machines, or set {VARIABLE} to an empty database",
    ),
    MigrationError: _Problem(
        "could not be changed for this version of mcp-vega, and is as it was before: {said}",
        f"Install the version that you used before: it still works. If {VARIABLE} names another user than the owner of "
        "the tables, start one server of the new version as their owner",
    ),
    ForeignTableError: _Problem(
        "has a table of another program: {said}", f"Set {VARIABLE} to a database that only mcp-vega uses"
    ),
    CommitUnknownError: _Problem(
        "broke the connection while a change was written, so it is not known whether the change was written",
        "Call check_job without a request_id to see which jobs exist, then call again",
    ),
    (sql.DiskFull, sql.OutOfMemory, sql.ConfigurationLimitExceeded, sql.IoError): _Problem(
        "cannot be written: {said}", "Free some disk space or memory on PostgreSQL's machine, then call again"
    ),
    sql.TooManyConnections: _FULL,
    sql.ReadOnlySqlTransaction: _Problem(
        "cannot be written: {said}",
        f"Set {VARIABLE} to the primary server, or end its read-only mode (default_transaction_read_only)",
    ),
    sql.InsufficientPrivilege: _Problem(
        "does not let this user do that: {said}",
        "Make this user the owner of the database. Or let its owner run GRANT CREATE ON DATABASE … TO … and "
        "GRANT CREATE, USAGE ON SCHEMA … TO …",
    ),
    (sql.AdminShutdown, sql.CrashShutdown, sql.CannotConnectNow, sql.IdleInTransactionSessionTimeout): _AWAY,
    (sql.QueryCanceled, sql.LockNotAvailable, sql.DeadlockDetected, sql.SerializationFailure): _Problem(
        "was too slow: {said}", "Call again. If that happens often, look at the load of PostgreSQL's machine"
    ),
    sql.InvalidSchemaName: _Problem(
        "has no schema in which this user may make tables: {said}",
        "Let the owner of the database run GRANT CREATE, USAGE ON SCHEMA public TO … for this user. If you have set "
        "search_path, correct it",
    ),
    (sql.UndefinedTable, sql.UndefinedColumn): _Problem(
        "lacks a table of the ledger: {said}",
        "Restore the database from a backup. Or delete its other tables and restart all servers: mcp-vega makes a new "
        "ledger, and the pictures stay where they are",
    ),
    (sql.IndexCorrupted, sql.DataCorrupted): _Problem("is damaged: {said}", "Restore the database from a backup"),
    (psycopg.DataError, UnicodeError): _Problem(
        "cannot store a value: {said}", "Leave unusual characters out, such as NUL, and call again"
    ),
    psycopg.Error: _UNUSABLE,
    (ValueError, OverflowError): _Problem(
        "has a value that cannot be read: {said}", "Update mcp-vega, or ignore this job"
    ),
    OSError: _AWAY,
}


def is_away(error: Exception) -> bool:
    """Whether an error when connecting may be over soon: the server cannot be reached, is starting or is full."""
    return _problem(error) in (_AWAY, _FULL)


def explained(address: Address, error: Exception) -> Exception:
    """Return a `LedgerError` with what is wrong and what to do about it; an error of another kind unchanged."""
    if isinstance(error, InvalidUrlError):
        return LedgerError(
            f"{VARIABLE} is not a valid URL of a PostgreSQL database{error}",
            next_step=f"Set {VARIABLE} to postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Percent-encode special "
            "characters of the user and the password, for example @ as %40, / as %2F and % as %25",
        )
    if problem := _problem(error):
        what = problem.what.format(said=_said(address, error))
        shown = LedgerError(f"The ledger's database {address.name} {what}", next_step=problem.next_step)
        shown.public = f"The ledger's database {problem.what.removesuffix(': {said}')}"
        return shown
    return error


def _problem(error: Exception) -> _Problem | None:
    if isinstance(error, UnfitServerError):
        return _Problem(str(error), error.next_step)
    # psycopg checks some options itself, and reports a ProgrammingError.
    if isinstance(error, psycopg.OperationalError | psycopg.ProgrammingError) and error.sqlstate is None:
        default = _AWAY if isinstance(error, psycopg.OperationalError) else _UNUSABLE
        return _refused(error, default)
    return next((problem for kinds, problem in _ERRORS.items() if isinstance(error, kinds)), None)


def _refused(error: psycopg.Error, default: _Problem) -> _Problem:
    """Return why a connection could not be made, or broke."""
    text = str(error)
    if re.search("too many (clients|connections)|connection slots are reserved", text):
        return _FULL
    found = (problem for pattern, problem in _REFUSALS.items() if re.search(pattern, text))
    return next(found, default)


def _said(address: Address, error: Exception) -> str:
    """Return what PostgreSQL or libpq said, in one line and without the password."""
    text = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    lines = (text or str(error) or type(error).__name__).strip().splitlines()
    # libpq says first which connection failed, and that is said already. Its hints follow in the next lines.
    said = re.sub("^(connection (failed|is bad): )?(connection to server .*? failed: )?", "", lines[0])
    return address.redacted(said.removeprefix("FATAL:").strip())
