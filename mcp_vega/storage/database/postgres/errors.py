"""What is wrong with the database, in plain words, and what to do about it."""

import re

import psycopg

from mcp_vega.errors import LedgerError
from mcp_vega.storage.database.postgres.address import Address, InvalidUrlError
from mcp_vega.storage.database.postgres.connection import CommitUnknownError, UnfitServerError

VARIABLE = "MCP_VEGA_LEDGER"


class OtherSchemaError(ValueError):
    """The tables were written by another version of this package."""


class ForeignTableError(ValueError):
    """A table of another program has a name that the ledger needs. The text is PostgreSQL's."""


# What libpq says when it cannot connect: it passes on no code. Servers with another language are not understood, and
# their own words are shown then.
_REFUSALS = (
    ("password authentication failed|no password supplied|role .* does not exist|no pg_hba.conf entry", "login"),
    ("database .* does not exist", "database"),
    ("too many clients|too many connections|connection slots are reserved", "full"),
    ("SSL|certificate", "tls"),
)


def is_away(error: psycopg.OperationalError) -> bool:
    """Whether an error when connecting may be over soon: the server cannot be reached, or is starting."""
    return _refusal(error) in ("", "full")


def _refusal(error: Exception) -> str:
    found = (kind for pattern, kind in _REFUSALS if re.search(pattern, str(error), re.IGNORECASE))
    return next(found, "")


def explained(address: Address, error: Exception) -> Exception:
    """Return a `LedgerError` with what is wrong and what to do about it; an error of another kind unchanged."""
    known = (psycopg.Error, OSError, ValueError, OverflowError, UnfitServerError, CommitUnknownError)
    return _explained(address, error) if isinstance(error, known) else error


def _explained(address: Address, error: Exception) -> LedgerError:
    name = f"The ledger's database {address.name}"
    said = " ".join(address.redacted(str(error)).split())
    match error:
        case InvalidUrlError():
            return LedgerError(
                f"{VARIABLE} is not a valid URL of a PostgreSQL database",
                next_step=f"Set {VARIABLE} to postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Percent-encode special "
                "characters of the user and the password, for example @ as %40, / as %2F and % as %25",
            )
        case _:
            return LedgerError(f"{name} cannot be used: {said}")
