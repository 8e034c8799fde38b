"""The accounts at the API, and their jobs. An account is a keyed hash of the API key; it does not reveal the API key.

The key of the hash is random, and each ledger keeps its own. So all servers on a ledger get the same hash for an API
key, and two ledgers do not show whether they were used with the same API key.
"""

import hmac
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.secrets import Secrets
from mcp_vega.storage.ledger.servers import Servers
from mcp_vega.storage.ledger.sql import job_queries, rows

# Longer than the longest pause until a job is tried again (jobs/worker.py).
BEYOND_ANY_PAUSE = timedelta(hours=25)
# The name of the hash's key among the ledger's secrets.
KEY = "account"


def account_of(key: bytes, api_key: str) -> str:
    """Return the id of an API key's account in the ledger that has this key: 32 hex digits."""
    return hmac.digest(key, api_key.encode(), "sha256").hex()[:32]


class Orphans(NamedTuple):
    """The local ids of open jobs that nobody works on."""

    left: list[str]  # no living server works on them
    mine: list[str]  # according to the ledger this server works on them, but it does not: an answer was lost


class Accounts:
    """The accounts in a ledger. Every method raises a `LedgerError` if the ledger cannot be read or written."""

    def __init__(self, database: Database, servers: Servers, secrets: Secrets) -> None:
        self._database = database
        self._servers = servers
        self._secrets = secrets

    async def of_key(self, api_key: str) -> str:
        """Return the id that the ledger uses for the account of an API key: 32 hex digits."""
        return account_of(await self._secrets.get(KEY), api_key)

    # ---- the jobs of an account ----

    async def orphans(
        self, base_url: str, account: str, moment: datetime | None = None, *, working_on: Collection[str] = ()
    ) -> Orphans:
        """Return an account's open jobs that nobody works on.

        Args:
            base_url: The API that draws the jobs.
            account: The ledger's id of the account.
            moment: A time (UTC): only the jobs that are due at that time. Without it, all.
            working_on: The local ids of the jobs that this server works on.
        """

        def look(connection: Connection) -> Orphans:
            # A later time was noted while this machine's clock was ahead.
            latest = moment + BEYOND_ANY_PAUSE if moment else None
            values = {"base_url": base_url, "account": account, "moment": moment, "latest": latest}
            found = connection.execute(job_queries.UNFINISHED, values)
            alive = self._servers.alive(connection, {row["holder"] for row in found})
            return Orphans(
                left=[row["local_id"] for row in found if row["holder"] not in alive],
                mine=[
                    row["local_id"]
                    for row in found
                    if row["holder"] in alive and row["holder"] == self._servers.me
                    if row["local_id"] not in working_on
                ],
            )

        return await self._database.read(look)

    async def count_of_others(self, base_url: str, account: str) -> int:
        """Count the open jobs of an API that belong to other accounts."""
        values = {"base_url": base_url, "account": account}
        (row,) = await self._database.read(lambda connection: connection.execute(job_queries.OF_OTHER_ACCOUNTS, values))
        return row["jobs"]

    async def with_seed_of(self, job: Job) -> list[Job]:
        """Return the other jobs of a job's account with the same model and seed."""
        return await self._others(job, job_queries.WITH_SEED, model=job.model, seed=job.parameters.seed)

    async def without_id(self, base_url: str, account: str) -> list[Job]:
        """Return the open jobs of an account whose id at the API is not known."""
        return await self._jobs(job_queries.WITHOUT_ID, base_url=base_url, account=account)

    async def that_ran_before(self, job: Job, limit: int) -> list[Job]:
        """Return the last jobs of a job's account that were begun before it and ran."""
        return await self._others(job, job_queries.RAN_BEFORE, limit=limit)

    async def that_ran_after(self, job: Job, limit: int) -> list[Job]:
        """Return the first jobs of a job's account that were begun after it and ran."""
        return await self._others(job, job_queries.RAN_AFTER, limit=limit)

    async def last_drawn(self, base_url: str) -> list[Job]:
        """Return an API's last jobs that say how long they took, the latest first.

        They are among the ledger's latest jobs: no others are read, so that this takes no longer in a large ledger.
        """
        return await self._jobs(job_queries.LAST_DRAWN, base_url=base_url)

    async def seconds_since_sent(self, job: Job) -> float | None:
        """Return how many seconds ago a job was sent, by the monotonic clock; None if the machine restarted since."""

        def look(connection: Connection) -> float | None:
            (row,) = connection.execute(job_queries.SENT_TIME, {"local_id": job.local_id})
            passed = None if row["sent_time"] is None else connection.time - row["sent_time"]
            return None if passed is None or passed < 0 else passed

        return await self._database.read(look)

    async def _others(self, job: Job, where: str, **values: Any) -> list[Job]:
        account = {"local_id": job.local_id, "base_url": job.base_url, "account": job.account}
        return await self._jobs(where, **account, **values)

    async def _jobs(self, where: str, **values: Any) -> list[Job]:
        """Return jobs, without those whose row is damaged."""

        def look(connection: Connection) -> list[Job]:
            found = connection.execute(f"SELECT * FROM jobs {where}", values)  # noqa: S608  one of `job_queries`
            alive = self._servers.alive(connection, {row["holder"] for row in found})
            return rows.read_jobs(connection, found, alive, readable=True)

        return await self._database.read(look)
