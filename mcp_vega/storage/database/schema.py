"""The tables of this version, and how tables of earlier versions become these."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32


class OtherSchemaError(ValueError):
    """The tables are those of another version, and this version cannot use or change them."""


class MigrationError(ValueError):
    """The tables could not be changed for this version, so that they are as before. The text is the database's."""


@dataclass(frozen=True)
class Migration:
    """Changes the tables of one version to those of the next one.

    Attributes:
        before: The fingerprint of the schema that it changes.
        statements: The changes, in PostgreSQL's SQL.
        additive: Whether servers of the version before may go on, because they do not notice the change.
    """

    before: int
    statements: str
    additive: bool


@dataclass(frozen=True)
class Schema:
    """The tables of this version.

    Attributes:
        tables: The statements that create them, in PostgreSQL's SQL.
        migrations: From the oldest version to this one. Each leads to the version that the next one changes.
    """

    tables: str
    migrations: tuple[Migration, ...] = ()

    @cached_property
    def fingerprint(self) -> int:
        """The number that identifies the tables. Comments and white space do not change it."""
        return crc32(" ".join(re.sub("--.*", "", self.tables).split()).encode()) & 0x7FFFFFFF

    @property
    def versions(self) -> list[int]:
        """The fingerprints of all versions, the oldest first."""
        return [*(each.before for each in self.migrations), self.fingerprint]

    @property
    def users(self) -> list[int]:
        """The fingerprints of all versions that may use the tables of this version."""
        found = [self.fingerprint]
        for migration in reversed(self.migrations):
            if not migration.additive:
                break
            found.append(migration.before)
        return found

    def pending(self, users: Collection[int]) -> tuple[Migration, ...]:
        """Return the migrations that are still to be done.

        Args:
            users: The fingerprints of all versions that may use the tables as they are.

        Raises:
            OtherSchemaError: This version does not know these tables.
        """
        if self.fingerprint in users:
            return ()
        versions = self.versions
        if not users or not set(users) <= set(versions):
            raise OtherSchemaError
        return self.migrations[max(map(versions.index, users)) :]
